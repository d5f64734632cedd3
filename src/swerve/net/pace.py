"""How fast a process serves calls, for callers who may choose another."""

from __future__ import annotations

import math

# Calls that are averaged. Those of a batch end together, after the time of all of them.
_SAMPLE = 16
# What a call takes longer at most because it wakes the process up. Those that come with it do not.
_WAKING_S = 0.00005
# What a sample counts that is shorter than those before it, and one that is longer: a process that lost its core for
# a moment has not become slower. Where one call in a hundred is long it shows all the same.
_SHORTER = 1 / 2
_LONGER = 1 / 8
# A longer sample says no more than that calls are long.
_LONG_S = 0.004


class Pace:
    """The time in `seconds` by which a call delays those behind it, about: from the end of the call before it, or its
    own beginning where nothing was under way, to its end. So calls that wait side by side for something else delay each
    other little, and those that compute do by all of it. Infinite until enough calls have ended."""

    __slots__ = ("_busy_s", "_count", "_ended_at", "seconds")

    def __init__(self) -> None:
        self.seconds = math.inf
        self._ended_at = 0.0
        # Of the calls that have ended since the last sample.
        self._busy_s = 0.0
        self._count = 0

    def ended(self, began_at: float, now: float) -> None:
        """A call has ended. Both times are of one clock, in seconds."""
        before = self._ended_at
        self._ended_at = now
        if began_at < before:
            self._busy_s += now - before
        elif now - began_at > _WAKING_S:
            self._busy_s += now - began_at - _WAKING_S
        self._count += 1
        if self._count == _SAMPLE:
            self._take_sample()

    def _take_sample(self) -> None:
        sample = min(self._busy_s / _SAMPLE, _LONG_S)
        self._busy_s = 0.0
        self._count = 0
        known = self.seconds
        if known == math.inf:
            self.seconds = sample
        else:
            self.seconds += (sample - known) * (_SHORTER if sample < known else _LONGER)
