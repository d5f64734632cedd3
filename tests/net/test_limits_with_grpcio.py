"""grpcio's clients at the limits of a connection's life: none of their calls may fail for it."""

import threading
import time

import grpc
import pytest
from grpc_lab import lab

from swerve.net.limits import ConnectionLimits
from swerve.net.listener import ListenOptions
from tests.conftest import wait_for

TIMEOUT_S = 20


def limited(**limits):
    return lab(ListenOptions(connection_limits=ConnectionLimits(**limits)))


@pytest.fixture
def made(monkeypatch):
    """How many connections were made, in a list of one."""
    from swerve.net.listener import Listener

    count = [0]
    admit = Listener._admit

    def counted(self, connection):
        count[0] += 1
        return admit(self, connection)

    monkeypatch.setattr(Listener, "_admit", counted)
    return count


@pytest.mark.parametrize(
    "limits", [{"max_connection_age_s": 0.2}, {"max_calls_per_connection": 20}], ids=["age", "calls"]
)
def test_calls_go_on_over_new_connections(made, limits):
    with limited(**limits) as server, grpc.insecure_channel(server.address) as channel:
        echo = channel.unary_unary("/t/Echo")
        failed = []

        def call() -> None:
            while made[0] < 5 and not failed:
                try:
                    assert echo(b"x" * 1000, timeout=TIMEOUT_S) == b"x" * 1000
                except Exception as error:
                    failed.append(error)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(40)
        assert not failed
        assert made[0] >= 5


def test_a_long_call_outlives_the_age_of_its_connection():
    with limited(max_connection_age_s=0.2) as server, grpc.insecure_channel(server.address) as channel:
        answers = channel.stream_stream("/t/Chat")(iter_slowly(b"%d" % number for number in range(20)))
        assert list(answers) == [b"%d" % number for number in range(20)]


def iter_slowly(values):
    for value in values:
        time.sleep(0.05)
        yield value


def test_a_call_that_does_not_end_in_the_grace_is_unavailable():
    limits = {"max_connection_age_s": 0.2, "max_connection_age_grace_s": 0.2}
    with limited(**limits) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/t/Hang")(b"", timeout=TIMEOUT_S)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE


def test_an_idle_connection_is_made_anew_when_it_is_needed(made):
    with limited(max_connection_idle_s=0.2) as server, grpc.insecure_channel(server.address) as channel:
        echo = channel.unary_unary("/t/Echo")
        assert echo(b"one", timeout=TIMEOUT_S) == b"one"
        wait_for(lambda: server.run(server.count())[0] == 0)
        assert echo(b"two", timeout=TIMEOUT_S) == b"two"
        assert made[0] == 2


def test_a_client_that_is_asked_whether_it_is_there_answers(made):
    limits = {"keepalive_time_s": 0.1, "keepalive_timeout_s": 5}
    with limited(**limits) as server, grpc.insecure_channel(server.address) as channel:
        hanging = channel.unary_unary("/t/Hang").future(b"", timeout=TIMEOUT_S)
        wait_for(lambda: server.hanging)
        time.sleep(1)
        assert not hanging.done()
        assert made[0] == 1
        hanging.cancel()
