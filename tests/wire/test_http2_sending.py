"""What the engine sends, and in which order: frames, bodies in turns, and their ends."""

import pytest
from http2_lab import (
    EVERYTHING,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    OK,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    TRAILERS,
    WHOLE,
    begin,
    client,
    new_client,
    sent,
    server,
    told,
)

from swerve.wire.events import BODY, CLOSED
from swerve.wire.frames import ErrorCode
from swerve.wire.hpack import Decoder
from swerve.wire.http2 import StreamGone
from tests.net.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    frame,
    frames_in,
    reset,
    settings_of,
    window_update,
)

FRAME = 16_384


@pytest.fixture(params=[server, client], ids=["server", "client"])
def make(request):
    return request.param


def sending(engine):
    """A stream on which the engine may send a body."""
    stream_id = begin(engine)
    if engine._is_server:
        engine.send_response(stream_id, RESPONSE_HEADERS)
        engine.data_to_send(EVERYTHING)
    return stream_id


def outline(engine, amount=EVERYTHING):
    """Kind, flags and stream of each frame."""
    return [frame[:3] for frame in sent(engine, amount)]


# --- headers ---------------------------------------------------------------------------------------------------------


def test_a_request_is_sent_as_it_is_given():
    engine = client()
    first = engine.send_request(REQUEST_HEADERS)
    second = engine.send_request(REQUEST_HEADERS, end_stream=True)
    frames = sent(engine)
    assert [frame[:3] for frame in frames] == [(HEADERS, END_HEADERS, first), (HEADERS, WHOLE, second)]
    decoder = Decoder(10_000)
    assert [decoder.decode(frame.payload) for frame in frames] == [REQUEST_HEADERS] * 2


def test_a_response_is_sent_as_it_is_given():
    engine = server()
    stream_id = begin(engine)
    engine.send_response(stream_id, RESPONSE_HEADERS)
    engine.send_data(stream_id, b"body")
    engine.send_trailers(stream_id, TRAILERS)
    decoder = Decoder(10_000)
    first, body, last = sent(engine)
    assert (first[:3], decoder.decode(first.payload)) == ((HEADERS, END_HEADERS, stream_id), RESPONSE_HEADERS)
    assert body == (DATA, 0, stream_id, b"body")
    assert (last[:3], decoder.decode(last.payload)) == ((HEADERS, WHOLE, stream_id), TRAILERS)


def test_a_response_may_be_its_headers_alone():
    engine = server()
    stream_id = begin(engine, end_stream=True)
    engine.send_response(stream_id, OK, end_stream=True)
    assert outline(engine) == [(HEADERS, WHOLE, stream_id)]
    assert engine.events() == [(CLOSED, stream_id, ErrorCode.NO_ERROR)]


@pytest.mark.parametrize("size", [FRAME - 100, FRAME, FRAME + 1, 3 * FRAME + 5])
def test_a_block_that_is_larger_than_a_frame_is_continued(size):
    engine = new_client(max_header_list_size=1 << 20)
    fields = (*REQUEST_HEADERS, (b"large", b"x" * size))
    stream_id = engine.send_request(fields, end_stream=True)
    frames = sent(engine)
    first, *more = frames
    assert (first.kind, first.flags & END_STREAM, first.stream_id) == (HEADERS, END_STREAM, stream_id)
    assert all((kind, of) == (CONTINUATION, stream_id) for kind, _, of, _ in more)
    assert [flags & END_HEADERS for _, flags, _, _ in frames] == [0] * len(more) + [END_HEADERS]
    assert all(len(frame.payload) <= FRAME for frame in frames)
    assert Decoder(1 << 20).decode(b"".join(frame.payload for frame in frames)) == fields


def test_nothing_comes_between_the_frames_of_a_block():
    engine = server(max_header_list_size=1 << 20)
    stream_id = begin(engine)
    engine.send_response(stream_id, (*OK, (b"large", b"x" * 40_000)))
    told(engine, frame(PING, 0, 0, bytes(8)))
    assert [kind for kind, *_ in sent(engine)] == [HEADERS, CONTINUATION, CONTINUATION, PING]


def test_a_block_is_one_frame_where_the_peer_takes_it():
    engine = client({MAX_FRAME_SIZE: 1 << 20}, max_header_list_size=1 << 20)
    engine.send_request((*REQUEST_HEADERS, (b"large", b"x" * 40_000)))
    assert len(sent(engine)) == 1


def test_a_table_size_that_the_peer_sets_begins_the_next_block():
    engine = client()
    told(engine, settings_of({HEADER_TABLE_SIZE: 0}))
    engine.data_to_send(EVERYTHING)
    engine.send_request(REQUEST_HEADERS)
    (only,) = sent(engine)
    assert only.payload[:1] == b"\x20"


def test_a_table_that_was_emptied_in_between_is_not_referred_to():
    """RFC 7541, section 4.2: the smallest size since the last block is told too."""
    engine, fields = client(), (*REQUEST_HEADERS, (b"a", b"b"))
    decoder = Decoder(10_000)
    for _ in range(3):
        engine.send_request(fields)
        assert decoder.decode(sent(engine)[0].payload) == fields
    told(engine, frame(4, 0, 0, settings_of({HEADER_TABLE_SIZE: 0})[9:] + settings_of({HEADER_TABLE_SIZE: 4096})[9:]))
    engine.data_to_send(EVERYTHING)
    engine.send_request(fields)
    (block,) = [frame.payload for frame in sent(engine)]
    assert block[0] == 0x20
    assert decoder.decode(block) == fields


TOO_LARGE = (*OK, (b"large", b"x" * 5000))


def test_a_request_that_is_too_large_is_not_sent_and_its_stream_closed():
    engine = client(max_header_list_size=4000)
    stream_id = engine.send_request((*REQUEST_HEADERS, (b"large", b"x" * 5000)))
    assert engine.events() == [(CLOSED, stream_id, ErrorCode.INTERNAL_ERROR)]
    assert not engine.want_write
    assert begin(engine) == stream_id + 2


@pytest.mark.parametrize(
    "answer",
    [
        lambda engine, stream_id: engine.send_response(stream_id, TOO_LARGE),
        lambda engine, stream_id: engine.respond(stream_id, TOO_LARGE, b"x", TRAILERS),
        lambda engine, stream_id: engine.respond(stream_id, OK, b"x", TOO_LARGE),
        lambda engine, stream_id: (engine.send_response(stream_id, OK), engine.send_trailers(stream_id, TOO_LARGE)),
    ],
    ids=["headers", "headers of a whole one", "trailers of a whole one", "trailers"],
)
def test_a_response_that_is_too_large_breaks_its_stream_off(answer):
    engine = server(max_header_list_size=4000)
    stream_id = begin(engine, end_stream=True)
    answer(engine, stream_id)
    assert sent(engine)[-1] == (RST_STREAM, 0, stream_id, ErrorCode.INTERNAL_ERROR.to_bytes(4, "big"))
    assert engine.events() == [(CLOSED, stream_id, ErrorCode.INTERNAL_ERROR)]


def test_headers_after_a_block_that_was_not_sent_are_understood():
    engine, decoder = server(max_header_list_size=4000), Decoder(10_000)
    fields = (*OK, (b"a", b"b"))
    for number in range(6):
        stream_id = begin(engine, end_stream=True)
        if number % 2:
            engine.send_response(stream_id, (*fields, (b"large", b"x" * 5000)))
            assert outline(engine) == [(RST_STREAM, 0, stream_id)]
        else:
            engine.send_response(stream_id, fields, end_stream=True)
            assert decoder.decode(sent(engine)[0].payload) == fields
        engine.events()


def test_a_response_whose_body_waits_before_its_headers_is_refused():
    """It would leave in the wrong order, or not at all."""
    engine = server()
    stream_id = begin(engine)
    engine.send_data(stream_id, b"x")
    with pytest.raises(AssertionError):
        engine.send_response(stream_id, RESPONSE_HEADERS, end_stream=True)


# --- whole responses -------------------------------------------------------------------------------------------------


def test_a_whole_response_leaves_at_once_and_its_end_is_not_told():
    engine, decoder = server(), Decoder(10_000)
    stream_id = begin(engine, end_stream=True)
    assert engine.respond(stream_id, RESPONSE_HEADERS, b"body", TRAILERS, (b"last", b"one"))
    first, body, last = sent(engine)
    assert (first[:3], decoder.decode(first.payload)) == ((HEADERS, END_HEADERS, stream_id), RESPONSE_HEADERS)
    assert body == (DATA, 0, stream_id, b"body")
    assert (last[:3], decoder.decode(last.payload)) == ((HEADERS, WHOLE, stream_id), (*TRAILERS, (b"last", b"one")))
    assert engine.events() == []
    with pytest.raises(StreamGone):
        engine.reset_stream(stream_id)


def test_a_whole_response_without_a_body_is_one_header_block_that_needs_no_credit():
    engine, decoder = server(), Decoder(10_000)
    stream_id = begin(engine, end_stream=True)
    engine.receive(settings_of({INITIAL_WINDOW_SIZE: 0}))
    sent(engine)
    assert engine.respond(stream_id, RESPONSE_HEADERS, None, TRAILERS, (b"last", b"one"))
    ((kind, flags, stream, payload),) = sent(engine)
    assert (kind, flags, stream) == (HEADERS, WHOLE, stream_id)
    assert decoder.decode(payload) == (*RESPONSE_HEADERS, *TRAILERS, (b"last", b"one"))


@pytest.mark.parametrize("size", [0, 255, 256, FRAME])
def test_a_whole_response_may_have_a_body_of_any_size_that_fits_a_frame(size):
    engine = server()
    stream_id = begin(engine, end_stream=True)
    assert engine.respond(stream_id, RESPONSE_HEADERS, bytes(size), TRAILERS)
    assert [(kind, len(payload)) for kind, _, _, payload in sent(engine)][1] == (DATA, size)


@pytest.mark.parametrize("size", [255, 256, 20_000])
@pytest.mark.parametrize("where", ["headers", "trailers"])
def test_a_whole_response_may_have_large_headers(size, where):
    engine, decoder = server(), Decoder(1 << 20)
    stream_id = begin(engine, end_stream=True)
    large = ((b"large", b"x" * size),)
    fields, trailers = ((*OK, *large), TRAILERS) if where == "headers" else (OK, large)
    assert engine.respond(stream_id, fields, b"body", trailers)
    frames = sent(engine)
    body = next(index for index, frame in enumerate(frames) if frame.kind == DATA)
    assert decoder.decode(b"".join(frame.payload for frame in frames[:body])) == fields
    assert decoder.decode(b"".join(frame.payload for frame in frames[body + 1 :])) == trailers


def test_a_whole_response_to_a_request_that_goes_on_leaves_its_stream_open():
    engine = server()
    stream_id = begin(engine)
    assert not engine.respond(stream_id, RESPONSE_HEADERS, b"body", TRAILERS)
    assert len(sent(engine)) == 3
    assert told(engine, frame(DATA, END_STREAM, stream_id, b"x")) == [
        (BODY, stream_id, b"x", True),
        (CLOSED, stream_id, ErrorCode.NO_ERROR),
    ]


def test_a_whole_response_that_is_larger_than_a_frame_leaves_in_several():
    engine = server()
    stream_id = begin(engine, end_stream=True)
    assert not engine.respond(stream_id, RESPONSE_HEADERS, bytes(FRAME + 1), TRAILERS, (b"last", b"one"))
    frames = sent(engine)
    assert [len(frame.payload) for frame in frames if frame.kind == DATA] == [FRAME, 1]
    decoder = Decoder(10_000)
    decoder.decode(frames[0].payload)
    assert decoder.decode(frames[-1].payload) == (*TRAILERS, (b"last", b"one"))
    assert engine.events() == [(CLOSED, stream_id, ErrorCode.NO_ERROR)]


# --- bodies ----------------------------------------------------------------------------------------------------------


def test_a_body_leaves_in_the_order_of_its_parts(make):
    engine = make()
    stream_id = sending(engine)
    engine.send_data(stream_id, b"one,")
    engine.send_data(stream_id, memoryview(b"-two,-")[1:5])
    engine.send_data(stream_id, b"three", end_stream=True)
    assert sent(engine) == [(DATA, END_STREAM, stream_id, b"one,two,three")]


def test_parts_are_cut_where_a_frame_ends(make):
    engine = make({INITIAL_WINDOW_SIZE: 7})
    stream_id = sending(engine)
    for part in (b"12345", b"67890", b"abc"):
        engine.send_data(stream_id, part)
    assert [frame.payload for frame in sent(engine)] == [b"1234567"]
    told(engine, window_update(stream_id, 100))
    assert [frame.payload for frame in sent(engine)] == [b"890abc"]


def test_an_end_that_is_known_leaves_with_the_last_bytes(make):
    engine = make()
    stream_id = sending(engine)
    engine.send_data(stream_id, bytes(FRAME + 1))
    engine.end_stream(stream_id)
    assert outline(engine) == [(DATA, 0, stream_id), (DATA, END_STREAM, stream_id)]


def test_an_end_that_comes_later_is_an_empty_frame(make):
    engine = make()
    stream_id = sending(engine)
    engine.send_data(stream_id, b"x")
    engine.data_to_send(EVERYTHING)
    engine.end_stream(stream_id)
    assert sent(engine) == [(DATA, END_STREAM, stream_id, b"")]


def test_a_body_without_bytes_is_one_empty_frame(make):
    engine = make()
    stream_id = sending(engine)
    engine.send_data(stream_id, b"")
    assert not engine.want_write
    engine.send_data(stream_id, b"", end_stream=True)
    assert sent(engine) == [(DATA, END_STREAM, stream_id, b"")]


def test_trailers_wait_for_the_body_before_them(make):
    engine = make({INITIAL_WINDOW_SIZE: 1})
    stream_id = sending(engine)
    engine.send_data(stream_id, b"ab")
    engine.send_trailers(stream_id, TRAILERS)
    assert outline(engine) == [(DATA, 0, stream_id)]
    told(engine, window_update(stream_id, 1))
    assert outline(engine) == [(DATA, 0, stream_id), (HEADERS, WHOLE, stream_id)]


def test_headers_are_understood_in_the_order_in_which_they_leave():
    """Trailers that wait for credit are encoded after a response that was made later."""
    engine, decoder = server({INITIAL_WINDOW_SIZE: 0}), Decoder(10_000)
    first, second = begin(engine, end_stream=True), begin(engine, end_stream=True)
    fields = ((b"a", b"b"), (b"c", b"d"))
    engine.send_response(first, OK)
    engine.send_data(first, b"x")
    engine.send_trailers(first, fields)
    engine.send_response(second, (*OK, *fields))
    engine.send_trailers(second, fields)
    told(engine, window_update(first, 1))
    blocks = [decoder.decode(frame.payload) for frame in sent(engine) if frame.kind == HEADERS]
    assert blocks == [OK, (*OK, *fields), fields, fields]


@pytest.mark.parametrize(
    "say",
    [
        lambda engine, stream_id: engine.send_data(stream_id, b"y"),
        lambda engine, stream_id: engine.end_stream(stream_id),
        lambda engine, stream_id: engine.send_trailers(stream_id, TRAILERS),
    ],
    ids=["data", "end", "trailers"],
)
def test_nothing_follows_the_end_of_a_body(make, say):
    engine = make({INITIAL_WINDOW_SIZE: 0})
    stream_id = sending(engine)
    engine.send_data(stream_id, b"x", end_stream=True)
    with pytest.raises(StreamGone):
        say(engine, stream_id)


def test_bodies_take_turns_of_a_frame(make):
    engine = make()
    streams = [sending(engine) for _ in range(3)]
    for stream_id in streams:
        engine.send_data(stream_id, bytes(20_000))
    assert [stream_id for _, _, stream_id in outline(engine)] == streams * 2


def test_a_stream_without_credit_holds_no_other_up(make):
    engine = make()
    first, second = sending(engine), sending(engine)
    engine.send_data(first, bytes(65_535))
    engine.data_to_send(EVERYTHING)
    told(engine, window_update(0, 100_000))
    engine.send_data(first, bytes(10))
    engine.send_data(second, bytes(10))
    assert outline(engine) == [(DATA, 0, second)]


def test_no_more_of_bodies_leaves_at_a_time_than_was_asked_for_but_for_a_frame(make):
    engine = make()
    stream_id = sending(engine)
    engine.send_data(stream_id, bytes(60_000))
    assert len(sent(engine, 1)) == 1
    assert len(sent(engine, FRAME + 10)) == 2
    assert engine.want_write
    assert len(sent(engine, EVERYTHING)) == 1
    assert not engine.want_write


def test_frames_leave_whatever_was_asked_for(make):
    engine = make()
    stream_id = sending(engine)
    engine.send_data(stream_id, b"x")
    engine.ping(bytes(8))
    assert outline(engine, 0) == [(PING, 0, 0)]


def test_what_waits_is_counted(make):
    engine = make({INITIAL_WINDOW_SIZE: 30})
    first, second = sending(engine), sending(engine)
    engine.send_data(first, bytes(100))
    engine.send_data(second, bytes(10))
    assert [engine.queued_body_size(stream_id) for stream_id in (None, first, second)] == [110, 100, 10]
    engine.data_to_send(EVERYTHING)
    assert [engine.queued_body_size(stream_id) for stream_id in (None, first, second)] == [70, 70, 0]
    told(engine, reset(first))
    assert [engine.queued_body_size(stream_id) for stream_id in (None, first, second)] == [0, 0, 0]


def test_a_large_part_is_not_copied_for_each_frame(make):
    engine = make({INITIAL_WINDOW_SIZE: 1 << 30})
    stream_id = sending(engine)
    told(engine, window_update(0, 1 << 30))
    body = bytes(range(256)) * 4096
    engine.send_data(stream_id, body)
    engine.data_to_send(1)
    (rest,) = engine._streams[stream_id].body.parts
    assert rest.obj is body
    assert b"".join(frame.payload for frame in sent(engine)) == body[FRAME:]


# --- a part that leaves at once --------------------------------------------------------------------------------------


def at_once(engine, stream_id, data):
    return list(frames_in(engine.send_at_once(stream_id, data, EVERYTHING)))


def test_a_part_may_leave_at_once(make):
    engine = make()
    stream_id = sending(engine)
    assert at_once(engine, stream_id, b"one") == [(DATA, 0, stream_id, b"one")]
    assert not engine.want_write


def test_a_part_that_leaves_at_once_follows_frames_that_wait(make):
    engine = make()
    stream_id = sending(engine)
    engine.ping(bytes(8))
    assert [frame.kind for frame in at_once(engine, stream_id, b"one")] == [PING, DATA]


def test_a_part_that_leaves_at_once_follows_the_body_before_it(make):
    engine = make()
    stream_id = sending(engine)
    engine.send_data(stream_id, b"one,")
    assert at_once(engine, stream_id, b"two") == [(DATA, 0, stream_id, b"one,two")]


@pytest.mark.parametrize("values", [{INITIAL_WINDOW_SIZE: 3}, {}], ids=["stream", "connection"])
def test_a_part_without_credit_does_not_leave_at_once(make, values):
    engine = make(values)
    stream_id = sending(engine)
    size = values.get(INITIAL_WINDOW_SIZE, 65_535)
    told(engine, window_update(stream_id, 1) if not values else window_update(0, 1))
    assert sum(len(frame.payload) for frame in at_once(engine, stream_id, bytes(size + 1))) == size
    assert engine.queued_body_size(stream_id) == 1


def test_what_leaves_at_once_takes_from_the_credit(make):
    engine = make({INITIAL_WINDOW_SIZE: 5})
    stream_id = sending(engine)
    at_once(engine, stream_id, b"123")
    assert at_once(engine, stream_id, b"456") == [(DATA, 0, stream_id, b"45")]


def test_a_large_part_leaves_at_once_in_several_frames(make):
    engine = make()
    stream_id = sending(engine)
    assert [len(frame.payload) for frame in at_once(engine, stream_id, bytes(FRAME + 1))] == [FRAME, 1]


def test_a_part_without_bytes_may_be_sent_at_once(make):
    engine = make({INITIAL_WINDOW_SIZE: 1})
    stream_id, other = sending(engine), sending(engine)
    engine.send_data(other, b"12")
    at_once(engine, stream_id, b"")
    assert engine.queued_body_size(stream_id) == 0
    engine.end_stream(stream_id)
    assert sent(engine) == [(DATA, END_STREAM, stream_id, b"")]


def test_nothing_is_sent_at_once_after_the_end(make):
    engine = make()
    stream_id = sending(engine)
    engine.end_stream(stream_id)
    with pytest.raises(StreamGone):
        engine.send_at_once(stream_id, b"x", EVERYTHING)


def test_the_bodies_that_wait_are_told_with_what_stands_for_them(make):
    engine = make({INITIAL_WINDOW_SIZE: 3})
    first, second = sending(engine), sending(engine)
    assert engine.queued_bodies() == {}
    engine.send_data(first, b"12345")
    engine.send_data(second, b"123456")
    before = engine.queued_bodies()
    engine.data_to_send(EVERYTHING)
    after = engine.queued_bodies()
    assert {stream_id: size for stream_id, (size, _) in after.items()} == {first: 2, second: 3}
    assert all(after[stream_id][1] is before[stream_id][1] for stream_id in (first, second))
