"""Who serves a call: the choice among replicas that have a free slot. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from swerve.routing.replicas import Replica, with_model


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


def for_model(
    free: Sequence[Replica], everyone: Sequence[Replica], model_id: str, *, patient: bool, random: Callable[[], float]
) -> Replica | None:
    """The replica for a call that names a model: one that has it, else the one with the fewest models.

    None when only busy replicas have the model and the call is still `patient`: loading a model takes longer than
    waiting for a slot (Ray Serve: a matching window, then the fewest models).
    """
    if not free:
        return None
    holders = with_model(free, model_id)
    if holders:
        return shorter_of_two(holders, random)
    if patient and any(model_id in replica.info.model_ids for replica in everyone):
        return None
    fewest = min(len(replica.info.model_ids) for replica in free)
    return shorter_of_two([replica for replica in free if len(replica.info.model_ids) == fewest], random)
