"""Handles: in replicas behind a gRPC call, and in the program that made the instance."""

import json

import pytest

import swerve as serve
from swerve.exceptions import RayServeException


@pytest.mark.parametrize("method", ["Compose", "ComposePlain"])
@pytest.mark.parametrize(("what", "result"), [("value", 20), ("nested", 20), ("stream", 190)])
def test_handles_in_handlers(client, method, what, result):
    assert client.ask(method, what, 20).number == result


def test_messages_travel_through_handles(client):
    assert client.ask("Compose", "message", 3, b"abc") == client.note("message", 3, b"abc")


def test_twenty_megabytes_there_and_back(client):
    response = client.ask("Compose", "big", 20_000_000)

    assert (response.number, response.text) == (20_000_000, "array")


def test_an_exception_of_another_deployment_keeps_its_type_and_state(client):
    assert client.ask("Compose", "caught", 7).text == "Odd 7 asked to"


def test_an_exception_of_another_deployment_that_nobody_catches_shows_both_stack_traces(client):
    error = client.failure("Compose", "uncaught", 7)

    assert error.code().name == "INTERNAL"
    assert "in fail" in error.details()
    assert "in Compose" in error.details()
    assert error.details().splitlines()[-1].endswith("Odd: 7")


def test_a_method_that_the_other_deployment_lacks_is_named(client):
    error = client.failure("Compose", "missing")

    assert error.code().name == "INTERNAL"
    assert "nothing_of_this_name" in error.details()


def test_the_program_that_made_the_instance_calls_by_handle(world, client):
    lab = serve.get_app_handle("lab")

    assert lab.remote(client.note("handle", 4)).result(timeout_s=20) == client.note("Hello handle", 8)


def test_exceptions_keep_their_type_in_the_program(world):
    from e2e_lab import Odd

    helper = serve.get_deployment_handle("Helper", "lab")

    with pytest.raises(Odd) as caught:
        helper.fail.remote(9).result(timeout_s=20)
    assert (caught.value.number, caught.value.reason) == (9, "asked to")


def test_large_values_come_whole_to_the_program(world):
    helper = serve.get_deployment_handle("Helper", "lab")
    value = bytearray(range(250)) * 80_000

    assert helper.remote(value).result(timeout_s=30) == value


def test_streams_come_to_the_program(world):
    helper = serve.get_deployment_handle("Helper", "lab")

    assert list(helper.options(stream=True).count.remote(50)) == list(range(50))


def test_an_unknown_deployment_has_no_handle(world):
    with pytest.raises(KeyError, match="Nobody"):
        serve.get_deployment_handle("Nobody", "lab")
    with pytest.raises(RayServeException, match="'nobody' does not exist"):
        serve.get_app_handle("nobody")


def test_a_handle_call_of_a_call_without_deadline_has_none(client):
    response = client.lab.Compose(client.note("request"), metadata=(("application", "lab"),))

    assert json.loads(response.text)["left"] is None
