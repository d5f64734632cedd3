"""HTTP/2's frames out of a stream of bytes (RFC 9113, sections 3.4 and 4): each whole, but for large DATA.

What belongs together is put together here: a header block that is continued, DATA without its padding. What the bytes
mean is the `FrameTaker`'s.
"""

from __future__ import annotations

from typing import Protocol

from swerve.wire.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_SIZE,
    END_HEADERS,
    END_STREAM,
    HEAD_SIZE,
    HEADERS,
    LARGEST,
    PADDED,
    PREFACE,
    SETTINGS,
    WITH_PRIORITY,
    ErrorCode,
    read_head,
)
from swerve.wire.limits import Http2Limits

# A part of DATA that is still coming is handed on when it has so many bytes.
_PART = 4096
_PRIORITY_SIZE = 5
# Kinds and flags of the frames that need no closer look.
_LAST_DATA = DATA << 8 | END_STREAM
_HEADERS = HEADERS << 8 | END_HEADERS
_LAST_HEADERS = _HEADERS | END_STREAM


class ConnectionFault(Exception):
    """What the peer sent ends the connection, with `code`; `why` is for it and for the log."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class FrameTaker(Protocol):
    """Who takes the frames. Each method may raise ConnectionFault."""

    def take_data(self, stream_id: int, data: bytes, end_stream: bool, padding: int = 0) -> None:
        """DATA, or part of one. `padding` bytes came beside `data`."""

    def take_headers(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        """A whole header block."""

    def take_other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """A frame of another kind."""


class FrameReader:
    """One connection's incoming frames."""

    __slots__ = ("_block", "_block_limit", "_frame_limit", "_greeting", "_part", "_rest")

    def __init__(self, limits: Http2Limits, *, server: bool) -> None:
        self._frame_limit = limits.max_frame_size
        self._block_limit = limits.max_header_list_size
        # What the peer has to begin with, before its SETTINGS; None when it has.
        self._greeting: bytes | None = PREFACE if server else b""
        # Bytes of an incomplete frame.
        self._rest = b""
        # DATA that is handed on in parts: its stream, the bytes that are still to come, its kind and flags.
        self._part: tuple[int, int, int] | None = None
        # A header block that is to be continued: its stream, its flags, what has come.
        self._block: tuple[int, int, list[bytes]] | None = None

    def read(self, data: bytes, taker: FrameTaker) -> None:
        """Hand the frames in `data` to `taker`.

        Raises:
            ConnectionFault: it is not HTTP/2, or `taker` found that.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        position = 0
        if self._part is not None:
            position = self._read_part(data, 0, taker)
        elif self._greeting is not None:
            position = self._read_greeting(data)
            if self._greeting is not None:
                self._rest = data
                return
        size, limit = len(data), self._frame_limit
        # Where the last frame begins that can be there.
        last = size - HEAD_SIZE
        interrupts = self._block is not None
        while position <= last:
            high, length, what, stream_id = read_head(data, position)
            start = position + HEAD_SIZE
            if high or stream_id > LARGEST:
                length |= high << 16
                stream_id &= LARGEST
            if length > limit:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame has {length} bytes, and {limit} are taken")
            if interrupts and what >> 8 != CONTINUATION:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
            end = start + length
            if end > size:
                if what <= _LAST_DATA and size - start >= _PART:
                    self._part = (stream_id, length, what)
                    position = self._read_part(data, start, taker)
                break
            position = end
            if what <= _LAST_DATA:
                taker.take_data(stream_id, data[start:end], what == _LAST_DATA)
            elif what in (_HEADERS, _LAST_HEADERS):
                taker.take_headers(stream_id, data[start:end], what == _LAST_HEADERS)
            else:
                self._read_other(what >> 8, what & 0xFF, stream_id, data[start:end], taker)
                interrupts = self._block is not None
        self._rest = data[position:]

    def _read_greeting(self, data: bytes) -> int:
        """Where the first frame begins, when all of the greeting has come."""
        greeting = self._greeting
        assert greeting is not None
        size = len(greeting)
        if data[:size] != greeting[: len(data)]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the connection does not begin as HTTP/2 does")
        if len(data) < size + HEAD_SIZE:
            return 0
        _, _, what, _ = read_head(data, size)
        if what >> 8 != SETTINGS or what & ACK:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self._greeting = None
        return size

    def _read_part(self, data: bytes, start: int, taker: FrameTaker) -> int:
        """Hand on what has come of the DATA under way. Returns where it ends in `data`."""
        assert self._part is not None
        stream_id, left, what = self._part
        end = min(start + left, len(data))
        left -= end - start
        self._part = (stream_id, left, what) if left else None
        taker.take_data(stream_id, data[start:end], not left and what == _LAST_DATA)
        return end

    def _read_other(self, kind: int, flags: int, stream_id: int, payload: bytes, taker: FrameTaker) -> None:
        if kind == DATA:
            data = _unpadded(payload, flags)
            taker.take_data(stream_id, data, flags & END_STREAM != 0, len(payload) - len(data))
        elif kind == HEADERS:
            block = _unpadded(payload, flags)
            if flags & WITH_PRIORITY:
                if len(block) < _PRIORITY_SIZE:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS are too short for their priority")
                block = block[_PRIORITY_SIZE:]
            if flags & END_HEADERS:
                taker.take_headers(stream_id, block, flags & END_STREAM != 0)
            else:
                self._block = (stream_id, flags, [block])
        elif kind == CONTINUATION:
            self._read_continuation(flags, stream_id, payload, taker)
        else:
            taker.take_other(kind, flags, stream_id, payload)

    def _read_continuation(self, flags: int, stream_id: int, payload: bytes, taker: FrameTaker) -> None:
        if self._block is None or self._block[0] != stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION continues nothing")
        _, first_flags, parts = self._block
        parts.append(payload)
        # Endless ones, also of empty frames, would take memory before there is a list to be refused (CVE-2024-27316).
        # A peer need not make use of larger frames than each has to take.
        if sum(map(len, parts)) > self._block_limit or len(parts) > 2 + 2 * self._block_limit // DEFAULT_FRAME_SIZE:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & END_HEADERS:
            self._block = None
            taker.take_headers(stream_id, b"".join(parts), first_flags & END_STREAM != 0)


def _unpadded(payload: bytes, flags: int) -> bytes:
    """The payload without its padding (sections 6.1 and 6.2)."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "there is more padding than payload")
    return payload[1 : len(payload) - payload[0]]
