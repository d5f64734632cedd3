"""A request's headers, and what is found out about them: once, for all requests of a client that have the same."""

from __future__ import annotations

from typing import Any

from swerve.wire.bundle import PackedHeaders, pack_headers
from swerve.wire.metadata import Headers, size_of

# The largest block that is remembered: the part of a client's metadata that does not change is far smaller.
MAX_REMEMBERED = 4 * 1024

# A client that sets deadlines sends another value with each call.
_TIMEOUT = b"grpc-timeout"


class HeaderBlock:
    """Headers as they came, but for `grpc-timeout`: whoever passes them on says himself how much time is left.

    `fields` has the last value of each name, `size` counts all that came, by RFC 9113, section 6.5.2. `timeout` is the
    value of the request that came last. `packed` is what a record has of the headers (`wire.bundle`): one piece, where
    they have come before. `verdict` is for the receiver's own use: what it found out about such a block.
    """

    __slots__ = ("_came", "_others", "_timeout_at", "fields", "headers", "packed", "size", "timeout", "verdict")

    def __init__(self, headers: Headers) -> None:
        self._came = self.headers = headers
        self.fields = dict(headers)
        self.size = size_of(headers)
        self.verdict: Any = None
        self.timeout = self.fields.pop(_TIMEOUT, None)
        # Where a single timeout stands, among which other fields.
        self._timeout_at = -1
        if self.timeout is not None:
            self._others = [field for field in headers if field[0] != _TIMEOUT]
            self.headers = tuple(self._others)
            if len(self._others) == len(headers) - 1:
                self._timeout_at = headers.index((_TIMEOUT, self.timeout))
        self.packed: PackedHeaders = self.headers

    @staticmethod
    def of(headers: Headers, last: HeaderBlock | None) -> HeaderBlock:
        """The block of `headers`: the `last` one of its client, if they differ in nothing but the timeout's value."""
        if last is None or not (headers is last._came or last._takes(headers)):
            return HeaderBlock(headers)
        if last.packed is last.headers:
            last.packed = (pack_headers(last.headers),)
        return last

    def _takes(self, headers: Headers) -> bool:
        at, timeout = self._timeout_at, self.timeout
        if timeout is None or at < 0 or at >= len(headers):
            return headers == self._came
        others = list(headers)
        name, value = others.pop(at)
        # A longer value would make `size` larger.
        if name != _TIMEOUT or len(value) != len(timeout) or others != self._others:
            return False
        self._came, self.timeout = headers, value
        return True
