"""Calls through the proxy's ingress to replicas."""

import gc
import random
import re
import weakref

import grpc
import pytest

from swerve.net.client_call import request_headers
from swerve.net.connection import Connection
from swerve.proxy.forward import CLIENT_WINDOW
from swerve.proxy.request_ids import new_request_id
from swerve.wire.deadline import parse_timeout
from swerve.wire.limits import Http2Limits
from swerve.wire.message import frame
from swerve.wire.status import StatusCode
from tests.net.net_support import RESPONSE, Recorder
from tests.proxy.proxy_lab import ReplicaCall, begin

TIMEOUT_S = 20
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture
def replica(proxy):
    made = proxy.add_replica("a")
    proxy.serve(app=["a"])
    return made


@pytest.fixture(autouse=True)
def nothing_left(proxy):
    yield
    proxy.check_idle()


def status_of(call):
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code(), raised.value.details()


# --- what passes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [b"", b"x", bytes(70_000), bytes(16 << 20)], ids=len)
def test_a_unary_call_passes(replica, channel, message):
    assert channel.unary_unary("/t.Lab/Echo")(message, timeout=TIMEOUT_S) == message


def test_a_server_stream_passes(replica, channel):
    answers = channel.unary_stream("/t.Lab/Repeat")(b"2000", timeout=TIMEOUT_S)
    assert list(answers) == [b"%d" % number for number in range(2000)]


def test_a_client_stream_passes(replica, channel):
    parts = [bytes(100_000)] * 50
    assert channel.stream_unary("/t.Lab/Collect")(iter(parts), timeout=TIMEOUT_S) == b"50 5000000"


def test_a_bidirectional_stream_passes(replica, channel):
    answers = channel.stream_stream("/t.Lab/Chat")(iter([b"a", b"b", b"c"]), timeout=TIMEOUT_S)
    assert list(answers) == [b"a", b"b", b"c"]


def test_compressed_messages_pass_as_they_are(replica, channel):
    echo = channel.unary_unary("/t.Lab/Echo")
    answer = echo(
        bytes(100_000),
        timeout=TIMEOUT_S,
        compression=grpc.Compression.Gzip,
        metadata=[("answer-encoding", "deflate")],
    )
    assert answer == bytes(100_000)


def test_a_status_with_details_and_trailers_passes(replica, channel):
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/t.Lab/Fail")("gone \N{SNOWMAN}".encode(), timeout=TIMEOUT_S, metadata=[("x-a", "b")])
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.DATA_LOSS, "gone \N{SNOWMAN}")
    assert ("tx-a", "b") in raised.value.trailing_metadata()


@pytest.mark.parametrize("code", [b"17", b"-1", b"x", b""])
def test_a_status_that_grpc_does_not_know_passes_and_counts_as_unknown(replica, proxy, monkeypatch, code):
    def odd(call, *_):
        call.connection.send_headers(call.stream_id, (*RESPONSE, (b"grpc-status", code)), end_stream=True)
        replica.left(call)

    monkeypatch.setattr(ReplicaCall, "finish", odd)
    connection, (call,) = begin(proxy, request_headers("/t.Lab/Fail", "test"), body=frame(b"x"), end_stream=True)
    proxy.until(lambda: call.closed)
    assert (b"grpc-status", code) in call.headers[0]
    assert [end[3] for end in proxy.observer.ends] == [StatusCode.UNKNOWN]
    proxy.call(connection.close)


def test_an_answer_before_the_request_has_ended_passes(replica, channel):
    def ask():
        yield b"first"
        for _ in range(1000):
            yield bytes(10_000)

    assert channel.stream_unary("/t.Lab/Early")(ask(), timeout=TIMEOUT_S) == b"enough"


def test_the_replica_hears_who_calls_and_with_which_id(replica, channel):
    channel.unary_unary("/t.Lab/Echo")(
        b"", timeout=TIMEOUT_S, metadata=[("swerve-peer", "forged"), ("request_id", "it is me")]
    )
    seen = replica.seen[-1]
    assert re.fullmatch(rb"ipv4:127\.0\.0\.1:\d+", seen[b"swerve-peer"])
    assert seen[b"request_id"] == b"it is me"


@pytest.mark.parametrize("metadata", [[], [("request_id", "")]], ids=["absent", "empty"])
def test_a_request_id_is_made_when_the_client_brings_none(replica, channel, metadata):
    channel.unary_unary("/t.Lab/Echo")(b"", timeout=TIMEOUT_S, metadata=metadata)
    assert UUID4.fullmatch(replica.seen[-1][b"request_id"].decode())


@pytest.mark.parametrize("given", [b"nel\x85", b"i" * 257], ids=["control", "long"])
def test_a_request_id_that_logs_cannot_carry_is_replaced(replica, proxy, given):
    headers = request_headers("/t.Lab/Fail", "test", ((b"request_id", given),))
    lazy, recorders = begin(proxy, headers, body=frame(b"why"), end_stream=True)
    proxy.until(lambda: recorders[0].closed)
    assert UUID4.fullmatch(replica.seen[-1][b"request_id"].decode())
    assert proxy.observer.ends[-1][2] == replica.seen[-1][b"request_id"]
    proxy.call(lazy.close)


def test_the_longest_request_id_is_kept(replica, channel):
    channel.unary_unary("/t.Lab/Echo")(b"", timeout=TIMEOUT_S, metadata=[("request_id", "~" * 256)])
    assert replica.seen[-1][b"request_id"] == b"~" * 256


def test_calls_with_the_same_metadata_and_with_other_each_bring_their_own(replica, channel):
    names = ["a", "a", "a", "b", "a"]
    for name in names:
        channel.unary_unary("/t.Lab/Echo")(b"", metadata=(("who", name),))
    assert [fields[b"who"].decode() for fields in replica.seen] == names
    assert len({fields[b"request_id"] for fields in replica.seen}) == len(names)


def test_request_ids_differ():
    made = {new_request_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(UUID4.fullmatch(one.decode()) for one in made)


def test_the_client_deadline_travels_and_shrinks(replica, channel):
    channel.unary_unary("/t.Lab/Echo")(b"", timeout=10)
    left = parse_timeout(replica.seen[-1][b"grpc-timeout"])
    # grpcio rounds up what it sends.
    assert 0 < left < 10.5


def test_calls_that_differ_in_their_deadlines_alone_each_bring_their_own(replica, channel):
    deadlines = [20, 40, 60]
    for deadline in deadlines:
        channel.unary_unary("/t.Lab/Echo")(b"", timeout=deadline)
    left = [parse_timeout(fields[b"grpc-timeout"]) for fields in replica.seen]
    assert all(deadline - 10 < seconds < deadline + 0.5 for deadline, seconds in zip(deadlines, left, strict=True))


# --- slots and the queue ---------------------------------------------------------------------------------------------


def test_no_replica_gets_more_calls_than_its_limit(proxy, channel):
    a, b = proxy.add_replica("a", limit=2), proxy.add_replica("b", limit=3)
    proxy.serve(app=["a", "b"])
    echo = channel.unary_unary("/t.Lab/Echo")
    pending = [echo.future(bytes(1000), timeout=TIMEOUT_S) for _ in range(300)]
    assert all(call.result() == bytes(1000) for call in pending)
    assert (a.refused, b.refused) == (0, 0)
    assert a.most <= 2
    assert b.most <= 3


def test_a_cancelled_call_gives_its_slot_to_the_next_with_no_other_traffic(proxy, channel):
    replica = proxy.add_replica("a", limit=1)
    proxy.serve(app=["a"])
    hanging = channel.unary_unary("/t.Lab/Hang").future(b"", timeout=TIMEOUT_S)
    proxy.until(lambda: replica.hanging)
    waiting = channel.unary_unary("/t.Lab/Echo").future(b"next", timeout=TIMEOUT_S)
    proxy.until(lambda: proxy.target("app").router.queued == 1)
    hanging.cancel()
    assert waiting.result() == b"next"
    assert replica.refused == 0
    assert replica.cancelled == ["Hang"]


@pytest.mark.parametrize("end", ["cancel", "deadline", "disconnect"])
def test_a_waiting_call_that_ends_never_starts(proxy, channel, end):
    replica = proxy.add_replica("a", limit=1)
    proxy.serve(app=["a"])
    hanging = channel.unary_unary("/t.Lab/Hang").future(b"", timeout=TIMEOUT_S)
    proxy.until(lambda: replica.hanging)
    with grpc.insecure_channel(proxy.address) as other:
        waiting = other.unary_unary("/t.Lab/Echo").future(b"never", timeout=0.1 if end == "deadline" else TIMEOUT_S)
        proxy.until(lambda: proxy.observer.begun_count == 2)
        if end == "cancel":
            waiting.cancel()
        elif end == "deadline":
            assert status_of(waiting.result)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    proxy.until(lambda: proxy.target("app").router.queued == 0)
    hanging.cancel()
    proxy.until(lambda: not replica.running)
    assert len(replica.seen) == 1


def test_a_full_queue_sheds_with_the_numbers(proxy, channel):
    replica = proxy.add_replica("a", limit=1)
    proxy.max_queued = 1
    proxy.serve(app=["a"])
    hang = channel.unary_unary("/t.Lab/Hang")
    running = hang.future(b"", timeout=TIMEOUT_S)
    proxy.until(lambda: replica.hanging)
    waiting = hang.future(b"", timeout=TIMEOUT_S)
    proxy.until(lambda: proxy.target("app").router.queued == 1)
    code, details = status_of(lambda: hang(b"", timeout=TIMEOUT_S))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details == "Request dropped due to backpressure (num_queued_requests=1, max_queued_requests=1)."
    waiting.cancel()
    running.cancel()


@pytest.mark.parametrize("size", [0, 100_000, 700_000])
def test_a_refused_call_is_made_again_elsewhere_with_its_whole_body(proxy, channel, size):
    a, b = proxy.add_replica("a"), proxy.add_replica("b")
    proxy.serve(app=["a", "b"])
    a.refuse_next = b.refuse_next = 3
    body = random.Random(size).randbytes(size)
    assert channel.unary_unary("/t.Lab/Echo")(body, timeout=TIMEOUT_S) == body
    assert a.refused + b.refused >= 1


def test_many_refusals_lose_no_call(proxy, channel):
    """As when another proxy takes the slots: the replicas turn away far more than they take."""
    a, b = proxy.add_replica("a", limit=50), proxy.add_replica("b", limit=50)
    proxy.serve(app=["a", "b"])
    a.limit = b.limit = 2
    echo = channel.unary_unary("/t.Lab/Echo")
    pending = [echo.future(b"%d" % number * 1000, timeout=TIMEOUT_S) for number in range(200)]
    assert [call.result() for call in pending] == [b"%d" % number * 1000 for number in range(200)]
    assert a.most <= 2
    assert b.most <= 2


@pytest.mark.parametrize(("count", "size"), [(60, 300_000), (12, 3 << 20)])
def test_large_requests_that_wait_do_not_starve_the_one_that_runs(proxy, channel, count, size):
    """All come over one connection: were its window used up by waiting bodies, the running call could not end."""
    proxy.add_replica("a", limit=1)
    proxy.serve(app=["a"])
    echo = channel.unary_unary("/t.Lab/Echo")
    pending = [echo.future(bytes(size), timeout=TIMEOUT_S) for _ in range(count)]
    assert all(len(call.result()) == size for call in pending)


def test_streams_that_nobody_reads_do_not_stop_other_clients(proxy, channel):
    """All share the proxy's one connection to the replica."""
    replica = proxy.add_replica("a")
    proxy.serve(app=["a"])
    headers = request_headers("/t.Lab/Flood", "test")

    async def open_lazily():
        def make():
            return Connection(proxy.loop, Http2Limits(max_concurrent_streams=0, stream_window=1000))

        _, connection = await proxy.loop.create_connection(make, "127.0.0.1", proxy.port)
        for _ in range(40):
            recorder = Recorder(connection, credit=False)
            recorder.stream_id = connection.open_stream(headers, recorder)
            connection.send_data(recorder.stream_id, frame(b"6"), end_stream=True)
        return connection

    lazy = proxy.run(open_lazily())
    proxy.until(lambda: len(replica.seen) == 40)
    for _ in range(20):
        assert channel.unary_unary("/t.Lab/Echo")(bytes(100_000), timeout=TIMEOUT_S) == bytes(100_000)
    proxy.call(lazy.close)


# --- requests that do not end -----------------------------------------------------------------------------------------


ECHO = request_headers("/t.Lab/Echo", "test")


def test_calls_without_their_whole_request_take_no_slot(proxy, channel):
    replica = proxy.add_replica("a", limit=1)
    proxy.serve(app=["a"])
    lazy, recorders = begin(proxy, ECHO, ECHO, ECHO, body=frame(bytes(1000))[:-1])
    proxy.until(lambda: proxy.observer.begun_count == 3)
    assert channel.unary_unary("/t.Lab/Echo")(b"x", timeout=TIMEOUT_S) == b"x"
    assert len(replica.seen) == 1
    proxy.call(lambda: lazy.send_data(recorders[1].stream_id, b"\0", end_stream=True))
    proxy.until(lambda: recorders[1].closed)
    assert recorders[1].data == frame(bytes(1000))
    proxy.call(lambda: lazy.reset(recorders[0].stream_id))
    proxy.until(lambda: len(proxy.observer.ends) == 3)
    assert proxy.observer.ends[-1][3] == grpc.StatusCode.CANCELLED.value[0]
    proxy.call(lazy.close)


def test_a_large_request_goes_on_before_its_end(replica, proxy):
    lazy, recorders = begin(proxy, ECHO, body=frame(bytes(300_000))[:-1])
    proxy.until(lambda: replica.seen)
    proxy.call(lambda: lazy.send_data(recorders[0].stream_id, b"\0", end_stream=True))
    proxy.until(lambda: recorders[0].closed)
    assert recorders[0].data == frame(bytes(300_000))
    proxy.call(lazy.close)


def test_a_request_that_waits_takes_no_more_than_its_window(proxy):
    proxy.add_replica("a", limit=0)
    proxy.serve(app=["a"])
    lazy, recorders = begin(proxy, ECHO, body=bytes(2_000_000))
    (connection,) = proxy.listener.connections
    proxy.until(lambda: connection._unacknowledged == CLIENT_WINDOW and proxy.target("app").router.queued == 1)
    proxy.call(lambda: lazy.reset(recorders[0].stream_id))
    proxy.call(lazy.close)


@pytest.mark.parametrize(("missing", "queued"), [(257, 0), (256, 1)])
def test_a_request_goes_on_when_its_window_has_no_room_for_a_padded_byte(proxy, missing, queued):
    proxy.add_replica("a", limit=0)
    proxy.serve(app=["a"])
    size = CLIENT_WINDOW - missing
    lazy, recorders = begin(proxy, ECHO, body=frame(bytes(2_000_000))[:size])
    proxy.until(lambda: any(connection._unacknowledged == size for connection in proxy.listener.connections))
    assert proxy.target("app").router.queued == queued
    proxy.call(lambda: lazy.reset(recorders[0].stream_id))
    proxy.call(lazy.close)


@pytest.mark.parametrize("part", [1, 5])
def test_a_request_in_tiny_parts_takes_no_more_memory_than_its_bytes(replica, proxy, part):
    lazy, recorders = begin(proxy, ECHO)
    request = frame(bytes(3 * 1024))
    stream_id = recorders[0].stream_id

    def send():
        for start in range(0, len(request), part):
            lazy.send_data(stream_id, request[start : start + part])
            lazy.flush()

    proxy.call(send)
    proxy.until(lambda: any(connection._unacknowledged == len(request) for connection in proxy.listener.connections))
    (connection,) = proxy.listener.connections
    assert len(connection.streams[stream_id]._body) == 1
    proxy.call(lambda: lazy.end_stream(stream_id))
    proxy.until(lambda: recorders[0].closed)
    assert recorders[0].data == request
    proxy.call(lazy.close)


def test_empty_data_is_not_kept(replica, proxy):
    lazy, recorders = begin(proxy, ECHO)
    proxy.until(lambda: proxy.observer.begun_count == 1)
    (connection,) = proxy.listener.connections
    call = connection.streams[recorders[0].stream_id]
    proxy.call(lambda: [call.on_data(b"", False) for _ in range(1000)])
    assert not call._body
    proxy.call(lambda: lazy.send_data(recorders[0].stream_id, frame(b"x"), end_stream=True))
    proxy.until(lambda: recorders[0].closed)
    assert recorders[0].data == frame(b"x")
    proxy.call(lazy.close)


def test_parts_that_come_before_and_after_a_refusal_arrive_in_order(replica, proxy):
    replica.refuse_next = 2
    lazy, recorders = begin(proxy, request_headers("/t.Lab/Chat", "test"), body=frame(b"one"))
    stream_id = recorders[0].stream_id
    for text in (b"two", b"three", b"four"):
        proxy.call(lambda text=text: lazy.send_data(stream_id, frame(text)))
    proxy.until(lambda: replica.seen)
    proxy.call(lambda: lazy.send_data(stream_id, frame(b"five"), end_stream=True))
    proxy.until(lambda: recorders[0].closed)
    assert recorders[0].data == b"".join(map(frame, (b"one", b"two", b"three", b"four", b"five")))
    proxy.call(lazy.close)


def test_a_stream_of_requests_goes_on_at_once(replica, proxy):
    lazy, _ = begin(proxy, request_headers("/t.Lab/Chat", "test"))
    proxy.until(lambda: replica.seen)
    proxy.call(lazy.close)


def test_a_call_without_its_whole_request_expires(replica, proxy):
    headers = request_headers("/t.Lab/Echo", "test", ((b"grpc-timeout", b"50m"),))
    lazy, recorders = begin(proxy, headers, body=bytes(10_000))
    proxy.until(lambda: recorders[0].closed)
    assert (b"grpc-status", b"4") in recorders[0].headers[0]
    assert not replica.seen
    proxy.call(lazy.close)


def test_a_call_whose_application_went_before_its_request_had_come_is_not_found(replica, proxy):
    lazy, recorders = begin(proxy, ECHO, body=frame(b"abc")[:-1])
    proxy.until(lambda: proxy.observer.begun_count == 1)
    proxy.serve()
    proxy.call(lambda: lazy.send_data(recorders[0].stream_id, b"c", end_stream=True))
    proxy.until(lambda: recorders[0].closed)
    assert (b"grpc-status", b"5") in recorders[0].headers[0]
    proxy.call(lazy.close)


# --- deadlines -------------------------------------------------------------------------------------------------------


def test_the_request_timeout_ends_a_running_call_and_tells_the_replica(proxy, channel):
    replica = proxy.add_replica("a")
    proxy.options = {"request_timeout_s": 0.1}
    proxy.serve(app=["a"])
    code, details = status_of(lambda: channel.unary_unary("/t.Lab/Hang")(b"", timeout=TIMEOUT_S))
    assert (code, details) == (grpc.StatusCode.DEADLINE_EXCEEDED, "Request timed out after 0.1s.")
    proxy.until(lambda: replica.cancelled == ["Hang"])


@pytest.mark.parametrize("value", ["", "1", "S", "abc", "123456789S"])
def test_a_malformed_timeout_is_named(replica, proxy, value):
    # grpcio sends no such thing, so this one is made by hand.
    from swerve.net.client import Channel
    from swerve.wire.status import RpcError, StatusCode

    async def ask():
        raw = Channel(proxy.address)
        try:
            await raw.unary("/t.Lab/Echo", b"x", timeout=None, metadata=[(b"grpc-timeout", value.encode())])
        finally:
            await raw.close()

    with pytest.raises(RpcError) as raised:
        proxy.run(ask())
    assert raised.value.status.code == StatusCode.INTERNAL
    assert f"grpc-timeout '{value}' is malformed" in raised.value.status.details
    proxy.until(lambda: len(proxy.observer.ends) == proxy.observer.begun_count)


# --- losses ----------------------------------------------------------------------------------------------------------


def test_a_replica_that_dies_ends_its_calls_unavailable_and_the_waiting_ones_wait(proxy, channel):
    replica = proxy.add_replica("a", limit=2)
    proxy.serve(app=["a"])
    hang = channel.unary_unary("/t.Lab/Hang")
    running = [hang.future(b"", timeout=TIMEOUT_S) for _ in range(2)]
    proxy.until(lambda: len(replica.hanging) == 2)
    waiting = [channel.unary_unary("/t.Lab/Echo").future(b"w", timeout=TIMEOUT_S) for _ in range(5)]
    proxy.until(lambda: proxy.target("app").router.queued == 5)
    proxy.run(replica.die())
    for call in running:
        assert status_of(call.result)[0] == grpc.StatusCode.UNAVAILABLE
    proxy.run(replica.start())
    assert [call.result() for call in waiting] == [b"w"] * 5


def test_a_replica_that_drains_gets_no_new_call_and_ends_those_it_has(proxy, channel):
    a = proxy.add_replica("a")
    proxy.add_replica("b")
    proxy.serve(app=["a"])
    call = channel.unary_unary("/t.Lab/Hang").future(b"", timeout=TIMEOUT_S)
    proxy.until(lambda: a.hanging)
    proxy.serve(app=["b"])
    for _ in range(20):
        channel.unary_unary("/t.Lab/Echo")(b"", timeout=TIMEOUT_S)
    assert len(a.seen) == 1
    proxy.call(lambda: (a.hanging[0].reply(b"done"), a.hanging[0].end()))
    assert call.result() == b"done"
    proxy.until(lambda: not a.listener.connections)


def test_waiting_calls_of_a_deleted_application_end_not_found(proxy, channel):
    replica = proxy.add_replica("a", limit=1)
    proxy.serve(app=["a"])
    hang = channel.unary_unary("/t.Lab/Hang")
    running = hang.future(b"", timeout=TIMEOUT_S)
    proxy.until(lambda: replica.hanging)
    waiting = hang.future(b"", timeout=TIMEOUT_S)
    proxy.until(lambda: proxy.target("app").router.queued == 1)
    proxy.serve()
    code, details = status_of(waiting.result)
    assert code == grpc.StatusCode.NOT_FOUND
    assert "Application 'app' not found" in details
    proxy.call(lambda: (replica.hanging[0].reply(b"done"), replica.hanging[0].end()))
    assert running.result() == b"done"


def test_an_application_whose_deployment_the_view_does_not_list_yet_makes_calls_wait(proxy, channel):
    proxy.add_replica("a")
    proxy.apps = {"app": ["a"]}
    view = proxy.view()
    del view.deployments[:]
    proxy.publish(view)
    waiting = channel.unary_unary("/t.Lab/Echo").future(b"w", timeout=TIMEOUT_S)
    proxy.until(lambda: proxy.observer.begun_count == 1)
    proxy.publish()
    assert waiting.result() == b"w"


# --- storms ----------------------------------------------------------------------------------------------------------


def test_a_storm_of_cancelled_calls_leaves_nothing_behind(proxy, channel):
    a, b = proxy.add_replica("a", limit=3), proxy.add_replica("b", limit=3)
    proxy.serve(app=["a", "b"])
    random_ = random.Random(7)
    echo, flood = channel.unary_unary("/t.Lab/Echo"), channel.unary_stream("/t.Lab/Flood")
    for round_ in range(8):
        calls = [echo.future(bytes(random_.choice([10, 50_000, 600_000])), timeout=TIMEOUT_S) for _ in range(30)]
        streams = [flood(b"3", timeout=TIMEOUT_S) for _ in range(4)]
        a.refuse_next = random_.randrange(5)
        for call in random_.sample(calls, 20):
            call.cancel()
        for stream in streams:
            if random_.random() < 0.5:
                next(stream)
            stream.cancel()
        if round_ == 4:
            proxy.run(b.die())
            proxy.run(b.start())
    assert echo(b"after", timeout=TIMEOUT_S) == b"after"
    assert a.most <= 3
    assert b.most <= 3


def test_a_deployment_that_goes_leaves_nothing_for_the_garbage_collector(proxy):
    proxy.add_replica("a")
    proxy.serve(one=["a"])
    target = weakref.ref(proxy.target("one"))
    connection = weakref.ref(next(iter(target().router.replicas.values())).link)
    gc.disable()
    try:
        proxy.serve()
        proxy.until(lambda: target() is None and connection() is None)
    finally:
        gc.enable()
