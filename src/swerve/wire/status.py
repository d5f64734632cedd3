"""gRPC status codes, and `grpc-message` as it stands on the wire.

Source: the gRPC over HTTP/2 protocol description ("Responses", "Status-Message") and its status code list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

# Ray Serve's GRPC_MAX_STATUS_DETAILS_LENGTH, in characters.
MAX_DETAILS_LENGTH = 4096
# gRPC clients may refuse more than 8 KiB of trailers; percent-encoding makes up to twelve bytes of a character.
_MAX_ENCODED_SIZE = 6 * 1024
_TRUNCATED = "... [truncated]"


class StatusCode(IntEnum):
    """The gRPC status codes; values are those on the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# Index = code; a tuple of bytes saves a format and an encode per call.
CODE_BYTES: tuple[bytes, ...] = tuple(str(int(code)).encode() for code in StatusCode)
_CODES = dict(zip(CODE_BYTES, StatusCode, strict=True))


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended."""

    code: StatusCode
    details: str = ""


OK = Status(StatusCode.OK)


class RpcError(Exception):
    """A call that ended with a status other than OK, as the side that waits for it sees it."""

    def __init__(self, status: Status, trailers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(status)
        self.status = status
        self.trailers = trailers

    def __str__(self) -> str:
        return f"{self.status.code.name}: {self.status.details}"


def truncate_details(details: str, *, keep_end: bool = False) -> str:
    """`details`, cut to what fits a trailer, with a mark at the end.

    `keep_end` cuts the beginning instead, and marks that: the last lines of a traceback say what happened.
    """
    limit = MAX_DETAILS_LENGTH
    cut = details
    while len(cut) > MAX_DETAILS_LENGTH or len(encode_message(cut)) > _MAX_ENCODED_SIZE:
        kept = limit - len(_TRUNCATED)
        cut = _TRUNCATED + details[-kept:] if keep_end else details[:kept] + _TRUNCATED
        limit = limit * 3 // 4
    return cut


# Printable ASCII but "%" passes; so does an inner space. HTTP/2 forbids a field value with a space at its edge
# (RFC 9113, section 8.2.1), so edge spaces are encoded too.
_UNSAFE = re.compile(rb"[^\x20-\x24\x26-\x7e]|^\x20|\x20$")


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def encode_message(details: str) -> bytes:
    """`details` percent-encoded for the `grpc-message` trailer."""
    # A lone surrogate cannot be UTF-8; what stands for it is readable and harmless.
    return _UNSAFE.sub(_percent, details.encode("utf-8", "backslashreplace"))


_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


def decode_message(value: bytes) -> str:
    """The text of a `grpc-message` trailer. Never fails: what is no valid escape or UTF-8 is kept as a replacement."""
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), value).decode("utf-8", "replace")


def decode_code(value: bytes) -> StatusCode:
    """The code of a `grpc-status` trailer; UNKNOWN for anything that is no code, as the protocol asks."""
    return _CODES.get(value, StatusCode.UNKNOWN)


# Source: "HTTP to gRPC Status Code Mapping" in the gRPC repository's doc folder.
_HTTP_TO_CODE = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}


def code_for_http_status(http_status: int) -> StatusCode:
    """The code of a response that carries no `grpc-status`."""
    return _HTTP_TO_CODE.get(http_status, StatusCode.UNKNOWN)
