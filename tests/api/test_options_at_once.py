"""Changes of an instance's options at the same moment: none undoes another, and none is half applied."""

import json
import threading

import pytest

import swerve as serve
from swerve import instances
from swerve.config import gRPCOptions
from swerve.exceptions import RayServeException
from swerve.instance_options import change_by_name


@pytest.fixture
def running(state_dir):
    """The connection to an instance without ports."""
    serve.start(proxy_location="Disabled")
    return instances.required()


def grpc_in_force(running):
    return json.loads(running.status().options.grpc_options_json)


def test_a_change_that_was_made_from_older_options_is_made_again_from_the_newest(running):
    seen = []

    def change(status):
        if not seen:
            # Another program's change, which comes between.
            serve.start(grpc_options={"request_timeout_s": 7})
        seen.append(json.loads(status.options.grpc_options_json)["request_timeout_s"])
        return change_by_name(status, gRPCOptions(max_message_size=1000), None, None)

    running.deploy(change)
    assert seen == [None, 7]
    in_force = grpc_in_force(running)
    assert (in_force["request_timeout_s"], in_force["max_message_size"]) == (7, 1000)


def test_a_change_that_never_comes_first_is_refused_with_what_to_do(running):
    seconds = iter(range(1, 100))

    def change(status):
        serve.start(grpc_options={"request_timeout_s": next(seconds)})
        return change_by_name(status, gRPCOptions(max_message_size=1000), None, None)

    with pytest.raises(RayServeException, match="changed meanwhile"):
        running.deploy(change)
    assert grpc_in_force(running)["max_message_size"] != 1000


def test_of_changes_by_several_threads_all_are_in_force(running):
    changes = [
        {"request_timeout_s": 7},
        {"max_message_size": 1000},
        {"max_connections": 5},
        {"enable_reflection": False},
    ]
    threads = [threading.Thread(target=serve.start, kwargs={"grpc_options": change}) for change in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    in_force = grpc_in_force(running)
    assert [in_force[name] for change in changes for name in change] == [7, 1000, 5, False]
