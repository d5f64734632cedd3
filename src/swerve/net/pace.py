"""How fast a process serves calls, for callers who may choose another."""

from __future__ import annotations

# What a call counts that took less than those before it, and one that took more: a process that loses its core for a
# moment has not become slower. A tenth of long calls among short ones still shows.
_SHORTER = 1 / 8
_LONGER = 1 / 32
# A call that takes longer than this says no more than that it is long.
_LONG_S = 0.004


class Pace:
    """The time in `seconds` by which a call delays those behind it, on average, or rather longer: from the end of the
    call before it, or its own beginning where nothing was under way, to its end. So calls that wait side by side for
    something else delay each other little, and those that compute do by all of it. Long, until calls have shown
    otherwise."""

    __slots__ = ("_ended_at", "seconds")

    def __init__(self) -> None:
        self.seconds = _LONG_S
        self._ended_at = 0.0

    def ended(self, began_at: float, now: float) -> None:
        """A call has ended. Both times are of one clock, in seconds."""
        before = self._ended_at
        took = now - (began_at if began_at > before else before)
        self._ended_at = now
        seconds = self.seconds
        if took < seconds:
            self.seconds = seconds + (took - seconds) * _SHORTER
        else:
            self.seconds = seconds + ((took if took < _LONG_S else _LONG_S) - seconds) * _LONGER
