"""When a caller that was turned away should try again: how long the calls that wait now will take to leave."""

from __future__ import annotations

# The rate is that of the last one to two windows: long enough to count some calls, short enough to follow the load.
_WINDOW_S = 1.0
# What is said while no waiting call has got a replica yet.
_UNKNOWN_S = 1.0
# Sooner is no relief, and after this long nobody knows what the load will be.
_LEAST_S, _MOST_S = 0.01, 30.0
# Callers that were turned away together should not come back together: the time is spread by this share, either way.
_SPREAD = 0.25


def unknown_delay_s(random: float) -> float:
    """Seconds after which to try again where nothing is known of the load, spread by `random`, a number in [0, 1)."""
    return _spread(_UNKNOWN_S, random)


def _spread(seconds: float, random: float) -> float:
    return seconds * (1 - _SPREAD + 2 * _SPREAD * random)


class DrainRate:
    """How fast a queue's calls have got replicas lately. Times are `time.monotonic()` seconds."""

    __slots__ = ("_count", "_earlier", "_earlier_since", "_since")

    def __init__(self) -> None:
        self._since = self._earlier_since = 0.0
        self._count = self._earlier = 0

    def begin(self, now: float) -> None:
        """The queue was empty, and is not any more: what was counted long ago says nothing."""
        if now - self._since > 2 * _WINDOW_S:
            self._since = self._earlier_since = now
            self._count = self._earlier = 0

    def count(self, calls: int) -> None:
        """So many waiting calls got replicas."""
        self._count += calls

    def retry_after_s(self, queued: int, now: float, random: float) -> float:
        """Seconds until `queued` calls will have left, spread by `random`, a number in [0, 1)."""
        calls, seconds = self._count + self._earlier, now - self._earlier_since
        if now - self._since >= _WINDOW_S:
            self._earlier, self._earlier_since = self._count, self._since
            self._count, self._since = 0, now
        wait = queued * seconds / calls if calls and seconds > 0 else _UNKNOWN_S
        return min(max(_spread(wait, random), _LEAST_S), _MOST_S)
