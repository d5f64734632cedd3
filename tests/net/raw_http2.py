"""HTTP/2 written and read by hand (RFC 9113), also as no well-behaved peer would write it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from swerve.wire.frames import ErrorCode

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
ACK = 1


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload


def number(value: int) -> bytes:
    return struct.pack(">I", value)


def settings_of(values: Mapping[int, int] | None = None) -> bytes:
    payload = b"".join(struct.pack(">HI", *item) for item in (values or {}).items())
    return frame(SETTINGS, 0, 0, payload)


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, number(increment))


def reset(stream_id: int, code: int = ErrorCode.CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream_id, number(code))


def goaway(last: int, code: int = 0) -> bytes:
    return frame(GOAWAY, 0, 0, number(last) + number(code))


def field(name: bytes, value: bytes) -> bytes:
    """A literal header field, never indexed (RFC 7541, section 6.2.3)."""
    return b"\x10" + integer(len(name)) + name + integer(len(value)) + value


def integer(value: int) -> bytes:
    """RFC 7541, section 5.1, with a prefix of seven bits."""
    if value < 127:
        return bytes((value,))
    encoded, value = bytearray((127,)), value - 127
    while value >= 128:
        encoded.append(value % 128 + 128)
        value //= 128
    return bytes((*encoded, value))


def block(path: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"), *extra]
    return b"".join(field(name, value) for name, value in fields)


def message(size: int) -> bytes:
    return b"\0" + size.to_bytes(4, "big")


class Frame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes


def frames_in(data: bytes) -> Iterator[Frame]:
    """Whole frames, the client's preface left out."""
    data = data.removeprefix(PREFACE)
    while data:
        size = int.from_bytes(data[:3], "big")
        assert len(data) >= 9 + size, "a frame is cut off"
        yield Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size])
        data = data[9 + size :]
