"""Who serves a call: the choice among replicas that have a free slot. Pure, but for the turns of `RoundRobin`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from swerve.routing.replicas import Replica, with_model

# One of several replicas, for a call that may go to any of them. The second argument gives numbers in [0, 1).
Pick: TypeAlias = Callable[[Sequence[Replica], Callable[[], float]], Replica]


def shorter_of_two(free: Sequence[Replica], random: Callable[[], float]) -> Replica:
    """Power of two choices: of two replicas picked at random, the one with fewer calls running.

    `free` is not empty; `random` gives numbers in [0, 1).
    """
    count = len(free)
    if count == 1:
        return free[0]
    first = int(random() * count)
    second = int(random() * (count - 1))
    if second >= first:
        second += 1
    a, b = free[first], free[second]
    return b if b.ongoing < a.ongoing else a


def least_loaded(free: Sequence[Replica], random: Callable[[], float]) -> Replica:
    """The replica with the fewest calls running, one of them at random. Looks at all: for few replicas."""
    fewest = min(replica.ongoing for replica in free)
    least = [replica for replica in free if replica.ongoing == fewest]
    return least[int(random() * len(least))]


class RoundRobin:
    """Each replica in its turn; one that is busy then is passed over. New ones come first, in random order."""

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = 0

    def __call__(self, free: Sequence[Replica], random: Callable[[], float]) -> Replica:
        chosen = min(free, key=lambda replica: replica.turn or random())
        self._turn += 1
        chosen.turn = self._turn
        return chosen


def for_model(
    free: Sequence[Replica],
    everyone: Sequence[Replica],
    model_id: str,
    *,
    patient: bool,
    random: Callable[[], float],
    pick: Pick = shorter_of_two,
) -> Replica | None:
    """The replica for a call that names a model: one that has it, else the one with the fewest models.

    None when only busy replicas have the model and the call is still `patient`: loading a model takes longer than
    waiting for a slot (Ray Serve: a matching window, then the fewest models).
    """
    if not free:
        return None
    holders = with_model(free, model_id)
    if holders:
        return pick(holders, random)
    if patient and any(model_id in replica.info.model_ids for replica in everyone):
        return None
    fewest = min(len(replica.info.model_ids) for replica in free)
    return pick([replica for replica in free if len(replica.info.model_ids) == fewest], random)
