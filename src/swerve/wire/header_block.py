"""A request's headers, and what is found out about them: once, for all requests of a client that have the same."""

from __future__ import annotations

from typing import Any

from swerve.wire.bundle import pack_headers
from swerve.wire.metadata import Headers, size_of

# The largest block that is remembered: the part of a client's metadata that does not change is far smaller.
MAX_REMEMBERED = 4 * 1024


class HeaderBlock:
    """Headers as they came. `fields` has the last value of each name, `size` is by RFC 9113, section 6.5.2.

    `packed` is the block for a record (`wire.bundle`), where a client has sent the same one before. `verdict` is for
    the receiver's own use: what it found out about such a block.
    """

    __slots__ = ("fields", "headers", "packed", "size", "verdict")

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.fields = dict(headers)
        self.size = size_of(headers)
        self.packed: bytes | None = None
        self.verdict: Any = None

    @staticmethod
    def of(headers: Headers, last: HeaderBlock | None) -> HeaderBlock:
        """The block of `headers`: the `last` one of its client, if that says the same."""
        if last is None or last.headers != headers:
            return HeaderBlock(headers)
        if last.packed is None:
            last.packed = pack_headers(headers)
        return last
