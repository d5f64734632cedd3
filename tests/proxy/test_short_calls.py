"""Calls of one moment that are short work share a way to a replica; others are spread."""

import pytest

from swerve.net.client_call import request_headers
from swerve.wire.message import frame
from tests.proxy.proxy_lab import begin, proxy_lab

AT_ONCE = 8
ECHO = request_headers("/t.Lab/Echo", "test")


@pytest.fixture
def proxy():
    with proxy_lab(bundles=True) as made:
        yield made


def shares(proxy, pace_s: float, **router: object) -> list[int]:
    """How many of calls that come in one packet each of two replicas gets that have said that this is their pace."""
    replicas = [proxy.add_replica(name) for name in "ab"]
    for replica in replicas:
        replica.pace.seconds = pace_s
    proxy.router = router
    proxy.serve(app=["a", "b"])
    # With its first answer a replica says how fast it is.
    while not all(replica.seen for replica in replicas):
        call_all(proxy, 1)
    before = [len(replica.seen) for replica in replicas]
    call_all(proxy, AT_ONCE)
    return sorted(len(replica.seen) - count for replica, count in zip(replicas, before, strict=True))


def call_all(proxy, count: int) -> None:
    _, recorders = begin(proxy, *[ECHO] * count, body=frame(b"x"), end_stream=True)
    proxy.until(lambda: all(recorder.closed for recorder in recorders))


def test_short_calls_that_come_together_go_to_one_replica(proxy):
    assert shares(proxy, 10e-6) == [0, AT_ONCE]


def test_longer_calls_that_come_together_are_spread(proxy):
    assert shares(proxy, 150e-6) == [AT_ONCE // 2, AT_ONCE // 2]


def test_no_replica_is_given_more_of_them_than_is_done_in_a_moment(proxy):
    few, many = shares(proxy, 95e-6)
    assert few > 0
    assert many < AT_ONCE


def test_another_choice_of_replicas_is_kept_to(proxy):
    round_robin = "swerve.request_router:RoundRobinRouter"
    assert shares(proxy, 10e-6, request_router_class=round_robin) == [AT_ONCE // 2, AT_ONCE // 2]
