"""Streams, their states and their ends (RFC 9113, sections 5.1, 6.4 and 8.1)."""

import pytest
from http2_lab import (
    EVERYTHING,
    MAX_CONCURRENT_STREAMS,
    OK,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    TRAILERS,
    WHOLE,
    answered,
    assert_goes_on,
    begin,
    block,
    client,
    fault,
    headers,
    next_id,
    resets,
    sent,
    server,
    told,
    warm,
)

from swerve.wire import events as kinds
from swerve.wire.events import BODY, CLOSED, IGNORED, REQUEST, RESET, RESPONSE, WHOLE_REQUEST
from swerve.wire.frames import ErrorCode
from swerve.wire.http2 import Http2Error, StreamGone, TooManyStreams
from tests.net.raw_http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    frame,
    reset,
    settings_of,
    window_update,
)

NO_ERROR = ErrorCode.NO_ERROR


@pytest.fixture(params=["new", "known"])
def calling(request):
    """A client likewise."""
    return client() if request.param == "new" else warm(client())


def answer(engine, stream_id):
    """Send a whole response."""
    engine.send_response(stream_id, RESPONSE_HEADERS)
    engine.send_data(stream_id, b"answer")
    engine.send_trailers(stream_id, TRAILERS)


# --- section 8.1: a request and its response -------------------------------------------------------------------------


def test_a_request_may_be_its_headers_alone(served):
    stream_id = next_id(served)
    assert told(served, headers(stream_id, flags=WHOLE)) == [(REQUEST, stream_id, REQUEST_HEADERS, True)]


def test_the_body_of_a_request_is_told_as_it_comes(served):
    stream_id = begin(served)
    assert told(served, frame(DATA, 0, stream_id, b"ab")) == [(BODY, stream_id, b"ab", False)]
    assert told(served, frame(DATA, END_STREAM, stream_id, b"cd")) == [(BODY, stream_id, b"cd", True)]


def test_a_body_may_end_with_an_empty_frame(served):
    stream_id = begin(served)
    told(served, frame(DATA, 0, stream_id, b"ab"))
    assert told(served, frame(DATA, END_STREAM, stream_id)) == [(BODY, stream_id, b"", True)]


def test_a_request_that_is_known_and_comes_at_once_is_told_whole():
    engine = warm(server())
    stream_id = next_id(engine)
    data = headers(stream_id) + frame(DATA, END_STREAM, stream_id, b"ab")
    assert told(engine, data) == [(WHOLE_REQUEST, stream_id, REQUEST_HEADERS, b"ab")]


def test_a_known_request_that_says_how_long_its_body_is_is_told_whole():
    fields = (*REQUEST_HEADERS, (b"content-length", b"2"))
    engine = warm(server(), fields)
    stream_id = next_id(engine)
    data = headers(stream_id, fields) + frame(DATA, END_STREAM, stream_id, b"ab")
    assert told(engine, data) == [(WHOLE_REQUEST, stream_id, fields, b"ab")]


@pytest.mark.parametrize("body", [b"", b"a", b"abc"])
def test_a_known_request_whose_body_is_not_so_long_as_it_says_is_reset(body):
    fields = (*REQUEST_HEADERS, (b"content-length", b"2"))
    engine = warm(server(), fields)
    stream_id = next_id(engine)
    events = told(engine, headers(stream_id, fields) + frame(DATA, END_STREAM, stream_id, body))
    assert events[0] == (REQUEST, stream_id, fields, False)
    assert events[-1] == (CLOSED, stream_id, ErrorCode.PROTOCOL_ERROR)


def test_requests_that_come_together_are_told_in_their_order():
    engine = warm(server())
    first = next_id(engine)
    second, third = first + 2, first + 4
    data = headers(first) + headers(second) + frame(DATA, END_STREAM, second, b"2") + headers(third)
    data += frame(DATA, 0, third, b"3") + frame(DATA, END_STREAM, first, b"1") + frame(DATA, END_STREAM, third, b"4")
    assert told(engine, data) == [
        (WHOLE_REQUEST, first, REQUEST_HEADERS, b"1"),
        (WHOLE_REQUEST, second, REQUEST_HEADERS, b"2"),
        (REQUEST, third, REQUEST_HEADERS, False),
        (BODY, third, b"3", False),
        (BODY, third, b"4", True),
    ]


def test_a_request_that_was_told_is_not_told_again_with_its_body(served):
    stream_id = begin(served)
    more = headers(stream_id + 2)
    events = told(served, more + frame(DATA, END_STREAM, stream_id, b"x"))
    assert events == [(REQUEST, stream_id + 2, REQUEST_HEADERS, False), (BODY, stream_id, b"x", True)]


def test_trailers_end_a_request(served):
    stream_id = begin(served)
    events = told(served, frame(DATA, 0, stream_id, b"x") + headers(stream_id, TRAILERS, WHOLE))
    assert events == [(BODY, stream_id, b"x", False), (kinds.TRAILERS, stream_id, TRAILERS)]
    assert resets(served, frame(DATA, 0, stream_id, b"x")) == {stream_id: ErrorCode.STREAM_CLOSED}


def test_the_stream_is_over_when_both_sides_have_ended(served):
    stream_id = begin(served, end_stream=True)
    answer(served, stream_id)
    assert served.events() == []
    served.data_to_send(EVERYTHING)
    assert served.events() == [(CLOSED, stream_id, NO_ERROR)]


def test_the_stream_is_over_when_the_client_ends_it_after_the_answer(served):
    stream_id = begin(served)
    answer(served, stream_id)
    served.data_to_send(EVERYTHING)
    assert served.events() == []
    assert told(served, frame(DATA, END_STREAM, stream_id)) == [
        (BODY, stream_id, b"", True),
        (CLOSED, stream_id, NO_ERROR),
    ]


def test_the_stream_is_over_when_trailers_end_it_after_the_answer(served):
    stream_id = begin(served)
    answer(served, stream_id)
    served.data_to_send(EVERYTHING)
    assert told(served, headers(stream_id, TRAILERS, WHOLE))[-1] == (CLOSED, stream_id, NO_ERROR)


def test_a_response_is_told_as_it_comes(calling):
    stream_id = begin(calling, end_stream=True)
    data = headers(stream_id, RESPONSE_HEADERS) + frame(DATA, 0, stream_id, b"ab") + headers(stream_id, TRAILERS, WHOLE)
    assert told(calling, data) == [
        (RESPONSE, stream_id, RESPONSE_HEADERS, False),
        (BODY, stream_id, b"ab", False),
        (kinds.TRAILERS, stream_id, TRAILERS),
        (CLOSED, stream_id, NO_ERROR),
    ]


def test_a_response_may_be_its_headers_alone(calling):
    stream_id = begin(calling, end_stream=True)
    assert told(calling, headers(stream_id, OK, WHOLE)) == [
        (RESPONSE, stream_id, OK, True),
        (CLOSED, stream_id, NO_ERROR),
    ]


def test_a_response_may_end_before_its_request(calling):
    stream_id = begin(calling)
    assert told(calling, headers(stream_id, OK, WHOLE)) == [(RESPONSE, stream_id, OK, True)]
    calling.send_data(stream_id, b"late", end_stream=True)
    calling.data_to_send(EVERYTHING)
    assert calling.events() == [(CLOSED, stream_id, NO_ERROR)]


def test_interim_responses_are_left_out(calling):
    stream_id = begin(calling, end_stream=True)
    interim = headers(stream_id, ((b":status", b"100"),)) + headers(stream_id, ((b":status", b"103"), (b"link", b"x")))
    assert told(calling, interim) == []
    assert told(calling, headers(stream_id, OK, WHOLE))[0] == (RESPONSE, stream_id, OK, True)


def test_an_interim_response_that_ends_its_stream_breaks_it_off(calling):
    stream_id = begin(calling)
    data = headers(stream_id, ((b":status", b"100"),), WHOLE)
    assert resets(calling, data) == {stream_id: ErrorCode.PROTOCOL_ERROR}


def test_an_interim_response_after_the_final_one_breaks_its_stream_off(calling):
    stream_id = begin(calling)
    answered(calling, stream_id)
    data = headers(stream_id, ((b":status", b"100"),))
    assert resets(calling, data) == {stream_id: ErrorCode.PROTOCOL_ERROR}


def test_a_body_before_its_response_breaks_its_stream_off(calling):
    stream_id = begin(calling)
    assert resets(calling, frame(DATA, 0, stream_id, b"x")) == {stream_id: ErrorCode.PROTOCOL_ERROR}


@pytest.mark.parametrize("make", [server, client])
def test_trailers_that_do_not_end_their_stream_break_it_off(make):
    engine = make()
    stream_id = begin(engine)
    if make is client:
        answered(engine, stream_id)
    data = frame(DATA, 0, stream_id, b"x") + headers(stream_id, TRAILERS)
    assert resets(engine, data) == {stream_id: ErrorCode.PROTOCOL_ERROR}


# --- section 5.1: idle streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make_frame",
    [
        lambda stream_id: frame(DATA, 0, stream_id, b"x"),
        lambda stream_id: reset(stream_id),
        lambda stream_id: window_update(stream_id, 1),
    ],
    ids=["DATA", "RST_STREAM", "WINDOW_UPDATE"],
)
def test_a_frame_of_an_idle_stream_ends_the_connection(engine, make_frame):
    assert fault(engine, make_frame(next_id(engine))) == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("fields", [REQUEST_HEADERS, RESPONSE_HEADERS, OK])
def test_a_response_without_a_request_ends_the_connection(calling, fields):
    assert fault(calling, headers(next_id(calling), fields)) == ErrorCode.PROTOCOL_ERROR


def test_a_response_that_is_known_without_a_request_ends_the_connection():
    """However many streams this client would take if it were a server."""
    engine = warm(client(max_concurrent_streams=100))
    assert fault(engine, headers(next_id(engine), RESPONSE_HEADERS)) == ErrorCode.PROTOCOL_ERROR


def test_priority_opens_no_stream(served):
    told(served, frame(PRIORITY, 0, next_id(served), bytes(5)))
    begin(served)


# --- section 5.1: half-closed and closed streams ---------------------------------------------------------------------


@pytest.mark.parametrize("more", [frame(DATA, 0, 1, b"x"), headers(1), headers(1, TRAILERS, WHOLE)])
def test_more_of_a_request_that_has_ended_breaks_its_stream_off(more):
    engine = server()
    begin(engine, end_stream=True)
    assert resets(engine, more) == {1: ErrorCode.STREAM_CLOSED}


@pytest.mark.parametrize("more", [frame(DATA, 0, 1, b"x"), headers(1, TRAILERS, WHOLE)])
def test_more_of_a_response_that_has_ended_breaks_its_stream_off(more):
    engine = client()
    begin(engine)
    told(engine, headers(1, OK, WHOLE))
    assert resets(engine, more) == {1: ErrorCode.STREAM_CLOSED}


@pytest.mark.parametrize("other", [window_update(1, 5), frame(PRIORITY, 0, 1, bytes(5))])
def test_credit_and_priority_may_follow_the_end_of_a_request(other):
    engine = server()
    begin(engine, end_stream=True)
    assert told(engine, other) == [(IGNORED,)]
    assert not engine.want_write


def test_a_reset_may_follow_the_end_of_a_request(served):
    stream_id = begin(served, end_stream=True)
    assert told(served, reset(stream_id)) == [(RESET, stream_id), (CLOSED, stream_id, ErrorCode.CANCEL)]


@pytest.mark.parametrize("end", ["ended", "reset here", "reset there"])
@pytest.mark.parametrize(
    "late",
    [
        frame(DATA, END_STREAM, 1, b"x"),
        frame(DATA, 0x8, 1, b"\x01x\0"),
        headers(1, TRAILERS, WHOLE),
        headers(1),
        reset(1),
        window_update(1, 1),
        window_update(1, 0),
        frame(PRIORITY, 0, 1, bytes(5)),
    ],
    ids=["DATA", "padded DATA", "trailers", "HEADERS", "RST_STREAM", "WINDOW_UPDATE", "no increment", "PRIORITY"],
)
@pytest.mark.parametrize("make", [server, client])
def test_a_frame_of_a_stream_that_is_over_is_leniently_ignored_and_told(make, end, late):
    engine = make()
    stream_id = begin(engine, end_stream=True)
    match end:
        case "reset here":
            engine.reset_stream(stream_id)
        case "reset there":
            told(engine, reset(stream_id))
        case _ if make is client:
            told(engine, headers(stream_id, OK, WHOLE))
        case _:
            answer(engine, stream_id)
    engine.data_to_send(EVERYTHING)
    assert engine.events()[-1:] in ([], [(CLOSED, 1, NO_ERROR)], [(CLOSED, 1, ErrorCode.CANCEL)])
    assert told(engine, late) == [(IGNORED,)]
    assert not engine.want_write
    assert_goes_on(engine)


# --- section 5.1.1: ids ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream_id", [2, 100, (1 << 31) - 2])
def test_an_even_stream_of_a_client_ends_the_connection(served, stream_id):
    assert fault(served, headers(stream_id)) == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("stream_id", [2, 100])
def test_an_even_stream_of_a_server_ends_the_connection(calling, stream_id):
    begin(calling)
    assert fault(calling, headers(stream_id, RESPONSE_HEADERS)) == ErrorCode.PROTOCOL_ERROR


def test_streams_may_leave_ids_out(served):
    stream_id = next_id(served) + 10
    assert told(served, headers(stream_id)) == [(REQUEST, stream_id, REQUEST_HEADERS, False)]


def test_a_stream_that_was_left_out_is_leniently_ignored_like_one_that_is_over(served):
    left_out = next_id(served)
    told(served, headers(left_out + 2))
    assert told(served, headers(left_out)) == [(IGNORED,)]
    assert_goes_on(served)


def test_the_largest_stream_is_served(served):
    assert told(served, headers((1 << 31) - 1)) == [(REQUEST, (1 << 31) - 1, REQUEST_HEADERS, False)]


def test_a_client_opens_odd_streams_in_order(calling):
    first = begin(calling)
    assert first % 2 == 1
    assert [begin(calling) for _ in range(3)] == [first + 2, first + 4, first + 6]


def test_a_client_that_has_no_ids_left_opens_no_streams():
    engine = client()
    engine._last_id = (1 << 31) - 3
    assert engine.send_request(REQUEST_HEADERS) == (1 << 31) - 1
    with pytest.raises(Http2Error):
        engine.send_request(REQUEST_HEADERS)


# --- section 5.1.2: how many at a time -------------------------------------------------------------------------------


@pytest.fixture(params=["new", "known"])
def small(request):
    """A server that takes two streams at a time."""
    engine = server(max_concurrent_streams=2)
    return engine if request.param == "new" else warm(engine)


def test_streams_above_the_limit_are_refused(small):
    first, second = begin(small), begin(small)
    third = next_id(small)
    assert told(small, headers(third)) == [(RESET, third)]
    assert sent(small) == [(RST_STREAM, 0, third, ErrorCode.REFUSED_STREAM.to_bytes(4, "big"))]
    assert told(small, frame(DATA, END_STREAM, third, b"x")) == [(IGNORED,)]
    for stream_id in (first, second):
        assert told(small, frame(DATA, 0, stream_id, b"x")) == [(BODY, stream_id, b"x", False)]


@pytest.mark.parametrize("end", ["answered", "reset here", "reset there"])
def test_another_stream_is_taken_when_one_has_ended(small, end):
    first, _ = begin(small, end_stream=True), begin(small)
    match end:
        case "answered":
            answer(small, first)
        case "reset here":
            small.reset_stream(first)
        case _:
            told(small, reset(first))
    small.data_to_send(EVERYTHING)
    small.events()
    begin(small)


@pytest.mark.parametrize("how", ["respond", "headers", "trailers", "reset"])
def test_a_stream_whose_end_has_not_left_counts(small, how):
    """To its client it is open. Who does not read what was answered gets no more answers."""
    first, _ = begin(small, end_stream=True), begin(small)
    match how:
        case "respond":
            assert small.respond(first, RESPONSE_HEADERS, b"x", TRAILERS)
        case "headers":
            small.send_response(first, RESPONSE_HEADERS, end_stream=True)
        case "trailers":
            small.send_response(first, RESPONSE_HEADERS)
            small.send_trailers(first, TRAILERS)
        case _:
            small.reset_stream(first)
    small.events()
    third = next_id(small)
    assert told(small, headers(third)) == [(RESET, third)]
    assert (RST_STREAM, 0, third, ErrorCode.REFUSED_STREAM.to_bytes(4, "big")) in sent(small)
    begin(small)


def test_a_client_keeps_to_the_servers_limit():
    engine = client({MAX_CONCURRENT_STREAMS: 1})
    first = begin(engine)
    with pytest.raises(TooManyStreams):
        engine.send_request(REQUEST_HEADERS)
    told(engine, reset(first))
    assert engine.send_request(REQUEST_HEADERS) == first + 2


def test_a_server_may_lower_its_limit_below_the_streams_that_are_open():
    engine = client()
    first, second = begin(engine), begin(engine)
    told(engine, settings_of({MAX_CONCURRENT_STREAMS: 1}))
    told(engine, reset(first))
    with pytest.raises(TooManyStreams):
        engine.send_request(REQUEST_HEADERS)
    told(engine, reset(second))
    engine.send_request(REQUEST_HEADERS)


# --- section 6.4: RST_STREAM -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 8, 0xFFFF_FFFF])
def test_a_reset_is_told_with_its_code(engine, code):
    stream_id = begin(engine)
    assert told(engine, reset(stream_id, code)) == [(RESET, stream_id), (CLOSED, stream_id, code)]
    assert not engine.want_write


def test_a_reset_takes_what_waits_of_the_body_with_it(engine):
    stream_id = begin(engine)
    if engine._is_server:
        engine.send_response(stream_id, RESPONSE_HEADERS)
    engine.send_data(stream_id, bytes(1000))
    told(engine, reset(stream_id))
    assert engine.queued_body_size() == 0
    assert DATA not in [kind for kind, *_ in sent(engine)]


def test_a_request_may_be_reset_in_the_read_that_brought_it(served):
    stream_id = next_id(served)
    assert told(served, headers(stream_id) + reset(stream_id)) == [
        (REQUEST, stream_id, REQUEST_HEADERS, False),
        (RESET, stream_id),
        (CLOSED, stream_id, ErrorCode.CANCEL),
    ]


@pytest.mark.parametrize(
    "say",
    [
        lambda engine: engine.send_data(1, b"x"),
        lambda engine: engine.send_trailers(1, TRAILERS),
        lambda engine: engine.end_stream(1),
        lambda engine: engine.reset_stream(1),
    ],
    ids=["data", "trailers", "end", "reset"],
)
@pytest.mark.parametrize("make", [server, client])
def test_nothing_is_sent_of_a_stream_that_is_over(make, say):
    engine = make()
    begin(engine)
    told(engine, reset(1))
    with pytest.raises(StreamGone):
        say(engine)
    assert not engine.want_write


@pytest.mark.parametrize(
    "say",
    [
        lambda engine: engine.send_response(1, RESPONSE_HEADERS),
        lambda engine: engine.respond(1, RESPONSE_HEADERS, b"x", TRAILERS),
    ],
    ids=["send_response", "respond"],
)
def test_a_response_is_not_sent_on_a_stream_that_is_over_nor_twice(say):
    engine = server()
    begin(engine)
    engine.send_response(1, RESPONSE_HEADERS)
    with pytest.raises(StreamGone):
        say(engine)
    told(engine, reset(1))
    with pytest.raises(StreamGone):
        say(engine)


def test_what_was_broken_off_for_its_frames_is_told_as_reset():
    """Who makes the other side break streams off costs it what one costs that resets them (CVE-2025-8671)."""
    engine = server()
    begin(engine, end_stream=True)
    assert told(engine, frame(DATA, 0, 1, b"x")) == [(RESET, 1), (CLOSED, 1, ErrorCode.STREAM_CLOSED)]


def test_a_block_of_headers_that_ends_a_stream_may_be_empty(served):
    stream_id = begin(served)
    assert told(served, frame(HEADERS, WHOLE, stream_id)) == [(kinds.TRAILERS, stream_id, ())]


def test_headers_of_two_streams_may_alternate(served):
    first = next_id(served)
    data = frame(HEADERS, END_HEADERS, first, block(REQUEST_HEADERS)) + headers(first + 2, flags=WHOLE)
    assert [event[1] for event in told(served, data)] == [first, first + 2]
