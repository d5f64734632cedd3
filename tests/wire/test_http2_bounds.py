"""What one hostile peer can make the HTTP/2 engine keep or do (RFC 9113, section 10.5)."""

import tracemalloc

import pytest
from http2_lab import (
    EVERYTHING,
    INITIAL_WINDOW_SIZE,
    OK,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    TRAILERS,
    WHOLE,
    begin,
    block,
    client,
    fault,
    headers,
    next_id,
    sent,
    server,
    told,
    warm,
)

from swerve.wire import header_rules
from swerve.wire.frames import ErrorCode
from swerve.wire.http2 import Http2Error
from swerve.wire.outbox import Outbox
from tests.net import raw_http2
from tests.net.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    SETTINGS,
    frame,
    integer,
    number,
    reset,
    settings_of,
    window_update,
)

FIELDS = block(REQUEST_HEADERS)
# As many answers may wait to be read.
ANSWERS = 10_000


@pytest.fixture(params=[server, client], ids=["server", "client"])
def engine(request):
    return request.param()


def flood(engine, units):
    for unit in units:
        engine.receive(unit)


# --- header blocks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100, 16_384], ids=["empty", "1 byte", "100 bytes", "full"])
def test_a_block_that_is_continued_without_end_ends_the_connection(size):
    """CVE-2024-27316."""
    engine = server()
    engine.receive(frame(HEADERS, 0, 1, FIELDS))
    unit = frame(CONTINUATION, 0, 1, bytes(size))
    with pytest.raises(Http2Error):
        flood(engine, [unit] * 40)
    assert sum(map(len, engine._reader._block[2])) <= 256 * 1024 + 16_384
    assert sent(engine)[-1].payload[4:8] == number(ErrorCode.ENHANCE_YOUR_CALM)


BOMBS = {
    "long value": FIELDS + b"\x10\x01a" + integer(5000) + b"x" * 5000,
    "long value announced": FIELDS + b"\x10\x01a" + integer(1 << 30),
    "many fields": FIELDS + b"\x10\x01a\x00" * 1000,
    "one long field again and again": FIELDS + b"\x40\x01a" + integer(1000) + b"x" * 1000 + b"\xbe" * 1000,
    "many indexed fields": b"\x82" * 1000,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_header_list_above_the_limit_ends_the_connection(bomb):
    assert fault(server(max_header_list_size=4000), frame(HEADERS, WHOLE, 1, bomb)) == ErrorCode.ENHANCE_YOUR_CALM


def test_a_long_name_is_not_remembered():
    engine = server()
    for index in range(3):
        name = b"n%d" % index + b"x" * 100_000
        fragment = block((*REQUEST_HEADERS, (name, b"")))
        parts = [fragment[at : at + 16_384] for at in range(0, len(fragment), 16_384)]
        engine.receive(frame(HEADERS, END_STREAM, next_id(engine), parts[0]))
        for part in parts[1:]:
            engine.receive(frame(CONTINUATION, 0, next_id(engine), part))
        engine.receive(frame(CONTINUATION, END_HEADERS, next_id(engine)))
        assert len(engine.events()) == 1
    assert max(map(len, header_rules._known_names)) <= 64


def test_names_are_not_remembered_without_end():
    engine = server()
    for start in range(0, 3000, 100):
        names = tuple((b"bounds-%d" % number, b"") for number in range(start, start + 100))
        stream_id = begin(engine, (*REQUEST_HEADERS, *names))
        engine.reset_stream(stream_id)
        engine.data_to_send(EVERYTHING)
        engine.events()
    assert len(header_rules._known_names) <= 1024


# --- answers ---------------------------------------------------------------------------------------------------------


def bad_request(stream_id):
    return headers(stream_id, REQUEST_HEADERS[1:], WHOLE)


ASKING = {
    "pings": lambda index: frame(PING, 0, 0, bytes(8)),
    "settings": lambda index: frame(SETTINGS, 0, 0),
    "malformed requests": lambda index: bad_request(2 * index + 1),
    "refused requests": lambda index: headers(2 * index + 1, flags=WHOLE),
    "broken streams": lambda index: headers(2 * index + 1, flags=WHOLE) + window_update(2 * index + 1, 0),
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_answers_that_nobody_reads_end_the_connection(ask):
    engine = server(max_concurrent_streams=0 if ask is ASKING["refused requests"] else 100_000)
    with pytest.raises(Http2Error, match="are not read"):
        flood(engine, map(ask, range(ANSWERS + 2)))
    assert sent(engine)[-1].payload[4:8] == number(ErrorCode.ENHANCE_YOUR_CALM)


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_answers_that_are_read_may_go_on(ask):
    engine = server(max_concurrent_streams=0 if ask is ASKING["refused requests"] else 100_000)
    for index in range(ANSWERS + 2):
        engine.receive(ask(index))
        if index % 1000 == 0:
            engine.data_to_send(EVERYTHING)


def test_responses_that_nobody_reads_are_as_many_as_streams_may_be_open():
    engine = warm(server(max_concurrent_streams=50))
    answered = 0
    for _ in range(1000):
        stream_id = next_id(engine)
        if told(engine, headers(stream_id) + frame(DATA, END_STREAM, stream_id, b"x")) and stream_id in engine._streams:
            engine.respond(stream_id, RESPONSE_HEADERS, bytes(1000), TRAILERS)
            answered += 1
    assert answered == 50


@pytest.mark.parametrize(
    "unit",
    [frame(raw_http2.PRIORITY, 0, 1, bytes(5)), frame(0xFA, 0, 0), frame(SETTINGS, 1, 0), window_update(0, 1)],
    ids=["PRIORITY", "unknown", "acknowledgements", "WINDOW_UPDATE"],
)
def test_every_frame_that_asks_for_nothing_is_told(engine, unit):
    """Whoever counts them has to hear of them."""
    assert len(told(engine, unit * 100)) == 100
    assert not engine.want_write


# --- work ------------------------------------------------------------------------------------------------------------


def test_settings_with_thousands_of_windows_take_a_step_for_each_stream_once(monkeypatch):
    engine = server()
    for _ in range(10):
        begin(engine)
    steps = []
    credit = Outbox.credit
    monkeypatch.setattr(Outbox, "credit", lambda *args: (steps.append(1), credit(*args)))
    values = b"".join(settings_of({INITIAL_WINDOW_SIZE: index})[9:] for index in range(2000))
    told(engine, frame(SETTINGS, 0, 0, values))
    assert len(steps) == 10


@pytest.mark.parametrize("kind", [DATA, HEADERS, 0xFA])
def test_a_frame_that_comes_byte_by_byte_is_kept_once(kind):
    engine = server(max_frame_size=16_384)
    stream_id = begin(engine) if kind == DATA else 1
    data = frame(kind, 0 if kind == DATA else END_HEADERS, stream_id, bytes(16_384))
    for at in range(len(data) - 1):
        engine.receive(data[at : at + 1])
        assert len(engine._reader._rest) <= at + 1
    if kind == DATA:
        # From some size on its parts are handed on.
        assert len(engine._reader._rest) < 4096 + 9


# --- memory ----------------------------------------------------------------------------------------------------------


def test_an_idle_stream_takes_little_memory():
    engine = warm(server(max_concurrent_streams=20_000))
    first = next_id(engine)
    requests = [headers(first + 2 * index) for index in range(10_000)]
    tracemalloc.start()
    try:
        for request in requests:
            engine.receive(request)
        engine.events()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(engine._streams) == 10_000
    assert size / 10_000 < 300


@pytest.mark.parametrize("end", ["answered", "reset", "broken off"])
def test_streams_that_are_over_leave_nothing(end):
    engine = warm(server())

    def some_streams(count):
        for _ in range(count):
            stream_id = next_id(engine)
            told(engine, headers(stream_id, flags=WHOLE))
            match end:
                case "answered":
                    engine.respond(stream_id, RESPONSE_HEADERS, b"x", TRAILERS)
                case "reset":
                    told(engine, reset(stream_id))
                case _:
                    told(engine, frame(DATA, 0, stream_id, b"x"))
            engine.data_to_send(EVERYTHING)
            engine.events()

    some_streams(100)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        some_streams(2000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not engine._streams
    assert after - before < 20_000


def test_responses_of_a_client_leave_nothing():
    engine = warm(client())
    for _ in range(2000):
        stream_id = engine.send_request(REQUEST_HEADERS, end_stream=True)
        told(engine, headers(stream_id, OK, WHOLE))
        engine.data_to_send(EVERYTHING)
    assert not engine._streams
    assert not engine._outbox.finished


def test_the_headers_that_an_idle_connection_remembers_take_little_memory():
    engine = server()
    tiny = [(b"%02d" % (number % 100), b"xy") for number in range(250)]
    requests = [
        block((*REQUEST_HEADERS, (b"n", b"%03d" % number), *tiny[:count]))
        for count in (50, 250)
        for number in range(64)
    ]
    requests.append(block((*REQUEST_HEADERS, *tiny * 8)))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for request in requests:
            for _ in range(2):
                stream_id = next_id(engine)
                told(engine, frame(HEADERS, WHOLE, stream_id, request) + reset(stream_id))
                engine.data_to_send(EVERYTHING)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not engine._streams
    assert after - before < 250_000
