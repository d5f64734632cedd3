"""The choice of a user's request router, which answers later and elsewhere: which calls it is asked about, and what
comes of its answers. Pure: whoever runs the router takes `questions` and gives `answered`.

Source: Ray Serve's routing tasks. At most `reach` waiting calls are looked at; a call whose chosen replicas are all
busy is asked about again after a growing pause (`initial_backoff_s`, `backoff_multiplier`, `max_backoff_s`), here also
as soon as one of them has a slot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from swerve.routing.calls import RoutedCall
from swerve.routing.choose import least_loaded, shorter_of_two
from swerve.routing.options import RouterOptions
from swerve.routing.replicas import Replica

# How long a router may think about one call. Calls are then placed by power of two choices, those that come next at
# once, until it has answered something.
ANSWER_TIMEOUT_S = 1.0
# Ray Serve's bound of routing tasks: twice the replicas, and so many.
_MAX_REACH = 50

Call = TypeVar("Call", bound=RoutedCall)

# Ids of replicas, those of the first rank preferred to those of the next. None: any, the router failed.
Ranks: TypeAlias = Sequence[Sequence[str]] | None


@dataclass(frozen=True, slots=True)
class _Pause:
    """No replica that was chosen for the call had a slot, so many times in a row."""

    times: int
    until: float
    wanted: frozenset[str]


class Asked(Generic[Call]):
    """Satisfies `Affinity`."""

    decides_models = True

    def __init__(
        self,
        options: RouterOptions,
        on_forgotten: Callable[[Call], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Calls to ask about, and calls that the router's choice has placed, for whoever runs the router to take.
        self.questions: list[Call] = []
        self.placed: list[tuple[Call, str]] = []
        # The router has not answered in time, and nothing since.
        self.stuck = False
        # It cannot be asked at all.
        self.broken = False
        self._options = options
        self._on_forgotten = on_forgotten
        self._clock = clock
        self._replicas: Mapping[str, Replica] = {}
        # Calls that are being asked about, with the time until which an answer is waited for.
        self._open: dict[Call, float] = {}
        self._answers: dict[Call, Ranks] = {}
        self._pauses: dict[Call, _Pause] = {}

    @property
    def reach(self) -> int:
        return max(1, min(_MAX_REACH, 2 * len(self._replicas)))

    @property
    def undecided(self) -> int:
        return len(self._open) + len(self._answers)

    def replicas_changed(self, replicas: Mapping[str, Replica]) -> None:
        self._replicas = dict(replicas)

    def find(
        self, call: Call, free: Sequence[Replica], random: Callable[[], float], *, patient: bool
    ) -> Replica | None:
        found = self._find(call, free, random)
        if found is not None:
            self._clear(call)
        return found

    def _find(self, call: Call, free: Sequence[Replica], random: Callable[[], float]) -> Replica | None:
        if call in self._answers:
            return self._placed_by(call, self._answers.pop(call), free, random)
        now = self._clock()
        if call in self._open and self._open[call] <= now:
            self.stuck = True
        if self.broken or self.stuck:
            return shorter_of_two(free, random)
        if call not in self._open and self._may_be_asked(call, now):
            self._open[call] = now + ANSWER_TIMEOUT_S
            self.questions.append(call)
        return None

    def take_questions(self) -> list[Call]:
        """The calls to ask about."""
        questions = [call for call in self.questions if call in self._open]
        self.questions.clear()
        return questions

    def answered(self, call: Call, ranks: Ranks) -> None:
        """The router's answer. Nothing happens when the call does not wait for it any more."""
        self.stuck = False
        if self._open.pop(call, None) is not None:
            self._answers[call] = ranks

    def fail(self) -> None:
        """The router cannot be asked: calls are placed without it from now on."""
        self.broken = True
        self._open.clear()

    def forget(self, call: Call) -> None:
        self._clear(call)
        self._on_forgotten(call)

    def _clear(self, call: Call) -> None:
        self._open.pop(call, None)
        self._answers.pop(call, None)
        self._pauses.pop(call, None)

    def wake_at(self) -> float | None:
        now = self._clock()
        times = [*self._open.values(), *(pause.until for pause in self._pauses.values() if pause.until > now)]
        return min(times, default=None)

    def _may_be_asked(self, call: Call, now: float) -> bool:
        pause = self._pauses.get(call)
        return pause is None or pause.until <= now or any(self._is_free(name) for name in pause.wanted)

    def _placed_by(
        self, call: Call, ranks: Ranks, free: Sequence[Replica], random: Callable[[], float]
    ) -> Replica | None:
        if ranks is None:
            return shorter_of_two(free, random)
        for rank in ranks:
            fit = [self._replicas[name] for name in rank if self._is_free(name)]
            if fit:
                found = least_loaded(fit, random)
                self.placed.append((call, found.info.replica_id))
                return found
        before = self._pauses.get(call)
        times = 0 if before is None else before.times + 1
        options = self._options
        # The exponent is bounded, because a float is.
        pause = options.initial_backoff_s * options.backoff_multiplier ** min(times, 64)
        until = self._clock() + min(pause, options.max_backoff_s)
        self._pauses[call] = _Pause(times, until, frozenset(name for rank in ranks for name in rank))
        return None

    def _is_free(self, name: str) -> bool:
        replica = self._replicas.get(name)
        return replica is not None and replica.slot >= 0
