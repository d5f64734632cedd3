"""Which calls of an application go to its canary."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from zlib import crc32

_HASHES = 2**32


class Split:
    """Calls whose fields are all of `match` go to the canary, and `weight` percent of the others.

    Calls that have the field `sticky_key` are told apart by its value instead of by chance, so that those of one value
    stay on one side, in every proxy; a growing weight takes none back. `release` makes it other values each time.
    """

    __slots__ = ("_match", "_random", "_seed", "_share", "_sticky_key")

    def __init__(
        self,
        weight: float,
        match: Mapping[bytes, bytes],
        sticky_key: bytes,
        release: bytes,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._share = weight / 100.0
        self._match = tuple(match.items())
        self._sticky_key = sticky_key
        self._seed = crc32(release)
        self._random = rng

    def takes(self, fields: Mapping[bytes, bytes]) -> bool:
        """Whether a call with these header fields goes to the canary."""
        match = self._match
        if match and all(fields.get(name) == value for name, value in match):
            return True
        value = fields.get(self._sticky_key) if self._sticky_key else None
        if value is None:
            return self._random() < self._share
        return crc32(value, self._seed) < self._share * _HASHES
