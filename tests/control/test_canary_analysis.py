"""When a canary has failed too often, as a table of counts and times."""

from dataclasses import replace

import pytest
from control_support import World, application, new_canary, target
from hypothesis import given
from hypothesis import strategies as st

from swerve.config import CanaryOptions
from swerve.control.analysis import Analysis, Limits, Verdict, Window, judge
from swerve.control.events import RollBackCanary
from swerve.control.model import DECLARATIVE, Ended

LIMITS = Limits(max_error_percent=10, min_calls=20, window_s=60, for_s=5)
NOT_YET = Verdict(exceeded_since=100.0)


@pytest.mark.parametrize(
    ("ended", "before", "now", "after"),
    [
        # No calls, few calls, calls that are well, calls at the limit.
        (Ended(0, 0), Verdict(), 100, Verdict()),
        (Ended(19, 19), Verdict(), 100, Verdict()),
        (Ended(1000, 50), Verdict(), 100, Verdict()),
        (Ended(20, 2), Verdict(), 100, Verdict()),
        # Over it: the time runs from when that was first seen.
        (Ended(20, 3), Verdict(), 100, NOT_YET),
        (Ended(25, 25), NOT_YET, 104.9, NOT_YET),
        # And is forgotten when it gets better, or there are too few calls to tell.
        (Ended(40, 4), NOT_YET, 104.9, Verdict()),
        (Ended(19, 19), NOT_YET, 105, Verdict()),
    ],
)
def test_a_canary_stays(ended, before, now, after):
    assert judge(LIMITS, ended, before, now) == after


@pytest.mark.parametrize(("ended", "now"), [(Ended(20, 3), 105), (Ended(500, 500), 300)])
def test_a_canary_must_go(ended, now):
    verdict = judge(LIMITS, ended, NOT_YET, now)
    assert verdict.exceeded_since == 100
    assert verdict.reason.startswith(
        f"{ended.errors} of {ended.calls} calls ({ended.error_percent:.1f} %) of the last 60 s"
    )
    assert f"more than 10 % did for {now - 100:.1f} s" in verdict.reason


def test_without_a_wait_it_goes_at_once():
    assert judge(replace(LIMITS, for_s=0), Ended(20, 3), Verdict(), 7).reason


def test_the_limits_are_those_of_the_options():
    options = CanaryOptions(rollback={"max_error_percent": 10, "min_calls": 20})
    assert Limits.of(options.model_dump_json()) == LIMITS
    assert Limits.of(CanaryOptions(rollback=None).model_dump_json()) is None


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 9), st.integers(0, 9)), max_size=300))
def test_a_window_counts_what_ended_within_it(steps):
    window, now, all_ended = Window(60), 0.0, []
    for wait, well, badly in steps:
        now += wait
        ended = Ended(well + badly, badly)
        window.add(ended, now)
        all_ended.append((now, ended))
    total = window.total(now)
    # Parts of a second leave together.
    longest = sum(ended.calls for at, ended in all_ended if at > now - 60)
    shortest = sum(ended.calls for at, ended in all_ended if at > now - 59)
    assert shortest <= total.calls <= longest
    assert total.errors <= total.calls
    assert len(window._parts) <= 61


class Watch:
    """An application with a canary, and what its proxies report."""

    def __init__(self, **rollback):
        self.world = World()
        self.world.deploy(application())
        self.world.run()
        self.analysis = Analysis()
        self.start("v2", **rollback)
        self.now = 0.0

    def start(self, version, **rollback):
        self.world.start_canary(new_canary(options={"rollback": rollback or None}, Model=target(version)))
        self.world.run()
        self.analysis.follow(self.world.state)

    @property
    def release(self):
        return self.world.canary().application.release

    def ended(self, calls, errors, release=None):
        self.analysis.ended("app", self.release if release is None else release, Ended(calls, errors), self.now)

    def reasons(self):
        return [reason for _, _, reason in self.analysis.decide(self.now)]


def test_a_canary_is_judged_by_its_own_calls():
    watch = Watch(min_calls=10, for_s=0)
    watch.ended(100, 100, release="")
    watch.ended(100, 0)
    assert watch.reasons() == []
    assert watch.analysis.counts(watch.now)["app"] == (Ended(100, 0), Ended(100, 100))
    watch.ended(10, 10)
    assert watch.reasons()


def test_errors_that_are_long_past_do_not_count():
    watch = Watch(min_calls=10, for_s=3)
    watch.ended(20, 20)
    assert watch.reasons() == []
    watch.now += 100
    assert watch.reasons() == []
    watch.ended(20, 20)
    assert watch.reasons() == []
    watch.now += 3
    assert watch.reasons()


def test_another_canary_begins_without_the_errors_of_the_last():
    watch = Watch(min_calls=10, for_s=0)
    watch.ended(20, 20)
    first = watch.release
    watch.start("v3", min_calls=10, for_s=0)
    watch.ended(20, 20, release=first)
    assert watch.reasons() == []


def test_one_that_is_rolled_back_is_looked_at_no_more():
    watch = Watch(min_calls=10, for_s=0)
    assert watch.analysis.active
    watch.world.feed(RollBackCanary(0, "app", "Because."))
    watch.analysis.follow(watch.world.state)
    assert not watch.analysis.active
    watch.analysis.ended("app", "", Ended(1, 1), 0)
    assert watch.analysis.counts(0) == {}


def test_one_that_fails_after_it_has_run_shows_what_was_counted():
    world, analysis = World(), Analysis()
    canary = new_canary(Model=target("v2", num_replicas=2))
    canary = replace(canary, application=replace(canary.application, source=DECLARATIVE))
    world.deploy(application(), declarative=True, capacity=50, canaries=(canary,))
    world.run()
    analysis.follow(world.state)
    analysis.ended("app", world.canary().application.release, Ended(20, 5), world.now)
    analysis.ended("app", "", Ended(80, 1), world.now)
    world.broken.add("v2")
    world.deploy(application(), declarative=True, capacity=100, canaries=(canary,))
    world.run()
    world.pass_time(60)
    ended = analysis.concluded(world.state, world.now - 30).canaries["app"]
    assert ended.message.startswith("It failed to deploy.")
    assert (ended.ended, ended.stable_ended) == (Ended(20, 5), Ended(80, 1))


def test_without_limits_calls_are_counted_only():
    watch = Watch()
    watch.ended(200, 200)
    assert watch.reasons() == []
    assert not watch.analysis.active
    assert watch.analysis.counts(0)["app"][0] == Ended(200, 200)
