"""When a peer sends too many frames that cost more than they carry."""

from __future__ import annotations

from collections.abc import Callable

WINDOW_S = 1.0


class FloodGuard:
    """Counts pings, settings, and DATA shorter than a message's prefix. The clock is read once in `limit` of them."""

    __slots__ = ("_limit", "_since", "_strikes")

    def __init__(self, limit: int) -> None:
        """`limit`: how many are borne in a second."""
        self._limit = limit
        self._strikes = 0
        self._since = 0.0

    def strike(self, clock: Callable[[], float]) -> bool:
        """Count one such frame. True when there were more than the limit within the window."""
        self._strikes += 1
        if self._strikes <= self._limit:
            return False
        now = clock()
        floods = now - self._since < WINDOW_S
        self._strikes = 0
        self._since = now
        return floods
