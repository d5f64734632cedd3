"""What a row of the comparison yields: figures by side and round, and whether its goals are met."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

# Figures of one side in one round, by name; the unit is the end of the name.
Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on the median of `figure` of `side` (by default the row's first), or of its ratio to that of `over`."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None
    over: str = ""
    side: str = ""

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bound = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        return f"{bound} x" if self.over else bound


@dataclass(frozen=True, slots=True)
class Result:
    """One row. The sides' samples of one round stand at the same place.

    `skipped` says why a row was not run, `absent` why a side of it was not; goals that need such a side are not judged.
    `failure` says what broke the row off.
    """

    name: str
    title: str
    goals: Sequence[Goal] = ()
    rounds: Mapping[str, Sequence[Figures]] = field(default_factory=dict)
    skipped: str = ""
    failure: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def judged(self) -> list[Goal]:
        """The goals whose sides have been measured."""
        return [
            goal
            for goal in self.goals
            if self.rounds and self.side(goal) in self.rounds and (not goal.over or goal.over in self.rounds)
        ]

    def side(self, goal: Goal) -> str:
        return goal.side or next(iter(self.rounds))

    def values(self, side: str, figure: str) -> list[float]:
        return [sample[figure] for sample in self.rounds[side] if figure in sample]

    def compared(self, goal: Goal) -> list[float]:
        """What `goal` bounds, one value a round."""
        ours = self.values(self.side(goal), goal.figure)
        if not goal.over:
            return ours
        return [a / b for a, b in zip(ours, self.values(goal.over, goal.figure), strict=True)]

    def met(self, goal: Goal) -> bool:
        return goal.met(median(self.compared(goal)))

    @property
    def passed(self) -> bool:
        return not self.failure and all(self.met(goal) for goal in self.judged)
