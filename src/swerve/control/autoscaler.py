"""The autoscaled deployments as they are watched: their loads, waiting wishes, and what policies remember.

Synchronous, with times given. None of it is stored: a controller that starts anew hears of every load within a second
and decides nothing about a deployment while one of its replicas has not been heard of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from swerve.autoscaling_policy import AutoscalingContext, TimeStampedValue
from swerve.control import autoscale
from swerve.control.autoscale import Delay, Scaling
from swerve.control.load import Load
from swerve.control.model import Deployment, DeploymentKey, State
from swerve.control.target import DeploymentTarget
from swerve.deployment_id import DeploymentID
from swerve.statuses import ReplicaState

PROXY = "proxy"
REPLICA = "replica"


@dataclass(slots=True)
class _Watched:
    """One autoscaled deployment. Times of day are in seconds since the epoch."""

    target: DeploymentTarget
    scaling: Scaling
    load: Load
    delay: Delay = autoscale.NO_WISH
    policy_state: dict[str, Any] = field(default_factory=dict)
    last_scale_up_s: float | None = None
    last_scale_down_s: float | None = None


class Autoscaler:
    """Of one instance."""

    def __init__(self) -> None:
        self._watched: dict[DeploymentKey, _Watched] = {}

    @property
    def active(self) -> bool:
        """Whether any deployment is autoscaled."""
        return bool(self._watched)

    # -- what is heard ------------------------------------------------------------------------------------------------

    def follow(self, state: State, now: float) -> None:
        """The state has changed: watch what is autoscaled, forget what is gone."""
        wanted = {key: item for key, item in state.deployments.items() if _is_autoscaled(item)}
        for key in self._watched.keys() - wanted.keys():
            del self._watched[key]
        if not wanted:
            return
        serving: dict[DeploymentKey, set[str]] = {key: set() for key in wanted}
        for replica in state.replicas.values():
            if replica.serves and replica.key in serving:
                serving[replica.key].add(replica.id)
        for key, deployment in wanted.items():
            watched = self._watch(key, deployment.goal.target)
            callers = {caller for caller in watched.load.callers if _may_call(state, caller)}
            watched.load.keep(serving[key], callers, now)

    def _watch(self, key: DeploymentKey, target: DeploymentTarget) -> _Watched:
        watched = self._watched.get(key)
        scaling = target.scaling
        assert scaling is not None
        if watched is None:
            watched = self._watched[key] = _Watched(target, scaling, Load(scaling.look_back_period_s))
        elif watched.target is not target:
            # Deployed anew: what was wished and remembered was another policy's.
            watched.load.look_back(scaling.look_back_period_s)
            watched.target, watched.scaling = target, scaling
            watched.delay, watched.policy_state = autoscale.NO_WISH, {}
        return watched

    def replica_reported(
        self, state: State, replica_id: str, ongoing: int, stats: Mapping[str, float], now: float
    ) -> None:
        """So many calls run in a replica."""
        replica = state.replicas.get(replica_id)
        if replica is not None and replica.serves and (watched := self._watched.get(replica.key)) is not None:
            watched.load.runs(replica_id, ongoing, stats, now)

    def caller_reported(self, kind: str, ident: str, queues: Mapping[DeploymentKey, int], now: float) -> None:
        """So many calls wait in a proxy, a replica or a program; none for the deployments that are not named."""
        for key, watched in self._watched.items():
            watched.load.waits(f"{kind}:{ident}", queues.get(key, 0), now)

    # -- what follows -------------------------------------------------------------------------------------------------

    def due(self, state: State) -> list[DeploymentKey]:
        """The deployments about which something can be decided now."""
        if state.stopping:
            return []
        unheard = {item.key for item in state.replicas.values() if item.state is ReplicaState.RECOVERING}
        return [key for key in self._watched if key not in unheard and state.deployments[key].serving_goal is not None]

    def context(self, state: State, key: DeploymentKey, now: float, time_s: float) -> AutoscalingContext:
        """What a policy is told of a deployment; `time_s` is the time of day."""
        watched = self._watched[key]
        load, scaling = watched.load, watched.scaling
        load.expire(now)
        function = scaling.aggregation_function
        running = [item.id for item in state.replicas_of(key) if item.serves]
        limits = autoscale.bounds(scaling, state.capacity_of(key.app))
        aggregated = {
            name: {replica_id: series.aggregate(function, now) for replica_id, series in by_replica.items()}
            for name, by_replica in load.metrics.items()
        }
        raw = {
            name: {
                replica_id: [TimeStampedValue(time_s - now + at, value) for at, value in series.points()]
                for replica_id, series in by_replica.items()
            }
            for name, by_replica in load.metrics.items()
        }
        return AutoscalingContext(
            deployment_id=DeploymentID(key.name, key.app),
            deployment_name=key.name,
            app_name=key.app,
            current_num_replicas=len(running),
            target_num_replicas=_target_num_replicas(state.deployments[key]),
            running_replicas=running,
            total_num_requests=load.total.aggregate(function, now),
            total_queued_requests=load.queued.aggregate(function, now),
            aggregated_metrics=aggregated,
            raw_metrics=raw,
            capacity_adjusted_min_replicas=limits.low,
            capacity_adjusted_max_replicas=limits.high,
            policy_state=dict(watched.policy_state),
            last_scale_up_time=watched.last_scale_up_s,
            last_scale_down_time=watched.last_scale_down_s,
            current_time=time_s,
            config=scaling,
        )

    def decide(
        self, key: DeploymentKey, ctx: AutoscalingContext, wish: float, remembered: dict[str, Any], now: float
    ) -> int | None:
        """The number of replicas that follows from the policy's wish; None: as many as there are to be already.

        Raises:
            ValueError, OverflowError, TypeError: the wish is no finite number.
        """
        watched = self._watched.get(key)
        if watched is None:
            return None
        number, watched.delay = autoscale.settle(ctx, wish, watched.scaling, watched.delay, now)
        watched.policy_state = remembered
        if number == ctx.target_num_replicas:
            return None
        if number > ctx.target_num_replicas:
            watched.last_scale_up_s = ctx.current_time
        else:
            watched.last_scale_down_s = ctx.current_time
        return number

    def targets(self) -> Iterator[tuple[DeploymentKey, DeploymentTarget]]:
        """What is autoscaled."""
        return ((key, watched.target) for key, watched in self._watched.items())


def _is_autoscaled(deployment: Deployment) -> bool:
    return deployment.goal.target.scaling is not None and not deployment.deleting


def _may_call(state: State, caller: str) -> bool:
    """Whether a process of the instance still runs; of programs outside only their silence tells."""
    kind, _, ident = caller.partition(":")
    if kind == PROXY:
        return ident in state.proxies
    return kind != REPLICA or ident in state.replicas


def _target_num_replicas(deployment: Deployment) -> int:
    goal = deployment.serving_goal or deployment.goal
    return goal.num_replicas
