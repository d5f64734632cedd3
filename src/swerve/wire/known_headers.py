"""What a receiver of bundles remembers of the headers that many requests have in common."""

from __future__ import annotations

from typing import Any

from swerve.wire.bundle import unpack_headers
from swerve.wire.metadata import Headers

# Packed blocks that a receiver keeps.
_MAX_KNOWN = 256


class SharedHeaders:
    """Headers that other requests may have too. `fields` has the last value of each name; `verdict` is for the
    receiver's own use: what it found out about them."""

    __slots__ = ("fields", "headers", "verdict")

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.fields = dict(headers)
        self.verdict: Any = None


class KnownHeaders:
    """A receiver's memory of packed blocks of headers: a few of them are most of what comes."""

    __slots__ = ("_known", "_last", "_packed")

    def __init__(self) -> None:
        self._known: dict[bytes, SharedHeaders] = {}
        # The last that was asked for, and the bytes that it came as.
        self._last = SharedHeaders(())
        self._packed: bytes | None = None

    def __len__(self) -> int:
        return len(self._known)

    def find(self, packed: bytes) -> SharedHeaders:
        """The headers that `packed` stands for.

        Raises:
            ValueError: it is no packed block.
        """
        # To compare bytes that have just come takes less time than to hash them.
        if packed == self._packed:
            return self._last
        found = self._known.get(packed)
        if found is None:
            found = SharedHeaders(unpack_headers(packed))
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[packed] = found
        self._packed, self._last = packed, found
        return found
