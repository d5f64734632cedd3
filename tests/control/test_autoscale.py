"""The arithmetic of autoscaling, and the loads that it goes by."""

import math
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from swerve.autoscaling_policy import AutoscalingContext, DeploymentID, default_autoscaling_policy
from swerve.config import AutoscalingConfig
from swerve.control import autoscale
from swerve.control.autoscale import NO_WISH, Bounds, Scaling
from swerve.control.load import STALE_S, Load, Series


def scaling(**options):
    return Scaling.of(AutoscalingConfig(**{"max_replicas": 100, **options}).model_dump())


def context(total=0.0, running=1, target=None, config=None, **fields):
    config = config or scaling()
    limits = autoscale.bounds(config, None)
    return AutoscalingContext(
        **{
            "deployment_id": DeploymentID("Model", "app"),
            "deployment_name": "Model",
            "app_name": "app",
            "current_num_replicas": running,
            "target_num_replicas": running if target is None else target,
            "running_replicas": [f"r{number}" for number in range(running)],
            "total_num_requests": total,
            "total_queued_requests": 0.0,
            "aggregated_metrics": {},
            "raw_metrics": {},
            "capacity_adjusted_min_replicas": limits.low,
            "capacity_adjusted_max_replicas": limits.high,
            "policy_state": {},
            "last_scale_up_time": None,
            "last_scale_down_time": None,
            "current_time": 0.0,
            "config": config,
            **fields,
        }
    )


def settled(ctx, delay=NO_WISH, now=0.0):
    """The number, and the wish that waits, by the default policy."""
    return autoscale.settle(ctx, default_autoscaling_policy(ctx)[0], ctx.config, delay, now)


AT_ONCE = {"upscale_delay_s": 0, "downscale_delay_s": 0}


@pytest.mark.parametrize(
    ("total", "running", "options", "expected"),
    [
        # ceil(total / target_ongoing_requests)
        (9, 2, {}, 5),
        (10, 2, {}, 5),
        (2, 5, {}, 1),
        (3, 5, {"target_ongoing_requests": 0.5}, 6),
        # ceil(running + factor * (raw - running))
        (20, 2, {"upscaling_factor": 0.5}, 6),
        (20, 2, {"upscaling_factor": 2}, 18),
        (4, 10, {"downscaling_factor": 0.5}, 6),
        # ceil(5 - 0.1) changes nothing, so one less
        (8, 5, {"downscaling_factor": 0.1}, 4),
        (20, 2, {"smoothing_factor": 0.5}, 6),
        (20, 2, {"smoothing_factor": 3, "upscale_smoothing_factor": 0.5}, 6),
        (4, 10, {"smoothing_factor": 3, "downscale_smoothing_factor": 0.5}, 6),
        # Bounds.
        (1000, 2, {"max_replicas": 7}, 7),
        (1, 5, {"min_replicas": 3}, 3),
    ],
)
def test_the_default_policy(total, running, options, expected):
    config = scaling(**AT_ONCE, **options)
    assert settled(context(total, running, config=config))[0] == expected


def test_it_gives_the_same_for_the_users_own_config_object():
    config = AutoscalingConfig(max_replicas=9, upscaling_factor=3)
    assert default_autoscaling_policy(context(9, 2, config=config, **_limits(9)))[0] == 4.5
    assert default_autoscaling_policy(context(1, 0, config=config, **_limits(9)))[0] == 3


def _limits(high):
    return {"capacity_adjusted_min_replicas": 1, "capacity_adjusted_max_replicas": high} if high else {}


@pytest.mark.parametrize(
    ("factor", "target", "expected"), [(1, 0, 1), (0.3, 0, 1), (2.5, 0, 3), (1, 4, 4), (200, 0, 100)]
)
def test_from_none_replicas_start_at_once_when_a_call_waits(factor, target, expected):
    config = scaling(min_replicas=0, upscaling_factor=factor, upscale_delay_s=1000)
    assert settled(context(0.001, 0, target, config))[0] == expected


def test_with_none_and_no_calls_nothing_changes():
    config = scaling(min_replicas=0, **AT_ONCE)
    assert settled(context(0, 0, 0, config))[0] == 0
    assert settled(context(0, 0, 3, config))[0] == 3


def test_a_wish_waits_for_its_delay_without_a_break():
    config = scaling(upscale_delay_s=10, downscale_delay_s=20)
    more, none = context(8, 1, config=config), context(2, 1, config=config)
    number, delay = settled(more, now=100)
    assert number == 1
    assert settled(more, delay, 109.9)[0] == 1
    assert settled(more, delay, 110) == (4, NO_WISH)
    # Broken at 105: the clock starts anew.
    _, broken = settled(none, delay, 105)
    assert broken == NO_WISH
    number, delay = settled(more, broken, 106)
    assert settled(more, delay, 115)[0] == 1
    assert settled(more, delay, 116)[0] == 4


def test_a_wish_for_fewer_ends_one_for_more():
    config = scaling(upscale_delay_s=10, downscale_delay_s=20)
    _, delay = settled(context(80, 4, config=config), now=0)
    _, delay = settled(context(2, 4, config=config), delay, 5)
    assert settled(context(2, 4, config=config), delay, 24)[0] == 4
    assert settled(context(2, 4, config=config), delay, 25)[0] == 1


def test_only_one_replica_becomes_none_after_a_delay_of_its_own():
    config = scaling(min_replicas=0, downscale_delay_s=10, downscale_to_zero_delay_s=100)
    four, one = context(0, 4, config=config), context(0, 1, config=config)
    _, delay = settled(four, now=0)
    assert settled(four, delay, 10) == (1, NO_WISH)
    _, delay = settled(one, now=10)
    assert settled(one, delay, 109)[0] == 1
    assert settled(one, delay, 110)[0] == 0


def test_without_one_the_delay_to_zero_is_that_of_any_downscaling():
    config = scaling(min_replicas=0, downscale_delay_s=10)
    _, delay = settled(context(0, 1, config=config), now=0)
    assert settled(context(0, 1, config=config), delay, 10)[0] == 0


@pytest.mark.parametrize(
    ("number", "capacity", "expected"),
    [
        (10, None, 10),
        (10, 100, 10),
        (10, 50, 5),
        (5, 50, 3),
        (3, 50, 2),
        (1, 1, 1),
        (10, 0, 0),
        (0, 50, 0),
        (7, 33.3, 2),
    ],
)
def test_target_capacity_rounds_half_up_and_leaves_one(number, capacity, expected):
    assert autoscale.at_capacity(number, capacity) == expected


def test_bounds_follow_the_target_capacity():
    assert autoscale.bounds(scaling(min_replicas=4, max_replicas=10), 50) == Bounds(2, 5)
    assert autoscale.bounds(scaling(min_replicas=0, max_replicas=10), 1) == Bounds(0, 1)
    assert autoscale.bounds(scaling(min_replicas=4, max_replicas=10), 0) == Bounds(0, 0)


@pytest.mark.parametrize("wish", [math.nan, math.inf, "many", None])
def test_a_wish_that_is_no_number_is_refused(wish):
    with pytest.raises((ValueError, OverflowError, TypeError)):
        autoscale.settle(context(), wish, scaling(), NO_WISH, 0.0)


numbers = st.integers(0, 50)


@given(
    numbers,
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(1, 30),
    st.floats(-10, 1000),
    st.sampled_from([None, 0.0, 10.0, 60.0, 100.0]),
    st.floats(0.01, 10),
)
def test_whatever_is_wished_the_number_is_within_bounds(running, low, more, target, wish, capacity, factor):
    config = scaling(
        min_replicas=low, max_replicas=max(1, low + more), upscaling_factor=factor, downscaling_factor=factor, **AT_ONCE
    )
    limits = autoscale.bounds(config, capacity)
    ctx = replace(
        context(running, running, target, config),
        capacity_adjusted_min_replicas=limits.low,
        capacity_adjusted_max_replicas=limits.high,
    )
    number, delay = autoscale.settle(ctx, wish, config, NO_WISH, 0.0)
    assert limits.low <= number <= limits.high
    assert delay == NO_WISH


@given(st.integers(1, 50), st.floats(0, 200), st.floats(0.01, 1))
@example(running=1, wish=1e-38, factor=1.0)
def test_factors_keep_the_direction_and_move_at_least_one(running, wish, factor):
    config = scaling(upscaling_factor=factor, downscaling_factor=factor)
    scaled = autoscale.apply_factors(wish, running, config)
    if wish > running:
        assert running < scaled <= math.ceil(wish)
    elif math.ceil(wish) < running:
        assert math.floor(wish) <= scaled < running
    else:
        assert scaled == running


# ---------------------------------------------------------------------------------------------------------------------
# Loads

# Seconds between changes, well above what counts as the same moment.
steps = st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 9)), min_size=1, max_size=20)


@given(steps, st.floats(0, 30), st.floats(1, 60))
def test_the_mean_is_that_of_the_step_function(changes, pause, look_back_s):
    series, now, points = Series(look_back_s), 100.0, []
    for gap, value in changes:
        now += gap
        series.set(value, now)
        points.append((now, value))
    now += pause
    start = max(points[0][0], now - look_back_s)
    assume(now - start > 0.01)
    ends = [at for at, _ in points[1:]] + [now]
    area = sum(value * max(0.0, end - max(at, start)) for (at, value), end in zip(points, ends, strict=True))
    assert series.aggregate("mean", now) == pytest.approx(area / (now - start), abs=1e-6)
    held = [value for (at, value), end in zip(points, ends, strict=True) if end > start]
    assert series.aggregate("max", now) == max([*held, points[-1][1]])
    assert series.aggregate("min", now) == min([*held, points[-1][1]])
    # What the time looked at does not need is forgotten.
    assert sum(at < now - look_back_s for at, _ in series.points()) <= 1


def test_a_load_that_was_none_for_long_enough_is_exactly_none():
    series = Series(30)
    series.set(7, 0)
    series.set(0, 10)
    assert series.aggregate("mean", 39.9) > 0
    assert series.aggregate("mean", 40) == 0


def test_many_changes_in_a_moment_are_one():
    series = Series(30)
    for number in range(10_000):
        series.set(number % 7, number / 10_000)
    assert len(list(series.points())) <= 101


def test_what_runs_and_what_waits_is_added_up():
    load = Load(30)
    load.runs("r1", 2, {}, 0)
    load.runs("r2", 3, {}, 0)
    load.waits("proxy:p", 4, 0)
    load.waits("driver:1", 1, 0)
    assert load.total.aggregate("max", 1) == 10
    assert load.queued.aggregate("max", 1) == 5
    load.keep({"r1"}, {"driver:1"}, 2)
    assert load.total.aggregate("mean", 4) == (10 * 2 + 3 * 2) / 4


def test_a_caller_that_fell_silent_is_forgotten():
    load = Load(30)
    load.waits("driver:1", 4, 0)
    load.expire(STALE_S - 0.1)
    assert load.callers == {"driver:1"}
    load.expire(STALE_S)
    assert not load.callers
    assert load.total.aggregate("mean", STALE_S + 30) == 0
