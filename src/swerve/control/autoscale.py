"""The arithmetic of autoscaling: bounds, factors and delays around a policy's wish. Pure, times are given.

Source: Ray Serve 2.60's default policy. The wish of any policy, the user's too, goes through `settle`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from swerve.autoscaling_policy import AutoscalingContext, cold_start_replicas

# Differences of clock readings may be this much short of a delay that has passed.
_ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True)
class Scaling:
    """`swerve.config.AutoscalingConfig` without its policy; factors and the delay to zero are the effective ones."""

    min_replicas: int
    max_replicas: int
    initial_replicas: int | None
    target_ongoing_requests: float
    look_back_period_s: float
    aggregation_function: str
    upscaling_factor: float
    downscaling_factor: float
    upscale_delay_s: float
    downscale_delay_s: float
    downscale_to_zero_delay_s: float

    @staticmethod
    def of(config: Mapping[str, Any]) -> Scaling:
        """From the JSON of a complete `AutoscalingConfig`.

        Raises:
            KeyError: it is not complete.
        """
        to_zero = config["downscale_to_zero_delay_s"]
        return Scaling(
            min_replicas=config["min_replicas"],
            max_replicas=config["max_replicas"],
            initial_replicas=config["initial_replicas"],
            target_ongoing_requests=config["target_ongoing_requests"],
            look_back_period_s=config["look_back_period_s"],
            aggregation_function=config["aggregation_function"],
            # The smoothing factors are the deprecated names of these.
            upscaling_factor=config["upscaling_factor"]
            or config["upscale_smoothing_factor"]
            or config["smoothing_factor"],
            downscaling_factor=config["downscaling_factor"]
            or config["downscale_smoothing_factor"]
            or config["smoothing_factor"],
            upscale_delay_s=config["upscale_delay_s"],
            downscale_delay_s=config["downscale_delay_s"],
            downscale_to_zero_delay_s=config["downscale_delay_s"] if to_zero is None else to_zero,
        )

    def get_target_ongoing_requests(self) -> float:
        return self.target_ongoing_requests

    def get_upscaling_factor(self) -> float:
        return self.upscaling_factor

    def get_downscaling_factor(self) -> float:
        return self.downscaling_factor


@dataclass(frozen=True, slots=True)
class Bounds:
    """The fewest and the most replicas."""

    low: int
    high: int

    def clamp(self, number: int) -> int:
        return max(self.low, min(self.high, number))


@dataclass(frozen=True, slots=True)
class Delay:
    """A wish that waits to come true: up (1) or down (-1), wished without a break `since` this time; 0: none."""

    direction: int = 0
    since: float = 0.0


NO_WISH = Delay()


def at_capacity(number: int, target_capacity: float | None) -> int:
    """`number` of replicas at so many percent (None: all), rounded half up; 0 only when one of them is 0."""
    if target_capacity is None or target_capacity == 100 or number == 0:
        return number
    if target_capacity == 0:
        return 0
    exact = Decimal(number) * Decimal(target_capacity) / 100
    return max(1, int(exact.to_integral_value(rounding=ROUND_HALF_UP)))


def bounds(scaling: Scaling, target_capacity: float | None) -> Bounds:
    """Between which numbers a deployment's replicas are kept."""
    return Bounds(
        at_capacity(scaling.min_replicas, target_capacity), at_capacity(scaling.max_replicas, target_capacity)
    )


def initial_replicas(scaling: Scaling, limits: Bounds, current: int, *, changed: bool) -> int:
    """How many replicas a deployment begins with when it is deployed; `current` is its number before."""
    if changed and scaling.initial_replicas is not None:
        current = scaling.initial_replicas
    return limits.clamp(current)


def apply_factors(wish: float, running: int, scaling: Scaling) -> int:
    """`wish` with its difference to what runs multiplied; a wish for fewer never comes to nothing."""
    difference = wish - running
    factor = scaling.upscaling_factor if difference > 0 else scaling.downscaling_factor
    if running == 0 or factor == 1:
        # As it is: in the difference to what runs a very small wish would be lost.
        return math.ceil(wish)
    scaled = math.ceil(running + factor * difference)
    if scaled == running and math.ceil(wish) < running:
        scaled -= 1
    return scaled


def apply_delay(wish: int, target: int, scaling: Scaling, delay: Delay, now: float) -> tuple[int, Delay]:
    """The number for now, and the wish that goes on waiting. Only one replica can become none."""
    if wish == target:
        return target, NO_WISH
    direction = 1 if wish > target else -1
    if delay.direction != direction:
        delay = Delay(direction, now)
    if direction > 0:
        wait_s = scaling.upscale_delay_s
    elif target == 1:
        wait_s = scaling.downscale_to_zero_delay_s
    else:
        wait_s = scaling.downscale_delay_s
        wish = max(1, wish)
    if now - delay.since + _ROUNDING_S < wait_s:
        return target, delay
    return wish, NO_WISH


def settle(ctx: AutoscalingContext, wish: float, scaling: Scaling, delay: Delay, now: float) -> tuple[int, Delay]:
    """The number of replicas that follows from a policy's wish, and the wish that goes on waiting.

    Raises:
        ValueError, OverflowError, TypeError: the wish is no finite number.
    """
    limits = Bounds(ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas)
    cold = cold_start_replicas(ctx)
    if cold is not None:
        return limits.clamp(cold), delay
    scaled = apply_factors(wish, ctx.current_num_replicas, scaling)
    if ctx.current_num_replicas == 0 and scaled > 0:
        return limits.clamp(scaled), delay
    number, delay = apply_delay(max(0, scaled), ctx.target_num_replicas, scaling, delay, now)
    return limits.clamp(number), delay
