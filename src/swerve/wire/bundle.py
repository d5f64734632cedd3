"""Many small calls in one message, between a caller and a replica.

An HTTP/2 stream for each call costs both ends more than all the rest of a small call. So calls whose request is whole
and small travel as records in the messages ("bundles") of one stream. A call's number is chosen by the caller and never
used again on its stream. Records, in MessagePack, each an array that begins with its kind:

    CALL    number, headers, body                  a whole request
    ANSWER  number, headers, body, trailers        a response, or part of one; what a part lacks is nil
    RESET   number, error code                     the call is over without an answer, as by RST_STREAM
    CREDIT  number, bytes                          so much of an answer's body has been passed on (caller to replica)
    PACE    0, microseconds                        by so much a call delays those behind it (replica to caller)

Most requests of a client have the same headers. The first of a request's headers may be bytes instead of a pair: an
array of pairs, packed, which the receiver is likely to know. The pairs that follow are the caller's own: the client's
address (`wire.peer`), the request id, the time that is left.

The first ANSWER of a response may leave out headers that say nothing beyond gRPC's own. Its last one has the trailers,
none of them when they would say OK and no more. One with trailers alone, where no part came before, is a response of
one header block, `:status` included. Bodies are DATA as HTTP/2 would carry it, with the prefixes of messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgpack

from swerve.wire.message import prefix
from swerve.wire.metadata import Headers

PATH = b"/swerve.control.v1.Replica/Bundles"

CALL, ANSWER, RESET, CREDIT, PACE = range(5)

Record = tuple[Any, ...]
# A request's headers in a record: all of them, or what `HeaderBlock.packed` is and the others.
PackedHeaders = tuple["bytes | tuple[bytes, bytes]", ...]

# Bytes of a body in one record. A larger request has a stream of its own; a larger response comes in parts.
MAX_BODY = 16 * 1024
# Bytes of one response's body that are on their way at most, like the window of a stream.
WINDOW = 256 * 1024

_packer = msgpack.Packer(autoreset=True)


def pack(records: Iterable[Record]) -> bytes:
    """A bundle of `records` as a framed message."""
    packed: bytes = _packer.pack(records)
    return prefix(len(packed)) + packed


def unpack(message: bytes) -> tuple[Record, ...]:
    """The records of a bundle.

    Raises:
        ValueError: `message` is no bundle.
    """
    records: tuple[Record, ...] = msgpack.unpackb(message, use_list=False)
    return records


def pack_headers(headers: Headers) -> bytes:
    """A block of headers as the first of a request's."""
    return cast(bytes, msgpack.packb(headers))


def unpack_headers(packed: bytes) -> Headers:
    """The block of headers that `pack_headers` packed.

    Raises:
        ValueError: it is no packed array.
    """
    return cast("Headers", msgpack.unpackb(packed, use_list=False))
