"""What makes a header list malformed (RFC 9113, sections 8.1.1 to 8.3).

A malformed message must not be handed on: what it means could depend on who reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from swerve.wire.metadata import Headers

_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
# What values consist of, but for a tab now and then.
_PLAIN = bytes((*range(0x20, 0x7F), *range(0x80, 0x100)))
# Over all values, each on a line of its own: control characters, and spaces at an edge.
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|^[ \t]|[ \t]$", re.MULTILINE)
_EDGE = "a value has spaces at an edge"
_DIGITS = re.compile(rb"[0-9]{1,18}")
_STATUS = re.compile(rb"[1-9][0-9][0-9]")
_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_OF_THE_CONNECTION = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))

# Names that were found good: most of what comes has been seen before.
_known_names: set[bytes] = set()
_MAX_KNOWN_NAMES = 1024
_MAX_KNOWN_NAME = 64


def good_request(headers: Headers) -> Headers | None:
    """A request's header list as it may be handed on; None when it is malformed."""
    fault = _fault(headers, _REQUEST_PSEUDO)
    if fault:
        return _mended(headers, good_request) if fault is _EDGE else None
    fields = dict(headers)
    if not fields.get(b":path") or b":scheme" not in fields or fields.get(b":method", b"CONNECT") == b"CONNECT":
        return None
    return headers


def good_response(headers: Headers) -> Headers | None:
    """The same of a response's header list."""
    if not headers or headers[0][0] != b":status" or not _STATUS.fullmatch(headers[0][1]):
        return None
    fault = _fault(headers[1:], frozenset())
    if fault:
        return _mended(headers, good_response) if fault is _EDGE else None
    return headers


def good_trailers(headers: Headers) -> Headers | None:
    """The same of what follows a body."""
    fault = _fault(headers, frozenset())
    if fault:
        return _mended(headers, good_trailers) if fault is _EDGE else None
    return headers


def _mended(headers: Headers, good: Callable[[Headers], Headers | None]) -> Headers | None:
    """The list without spaces at the edges of values, if it is good then. HTTP/2 allows none, but clients of gRPC send
    what their users give them, and gRPC lets a server strip them ("gRPC over HTTP2", Custom-Metadata)."""
    stripped = tuple(field if field[0][:1] == b":" else (field[0], field[1].strip(b" \t")) for field in headers)
    return None if stripped == headers else good(stripped)


def _fault(headers: Headers, pseudo: frozenset[bytes]) -> str:
    seen, measured = 0, False
    for index, (name, value) in enumerate(headers):
        if name not in _known_names:
            if not _NAME.fullmatch(name):
                return "a name has characters that it may not have"
            if len(name) <= _MAX_KNOWN_NAME:
                if len(_known_names) >= _MAX_KNOWN_NAMES:
                    _known_names.clear()
                _known_names.add(name)
        if name[0] == 0x3A:
            if name not in pseudo:
                return "a pseudo-header field is unknown"
            if index != seen:
                return "a pseudo-header field follows others"
            seen += 1
        elif name in _OF_THE_CONNECTION or (name == b"te" and value.lower() != b"trailers"):
            return "it has a field that is about the connection"
        elif name == b"content-length":
            if measured or not _DIGITS.fullmatch(value):
                return "its content-length is no number, or comes twice"
            measured = True
    if seen and len({name for name, _ in headers[:seen]}) != seen:
        return "a pseudo-header field comes twice"
    lines = b"\n".join((b"", *[value for _, value in headers], b""))
    ends = len(headers) + 1
    if len(lines.translate(None, _PLAIN)) == ends and b"\n " not in lines and b" \n" not in lines:
        return ""
    found = _BAD_VALUE.search(lines)
    if found is not None:
        return _EDGE if found[0] in b" \t" else "a value has characters that it may not have"
    return "a value has a line's end" if lines.count(b"\n") != ends else ""


def content_length(headers: Headers) -> int:
    """The length that a good header list announces for its body; -1 when it announces none."""
    for name, value in headers:
        if name == b"content-length":
            return int(value)
    return -1
