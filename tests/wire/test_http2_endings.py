"""Errors of the connection and of a stream, and going away (RFC 9113, sections 5.4 and 6.8)."""

import pytest
from http2_lab import (
    EVERYTHING,
    OK,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    TRAILERS,
    WHOLE,
    begin,
    client,
    headers,
    next_id,
    sent,
    server,
    told,
)

from swerve.wire.events import BODY, CLOSED, GOAWAY, IGNORED, REQUEST, RESET, RESPONSE
from swerve.wire.frames import ErrorCode
from swerve.wire.http2 import Http2Error
from tests.net import raw_http2
from tests.net.raw_http2 import DATA, END_STREAM, PING, RST_STREAM, frame, goaway, number, reset

LARGEST = (1 << 31) - 1


def goaways(engine):
    """The last stream, the code and the text of each GOAWAY that leaves."""
    return [
        (int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big"), payload[8:])
        for kind, _, _, payload in sent(engine)
        if kind == raw_http2.GOAWAY
    ]


# --- section 5.4.1: errors of the connection -------------------------------------------------------------------------

BROKEN = frame(PING, 0, 0, b"short")


def test_an_error_of_the_connection_says_why_and_which_stream_was_the_last():
    engine = server()
    stream_id = begin(engine)
    with pytest.raises(Http2Error, match="frame of kind 6 has 5 bytes"):
        engine.receive(BROKEN)
    assert goaways(engine) == [(stream_id, ErrorCode.FRAME_SIZE_ERROR, b"a frame of kind 6 has 5 bytes")]


def test_a_client_names_no_stream_when_it_gives_up():
    engine = client()
    begin(engine)
    with pytest.raises(Http2Error):
        engine.receive(BROKEN)
    assert [last for last, _, _ in goaways(engine)] == [0]


def test_what_came_before_an_error_is_told(served):
    stream_id = next_id(served)
    with pytest.raises(Http2Error):
        served.receive(headers(stream_id) + frame(DATA, 0, stream_id, b"x") + BROKEN + headers(stream_id + 2))
    assert served.events() == [(REQUEST, stream_id, REQUEST_HEADERS, False), (BODY, stream_id, b"x", False)]


def test_nothing_is_taken_after_an_error(engine):
    with pytest.raises(Http2Error):
        engine.receive(BROKEN)
    engine.data_to_send(EVERYTHING)
    engine.receive(frame(PING, 0, 0, bytes(8)) + headers(next_id(engine)) + BROKEN)
    assert engine.events() == []
    assert not engine.want_write


def test_no_request_is_made_after_an_error():
    engine = client()
    with pytest.raises(Http2Error):
        engine.receive(BROKEN)
    with pytest.raises(Http2Error):
        engine.send_request(REQUEST_HEADERS)


def test_what_was_to_be_sent_before_an_error_leaves_before_its_goaway():
    engine = server()
    stream_id = begin(engine, end_stream=True)
    engine.respond(stream_id, RESPONSE_HEADERS, b"x", TRAILERS)
    with pytest.raises(Http2Error):
        engine.receive(frame(PING, 0, 0, bytes(8)) + BROKEN)
    kinds = [kind for kind, *_ in sent(engine)]
    assert kinds == [raw_http2.HEADERS, DATA, raw_http2.HEADERS, PING, raw_http2.GOAWAY]


def test_an_error_in_the_middle_of_a_large_body_leaves_no_rest():
    engine = server()
    stream_id = begin(engine)
    engine.send_response(stream_id, RESPONSE_HEADERS)
    engine.send_data(stream_id, bytes(1 << 20))
    engine.data_to_send(1)
    with pytest.raises(Http2Error):
        engine.receive(BROKEN)
    assert next(frame.kind for frame in sent(engine, 1)) == raw_http2.GOAWAY


# --- section 5.4.2: errors of a stream -------------------------------------------------------------------------------


def test_an_error_of_a_stream_leaves_the_others_alone(served):
    bad, good = begin(served, end_stream=True), begin(served)
    assert told(served, frame(DATA, 0, bad, b"x") + frame(DATA, 0, good, b"y")) == [
        (RESET, bad),
        (CLOSED, bad, ErrorCode.STREAM_CLOSED),
        (BODY, good, b"y", False),
    ]
    assert [frame[:3] for frame in sent(served)] == [(RST_STREAM, 0, bad)]


def test_a_reset_is_not_answered_with_a_reset(engine):
    stream_id = begin(engine)
    told(engine, reset(stream_id) + reset(stream_id))
    assert not engine.want_write


@pytest.mark.parametrize("code", [ErrorCode.NO_ERROR, ErrorCode.CANCEL, ErrorCode.REFUSED_STREAM])
def test_a_stream_is_reset_with_the_code_that_was_asked_for(engine, code):
    stream_id = begin(engine)
    engine.reset_stream(stream_id, code)
    assert sent(engine) == [(RST_STREAM, 0, stream_id, number(code))]
    assert engine.events() == [(CLOSED, stream_id, code)]


def test_a_body_that_was_to_be_sent_does_not_follow_its_reset(engine):
    stream_id = begin(engine)
    if engine._is_server:
        engine.send_response(stream_id, RESPONSE_HEADERS)
    engine.send_data(stream_id, bytes(1000))
    engine.send_trailers(stream_id, TRAILERS)
    engine.reset_stream(stream_id)
    assert [kind for kind, *_ in sent(engine)][-1] == RST_STREAM
    assert engine.queued_body_size() == 0


# --- section 6.8: GOAWAY ---------------------------------------------------------------------------------------------


def test_a_goaway_is_told(engine):
    data = goaway(5, ErrorCode.ENHANCE_YOUR_CALM)
    assert told(engine, data)[0] == (GOAWAY, 5, ErrorCode.ENHANCE_YOUR_CALM)


def test_the_reserved_bit_of_the_last_stream_is_ignored(engine):
    assert told(engine, goaway((1 << 31) | LARGEST)) == [(GOAWAY, LARGEST, 0)]


def test_a_goaway_may_say_more_than_it_has_to(engine):
    payload = number(LARGEST) + number(0) + b"text for the log"
    assert told(engine, frame(raw_http2.GOAWAY, 0, 0, payload)) == [(GOAWAY, LARGEST, 0)]


def test_no_request_is_made_after_a_goaway():
    engine = client()
    told(engine, goaway(LARGEST))
    with pytest.raises(Http2Error):
        engine.send_request(REQUEST_HEADERS)


def test_streams_above_the_last_one_are_refused_and_the_others_go_on():
    engine = client()
    first, second, third = begin(engine), begin(engine), begin(engine)
    assert told(engine, goaway(first)) == [
        (GOAWAY, first, 0),
        (CLOSED, second, ErrorCode.REFUSED_STREAM),
        (CLOSED, third, ErrorCode.REFUSED_STREAM),
    ]
    assert told(engine, headers(first, OK))[0] == (RESPONSE, first, OK, False)


def test_a_second_goaway_may_lower_the_last_stream():
    engine = client()
    first, second = begin(engine), begin(engine)
    assert told(engine, goaway(LARGEST)) == [(GOAWAY, LARGEST, 0)]
    assert told(engine, goaway(first))[1:] == [(CLOSED, second, ErrorCode.REFUSED_STREAM)]


def test_what_waits_of_a_refused_streams_body_is_dropped():
    engine = client()
    stream_id = begin(engine)
    engine.send_data(stream_id, bytes(100_000))
    told(engine, goaway(0))
    assert engine.queued_body_size() == 0
    assert sent(engine) == []


def test_frames_of_a_stream_that_was_refused_are_leniently_ignored():
    engine = client()
    stream_id = begin(engine)
    told(engine, goaway(0))
    assert told(engine, headers(stream_id, OK, WHOLE)) == [(IGNORED,)]


def test_a_clients_goaway_stops_none_of_its_streams(served):
    stream_id = begin(served)
    told(served, goaway(0))
    assert told(served, frame(DATA, END_STREAM, stream_id, b"x")) == [(BODY, stream_id, b"x", True)]
    begin(served)


def test_the_notice_of_a_shutdown_refuses_nothing(served):
    served.announce_shutdown()
    assert goaways(served) == [(LARGEST, ErrorCode.NO_ERROR, b"")]
    begin(served)


def test_streams_after_a_shutdown_are_leniently_ignored_and_those_before_it_served(served):
    before = begin(served)
    served.go_away()
    assert goaways(served) == [(before, ErrorCode.NO_ERROR, b"")]
    after = next_id(served)
    assert told(served, headers(after) + frame(DATA, END_STREAM, after, b"x")) == [(IGNORED,)] * 2
    assert told(served, frame(DATA, 0, before, b"x")) == [(BODY, before, b"x", False)]


def test_the_last_stream_is_never_raised_again(served):
    before = begin(served)
    served.go_away()
    told(served, headers(next_id(served)))
    with pytest.raises(Http2Error):
        served.receive(BROKEN)
    assert [last for last, _, _ in goaways(served)] == [before, before]


def test_the_reason_for_going_is_passed_on(served):
    served.go_away(ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings")
    assert goaways(served)[0][1:] == (ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings")
