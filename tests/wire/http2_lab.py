"""The HTTP/2 engine and a peer whose frames are written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from swerve.wire.events import REQUEST, RESPONSE, Event
from swerve.wire.frames import ErrorCode
from swerve.wire.http2 import Http2, Http2Error
from swerve.wire.limits import Http2Limits
from tests.net.raw_http2 import (
    ACK,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Frame,
    field,
    frame,
    frames_in,
    reset,
    settings_of,
)

Fields = tuple[tuple[bytes, bytes], ...]

REQUEST_HEADERS: Fields = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/t.Lab/Echo"),
    (b":authority", b"x"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
OK: Fields = ((b":status", b"200"),)
RESPONSE_HEADERS: Fields = ((b":status", b"200"), (b"content-type", b"application/grpc"))
TRAILERS: Fields = ((b"grpc-status", b"0"),)
EVERYTHING = 1 << 40
WHOLE = END_HEADERS | END_STREAM

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 0x1, 0x2, 0x3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 0x4, 0x5, 0x6


def block(headers: Fields) -> bytes:
    return b"".join(field(name, value) for name, value in headers)


def headers(stream_id: int, fields: Fields = REQUEST_HEADERS, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream_id, block(fields))


def new_server(**limits: Any) -> Http2:
    """A server that has not heard of its client."""
    engine = Http2(server=True, limits=Http2Limits(**limits))
    engine.data_to_send(EVERYTHING)
    return engine


def new_client(**limits: Any) -> Http2:
    engine = Http2(server=False, limits=Http2Limits(**limits))
    engine.data_to_send(EVERYTHING)
    return engine


def greet(engine: Http2, values: Mapping[int, int] | None = None, *, preface: bytes = b"") -> Http2:
    engine.receive(preface + settings_of(values) + frame(SETTINGS, ACK, 0))
    engine.events()
    engine.data_to_send(EVERYTHING)
    return engine


def server(values: Mapping[int, int] | None = None, **limits: Any) -> Http2:
    """A server whose client has greeted it with these settings."""
    return greet(new_server(**limits), values, preface=PREFACE)


def client(values: Mapping[int, int] | None = None, **limits: Any) -> Http2:
    return greet(new_client(**limits), values)


def told(engine: Http2, data: bytes) -> list[Event]:
    """What the engine tells of `data`."""
    engine.receive(data)
    return engine.events()


def sent(engine: Http2, amount: int = EVERYTHING) -> list[Frame]:
    return list(frames_in(engine.data_to_send(amount)))


def begin(engine: Http2, fields: Fields = REQUEST_HEADERS, *, end_stream: bool = False) -> int:
    """Have the next request begin, either role. Returns its stream's id."""
    if engine._is_server:
        stream_id = next_id(engine)
        events = told(engine, headers(stream_id, fields, WHOLE if end_stream else END_HEADERS))
        assert events == [(REQUEST, stream_id, fields, end_stream)]
        return stream_id
    stream_id = engine.send_request(fields, end_stream=end_stream)
    engine.data_to_send(EVERYTHING)
    return stream_id


def next_id(engine: Http2) -> int:
    """The stream that the client opens next."""
    return engine._last_id + 1 | 1


def warm(engine: Http2, fields: Fields = REQUEST_HEADERS) -> Http2:
    """Have it know these headers, which it takes a shorter way from then on."""
    for _ in range(3):
        stream_id = begin(engine, fields)
        if not engine._is_server:
            answered(engine, stream_id)
        told(engine, reset(stream_id))
    engine.data_to_send(EVERYTHING)
    return engine


def answered(engine: Http2, stream_id: int, fields: Fields = RESPONSE_HEADERS) -> None:
    """The peer begins its response (client role)."""
    assert told(engine, headers(stream_id, fields)) == [(RESPONSE, stream_id, fields, False)]


def fault(engine: Http2, data: bytes) -> int:
    """The code with which the engine gives up for `data`. Its GOAWAY is the last frame, and nothing more is taken."""
    with pytest.raises(Http2Error):
        engine.receive(data)
    assert engine.failed
    *_, last = sent(engine)
    assert (last.kind, last.flags, last.stream_id) == (GOAWAY, 0, 0)
    engine.events()
    assert told(engine, data) == []
    assert not engine.want_write
    return ErrorCode(int.from_bytes(last.payload[4:8], "big"))


def resets(engine: Http2, data: bytes) -> dict[int, int]:
    """The streams that the engine resets for `data`, with their codes. The connection goes on."""
    engine.receive(data)
    found = {
        frame.stream_id: ErrorCode(int.from_bytes(frame.payload, "big"))
        for frame in sent(engine)
        if frame.kind == RST_STREAM
    }
    assert_goes_on(engine)
    return found


def assert_goes_on(engine: Http2) -> None:
    """The connection serves another stream."""
    assert not engine.failed
    if engine._is_server:
        stream_id = next_id(engine)
        assert told(engine, headers(stream_id, flags=WHOLE))[-1] == (REQUEST, stream_id, REQUEST_HEADERS, True)
    else:
        stream_id = engine.send_request(REQUEST_HEADERS, end_stream=True)
        assert (RESPONSE, stream_id, RESPONSE_HEADERS, False) in told(engine, headers(stream_id, RESPONSE_HEADERS))
    engine.data_to_send(EVERYTHING)
