"""Calls of one moment that are short work share a way to a replica, where there are many; others are spread."""

import pytest

from swerve.net.client_call import request_headers
from swerve.wire.message import frame
from tests.proxy.proxy_lab import begin, proxy_lab

AT_ONCE = 8
MANY = 64
ECHO = request_headers("/t.Lab/Echo", "test")
SHORT_S = 10e-6


@pytest.fixture
def proxy():
    with proxy_lab(bundles=True) as made:
        yield made


def shares(proxy, pace_s: float = SHORT_S, before: int = MANY, limit: int = 100, **router: object) -> list[int]:
    """How many of calls that come in one packet each of two replicas gets that have said that this is their pace, when
    so many have come in another packet before."""
    replicas = [proxy.add_replica(name, limit) for name in "ab"]
    for replica in replicas:
        replica.pace.seconds = pace_s
    proxy.router = router
    proxy.serve(app=["a", "b"])
    # With its first answer a replica says how fast it is.
    while not all(replica.seen for replica in replicas):
        call_all(proxy, 1)
    call_all(proxy, before)
    counts = [len(replica.seen) for replica in replicas]
    call_all(proxy, AT_ONCE)
    return sorted(len(replica.seen) - count for replica, count in zip(replicas, counts, strict=True))


def call_all(proxy, count: int) -> None:
    _, recorders = begin(proxy, *[ECHO] * count, body=frame(b"x"), end_stream=True)
    proxy.until(lambda: all(recorder.closed for recorder in recorders))


def test_short_calls_of_a_busy_proxy_go_to_one_replica(proxy):
    assert shares(proxy) == [0, AT_ONCE]


def test_calls_of_a_proxy_that_is_not_busy_are_spread(proxy):
    assert shares(proxy, before=1) == [AT_ONCE // 2, AT_ONCE // 2]


def test_longer_calls_are_spread(proxy):
    assert shares(proxy, pace_s=150e-6) == [AT_ONCE // 2, AT_ONCE // 2]


def test_no_replica_is_given_more_of_them_than_half_of_its_slots(proxy):
    assert shares(proxy, before=MANY, limit=AT_ONCE) == [AT_ONCE // 2, AT_ONCE // 2]


def test_another_choice_of_replicas_is_kept_to(proxy):
    round_robin = "swerve.request_router:RoundRobinRouter"
    assert shares(proxy, request_router_class=round_robin) == [AT_ONCE // 2, AT_ONCE // 2]
