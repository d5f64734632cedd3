"""Credit, in both directions (RFC 9113, sections 5.2 and 6.9)."""

import pytest
from http2_lab import (
    EVERYTHING,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    RESPONSE_HEADERS,
    TRAILERS,
    WHOLE,
    answered,
    begin,
    client,
    fault,
    resets,
    sent,
    server,
    told,
)

from swerve.wire.events import BODY, CLOSED, DRIBBLE, IGNORED, SETTINGS
from swerve.wire.frames import ErrorCode
from swerve.wire.http2 import Http2
from swerve.wire.limits import PRIVATE_LIMITS, Http2Limits
from tests.net.raw_http2 import (
    DATA,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
    number,
    reset,
    settings_of,
    window_update,
)

LARGEST = (1 << 31) - 1
DEFAULT = 65_535


@pytest.fixture(params=[server, client], ids=["server", "client"])
def make(request):
    return request.param


def sending(make, values=None):
    """An engine and a stream on which it may send a body."""
    engine = make(values)
    stream_id = begin(engine)
    if make is server:
        engine.send_response(stream_id, RESPONSE_HEADERS)
        engine.data_to_send(EVERYTHING)
    return engine, stream_id


def receiving(make, **limits):
    """An engine and a stream on which it expects a body."""
    engine = make(**limits)
    stream_id = begin(engine)
    if make is client:
        answered(engine, stream_id)
    return engine, stream_id


def data_sizes(engine, amount=EVERYTHING):
    return [len(frame.payload) for frame in sent(engine, amount) if frame.kind == DATA]


# --- what the peer lets us send --------------------------------------------------------------------------------------


def test_no_more_of_a_body_leaves_than_its_stream_has_credit_for(make):
    engine, stream_id = sending(make, {INITIAL_WINDOW_SIZE: 10})
    engine.send_data(stream_id, bytes(25))
    assert data_sizes(engine) == [10]
    assert not engine.want_write
    told(engine, window_update(stream_id, 7))
    assert engine.want_write
    assert data_sizes(engine) == [7]
    assert engine.queued_body_size(stream_id) == 8


def test_no_more_of_bodies_leaves_than_the_connection_has_credit_for(make):
    engine, first = sending(make, {INITIAL_WINDOW_SIZE: LARGEST})
    second = begin(engine)
    engine.send_data(first, bytes(60_000))
    engine.send_data(second, bytes(60_000))
    assert sum(data_sizes(engine)) == DEFAULT
    assert not engine.want_write
    told(engine, window_update(first, 1000) + window_update(second, 1000))
    assert not engine.want_write
    told(engine, window_update(0, 100_000))
    assert sum(data_sizes(engine)) == 120_000 - DEFAULT


def test_the_windows_before_settings_are_the_default_ones():
    engine, stream_id = sending(client)
    engine.send_data(stream_id, bytes(100_000))
    assert sum(data_sizes(engine)) == DEFAULT


def test_frames_other_than_data_need_no_credit(make):
    engine, stream_id = sending(make, {INITIAL_WINDOW_SIZE: 0})
    engine.send_trailers(stream_id, TRAILERS)
    engine.ping(bytes(8))
    assert [kind for kind, *_ in sent(engine)] == [HEADERS, PING]


def test_an_empty_frame_that_ends_a_stream_needs_no_credit(make):
    engine, stream_id = sending(make, {INITIAL_WINDOW_SIZE: 0})
    engine.end_stream(stream_id)
    assert sent(engine) == [(DATA, END_STREAM, stream_id, b"")]


def test_a_new_window_changes_the_credit_of_streams_that_are_open(make):
    engine, stream_id = sending(make, {INITIAL_WINDOW_SIZE: 10})
    engine.send_data(stream_id, bytes(100))
    assert data_sizes(engine) == [10]
    told(engine, settings_of({INITIAL_WINDOW_SIZE: 15}))
    assert data_sizes(engine) == [5]


def test_a_new_window_holds_for_streams_that_are_opened_later(make):
    engine = make()
    told(engine, settings_of({INITIAL_WINDOW_SIZE: 3}))
    stream_id = begin(engine)
    engine.send_data(stream_id, bytes(100))
    assert data_sizes(engine) == [3]


def test_credit_for_a_few_bytes_of_a_body_that_waits_is_told_as_such(make):
    """CVE-2019-9511."""
    engine, stream_id = sending(make, {INITIAL_WINDOW_SIZE: 0})
    assert told(engine, window_update(stream_id, 1)) == [(IGNORED,)]
    engine.send_data(stream_id, bytes(2000))
    assert (DRIBBLE,) in told(engine, window_update(stream_id, 255))
    assert told(engine, window_update(stream_id, 256)) == [(IGNORED,)]
    assert sum(data_sizes(engine)) == 512


def test_credit_may_become_negative_and_has_to_be_paid_first(make):
    """Section 6.9.2."""
    engine, stream_id = sending(make, {INITIAL_WINDOW_SIZE: 100})
    engine.send_data(stream_id, bytes(200))
    assert data_sizes(engine) == [100]
    told(engine, settings_of({INITIAL_WINDOW_SIZE: 40}))
    told(engine, window_update(stream_id, 60))
    assert data_sizes(engine) == []
    told(engine, window_update(stream_id, 1))
    assert data_sizes(engine) == [1]


def test_a_window_that_shrinks_stops_a_stream_that_was_about_to_send(make):
    engine, stream_id = sending(make)
    engine.send_data(stream_id, bytes(10))
    told(engine, settings_of({INITIAL_WINDOW_SIZE: 0}))
    assert data_sizes(engine) == []
    told(engine, settings_of({INITIAL_WINDOW_SIZE: 5}))
    assert data_sizes(engine) == [5]


def test_a_response_that_credit_does_not_cover_waits_for_it():
    engine = server({INITIAL_WINDOW_SIZE: 3})
    stream_id = begin(engine, end_stream=True)
    assert not engine.respond(stream_id, RESPONSE_HEADERS, b"12345", TRAILERS)
    assert [(kind, payload) for kind, _, _, payload in sent(engine)][1:] == [(DATA, b"123")]
    told(engine, window_update(stream_id, 2))
    kinds = [kind for kind, *_ in sent(engine)]
    assert kinds == [DATA, HEADERS]
    assert engine.events() == [(CLOSED, stream_id, ErrorCode.NO_ERROR)]


def test_a_response_takes_from_the_credit_of_the_connection():
    engine = server({INITIAL_WINDOW_SIZE: LARGEST})
    for _ in range(4):
        engine.respond(begin(engine, end_stream=True), RESPONSE_HEADERS, bytes(16_000), TRAILERS)
    last = begin(engine, end_stream=True)
    assert not engine.respond(last, RESPONSE_HEADERS, bytes(1536), TRAILERS)
    assert sum(data_sizes(engine)) == DEFAULT
    assert engine.queued_body_size(last) == 1


def test_an_empty_response_leaves_without_credit():
    engine = server({INITIAL_WINDOW_SIZE: 100})
    stream_id = begin(engine, end_stream=True)
    told(engine, settings_of({INITIAL_WINDOW_SIZE: 0}))
    engine.respond(stream_id, RESPONSE_HEADERS, b"", TRAILERS)
    assert (sent(engine)[-1].flags, engine.queued_body_size()) == (WHOLE, 0)


def test_frames_are_no_larger_than_the_peer_takes(make):
    engine, stream_id = sending(make)
    engine.send_data(stream_id, bytes(40_000))
    assert data_sizes(engine) == [16_384, 16_384, 7232]


def test_frames_are_as_large_as_the_peer_takes(make):
    engine, stream_id = sending(make, {MAX_FRAME_SIZE: 30_000})
    engine.send_data(stream_id, bytes(40_000))
    assert data_sizes(engine) == [30_000, 10_000]


# --- section 6.9.1: bad credit ---------------------------------------------------------------------------------------


def test_no_increment_of_a_stream_breaks_it_off(make):
    engine, stream_id = receiving(make)
    assert resets(engine, window_update(stream_id, 0)) == {stream_id: ErrorCode.PROTOCOL_ERROR}


def test_no_increment_of_the_connection_ends_it(make):
    assert fault(make(), window_update(0, 0)) == ErrorCode.PROTOCOL_ERROR


def test_the_reserved_bit_of_an_increment_is_ignored(make):
    engine, stream_id = sending(make, {INITIAL_WINDOW_SIZE: LARGEST})
    assert told(engine, window_update(0, (1 << 31) | 5)) == [(IGNORED,)]
    engine.send_data(stream_id, bytes(100_000))
    assert sum(data_sizes(engine)) == DEFAULT + 5


def test_the_credit_of_a_stream_may_not_exceed_the_largest(make):
    engine, stream_id = receiving(make)
    assert told(engine, window_update(stream_id, LARGEST - DEFAULT)) == [(IGNORED,)]
    assert resets(engine, window_update(stream_id, 1)) == {stream_id: ErrorCode.FLOW_CONTROL_ERROR}


def test_the_credit_of_the_connection_may_not_exceed_the_largest(make):
    engine = make()
    assert told(engine, window_update(0, LARGEST - DEFAULT)) == [(IGNORED,)]
    assert fault(engine, window_update(0, 1)) == ErrorCode.FLOW_CONTROL_ERROR


def test_a_new_window_may_lift_the_credit_of_a_stream_to_the_largest(make):
    engine, stream_id = receiving(make)
    told(engine, window_update(stream_id, LARGEST - DEFAULT - 1))
    assert told(engine, settings_of({INITIAL_WINDOW_SIZE: DEFAULT + 1})) == [(SETTINGS,)]


def test_a_new_window_may_not_lift_the_credit_of_a_stream_above_the_largest(make):
    engine, stream_id = receiving(make)
    told(engine, window_update(stream_id, LARGEST - DEFAULT))
    assert fault(engine, settings_of({INITIAL_WINDOW_SIZE: DEFAULT + 1})) == ErrorCode.FLOW_CONTROL_ERROR


# --- what we let the peer send ---------------------------------------------------------------------------------------


SMALL = {"stream_window": 100_000, "connection_window": 150_000}


def fill(engine, stream_id, amount):
    for at in range(0, amount, 16_384):
        size = min(16_384, amount - at)
        assert told(engine, frame(DATA, 0, stream_id, bytes(size))) == [(BODY, stream_id, bytes(size), False)]


def test_a_stream_may_use_all_of_its_credit(make):
    engine, stream_id = receiving(make, **SMALL)
    assert engine.may_receive(stream_id)
    fill(engine, stream_id, 100_000)
    assert not engine.may_receive(stream_id)


def test_a_stream_with_less_than_the_default_window_has_no_more_credit_than_that(make):
    """What the peer might send before it has heard of the window is taken, but not expected."""
    engine, stream_id = receiving(make, stream_window=1000)
    fill(engine, stream_id, 999)
    assert engine.may_receive(stream_id)
    fill(engine, stream_id, 1)
    assert not engine.may_receive(stream_id)
    engine.acknowledge(1000, stream_id)
    assert engine.may_receive(stream_id)


def test_more_data_than_its_stream_has_credit_for_breaks_it_off(make):
    engine, stream_id = receiving(make, **SMALL)
    fill(engine, stream_id, 100_000)
    assert resets(engine, frame(DATA, 0, stream_id, b"x")) == {stream_id: ErrorCode.FLOW_CONTROL_ERROR}


def test_more_data_than_the_connection_has_credit_for_ends_it(make):
    engine, first = receiving(make, **SMALL)
    second = begin(engine)
    if make is client:
        answered(engine, second)
    fill(engine, first, 100_000)
    fill(engine, second, 50_000)
    assert fault(engine, frame(DATA, 0, second, b"x")) == ErrorCode.FLOW_CONTROL_ERROR


def test_padding_counts_and_is_given_back_at_once(make):
    """Not when half a window has come together: a window full of data fits beside any padding."""
    engine, stream_id = receiving(make, **SMALL)
    fill(engine, stream_id, 99_995)
    assert told(engine, frame(DATA, PADDED, stream_id, b"\x02ab\0\0")) == [(BODY, stream_id, b"ab", False)]
    assert sent(engine) == [(WINDOW_UPDATE, 0, stream_id, number(3))]
    fill(engine, stream_id, 3)
    assert not engine.may_receive(stream_id)


def test_padding_that_ends_a_stream_is_credit_of_the_connection(make):
    engine, stream_id = receiving(make, stream_window=100_000, connection_window=10)
    told(engine, frame(DATA, PADDED | END_STREAM, stream_id, b"\x04" + bytes(4)))
    assert sent(engine) == [(WINDOW_UPDATE, 0, 0, number(5))]


def test_padding_whose_credit_is_not_read_ends_the_connection(make):
    engine, stream_id = receiving(make)
    assert fault(engine, frame(DATA, PADDED, stream_id, bytes(1)) * 10_001) == ErrorCode.ENHANCE_YOUR_CALM


def test_padding_beyond_the_credit_breaks_its_stream_off(make):
    engine, stream_id = receiving(make, **SMALL)
    fill(engine, stream_id, 99_995)
    data = frame(DATA, PADDED, stream_id, b"\x03ab\0\0\0")
    assert resets(engine, data) == {stream_id: ErrorCode.FLOW_CONTROL_ERROR}


def test_an_empty_end_needs_no_credit(make):
    engine, stream_id = receiving(make, **SMALL)
    fill(engine, stream_id, 100_000)
    assert told(engine, frame(DATA, END_STREAM, stream_id))[0] == (BODY, stream_id, b"", True)


def test_a_peer_that_has_not_heard_of_a_smaller_window_may_use_the_default_one(make):
    engine, stream_id = receiving(make, stream_window=10, connection_window=10)
    fill(engine, stream_id, DEFAULT)
    assert fault(engine, frame(DATA, 0, stream_id, b"x")) == ErrorCode.FLOW_CONTROL_ERROR


def test_credit_comes_back_when_half_of_it_has_been_consumed(make):
    engine, stream_id = receiving(make, **SMALL)
    fill(engine, stream_id, 60_000)
    assert not engine.acknowledge(49_999, stream_id)
    assert not engine.want_write
    assert engine.acknowledge(1, stream_id)
    assert sent(engine) == [(WINDOW_UPDATE, 0, stream_id, (50_000).to_bytes(4, "big"))]
    assert not engine.acknowledge(10_000, stream_id)
    fill(engine, stream_id, 90_000)


def test_credit_of_the_connection_comes_back_when_half_of_it_has_been_consumed(make):
    engine, stream_id = receiving(make, **SMALL)
    fill(engine, stream_id, 80_000)
    engine.acknowledge(80_000, stream_id)
    assert sent(engine) == [
        (WINDOW_UPDATE, 0, 0, (80_000).to_bytes(4, "big")),
        (WINDOW_UPDATE, 0, stream_id, (80_000).to_bytes(4, "big")),
    ]


@pytest.mark.parametrize("limits", [Http2Limits(), PRIVATE_LIMITS], ids=["public", "private"])
def test_a_large_window_of_the_connection_is_never_short_of_more_than_a_little(limits):
    """What is owed to the peer is missing: half of a large window would be more than what others need."""
    sender, receiver = Http2(server=False, limits=limits), Http2(server=True, limits=limits)
    for _ in range(2):
        receiver.receive(sender.data_to_send(0))
        sender.receive(receiver.data_to_send(0))
    assert sender._outbox.window == limits.connection_window
    assert not receiver.acknowledge((16 << 20) - 1, 1)
    assert receiver.acknowledge(1, 1)


def test_the_windows_of_all_streams_fit_into_the_connections():
    limits = Http2Limits()
    assert limits.max_concurrent_streams * limits.stream_window <= limits.connection_window - (16 << 20)


def test_a_stream_that_the_peer_has_ended_gets_no_credit():
    engine, stream_id = receiving(server, **SMALL)
    fill(engine, stream_id, 60_000)
    told(engine, frame(DATA, END_STREAM, stream_id))
    assert not engine.acknowledge(60_000, stream_id)


def test_bytes_of_a_stream_that_is_over_are_credit_of_the_connection(make):
    engine, stream_id = receiving(make, **SMALL)
    fill(engine, stream_id, 80_000)
    told(engine, reset(stream_id))
    assert engine.acknowledge(80_000, stream_id)
    assert sent(engine) == [(WINDOW_UPDATE, 0, 0, (80_000).to_bytes(4, "big"))]


@pytest.mark.parametrize("padding", [b"", b"\x05"], ids=["plain", "padded"])
def test_the_engine_gives_credit_itself_for_data_that_it_tells_nobody_of(make, padding):
    engine, stream_id = receiving(make, **SMALL)
    engine.reset_stream(stream_id)
    engine.data_to_send(EVERYTHING)
    engine.events()
    flags = PADDED if padding else 0
    for _ in range(100):
        assert told(engine, frame(DATA, flags, stream_id, padding + bytes(10_000))) == [(IGNORED,)]
        engine.data_to_send(EVERYTHING)


def test_the_engine_gives_credit_itself_for_padding(make):
    engine, stream_id = receiving(make, **SMALL)
    for _ in range(1000):
        told(engine, frame(DATA, PADDED, stream_id, b"\xff" + bytes(255)))
        engine.data_to_send(EVERYTHING)
    assert engine.may_receive(stream_id)


def test_the_engine_gives_credit_itself_for_data_that_broke_its_stream_off():
    engine = server(**SMALL)
    for _ in range(50):
        stream_id = begin(engine, end_stream=True)
        told(engine, frame(DATA, 0, stream_id, bytes(10_000)))
        assert RST_STREAM in [kind for kind, *_ in sent(engine)]


def test_a_body_that_is_longer_than_all_windows_comes_through(make):
    engine, stream_id = receiving(make, **SMALL)
    for _ in range(100):
        fill(engine, stream_id, 16_384)
        engine.acknowledge(16_384, stream_id)
        engine.data_to_send(EVERYTHING)
