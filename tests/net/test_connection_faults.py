"""What a connection makes of a peer's faults: it says why it hangs up, and work asked for in vain is bounded."""

import pytest
from net_support import REQUEST, RESPONSE, TRAILERS, Pair, Transport

from swerve.net.connection import Connection
from swerve.net.streams import CONNECTION_LOST
from swerve.wire.frames import ErrorCode
from swerve.wire.limits import Http2Limits
from tests.net.raw_http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    field,
    frame,
    frames_in,
    settings_of,
    window_update,
)

BLOCK = b"".join(field(name, value) for name, value in REQUEST)
BROKEN = frame(PING, 0, 0, b"short")


def code_of(goaway):
    assert goaway.kind == GOAWAY
    return int.from_bytes(goaway.payload[4:8], "big")


def request(stream_id, flags=END_HEADERS | END_STREAM):
    return frame(HEADERS, flags, stream_id, BLOCK)


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (BROKEN, ErrorCode.FRAME_SIZE_ERROR),
        (frame(DATA, 0, 99, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\x80"), ErrorCode.COMPRESSION_ERROR),
        (window_update(0, (1 << 31) - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (b"GET / HTTP/1.1\r\n\r\n", ErrorCode.FRAME_SIZE_ERROR),
    ],
    ids=["size", "idle stream", "block", "credit", "HTTP/1.1"],
)
def test_a_peer_that_breaks_the_rules_is_told_why_before_it_is_hung_up_on(broken, code):
    pair = Pair()
    pair.server.data_received(broken)
    assert pair.down.closed
    *_, last = frames_in(bytes(pair.down.buffer))
    assert code_of(last) == code


def test_a_server_that_breaks_the_rules_is_told_why_and_its_calls_end():
    pair = Pair()
    call = pair.call()
    pair.run()
    pair.client.data_received(BROKEN)
    assert pair.up.closed
    assert code_of(list(frames_in(bytes(pair.up.buffer)))[-1]) == ErrorCode.FRAME_SIZE_ERROR
    assert call.closed == [CONNECTION_LOST]


def test_the_reason_is_said_before_bodies_that_wait():
    pair = Pair(high=1000)
    pair.server.data_received(request(1))
    pair.server.send_headers(1, RESPONSE)
    pair.server.send_data(1, bytes(60_000))
    pair.server.data_received(BROKEN)
    kinds = [frame.kind for frame in frames_in(bytes(pair.down.buffer))]
    assert kinds.index(GOAWAY) < kinds.index(DATA)
    assert [call.closed for call in pair.served] == [[CONNECTION_LOST]]


def test_what_came_before_a_fault_is_served_and_answered():
    pair = Pair()
    pair.on_request = lambda call: pair.server.respond(call.stream_id, RESPONSE, b"x", TRAILERS)
    pair.server.data_received(request(1) + BROKEN)
    kinds = [frame.kind for frame in frames_in(bytes(pair.down.buffer))]
    assert sorted(kinds) == sorted([HEADERS, DATA, HEADERS, GOAWAY])


def test_a_peer_that_reads_nothing_is_hung_up_on_all_the_same():
    pair = Pair(high=1000)
    pair.server.data_received(request(1))
    pair.server.send_headers(1, RESPONSE)
    pair.server.send_data(1, bytes(60_000))
    pair.loop.turn()
    assert pair.down.paused
    pair.server.data_received(BROKEN)
    assert pair.down.closed
    assert [call.closed for call in pair.served] == [[CONNECTION_LOST]]


def test_nothing_is_served_after_a_fault():
    pair = Pair()
    pair.server.data_received(BROKEN + request(1))
    pair.server.data_received(request(3))
    assert pair.served == []


def test_a_greeting_may_come_byte_by_byte():
    pair = Pair()
    fresh = Connection(pair.loop, Http2Limits(), accept=lambda *call: pair.served.append(call))
    fresh.connection_made(Transport(fresh, 1 << 20))
    data = PREFACE + settings_of() + request(1)
    for at in range(len(data)):
        fresh.data_received(data[at : at + 1])
    assert fresh.established
    assert len(pair.served) == 1


def test_streams_that_a_client_has_the_server_break_off_count_as_resets():
    """CVE-2025-8671: a call is begun for each, as for one that the client resets itself."""
    pair = Pair(limits=Http2Limits(max_resets_per_s=5))
    for stream_id in range(1, 201, 2):
        pair.server.data_received(request(stream_id) + window_update(stream_id, 0))
    pair.loop.turn()
    assert pair.down.closed
    found = list(frames_in(bytes(pair.down.buffer)))
    assert sum(frame.kind == RST_STREAM for frame in found) >= 50
    # Said once, however many there were.
    assert [code_of(frame) for frame in found if frame.kind == GOAWAY] == [ErrorCode.ENHANCE_YOUR_CALM]
    assert all(len(call.closed) == 1 for call in pair.served)


@pytest.mark.parametrize(("streams", "ends"), [(0, False), (500, True)])
def test_settings_weigh_more_the_more_streams_there_are(streams, ends):
    """A change of the window takes a step for each."""
    pair = Pair(limits=Http2Limits(max_control_frames_per_s=1000))
    pair.server.data_received(b"".join(request(2 * number + 1) for number in range(streams)))
    for size in range(100):
        pair.server.data_received(settings_of({4: size}))
    pair.loop.turn()
    assert pair.down.closed == ends


def test_answers_that_a_client_does_not_read_are_no_more_than_its_streams():
    pair = Pair(high=1000, limits=Http2Limits(max_concurrent_streams=50))
    pair.on_request = lambda call: pair.server.respond(call.stream_id, RESPONSE, bytes(1000), TRAILERS)
    for stream_id in range(1, 2001, 2):
        pair.server.data_received(request(stream_id))
    assert pair.down.paused
    assert len(pair.served) < 100
    assert not pair.down.closed
