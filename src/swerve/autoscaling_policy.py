"""What decides how many replicas a deployment has: the default policy, and what every policy is told.

A policy is a function of an `AutoscalingContext`, or a class whose instances are one, that returns the wished number of
replicas and a dict, which it finds in `policy_state` next time. Swerve applies factors, delays and bounds to the wish.
An application's policy takes a dict of contexts by `DeploymentID` and returns two dicts. Names and formulas are Ray
Serve's (`ray.serve.autoscaling_policy`, 2.60).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from swerve.deployment_id import DeploymentID

__all__ = [
    "AutoscalingContext",
    "DeploymentID",
    "TimeStampedValue",
    "default_autoscaling_policy",
    "replica_queue_length_autoscaling_policy",
]


class ScalingConfig(Protocol):
    """What the default policy reads of `swerve.config.AutoscalingConfig`."""

    def get_target_ongoing_requests(self) -> float: ...
    def get_upscaling_factor(self) -> float: ...
    def get_downscaling_factor(self) -> float: ...


@dataclass(frozen=True, slots=True)
class TimeStampedValue:
    """`timestamp` is in seconds since the epoch."""

    timestamp: float
    value: float


@dataclass(frozen=True, slots=True)
class AutoscalingContext:
    """A deployment at one moment. Times are in seconds since the epoch, None when there was no such event.

    `total_num_requests` (running and waiting) and `total_queued_requests` (waiting) are aggregated over
    `look_back_period_s` by the deployment's `aggregation_function`. The metrics are what `record_autoscaling_stats` of
    the running replicas returned: by name, then by replica.
    """

    deployment_id: DeploymentID
    deployment_name: str
    app_name: str
    current_num_replicas: int
    target_num_replicas: int
    running_replicas: Sequence[str]
    total_num_requests: float
    total_queued_requests: float
    aggregated_metrics: Mapping[str, Mapping[str, float]]
    raw_metrics: Mapping[str, Mapping[str, Sequence[TimeStampedValue]]]
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    policy_state: dict[str, Any]
    last_scale_up_time: float | None
    last_scale_down_time: float | None
    current_time: float
    # A `swerve.config.AutoscalingConfig` in a policy of the user's.
    config: Any

    @property
    def total_running_requests(self) -> float:
        return max(0.0, self.total_num_requests - self.total_queued_requests)


def cold_start_replicas(ctx: AutoscalingContext) -> int | None:
    """How many replicas to start at once when none runs and a call waits; None when that is not so."""
    if ctx.current_num_replicas == 0 and ctx.total_num_requests > 0:
        config: ScalingConfig = ctx.config
        return max(math.ceil(config.get_upscaling_factor()), ctx.target_num_replicas)
    return None


def default_autoscaling_policy(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As many replicas as bring the requests at each to `target_ongoing_requests`."""
    cold = cold_start_replicas(ctx)
    if cold is not None:
        return cold, ctx.policy_state
    running = ctx.current_num_replicas
    if running == 0:
        return ctx.target_num_replicas, {}
    return running * (ctx.total_num_requests / (ctx.config.get_target_ongoing_requests() * running)), {}


replica_queue_length_autoscaling_policy = default_autoscaling_policy
