"""A proxy between two releases of an application: which one gets a call, and what becomes of calls that wait."""

import gc
import weakref

import grpc
import pytest

from swerve.generated import control_pb2 as pb
from swerve.net.client_call import request_headers
from swerve.proxy.routes import RouteTable, Upstream
from swerve.wire.message import frame
from tests.proxy.proxy_lab import begin as partial_calls


class Sides:
    """The application `app` on replica "old", and its canary on "new"."""

    def __init__(self, proxy, limit=100):
        self.proxy = proxy
        self.replicas = {"old": proxy.add_replica("old", limit), "new": proxy.add_replica("new", limit)}

    def publish(self, others=(), **canary):
        """Route by these options of the canary; no options: without one. `others` are applications on "old" too."""
        view = self.proxy.view()
        for other in others:
            view.applications.add(name=other, ingress="P")
            self._add(view, "P", "", "old", app=other)
        application = view.applications.add(name="app", ingress="D")
        if canary:
            application.canary.CopyFrom(pb.CanaryView(release="r", ingress="E", **canary))
            self._add(view, "E", "r", "new")
        self._add(view, "D", "", "old")
        self.proxy.publish(view)
        self.settle()

    def promote(self):
        view = self.proxy.view()
        view.applications.add(name="app", ingress="E", release="r")
        self._add(view, "E", "r", "new")
        self.proxy.publish(view)
        self.settle()

    def _add(self, view, name, release, replica, app="app"):
        fake = self.replicas[replica]
        one = pb.ReplicaView(replica_id=replica, address=fake.address, max_ongoing_requests=fake.limit)
        view.deployments.add(app=app, name=name, release=release, max_queued_requests=-1, replicas=[one])

    def settle(self):
        for target in list(self.proxy.ingress.targets.values()):
            self.proxy.until(lambda target=target: target.settled)

    def queued(self, deployment="D", release=""):
        return self.proxy.ingress.targets[Upstream("app", deployment, release)].router.queued

    def seen(self):
        return {name: len(fake.seen) for name, fake in self.replicas.items()}


@pytest.fixture
def sides(proxy):
    return Sides(proxy, limit=1)


def begin(channel, method="Echo", message=b"x", timeout=20, **metadata):
    fields = [(name.replace("_", "-"), value) for name, value in metadata.items()]
    return channel.unary_unary(f"/t.Lab/{method}").future(message, timeout=timeout, metadata=fields)


def test_calls_go_by_weight_and_match(proxy, channel, sides):
    sides.publish(ready=True, weight=0, match={"x-version": "new"})
    begin(channel).result()
    begin(channel, x_version="new").result()
    begin(channel, x_version="old").result()
    assert sides.seen() == {"old": 2, "new": 1}
    sides.publish(ready=True, weight=100)
    begin(channel).result()
    assert sides.seen() == {"old": 2, "new": 2}


def test_a_canary_that_is_not_ready_gets_no_call(proxy, channel, sides):
    sides.publish(ready=False, weight=100, match={"x-version": "new"})
    begin(channel, x_version="new").result()
    assert sides.seen() == {"old": 1, "new": 0}


def test_the_calls_of_both_sides_are_counted_while_there_is_a_canary(proxy, channel, sides):
    sides.publish(ready=True, weight=0, match={"x-version": "new"})
    begin(channel).result()
    with pytest.raises(grpc.RpcError):
        begin(channel, "Fail", x_version="new").result()
    proxy.until(lambda: len(proxy.observer.ends) == 2)
    tallies = {release: (one.calls, one.errors) for (_, release), one in proxy.ingress.tallies.items()}
    assert tallies[""] == (1, 0)
    assert tallies["r"][0] == 1
    # They are kept while the canary has no replica: its calls may be failing just then.
    sides.publish(ready=False, weight=0)
    assert proxy.ingress.tallies["app", "r"].calls == 1
    sides.publish()
    assert proxy.ingress.tallies == {}


def test_an_application_without_a_canary_pays_nothing_for_that_of_another(proxy, channel, sides, monkeypatch):
    sides.publish(ready=True, weight=100, others=["plain"])
    asked, side = [], RouteTable.side
    monkeypatch.setattr(RouteTable, "side", lambda *given: asked.append(given[1].app) or side(*given))
    begin(channel, application="plain").result()
    begin(channel, application="app").result()
    plain = Upstream("plain", "P")
    assert proxy.ingress.target(plain, iter(())) is proxy.ingress.targets[plain]
    assert asked == ["app"]


def test_calls_that_wait_for_the_old_release_move_to_the_promoted_one(proxy, channel, sides):
    sides.publish(ready=True, weight=0)
    holding = begin(channel, "Hang")
    proxy.until(lambda: sides.seen()["old"] == 1)
    waiting = [begin(channel) for _ in range(3)]
    proxy.until(lambda: sides.queued() == 3)
    sides.promote()
    for call in waiting:
        assert call.result() == b"x"
    assert sides.seen() == {"old": 1, "new": 3}
    holding.cancel()


def test_calls_that_wait_for_a_canary_move_back_when_it_goes(proxy, channel, sides):
    sides.publish(ready=True, weight=100)
    holding = begin(channel, "Hang")
    proxy.until(lambda: sides.seen()["new"] == 1)
    waiting = [begin(channel) for _ in range(3)]
    proxy.until(lambda: sides.queued("E", "r") == 3)
    sides.publish()
    for call in waiting:
        assert call.result() == b"x"
    assert sides.seen() == {"old": 3, "new": 1}
    holding.cancel()


def test_a_call_that_waits_for_its_body_finds_the_other_release(proxy, channel, sides):
    sides.publish(ready=True, weight=100)
    many = [bytes(200_000)] * 2
    stream = channel.stream_unary("/t.Lab/Collect")
    begun, go_on = [], []

    def parts():
        yield many[0]
        begun.append(True)
        proxy.until(lambda: bool(go_on))
        yield many[1]

    call = stream.future(parts(), timeout=20)
    proxy.until(lambda: bool(begun))
    sides.publish()
    go_on.append(True)
    call.result()


def test_a_call_that_a_draining_canary_turns_away_goes_to_the_application(proxy, channel, sides):
    sides.publish(ready=True, weight=100)
    holding = begin(channel, "Hang")
    proxy.until(lambda: sides.seen()["new"] == 1)
    # The replica has been told to stop, and turns away what the proxy, which does not know yet, sends it.
    sides.replicas["new"].limit = 0
    target = proxy.ingress.targets[Upstream("app", "E", "r")]
    proxy.call(lambda: target.router.replicas["new"].__setattr__("limit", 2))
    holding.cancel()
    call = begin(channel)
    proxy.until(lambda: sides.replicas["new"].refused > 0)
    sides.publish()
    assert call.result() == b"x"
    assert sides.seen()["old"] == 1


def test_a_request_that_is_not_whole_when_its_release_goes_gets_the_other(proxy, sides):
    sides.publish(ready=True, weight=100)
    message = frame(b"x" * 1000)
    client, (call,) = partial_calls(proxy, request_headers("/t.Lab/Echo", "test"), body=message[:-1])
    proxy.until(lambda: proxy.observer.begun_count == 1)
    sides.promote()
    sides.publish()
    proxy.call(lambda: client.send_data(call.stream_id, message[-1:], end_stream=True))
    proxy.until(lambda: call.closed)
    assert sides.seen() == {"old": 1, "new": 0}
    proxy.call(client.close)


def test_an_idle_client_keeps_no_release_alive_that_came_and_went_after_its_last_call(proxy, channel, sides):
    sides.publish()
    begin(channel).result()
    sides.promote()
    promoted = weakref.ref(proxy.ingress.targets[Upstream("app", "E", "r")])
    gc.disable()
    try:
        sides.publish()
        proxy.until(lambda: promoted() is None)
    finally:
        gc.enable()


def test_a_canary_is_no_application_of_its_own(proxy, channel, sides):
    sides.publish(ready=True, weight=50)
    assert proxy.ingress.builtin.applications == ["app"]
    # And a single application stays single, so that its calls need no name.
    begin(channel, application="whatever").result()


def test_calls_of_an_application_that_is_gone_end_although_it_had_a_canary(proxy, channel, sides):
    sides.publish(ready=True, weight=100)
    holding = begin(channel, "Hang")
    proxy.until(lambda: sides.seen()["new"] == 1)
    waiting = begin(channel)
    proxy.until(lambda: sides.queued("E", "r") == 1)
    proxy.publish(proxy.view())
    assert waiting.exception().code() is grpc.StatusCode.NOT_FOUND
    holding.cancel()
