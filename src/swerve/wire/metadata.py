"""Metadata between Python's form and the wire's, and the rules for both.

Source: the gRPC over HTTP/2 protocol description ("Custom-Metadata") and RFC 9113, section 8.2. Python's form is
grpcio's: a sequence of (key, value) with text values, and bytes for keys that end in "-bin".
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Sequence

Headers = tuple[tuple[bytes, bytes], ...]
Metadata = Sequence[tuple[str, str | bytes]]

# Per call, by HTTP/2's measure (name + value + 32 a field). gRPC implementations default to 8 or 16 KiB.
MAX_METADATA_SIZE = 16 * 1024
_FIELD_OVERHEAD = 32

# Names that are the protocol's own, never shown to user code as metadata.
_PROTOCOL_NAMES = frozenset({b"content-type", b"te", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"})

# Names that say how a message or a connection is made (RFC 9113, section 8.2.2, and gRPC's own): a peer or a proxy on
# the way would end the call for them.
_RESERVED = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)

# Of the names with the protocol's prefix, those that are made for applications: the `google.rpc.Status` of the richer
# error model (as `grpc_status.rpc_status.to_status` has it), pushback for retries (gRPC proposal A6), and tracing's.
_PERMITTED = frozenset({"grpc-status-details-bin", "grpc-retry-pushback-ms", "grpc-trace-bin", "grpc-tags-bin"})

# What a key may be, beside what is reserved.
KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")


def size_of(headers: Headers) -> int:
    """The size of a header list as RFC 9113, section 6.5.2 counts it."""
    # A list takes half the time of a loop or a generator, and this runs for every call.
    return _FIELD_OVERHEAD * len(headers) + sum([len(name) + len(value) for name, value in headers])


def decode(headers: Headers) -> list[tuple[str, str | bytes]]:
    """The custom metadata in `headers`: pseudo-headers and the protocol's own fields are left out.

    A "-bin" value that is no base64 is passed on as it came; several values in one field are split, as the protocol
    asks.
    """
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name[:1] == b":" or name in _PROTOCOL_NAMES:
            continue
        key = name.decode("latin-1")
        if name.endswith(b"-bin"):
            metadata.extend((key, decode_binary(part)) for part in value.split(b","))
        else:
            metadata.append((key, value.decode("latin-1")))
    return metadata


def decode_binary(value: bytes) -> bytes:
    """A "-bin" value's bytes; padding may be absent."""
    value = value.strip()
    try:
        return binascii.a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
    except binascii.Error:
        return value


def encode(metadata: Metadata) -> Headers:
    """`metadata` as header fields.

    Raises:
        ValueError: a key or a value that the wire cannot carry; the message names the key and says why.
        TypeError: a value of the wrong type for its key.
    """
    return tuple(_encode_field(key, value) for key, value in metadata)


def _encode_field(key: str, value: str | bytes) -> tuple[bytes, bytes]:
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise ValueError(
            f"Metadata key {key!r} is invalid: keys are made of lower-case letters, digits, '_', '-' and '.'."
        )
    if key.startswith("grpc-") and key not in _PERMITTED:
        raise ValueError(f"Metadata key {key!r} is invalid: the prefix 'grpc-' is reserved to the protocol.")
    if key in _RESERVED:
        raise ValueError(f"Metadata key {key!r} is invalid: HTTP/2 and gRPC set or forbid this field themselves.")
    if isinstance(value, str | bytes) and len(value) > MAX_METADATA_SIZE:
        raise ValueError(
            f"Metadata value of {key!r} is invalid: it is {len(value)} long, and gRPC clients refuse more than "
            f"{MAX_METADATA_SIZE} bytes of metadata. Send it in a message."
        )
    if key.endswith("-bin"):
        if not isinstance(value, bytes):
            raise TypeError(f"Metadata value of {key!r} must be bytes, because the key ends in '-bin'; got {value!r}.")
        return key.encode(), binascii.b2a_base64(value, newline=False).rstrip(b"=")
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        raise TypeError(f"Metadata value of {key!r} must be a str; got {value!r}.")
    if not _VALUE.fullmatch(value) or value != value.strip(" "):
        raise ValueError(
            f"Metadata value of {key!r} is invalid: only printable ASCII is allowed, with no space at either end; "
            f"use a key that ends in '-bin' for other data. Got {value!r}."
        )
    return key.encode(), value.encode("ascii")


def get(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The last value of `name`: of duplicates the last one counts, as in Ray Serve."""
    found = None
    for key, value in headers:
        if key == name:
            found = value
    return found
