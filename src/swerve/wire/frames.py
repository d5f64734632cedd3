"""HTTP/2's frames as bytes (RFC 9113, sections 4, 6 and 7)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Kinds of frames. Plain numbers, as are flags and settings: an enum's member is slow to look up.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

# Flags.
END_STREAM = ACK = 0x01
END_HEADERS = 0x04
PADDED = 0x08
WITH_PRIORITY = 0x20

# Settings (section 6.5.2; NO_RFC7540_PRIORITIES is RFC 9218, section 2.1).
HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6
NO_RFC7540_PRIORITIES = 0x9

# What a peer may rely on before it has heard of settings.
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_SIZE = 16 * 1024
LARGEST_FRAME_SIZE = (1 << 24) - 1
# The largest window, and the largest id of a stream.
LARGEST = (1 << 31) - 1


class ErrorCode(IntEnum):
    """Codes of RST_STREAM and GOAWAY (section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


# A frame's head: the length's upper 8 bits and lower 16, the kind with the flags, the stream.
HEAD_SIZE = 9
_HEAD = struct.Struct(">BHHL")
read_head = _HEAD.unpack_from
_pack_head = _HEAD.pack
_SETTING = struct.Struct(">HL")
_NUMBER = struct.Struct(">L")
_TWO_NUMBERS = struct.Struct(">LL")


def head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The head of a frame whose payload has `length` bytes."""
    return _pack_head(length >> 16, length & 0xFFFF, kind << 8 | flags, stream_id)


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A whole frame."""
    return head(len(payload), kind, flags, stream_id) + payload


def headers_frames(stream_id: int, block: bytes, end_stream: bool, limit: int) -> bytes:
    """A header block as one HEADERS, and CONTINUATION for what is beyond `limit` bytes a frame (section 6.10)."""
    end = END_STREAM if end_stream else 0
    if len(block) <= limit:
        return head(len(block), HEADERS, END_HEADERS | end, stream_id) + block
    frames = [frame(HEADERS, end, stream_id, block[:limit])]
    for start in range(limit, len(block), limit):
        last = END_HEADERS if start + limit >= len(block) else 0
        frames.append(frame(CONTINUATION, last, stream_id, block[start : start + limit]))
    return b"".join(frames)


def _starts(kind: int, flags: int) -> tuple[bytes, ...]:
    """What the heads of short frames begin with, by the payload's length; the stream's id follows."""
    return tuple(head(length, kind, flags, 0)[:5] for length in range(256))


_HEADERS_START = _starts(HEADERS, END_HEADERS)
_DATA_START = _starts(DATA, 0)
_TRAILERS_START = _starts(HEADERS, END_HEADERS | END_STREAM)


def response(stream_id: int, block: bytes, body: bytes, trailers: bytes, limit: int) -> bytes:
    """A whole response. The body fits a frame."""
    try:
        starts = _HEADERS_START[len(block)], _DATA_START[len(body)], _TRAILERS_START[len(trailers)]
    except IndexError:
        begin = headers_frames(stream_id, block, False, limit) + head(len(body), DATA, 0, stream_id)
        return begin + body + headers_frames(stream_id, trailers, True, limit)
    of_stream = stream_id.to_bytes(4, "big")
    return b"".join((starts[0], of_stream, block, starts[1], of_stream, body, starts[2], of_stream, trailers))


def settings(values: Mapping[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Identifiers and values, in order. `payload` has a multiple of six bytes."""
    return cast("list[tuple[int, int]]", list(_SETTING.iter_unpack(payload)))


def reset(stream_id: int, error_code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, _NUMBER.pack(error_code))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, _NUMBER.pack(increment))


def go_away(last_stream_id: int, error_code: int, why: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, _TWO_NUMBERS.pack(last_stream_id, error_code) + why)


def read_number(payload: bytes) -> int:
    """The first 32 bits of `payload`."""
    return cast(int, _NUMBER.unpack_from(payload)[0])
