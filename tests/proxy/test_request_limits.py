"""Requests that do not come on, and more of them than the proxy may hold. The test says what time it is."""

import pytest

from swerve.net.client_call import request_headers
from swerve.net.limits import ConnectionLimits
from swerve.net.listener import ListenOptions
from swerve.net.stalls import PROGRESS
from swerve.proxy.forward import CLIENT_WINDOW
from swerve.proxy.request_watch import RequestLimits, RequestWatch
from swerve.wire.frames import ErrorCode
from swerve.wire.message import frame
from swerve.wire.metadata import get
from swerve.wire.status import StatusCode, decode_message
from tests.proxy.proxy_lab import begin

ECHO = request_headers("/t.Lab/Echo", "test")
INCOMPLETE = frame(bytes(1000))[:-1]


@pytest.fixture(autouse=True)
def nothing_left(proxy):
    yield
    proxy.check_idle()


@pytest.fixture
def watch(proxy):
    """Looks at the proxy's requests when the test says so."""
    limits = RequestLimits(stall_timeout_s=60, max_buffered_request_bytes=1_000_000)
    made = proxy.call(lambda: RequestWatch(proxy.loop, proxy.listener.connections, proxy.ingress, limits))
    proxy.call(made.close)
    return made


def look(proxy, watch, *seconds):
    for now in seconds:
        proxy.call(lambda now=now: watch.look(now))


def received(proxy) -> int:
    return sum(call.received for one in proxy.listener.connections for call in one.streams.values())


def status_of(recorder) -> tuple[int, str]:
    headers = recorder.trailers or recorder.headers[0]
    return int(get(headers, b"grpc-status")), decode_message(get(headers, b"grpc-message"))


def test_a_request_that_does_not_come_on_is_ended(proxy, watch):
    proxy.add_replica("a")
    proxy.serve(app=["a"])
    client, (call,) = begin(proxy, ECHO, body=INCOMPLETE)
    proxy.until(lambda: proxy.observer.begun_count == 1)
    look(proxy, watch, 0, 59)
    assert not call.closed
    look(proxy, watch, 60)
    proxy.until(lambda: call.closed)
    code, details = status_of(call)
    assert code == StatusCode.DEADLINE_EXCEEDED
    assert "stall_timeout_s" in details
    proxy.call(client.close)


def test_a_large_request_that_stops_gives_its_slot_back(proxy, watch, channel):
    proxy.add_replica("a", limit=1)
    proxy.serve(app=["a"])
    body = frame(bytes(400_000))[:-1]
    client, (call,) = begin(proxy, ECHO, body=body)
    # All that will come has come: what comes between two looks is progress.
    proxy.until(lambda: received(proxy) == len(body))
    assert proxy.target("app").router.replicas["a"].ongoing == 1
    proxy.until(lambda: sum(one.unacknowledged for one in proxy.listener.connections) == 0)
    look(proxy, watch, 0, 60)
    assert channel.unary_unary("/t.Lab/Echo")(b"x", timeout=20) == b"x"
    proxy.until(lambda: call.closed)
    assert status_of(call)[0] == StatusCode.DEADLINE_EXCEEDED
    proxy.call(client.close)


def test_a_slow_upload_goes_on_and_one_of_a_byte_at_a_time_does_not(proxy, watch):
    proxy.add_replica("a")
    proxy.serve(app=["a"])
    client, (slow, trickling) = begin(proxy, ECHO, ECHO, body=frame(bytes(1_000_000))[:100])
    proxy.until(lambda: proxy.observer.begun_count == 2)

    before = 200
    for now in range(0, 60, 20):
        look(proxy, watch, now)
        proxy.call(lambda: client.send_data(slow.stream_id, bytes(PROGRESS)))
        proxy.call(lambda: client.send_data(trickling.stream_id, b"x"))
        before += PROGRESS + 1
        proxy.until(lambda expected=before: received(proxy) == expected)
    look(proxy, watch, 60)
    proxy.until(lambda: trickling.closed)
    assert not slow.closed
    proxy.call(client.close)


def test_a_request_that_the_proxy_does_not_take_has_not_stopped(proxy, watch):
    proxy.add_replica("a", limit=0)
    proxy.serve(app=["a"])
    client, (call,) = begin(proxy, ECHO, body=bytes(2_000_000))
    (connection,) = proxy.listener.connections
    proxy.until(lambda: connection.unacknowledged == CLIENT_WINDOW)
    look(proxy, watch, 0, 1000)
    assert proxy.target("app").router.queued == 1
    assert not call.closed
    proxy.call(client.close)


def test_a_stream_of_requests_may_pause(proxy, watch):
    replica = proxy.add_replica("a")
    proxy.serve(app=["a"])
    client, (call,) = begin(proxy, request_headers("/t.Lab/Chat", "test"), body=INCOMPLETE)
    proxy.until(lambda: replica.seen)
    look(proxy, watch, 0, 1000)
    assert not call.closed
    proxy.call(client.close)


def test_a_request_to_the_proxy_itself_that_does_not_come_on_is_ended(proxy, watch):
    proxy.serve()
    client, (call,) = begin(proxy, request_headers("/grpc.health.v1.Health/Check", "test"), body=INCOMPLETE)
    (connection,) = proxy.listener.connections
    proxy.until(lambda: connection.streams and all(one.in_message for one in connection.streams.values()))
    look(proxy, watch, 0, 60)
    proxy.until(lambda: call.closed)
    assert status_of(call)[0] == StatusCode.DEADLINE_EXCEEDED
    proxy.call(client.close)


def test_of_too_many_held_bytes_the_largest_requests_are_shed(proxy, watch):
    proxy.add_replica("a", limit=0)
    proxy.serve(app=["a"])
    greedy, large = begin(proxy, *[ECHO] * 8, body=frame(bytes(200_000)), end_stream=True)
    modest, small = begin(proxy, *[ECHO] * 8, body=frame(bytes(1000)), end_stream=True)
    proxy.until(lambda: proxy.target("app").router.queued == 16)
    look(proxy, watch, 0)
    proxy.until(lambda: sum(bool(call.closed) for call in large) == 4)
    assert not any(call.closed for call in small)
    code, details = status_of(next(call for call in large if call.closed))
    assert code == StatusCode.RESOURCE_EXHAUSTED
    assert "max_buffered_request_bytes" in details
    assert proxy.target("app").router.queued == 12
    # As a call that a full queue sheds.
    told = dict(next(call for call in large if call.closed).headers[0])
    assert 500 <= int(told[b"grpc-retry-pushback-ms"]) <= 1500
    assert b"grpc-status-details-bin" in told
    proxy.call(greedy.close)
    proxy.call(modest.close)


def begin_unread(proxy, **window):
    """A call whose response is more than its client takes, at a port that waits a moment for that."""
    limits = ConnectionLimits(stall_timeout_s=0.2)
    proxy.call(lambda: proxy.listener.treat_by(ListenOptions(proxy.listener._options.limits, limits)))
    proxy.add_replica("a")
    proxy.serve(app=["a"])
    client, (call,) = begin(proxy, request_headers("/t.Lab/Flood", "test"), **window)
    call.credit = False
    proxy.call(lambda: client.send_data(call.stream_id, frame(b"40"), end_stream=True))
    return client, call


def test_a_call_whose_response_is_not_read_is_logged_as_its_client_sees_it(proxy):
    client, call = begin_unread(proxy)
    proxy.until(lambda: call.closed)
    assert call.closed == [ErrorCode.ENHANCE_YOUR_CALM]
    proxy.until(lambda: [end[3] for end in proxy.observer.ends] == [StatusCode.RESOURCE_EXHAUSTED])
    proxy.call(client.close)


def test_a_call_whose_connection_is_not_read_is_logged_as_unavailable(proxy):
    # More than the sockets hold.
    client, _ = begin_unread(proxy, stream_window=64 << 20)
    proxy.call(lambda: client.transport.pause_reading())
    proxy.until(lambda: [end[3] for end in proxy.observer.ends] == [StatusCode.UNAVAILABLE])
    proxy.call(client.close)


def test_a_call_that_is_cut_off_by_the_end_of_the_proxy_is_logged_as_unavailable(proxy):
    replica = proxy.add_replica("a")
    proxy.serve(app=["a"])
    client, _ = begin(proxy, request_headers("/t.Lab/Hang", "test"), body=frame(b""), end_stream=True)
    proxy.until(lambda: replica.hanging)
    proxy.run(proxy.listener.close(0))
    assert [end[3] for end in proxy.observer.ends] == [StatusCode.UNAVAILABLE]
    proxy.call(client.close)


def test_a_call_whose_client_hangs_up_is_logged_as_cancelled(proxy):
    replica = proxy.add_replica("a")
    proxy.serve(app=["a"])
    client, _ = begin(proxy, request_headers("/t.Lab/Hang", "test"), body=frame(b""), end_stream=True)
    proxy.until(lambda: replica.hanging)
    proxy.call(client.close)
    proxy.until(lambda: [end[3] for end in proxy.observer.ends] == [StatusCode.CANCELLED])


def test_held_bytes_within_the_limit_shed_nothing(proxy, watch):
    proxy.add_replica("a", limit=0)
    proxy.serve(app=["a"])
    client, calls = begin(proxy, *[ECHO] * 4, body=frame(bytes(200_000)), end_stream=True)
    proxy.until(lambda: proxy.target("app").router.queued == 4)
    look(proxy, watch, 0)
    assert proxy.target("app").router.queued == 4
    assert not any(call.closed for call in calls)
    proxy.call(client.close)


def test_without_limits_nothing_is_ended(proxy):
    proxy.add_replica("a", limit=0)
    proxy.serve(app=["a"])
    made = proxy.call(lambda: RequestWatch(proxy.loop, proxy.listener.connections, proxy.ingress, RequestLimits()))
    client, calls = begin(proxy, *[ECHO] * 8, body=INCOMPLETE)
    proxy.until(lambda: proxy.observer.begun_count == 8)
    look(proxy, made, 0, 10_000)
    assert not any(call.closed for call in calls)
    proxy.call(made.close)
    proxy.call(client.close)
