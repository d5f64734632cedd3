"""Short calls that a busy caller sends the same way, instead of waking a replica up for each."""

from __future__ import annotations

from swerve.routing.replicas import Replica

# So many calls in a turn of the event loop, on average, make a caller busy: they wait for what it does for each.
_BUSY = 12.0
# Seconds by which a call of short work delays another at most; and how much longer than elsewhere it may wait for those
# that it joins, where each is taken to delay it by so much at least.
_SHORT_S = 0.0001
_LONGER_S = 0.0008
_LEAST_S = 0.00005


class Together:
    """The turns of one caller, and where the calls of this one go. Pure: the caller says when a turn is over."""

    __slots__ = ("_calls_a_turn", "_last", "calls")

    def __init__(self) -> None:
        # How many have been chosen for in this turn.
        self.calls = 0
        self._calls_a_turn = 0.0
        self._last: Replica | None = None

    def choose(self, picked: Replica) -> Replica:
        """Where a call goes for which `picked` was picked: there, or where the one before it went in this turn."""
        self.calls += 1
        last = self._last
        if last is not None and self._calls_a_turn >= _BUSY and joins(last, picked):
            return last
        self._last = picked
        return picked

    def turn_over(self) -> None:
        """The turn of the event loop is over."""
        self._calls_a_turn = (self._calls_a_turn + self.calls) / 2
        self.calls = 0
        self._last = None


def joins(replica: Replica, other: Replica) -> bool:
    """Whether a call may go to `replica`, where others are just going, instead of to `other`: its calls are short work,
    it will soon be done with those that it has more, and half of its slots are left to other callers."""
    shared = replica.shared
    if shared is None or replica.slot < 0 or 2 * replica.ongoing >= replica.limit:
        return False
    pace_s = shared.pace_s
    return pace_s < _SHORT_S and (replica.ongoing - other.ongoing) * max(pace_s, _LEAST_S) < _LONGER_S
