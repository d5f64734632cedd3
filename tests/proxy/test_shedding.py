"""What clients learn of calls that the proxy turned away, and how grpcio's own retries follow it."""

import json
import time

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

TIMEOUT_S = 20
# Retries of its own would all be over within some milliseconds.
RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.001s",
                "maxBackoff": "0.002s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
            },
        }
    ]
}


@pytest.fixture
def full(proxy, channel):
    """One call runs, one waits, and no more may; the two calls."""
    replica = proxy.add_replica("a", limit=1)
    proxy.max_queued = 1
    proxy.serve(app=["a"])
    hang = channel.unary_unary("/t.Lab/Hang")
    running = hang.future(b"", timeout=TIMEOUT_S)
    proxy.until(lambda: replica.hanging)
    waiting = hang.future(b"", timeout=TIMEOUT_S)
    proxy.until(lambda: proxy.target("app").router.queued == 1)
    yield running, waiting
    running.cancel()
    waiting.cancel()
    proxy.check_idle()


def retry_delay_s(error: grpc.RpcError) -> float:
    """The delay that both forms agree on. `from_call` checks code and message against the call's."""
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    delay = info.retry_delay.ToTimedelta().total_seconds()
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == str(round(delay * 1000))
    return delay


def test_a_shed_call_says_when_to_try_again(full, channel):
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/t.Lab/Echo")(b"", timeout=TIMEOUT_S)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    # No waiting call has left yet, so the time is a guess.
    assert 0.5 < retry_delay_s(raised.value) < 1.5


def test_a_call_whose_replica_died_says_when_to_try_again(proxy, channel):
    dying = proxy.add_replica("a")
    proxy.serve(app=["a"])
    call = channel.unary_unary("/t.Lab/Hang").future(b"", timeout=TIMEOUT_S)
    proxy.until(lambda: dying.hanging)
    proxy.run(dying.die())
    with pytest.raises(grpc.RpcError) as raised:
        call.result()
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert retry_delay_s(raised.value) < 1.5


def test_a_call_of_a_deployment_that_failed_is_not_asked_to_come_again(proxy, channel):
    proxy.apps = {"app": []}
    view = proxy.view()
    view.deployments[0].unavailable = True
    proxy.publish(view)
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/t.Lab/Echo")(b"", timeout=TIMEOUT_S)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert rpc_status.from_call(raised.value) is None


def test_the_retries_of_grpcio_wait_as_long_as_they_are_told(full, proxy):
    running, waiting = full
    began = time.monotonic()
    with grpc.insecure_channel(proxy.address, [("grpc.service_config", json.dumps(RETRIES))]) as retrying:
        call = retrying.unary_unary("/t.Lab/Echo").future(b"again", timeout=TIMEOUT_S)
        proxy.until(lambda: len(proxy.observer.ends) == 1)
        running.cancel()
        waiting.cancel()
        assert call.result() == b"again"
    # Four attempts a millisecond apart would all have been turned away.
    assert time.monotonic() - began > 0.5
