"""Calls of several tenants, classes and sessions through one proxy."""

import grpc
import pytest

from swerve.proxy.interception import Interceptors

TIMEOUT_S = 20
TENANTS = {"tenant_key": "x-tenant", "priority_key": "x-class", "priorities": ["high", "low"]}


@pytest.fixture
def one(proxy):
    """The only replica, with one slot."""
    made = proxy.add_replica("a", limit=1)
    yield made
    proxy.check_idle()


def send(proxy, channel, name: str, tenant: str = "", priority: str = ""):
    """A call that waits, once it does."""
    before = len(proxy.observer.ends) + proxy.target("app").router.queued
    metadata = (("x-name", name), ("x-tenant", tenant), ("x-class", priority))
    call = channel.unary_unary("/t.Lab/Echo").future(b"", timeout=TIMEOUT_S, metadata=metadata)
    # Another one may have been shed for it.
    proxy.until(lambda: len(proxy.observer.ends) + proxy.target("app").router.queued > before)
    return call


def hold(proxy, channel, replica):
    call = channel.unary_unary("/t.Lab/Hang").future(b"", timeout=TIMEOUT_S)
    proxy.until(lambda: replica.hanging)
    return call


def test_waiting_calls_are_served_by_class_and_tenants_take_turns(proxy, channel, one):
    proxy.router = {"queue": TENANTS}
    proxy.serve(app=["a"])
    holding = hold(proxy, channel, one)
    waiting = [
        send(proxy, channel, *words.split())
        for words in ("a1 a low", "a2 a low", "a3 a low", "b1 b low", "b2 b high", "c1 c nonsense")
    ]
    holding.cancel()
    for call in waiting:
        call.result()
    assert [fields[b"x-name"] for fields in one.seen[1:]] == [b"b2", b"a1", b"b1", b"c1", b"a2", b"a3"]


def test_tenants_may_be_who_an_interceptor_says_and_not_who_they_say(proxy, channel, one):
    """`x-tenant` stands for a credential: only the interceptor looks at it."""
    fields = {"a": {"tenant": "acme", "tier": "low"}, "b": {"tenant": "bolt", "tier": "low"}, "v": {"tier": "high"}}

    def identify(call):
        return fields.get(dict(call.invocation_metadata())["x-tenant"])

    proxy.router = {"queue": {"tenant_key": "auth:tenant", "priority_key": "auth:tier", "priorities": ["high", "low"]}}
    proxy.serve(app=["a"])
    holding = hold(proxy, channel, one)
    proxy.call(lambda: proxy.ingress.intercept(Interceptors([identify], TIMEOUT_S, proxy.loop)))
    waiting = [send(proxy, channel, *words.split()) for words in ("a1 a high", "a2 a high", "b1 b high", "v1 v low")]
    holding.cancel()
    for call in waiting:
        call.result()
    assert [seen[b"x-name"] for seen in one.seen[1:]] == [b"v1", b"a1", b"b1", b"a2"]


def test_a_tenant_that_fills_the_queue_makes_room_for_others(proxy, channel, one):
    proxy.router = {"queue": {"tenant_key": "x-tenant"}}
    proxy.max_queued = 3
    proxy.serve(app=["a"])
    holding = hold(proxy, channel, one)
    greedy = [send(proxy, channel, f"a{number}", "a") for number in range(3)]
    modest = send(proxy, channel, "b1", "b")
    assert greedy[2].code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "grpc-retry-pushback-ms" in dict(greedy[2].trailing_metadata())
    assert send(proxy, channel, "a4", "a").code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    holding.cancel()
    assert [call.result() for call in (*greedy[:2], modest)] == [b""] * 3


def test_a_session_stays_with_its_replica(proxy, channel):
    replicas = [proxy.add_replica(name) for name in "abc"]
    proxy.router = {"request_router_class": "swerve.request_router:ConsistentHashRouter"}
    proxy.serve(app=list("abc"))
    echo = channel.unary_unary("/t.Lab/Echo")
    for number in range(60):
        echo(b"", timeout=TIMEOUT_S, metadata=(("session_id", f"s{number % 12}"),))
    homes = {}
    for index, replica in enumerate(replicas):
        for fields in replica.seen:
            homes.setdefault(fields[b"session_id"], set()).add(index)
    assert len(homes) == 12
    assert all(len(places) == 1 for places in homes.values())
    assert len(set.union(*homes.values())) > 1


def test_the_router_of_a_running_deployment_can_change(proxy, channel):
    replicas = [proxy.add_replica(name) for name in "abc"]
    proxy.serve(app=list("abc"))
    proxy.router = {"request_router_class": "ray.serve.experimental.round_robin_router:RoundRobinRouter"}
    proxy.publish()
    for _ in range(9):
        channel.unary_unary("/t.Lab/Echo")(b"", timeout=TIMEOUT_S)
    assert [len(replica.seen) for replica in replicas] == [3, 3, 3]
