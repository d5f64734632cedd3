"""When a peer sends too many frames that cost more than they carry."""

from __future__ import annotations

from collections.abc import Callable

# Clients that measure the path's delay ping once a round trip, at most some thousand times a second on loopback.
MAX_STRIKES = 10_000
WINDOW_S = 1.0


class FloodGuard:
    """Counts pings, settings, and DATA shorter than a message's prefix. The clock is read once in `MAX_STRIKES`."""

    __slots__ = ("_since", "_strikes")

    def __init__(self) -> None:
        self._strikes = 0
        self._since = 0.0

    def strike(self, clock: Callable[[], float]) -> bool:
        """Count one such frame. True when there were more than `MAX_STRIKES` within the window."""
        self._strikes += 1
        if self._strikes <= MAX_STRIKES:
            return False
        now = clock()
        floods = now - self._since < WINDOW_S
        self._strikes = 0
        self._since = now
        return floods
