"""What a row of the comparison yields: figures by contender and round, and whether its goals are met."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

# Figures of one contender in one round, by name; the unit is the end of the name.
Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on the median of `figure`: of Swerve's own, or with `ratio` of Swerve's over the peer's in each round."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None
    ratio: bool = True

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bound = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        return f"{bound} x" if self.ratio else bound


@dataclass(frozen=True, slots=True)
class Result:
    """One row. `rounds` has Swerve first; the contenders' samples of one round stand at the same place."""

    name: str
    title: str
    goals: Sequence[Goal] = ()
    rounds: Mapping[str, Sequence[Figures]] = field(default_factory=dict)
    skipped: str = ""

    def values(self, contender: str, figure: str) -> list[float]:
        return [sample[figure] for sample in self.rounds[contender] if figure in sample]

    def compared(self, goal: Goal) -> list[float]:
        """What `goal` bounds, one value a round."""
        ours, *peers = self.rounds
        if not goal.ratio:
            return self.values(ours, goal.figure)
        return [a / b for a, b in zip(self.values(ours, goal.figure), self.values(peers[0], goal.figure), strict=True)]

    def met(self, goal: Goal) -> bool:
        return goal.met(median(self.compared(goal)))
