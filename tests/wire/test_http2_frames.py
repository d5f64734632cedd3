"""The layout of frames, and those of no stream's life (RFC 9113, sections 4, 5.5, 6.1 to 6.3, 6.7, 6.10)."""

import pytest
from http2_lab import (
    REQUEST_HEADERS,
    WHOLE,
    assert_goes_on,
    begin,
    block,
    fault,
    headers,
    next_id,
    sent,
    server,
    told,
    warm,
)

from swerve.wire import events as kinds
from swerve.wire.events import BODY, CLOSED, IGNORED, PONG, REQUEST, RESET, TRAILERS
from swerve.wire.frames import ErrorCode
from tests.net.raw_http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    number,
    reset,
    window_update,
)

PUSH_PROMISE = 0x5
PADDED, WITH_PRIORITY = 0x8, 0x20
RESERVED = 1 << 31
FIELDS = block(REQUEST_HEADERS)


# --- section 4.1: the head -------------------------------------------------------------------------------------------


def test_the_reserved_bit_of_a_stream_is_ignored(served):
    stream_id = next_id(served)
    assert told(served, headers(RESERVED | stream_id)) == [(REQUEST, stream_id, REQUEST_HEADERS, False)]
    assert told(served, frame(DATA, 0, RESERVED | stream_id, b"x")) == [(BODY, stream_id, b"x", False)]
    assert told(served, reset(RESERVED | stream_id)) == [(RESET, stream_id), (CLOSED, stream_id, ErrorCode.CANCEL)]


def test_an_unknown_kind_of_frame_is_ignored(engine):
    """Section 5.5."""
    assert told(engine, frame(0xFA, 0xFF, 0, b"unknown") + frame(0x0A, 0, 1, b"altsvc")) == [(IGNORED,)] * 2
    assert not engine.want_write


def test_flags_that_a_frame_does_not_have_are_ignored(served):
    stream_id = next_id(served)
    events = told(served, frame(HEADERS, END_HEADERS | 0xD2, stream_id, FIELDS) + frame(DATA, 0xF6, stream_id, b"x"))
    assert events == [(REQUEST, stream_id, REQUEST_HEADERS, False), (BODY, stream_id, b"x", False)]


# --- section 4.2: the size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DATA, HEADERS, SETTINGS, PING, 0xFA])
def test_a_frame_above_the_limit_ends_the_connection(engine, kind):
    assert fault(engine, frame(kind, 0, 0, bytes(16_385))) == ErrorCode.FRAME_SIZE_ERROR


def test_a_frame_above_the_limit_is_not_waited_for(engine):
    assert fault(engine, frame(DATA, 0, 1, bytes(16_385))[:9]) == ErrorCode.FRAME_SIZE_ERROR


def test_a_frame_at_the_limit_is_taken(served):
    stream_id = begin(served)
    assert told(served, frame(DATA, 0, stream_id, bytes(16_384))) == [(BODY, stream_id, bytes(16_384), False)]


def test_a_larger_frame_is_taken_where_the_limit_is_larger():
    engine = server(max_frame_size=20_000)
    stream_id = begin(engine)
    assert told(engine, frame(DATA, 0, stream_id, bytes(20_000))) == [(BODY, stream_id, bytes(20_000), False)]
    assert fault(engine, frame(DATA, 0, stream_id, bytes(20_001))) == ErrorCode.FRAME_SIZE_ERROR


@pytest.mark.parametrize("size", [65_535, 65_536, 100_000, 200_000])
def test_a_size_may_take_all_of_its_bits(size):
    engine = server(max_frame_size=200_000)
    stream_id = begin(engine)
    data = frame(DATA, 0, stream_id, bytes(size)) + frame(DATA, END_STREAM, stream_id, b"end")
    assert told(engine, data) == [(BODY, stream_id, bytes(size), False), (BODY, stream_id, b"end", True)]


@pytest.mark.parametrize("size", [65_536, 65_541, (1 << 24) - 1])
def test_the_highest_bits_of_a_size_count(engine, size):
    head = size.to_bytes(3, "big") + frame(DATA, 0, 1)[3:]
    assert fault(engine, head + bytes(10)) == ErrorCode.FRAME_SIZE_ERROR


def test_large_data_is_told_in_parts_as_it_comes(served):
    stream_id = begin(served)
    body = bytes(range(250)) * 60
    data = frame(DATA, END_STREAM, stream_id, body) + frame(PING, 0, 0, bytes(8))
    assert told(served, data[: 9 + 4095]) == []
    assert told(served, data[9 + 4095 : 9 + 4096]) == [(BODY, stream_id, body[:4096], False)]
    assert told(served, data[9 + 4096 : 9 + 5000]) == [(BODY, stream_id, body[4096:5000], False)]
    assert told(served, data[9 + 5000 :]) == [(BODY, stream_id, body[5000:], True), (kinds.PING, bytes(8))]


def test_a_request_is_told_with_the_part_of_its_data_that_has_come():
    engine = warm(server())
    stream_id = next_id(engine)
    data = headers(stream_id) + frame(DATA, END_STREAM, stream_id, bytes(6000))
    events = told(engine, data[:-1000]) + told(engine, data[-1000:])
    assert events == [
        (REQUEST, stream_id, REQUEST_HEADERS, False),
        (BODY, stream_id, bytes(5000), False),
        (BODY, stream_id, bytes(1000), True),
    ]


def test_padded_data_is_told_when_all_of_it_has_come(served):
    stream_id = begin(served)
    data = frame(DATA, PADDED, stream_id, b"\x01" + bytes(10_000) + b"\0")
    assert told(served, data[:-1]) == []
    assert told(served, data[-1:]) == [(BODY, stream_id, bytes(10_000), False)]


# A wrong size may be the stream's error in some of these; it is the connection's here.
@pytest.mark.parametrize(
    ("kind", "stream_id", "sizes"),
    [(PRIORITY, 1, (0, 4, 6)), (RST_STREAM, 1, (0, 3, 5)), (PING, 0, (0, 7, 9)), (WINDOW_UPDATE, 0, (0, 3, 5))],
    ids=["PRIORITY", "RST_STREAM", "PING", "WINDOW_UPDATE"],
)
def test_a_frame_of_another_size_than_its_kind_has_ends_the_connection(kind, stream_id, sizes):
    for size in sizes:
        assert fault(warm(server()), frame(kind, 0, stream_id, bytes(size))) == ErrorCode.FRAME_SIZE_ERROR


def test_a_goaway_that_is_too_short_ends_the_connection(engine):
    assert fault(engine, frame(GOAWAY, 0, 0, bytes(7))) == ErrorCode.FRAME_SIZE_ERROR


# --- section 4.3: header blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"\x80", id="index 0"),
        pytest.param(b"\xff\xff\xff\xff\xff\xff", id="endless integer"),
        pytest.param(b"\xc0", id="index beyond the table"),
        pytest.param(b"\x3f\xff\xff\x7f", id="table too large"),
        pytest.param(b"\x00\x85\xff\xff\xff\xff\xff\x00", id="bad Huffman code"),
        pytest.param(b"\x40\x05ab", id="cut off"),
    ],
)
def test_a_block_that_cannot_be_decoded_ends_the_connection(engine, bad):
    assert fault(engine, frame(HEADERS, WHOLE, next_id(engine), bad)) == ErrorCode.COMPRESSION_ERROR


def test_the_block_of_a_stream_that_is_over_changes_the_table_too():
    engine = server()
    stream_id = begin(engine)
    engine.reset_stream(stream_id)
    added = b"\x40\x01a\x01b"
    told(engine, frame(HEADERS, WHOLE, stream_id, added))
    events = told(engine, frame(HEADERS, WHOLE, stream_id + 2, FIELDS + b"\xbe"))
    assert events == [(REQUEST, stream_id + 2, (*REQUEST_HEADERS, (b"a", b"b")), True)]


@pytest.mark.parametrize("refused", ["malformed", "too many", "after goaway"])
def test_the_block_of_a_request_that_is_refused_changes_the_table_too(refused):
    engine = server(max_concurrent_streams=1)
    added = b"\x40\x01a\x01b"
    if refused == "malformed":
        told(engine, frame(HEADERS, WHOLE, 1, added))
        events = told(engine, frame(HEADERS, WHOLE, 3, FIELDS + b"\xbe"))
        assert events == [(REQUEST, 3, (*REQUEST_HEADERS, (b"a", b"b")), True)]
        return
    if refused == "too many":
        begin(engine)
        told(engine, frame(HEADERS, WHOLE, 3, FIELDS + added))
        engine.reset_stream(1)
        engine.data_to_send(100)
        engine.events()
        assert told(engine, frame(HEADERS, WHOLE, 5, FIELDS + b"\xbe"))[0][2][-1] == (b"a", b"b")
        return
    begin(engine)
    engine.go_away()
    told(engine, frame(HEADERS, WHOLE, 3, FIELDS + added))
    (trailers, *_) = told(engine, frame(HEADERS, WHOLE, 1, b"\xbe"))
    assert trailers == (TRAILERS, 1, ((b"a", b"b"),))


# --- sections 4.3 and 6.10: continued blocks -------------------------------------------------------------------------


def test_a_block_may_be_continued(served):
    stream_id = next_id(served)
    data = (
        frame(HEADERS, END_STREAM, stream_id, FIELDS[:10])
        + frame(CONTINUATION, 0, stream_id, FIELDS[10:20])
        + frame(CONTINUATION, END_HEADERS, stream_id, FIELDS[20:])
    )
    assert told(served, data) == [(REQUEST, stream_id, REQUEST_HEADERS, True)]


def test_a_block_may_be_continued_by_an_empty_frame(served):
    stream_id = next_id(served)
    data = frame(HEADERS, 0, stream_id, FIELDS) + frame(CONTINUATION, END_HEADERS, stream_id)
    assert told(served, data) == [(REQUEST, stream_id, REQUEST_HEADERS, False)]


def test_the_flags_of_continuation_do_not_end_the_stream(served):
    stream_id = next_id(served)
    data = frame(HEADERS, 0, stream_id, FIELDS) + frame(CONTINUATION, WHOLE, stream_id)
    assert told(served, data) == [(REQUEST, stream_id, REQUEST_HEADERS, False)]


def test_a_block_may_be_continued_in_frames_of_the_default_size_where_larger_ones_are_taken():
    """Until it has heard of the setting the peer sends no larger ones."""
    engine = server(max_frame_size=256 * 1024, max_header_list_size=1 << 20)
    big = ((b"x", bytes(b"v" * 900_000)),)
    whole = block((*REQUEST_HEADERS, *big))
    parts = [whole[at : at + 16_384] for at in range(0, len(whole), 16_384)]
    data = frame(HEADERS, END_STREAM, 1, parts[0])
    data += b"".join(frame(CONTINUATION, 0, 1, part) for part in parts[1:])
    assert told(engine, data + frame(CONTINUATION, END_HEADERS, 1)) == [(REQUEST, 1, (*REQUEST_HEADERS, *big), True)]


@pytest.mark.parametrize(
    "between",
    [
        frame(DATA, 0, 1, b"x"),
        frame(HEADERS, END_HEADERS, 1, FIELDS),
        frame(PING, 0, 0, bytes(8)),
        frame(SETTINGS, 0, 0),
        frame(WINDOW_UPDATE, 0, 0, number(1)),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(0xFA, 0, 1),
        frame(CONTINUATION, END_HEADERS, 3),
    ],
    ids=["DATA", "HEADERS", "PING", "SETTINGS", "WINDOW_UPDATE", "PRIORITY", "unknown", "another stream's"],
)
def test_a_block_that_is_interrupted_ends_the_connection(between):
    assert fault(server(), frame(HEADERS, 0, 1, FIELDS) + between) == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("stream_id", [0, 1])
def test_a_continuation_of_nothing_ends_the_connection(engine, stream_id):
    assert fault(engine, frame(CONTINUATION, END_HEADERS, stream_id)) == ErrorCode.PROTOCOL_ERROR


def test_a_continuation_after_the_end_of_its_block_ends_the_connection(served):
    stream_id = begin(served)
    assert fault(served, frame(CONTINUATION, END_HEADERS, stream_id, FIELDS)) == ErrorCode.PROTOCOL_ERROR


# --- sections 6.1 and 6.2: padding, and frames of no stream ----------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1, 255])
def test_the_padding_of_data_is_left_out(served, padding):
    stream_id = begin(served)
    data = frame(DATA, PADDED | END_STREAM, stream_id, bytes((padding,)) + b"body" + bytes(padding))
    assert told(served, data) == [(BODY, stream_id, b"body", True)]


def test_padded_data_before_the_rest_of_a_request_keeps_its_place(served):
    stream_id = next_id(served)
    data = headers(stream_id) + frame(DATA, PADDED, stream_id, b"\x01ab\0") + frame(DATA, END_STREAM, stream_id, b"cd")
    assert told(served, data) == [
        (REQUEST, stream_id, REQUEST_HEADERS, False),
        (BODY, stream_id, b"ab", False),
        (BODY, stream_id, b"cd", True),
    ]


def test_data_may_be_padding_alone(served):
    stream_id = begin(served)
    assert told(served, frame(DATA, PADDED, stream_id, b"\x02\0\0")) == [(BODY, stream_id, b"", False)]


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05body", b"\xff" + bytes(254)])
@pytest.mark.parametrize("kind", [DATA, HEADERS])
def test_more_padding_than_payload_ends_the_connection(kind, payload):
    engine = server()
    stream_id = begin(engine)
    assert fault(engine, frame(kind, PADDED | END_HEADERS, stream_id, payload)) == ErrorCode.PROTOCOL_ERROR


def test_the_padding_and_the_priority_of_headers_are_left_out(served):
    stream_id = next_id(served)
    payload = b"\x03" + number(RESERVED | 5) + b"\x10" + FIELDS + bytes(3)
    assert told(served, frame(HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, stream_id, payload)) == [
        (REQUEST, stream_id, REQUEST_HEADERS, False)
    ]


def test_headers_without_room_for_their_priority_end_the_connection(engine):
    data = frame(HEADERS, END_HEADERS | WITH_PRIORITY, next_id(engine), bytes(4))
    assert fault(engine, data) == ErrorCode.FRAME_SIZE_ERROR


@pytest.mark.parametrize(
    "of_no_stream",
    [
        frame(DATA, 0, 0, b"x"),
        frame(HEADERS, END_HEADERS, 0, FIELDS),
        frame(HEADERS, 0, 0, FIELDS) + frame(CONTINUATION, END_HEADERS, 0),
        frame(PRIORITY, 0, 0, bytes(5)),
        frame(RST_STREAM, 0, 0, number(8)),
    ],
    ids=["DATA", "HEADERS", "CONTINUATION", "PRIORITY", "RST_STREAM"],
)
def test_a_frame_of_no_stream_that_needs_one_ends_the_connection(engine, of_no_stream):
    assert fault(engine, of_no_stream) == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "of_a_stream", [frame(PING, 0, 1, bytes(8)), frame(GOAWAY, 0, 1, bytes(8))], ids=["PING", "GOAWAY"]
)
def test_a_frame_of_a_stream_that_may_have_none_ends_the_connection(engine, of_a_stream):
    assert fault(engine, of_a_stream) == ErrorCode.PROTOCOL_ERROR


# --- section 6.3: PRIORITY, section 6.6: PUSH_PROMISE ----------------------------------------------------------------


@pytest.mark.parametrize("stream_id", [1, 2, 99])
def test_priorities_are_ignored_also_of_streams_that_are_not_open(engine, stream_id):
    assert told(engine, frame(PRIORITY, 0, stream_id, number(stream_id) + b"\0")) == [(IGNORED,)]
    assert_goes_on(engine)


def test_a_push_ends_the_connection(engine):
    stream_id = begin(engine)
    assert fault(engine, frame(PUSH_PROMISE, END_HEADERS, stream_id, number(2) + FIELDS)) == ErrorCode.PROTOCOL_ERROR


# --- section 6.7: PING -----------------------------------------------------------------------------------------------


def test_a_ping_is_answered_with_its_bytes(engine):
    assert told(engine, frame(PING, 0, 0, b"12345678")) == [(kinds.PING, b"12345678")]
    assert sent(engine) == [(PING, ACK, 0, b"12345678")]


def test_the_answer_to_a_ping_is_told_and_not_answered(engine):
    engine.ping(b"abcdefgh")
    assert sent(engine) == [(PING, 0, 0, b"abcdefgh")]
    assert told(engine, frame(PING, ACK, 0, b"abcdefgh")) == [(PONG, b"abcdefgh")]
    assert not engine.want_write


def test_answers_overtake_bodies():
    engine = server()
    stream_id = begin(engine)
    engine.send_data(stream_id, bytes(1000))
    told(engine, frame(PING, 0, 0, bytes(8)) + window_update(0, 5))
    assert [kind for kind, *_ in sent(engine)] == [PING, DATA]
