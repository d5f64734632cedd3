"""How a deployment gets from what runs to its goal, one step: which replicas start, stop, and are reconfigured.

Ray Serve's rules: `rolling_update_percentage` of the replicas, at least one, are updated at a time; they stop, then
their successors start. With `max_surge_percent` the successors start first and old ones stop as the new ones serve.

A new version whose replicas start and soon die would take the place of one that works. So once one has failed, the
update is *wary*: a new replica makes up for an old one only when it has served for a while.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from swerve.control.model import Goal, Replica
from swerve.statuses import ReplicaState


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. `stop` and `reconfigure` are replica ids."""

    start: int = 0
    stop: tuple[str, ...] = ()
    reconfigure: tuple[str, ...] = ()


def batch_size(goal: Goal) -> int:
    """How many replicas an update takes at a time."""
    return max(int(goal.target.options.rolling_update_percentage * goal.num_replicas), 1)


def surge_size(goal: Goal) -> int:
    """How many replicas more than the goal may run during an update."""
    return math.ceil(goal.target.options.max_surge_percent * goal.num_replicas / 100)


def fewest_ready(goal: Goal) -> int:
    """An update stops no replica that serves if fewer than this would be left."""
    return goal.num_replicas if surge_size(goal) else max(goal.num_replicas - batch_size(goal), 0)


def is_ready(replica: Replica) -> bool:
    """Whether the replica takes calls and nothing is being done to it."""
    return replica.serves and replica.state in (ReplicaState.RUNNING, ReplicaState.RECOVERING)


def is_reached(goal: Goal, replicas: Sequence[Replica]) -> bool:
    """Whether exactly what the goal says runs; replicas that are stopping do not count."""
    active = [replica for replica in replicas if replica.state is not ReplicaState.STOPPING]
    return len(active) == goal.num_replicas and all(
        replica.state is ReplicaState.RUNNING
        and replica.version == goal.target.version
        and replica.config_version == goal.target.config_version
        for replica in active
    )


def plan(goal: Goal, replicas: Sequence[Replica], *, wary: bool = False) -> Plan:
    """The next step towards `goal`; an empty plan when it is reached or something must happen first."""
    active = [replica for replica in replicas if replica.state is not ReplicaState.STOPPING]
    current = [replica for replica in active if replica.version == goal.target.version]
    outdated = [replica for replica in active if replica.version != goal.target.version]
    places_held = sum(replica.holds_place for replica in replicas)
    room = goal.num_replicas + surge_size(goal) - len(active) - places_held
    excess = _excess(goal, current)
    staying = [replica for replica in current if replica.id not in excess]
    reconfigure = _to_reconfigure(goal, staying)
    # One that gets a new configuration now may refuse it.
    proven = [item for item in staying if item.id not in reconfigure and (not wary or item.stable_at is None)]
    return Plan(
        start=max(0, min(goal.num_replicas - len(current), room)),
        stop=(*excess, *_outdated_to_stop(goal, outdated, proven)),
        reconfigure=reconfigure,
    )


def _excess(goal: Goal, current: Sequence[Replica]) -> tuple[str, ...]:
    """Those that do not serve yet go first, then the highest ranks."""
    by_worth = sorted(current, key=lambda replica: (not is_ready(replica), replica.rank), reverse=True)
    return tuple(replica.id for replica in by_worth[: max(0, len(current) - goal.num_replicas)])


def _outdated_to_stop(goal: Goal, outdated: Sequence[Replica], proven: Sequence[Replica]) -> tuple[str, ...]:
    """`proven` are those that make up for an old one, if they are ready."""
    ready = [replica.id for replica in outdated if replica.serves]
    unready = [replica.id for replica in outdated if not replica.serves]
    spare = sum(is_ready(replica) for replica in (*outdated, *proven)) - fewest_ready(goal)
    return (*unready, *ready[: max(0, spare)])


def _to_reconfigure(goal: Goal, current: Sequence[Replica]) -> tuple[str, ...]:
    under_way = sum(replica.state is ReplicaState.UPDATING for replica in current)
    stale = [
        replica.id
        for replica in sorted(current, key=lambda replica: replica.rank)
        if replica.state is ReplicaState.RUNNING and replica.config_version != goal.target.config_version
    ]
    return tuple(stale[: max(0, batch_size(goal) - under_way)])
