"""When a peer sends too many frames that cost more than they carry."""

from __future__ import annotations

from collections.abc import Callable

from swerve.wire.events import IGNORED, PING, RESET, SETTINGS
from swerve.wire.limits import Http2Limits

_WINDOW_S = 1.0
# What a frame counts that honest peers send by the thousand, as readers do WINDOW_UPDATE, in tenths of another.
_LIGHT = 1
_HEAVY = 10


class PeerGuard:
    """Counts what a peer sends. Kinds are those of events (`wire/events.py`); BODY is one shorter than a message's
    prefix."""

    __slots__ = ("_clock", "_frames", "_resets")

    def __init__(self, limits: Http2Limits, clock: Callable[[], float], *, server: bool) -> None:
        self._clock = clock
        self._frames = _FloodGuard(limits.max_control_frames_per_s)
        self._resets = _ResetGuard(limits.max_resets_per_s) if server else None

    def strike(self, kind: int, streams: int) -> bytes | None:
        """Count an event that costs more than it carries, on a connection with so many `streams`. Returns why to hang
        up, when it was one too many."""
        weight = _LIGHT
        if kind != IGNORED:
            if kind == RESET:
                return b"too_many_resets" if self._resets is not None and self._resets.strike(self._clock) else None
            # A change of the window's size takes a step for every stream, and may let a frame of each leave.
            weight = _HEAVY * (1 + streams) if kind == SETTINGS else _HEAVY
        if not self._frames.strike(self._clock, weight):
            return None
        # What gRPC clients look for before they ask less often ("gRPC Keepalive").
        return b"too_many_pings" if kind == PING else b"too_many_frames"


class _FloodGuard:
    """Counts pings, settings (once more for each stream, whose window they may change), DATA shorter than a message's
    prefix, credit for a few bytes and, as a tenth each, frames that tell of no call, other WINDOW_UPDATE above all. The
    clock is read once in `limit` of them."""

    __slots__ = ("_limit", "_since", "_strikes")

    def __init__(self, limit: int) -> None:
        """`limit`: how many are borne in a second."""
        self._limit = limit * _HEAVY
        self._strikes = 0
        self._since = 0.0

    def strike(self, clock: Callable[[], float], weight: int) -> bool:
        """Count one such frame. True when there were more than the limit within the window."""
        self._strikes += weight
        if self._strikes <= self._limit:
            return False
        now = clock()
        floods = now - self._since < _WINDOW_S
        self._strikes = 0
        self._since = now
        return floods


class _ResetGuard:
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
