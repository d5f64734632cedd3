"""gRPC message framing: a compressed flag, a four-byte length, the message.

Source: the gRPC over HTTP/2 protocol description, "Length-Prefixed-Message".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from swerve.wire.status import RpcError, Status, StatusCode

PREFIX_SIZE = 5
# The four-byte length allows twice as much, but this is what every implementation of gRPC and protobuf takes.
MAX_MESSAGE_SIZE = (1 << 31) - 1
# Makes the prefix of an uncompressed message from its length.
prefix: Callable[[int], bytes] = struct.Struct(">xI").pack
# The flag and the length that data begins with.
_read_prefix: Callable[[bytes], tuple[int, int]] = struct.Struct(">BI").unpack_from
IDENTITY, GZIP, DEFLATE = b"identity", b"gzip", b"deflate"

# A part of a message shorter than this is joined to the one before, until that has the second length: an object of its
# own would take many times the memory of the few bytes that a hostile peer sends at a time.
_SMALL_PART = 256
_JOINED_PART = 8 * 1024

# A message is joined to its prefix up to here: four full DATA frames (RFC 9113, section 6.5.2), so that none is cut
# short where the parts meet.
_COPIED = 64 * 1024

# zlib's window bits: 15, plus 16 for the gzip container, plus 32 to detect either when reading.
_ZLIB_WBITS = {GZIP: 31, DEFLATE: 15}


def add_part(parts: list[bytes], data: bytes) -> None:
    """Add `data` to what has come of a body; small parts are joined."""
    if parts and len(data) < _SMALL_PART and len(parts[-1]) < _JOINED_PART:
        parts[-1] += data
    else:
        parts.append(data)


def frame(message: bytes) -> bytes:
    """`message` with its prefix, uncompressed."""
    return prefix(len(message)) + message


def frame_in_parts(message: bytes) -> bytes | list[bytes | memoryview]:
    """`frame(message)`; a large message in two parts, the second of which is not copied."""
    size = len(message)
    if size <= _COPIED:
        return prefix(size) + message
    view = memoryview(message)
    copied = _COPIED - PREFIX_SIZE
    return [prefix(size) + view[:copied], view[copied:]]


def frame_compressed(message: bytes, encoding: bytes) -> bytes:
    """`message` compressed by `encoding` (GZIP or DEFLATE), with its prefix."""
    compressor = zlib.compressobj(wbits=_ZLIB_WBITS[encoding])
    packed = compressor.compress(message) + compressor.flush()
    return b"\x01" + len(packed).to_bytes(4, "big") + packed


def too_large(length: int, limit: int) -> RpcError:
    """The error for a message of `length` bytes where `limit` are taken; the text is gRPC's."""
    return RpcError(Status(StatusCode.RESOURCE_EXHAUSTED, f"Received message larger than max ({length} vs. {limit})."))


def whole_message(data: bytes, limit: int) -> bytes | None:
    """The message of `data` if that is one, uncompressed, and no more. None leaves the rest to a `MessageReader`."""
    size = len(data) - PREFIX_SIZE
    if 0 <= size <= limit and _read_prefix(data) == (0, size):
        return data[PREFIX_SIZE:]
    return None


class MessageReader:
    """Cuts a stream of DATA into messages. A message that comes in pieces is joined once, when it is complete.

    Raises:
        RpcError: RESOURCE_EXHAUSTED for a message over `limit` bytes (as soon as its prefix is read, or while it is
            decompressed), INTERNAL for a bad prefix or bad compressed data.
    """

    __slots__ = ("_body", "_encoding", "_flag", "_head", "_limit", "_missing")

    def __init__(self, limit: int, encoding: bytes = IDENTITY) -> None:
        self._limit = limit
        self._encoding = encoding
        self._head = b""  # an incomplete prefix
        self._body: list[bytes] = []  # an incomplete message, of which _missing bytes are still to come
        self._flag = 0
        self._missing = 0

    @property
    def pending(self) -> bool:
        """True in the middle of a message."""
        return bool(self._missing or self._head)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes, in order."""
        if not self._missing and not self._head:
            # What most DATA is.
            message = whole_message(data, self._limit)
            if message is not None:
                return [message]
        messages: list[bytes] = []
        position, size = 0, len(data)
        if self._missing:
            if size < self._missing:
                self._missing -= size
                add_part(self._body, data)
                return messages
            position = self._missing
            self._body.append(data[:position] if position < size else data)
            messages.append(self._complete(self._flag, b"".join(self._body)))
            self._body.clear()
            self._missing = 0
        elif self._head:
            data = self._head + data
            size = len(data)
            self._head = b""
        while size - position >= PREFIX_SIZE:
            start = position + PREFIX_SIZE
            length = int.from_bytes(data[position + 1 : start], "big")
            if length > self._limit:
                raise too_large(length, self._limit)
            flag = data[position]
            position = start + length
            if position > size:
                self._flag = flag
                self._missing = position - size
                self._body.append(data[start:])
                return messages
            messages.append(self._complete(flag, data[start:position]))
        self._head = data[position:]
        return messages

    def _complete(self, flag: int, message: bytes) -> bytes:
        return message if flag == 0 else self._unpack(flag, message)

    def _unpack(self, flag: int, packed: bytes) -> bytes:
        if flag != 1:
            raise RpcError(Status(StatusCode.INTERNAL, f"Message has the compressed flag {flag}; it may be 0 or 1."))
        wbits = _ZLIB_WBITS.get(self._encoding)
        if wbits is None:
            name = self._encoding.decode("ascii", "replace")
            raise RpcError(
                Status(StatusCode.INTERNAL, f"Message is compressed, but its call names the encoding '{name}'.")
            )
        unpacker = zlib.decompressobj(wbits)
        try:
            # One byte more than allowed tells "too large" from "exactly at the limit" without unpacking a bomb.
            message = unpacker.decompress(packed, self._limit + 1)
        except zlib.error as error:
            raise RpcError(Status(StatusCode.INTERNAL, f"Message could not be decompressed: {error}.")) from error
        if len(message) > self._limit:
            raise too_large(len(message), self._limit)
        if not unpacker.eof:
            raise RpcError(Status(StatusCode.INTERNAL, "Message could not be decompressed: its data ends too early."))
        return message


def check_encoding(encoding: bytes) -> None:
    """Refuse a `grpc-encoding` that this side cannot read, before any message of it arrives."""
    if encoding != IDENTITY and encoding not in _ZLIB_WBITS:
        name = encoding.decode("ascii", "replace")
        raise RpcError(Status(StatusCode.UNIMPLEMENTED, f"Compression '{name}' is not supported."))
