"""A request's headers, and what is found out about them: once, for all requests of a client that have the same."""

from __future__ import annotations

from typing import Any

from swerve.wire import metadata
from swerve.wire.bundle import PackedHeaders, pack_headers
from swerve.wire.metadata import Headers, size_of

# The largest block that is remembered: the part of a client's metadata that does not change is far smaller.
MAX_REMEMBERED = 4 * 1024

# A client that sets deadlines sends another value with each call.
_TIMEOUT = b"grpc-timeout"


class HeaderBlock:
    """Headers as they came, but for `grpc-timeout`: whoever passes them on says himself how much time is left.

    `fields` has the last value of each name, `size` counts all that came, by RFC 9113, section 6.5.2, and `timed` says
    whether a time did. `packed` is what a record has of them (`wire.bundle`): one piece, where they have come before.
    `verdict` is for the receiver's own use: what it found out about such a block.
    """

    __slots__ = ("_came", "_timeout_at", "_timeout_size", "fields", "headers", "packed", "size", "timed", "verdict")

    def __init__(self, headers: Headers) -> None:
        self._came = self.headers = headers
        self.fields = dict(headers)
        self.size = size_of(headers)
        self.verdict: Any = None
        # Where a single `grpc-timeout` stands, and how long its value is.
        self._timeout_at = -1
        self._timeout_size = 0
        timeout = self.fields.pop(_TIMEOUT, None)
        self.timed = timeout is not None
        if timeout is not None:
            self.headers = tuple(field for field in headers if field[0] != _TIMEOUT)
            if len(self.headers) == len(headers) - 1:
                self._timeout_at = headers.index((_TIMEOUT, timeout))
                self._timeout_size = len(timeout)
        self.packed: PackedHeaders = self.headers

    @staticmethod
    def of(headers: Headers, last: HeaderBlock | None) -> HeaderBlock:
        """The block of `headers`: the `last` one of its client, if that says the same but for the time."""
        if last is None or not (headers is last._came or last._says(headers)):
            return HeaderBlock(headers)
        if last.packed is last.headers:
            last.packed = (pack_headers(last.headers),)
        return last

    def _says(self, headers: Headers) -> bool:
        at = self._timeout_at
        if at < 0:
            return headers == self._came
        if len(headers) != len(self._came):
            return False
        name, value = headers[at]
        # A longer value would make `size` larger.
        return (
            name == _TIMEOUT and len(value) == self._timeout_size and headers[:at] + headers[at + 1 :] == self.headers
        )

    def timeout_in(self, headers: Headers) -> bytes | None:
        """The `grpc-timeout` of `headers`, of which this is the block; the last one counts."""
        at = self._timeout_at
        return headers[at][1] if at >= 0 else metadata.get(headers, _TIMEOUT)
