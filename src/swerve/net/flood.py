"""When a peer sends too many frames that cost more than they carry."""

from __future__ import annotations

from collections.abc import Callable

WINDOW_S = 1.0


# What a frame counts that honest peers send by the thousand, as readers do WINDOW_UPDATE, in tenths of another.
LIGHT = 1
HEAVY = 10


class FloodGuard:
    """Counts pings, settings (once more for each stream, whose window they may change), DATA shorter than a message's
    prefix, credit for a few bytes and, as a tenth each, frames that tell of no call, other WINDOW_UPDATE above all. The
    clock is read once in `limit` of them."""

    __slots__ = ("_limit", "_since", "_strikes")

    def __init__(self, limit: int) -> None:
        """`limit`: how many are borne in a second."""
        self._limit = limit * HEAVY
        self._strikes = 0
        self._since = 0.0

    def strike(self, clock: Callable[[], float], weight: int = HEAVY) -> bool:
        """Count one such frame. True when there were more than the limit within the window."""
        self._strikes += weight
        if self._strikes <= self._limit:
            return False
        now = clock()
        floods = now - self._since < WINDOW_S
        self._strikes = 0
        self._since = now
        return floods


class ResetGuard:
    """Counts streams that a client opens and resets, or that are reset because they are malformed or too many: `rate` a
    second are borne, and ten times as many at once."""

    __slots__ = ("_left", "_rate", "_since")

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._left = 10.0 * rate
        self._since = 0.0

    def strike(self, clock: Callable[[], float]) -> bool:
        """Count one. True when there were too many."""
        now = clock()
        self._left = min(10.0 * self._rate, self._left + (now - self._since) * self._rate) - 1
        self._since = now
        return self._left < 0
