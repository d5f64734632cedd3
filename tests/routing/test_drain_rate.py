"""When callers that were turned away are asked to come again."""

import pytest

from swerve.routing.drain import DrainRate

EVEN = 0.5  # a throw that spreads nothing


@pytest.fixture
def rate() -> DrainRate:
    made = DrainRate()
    made.begin(100.0)
    return made


def test_nothing_is_known_before_a_call_has_left(rate):
    assert rate.retry_after_s(50, 100.4, EVEN) == 1.0


def test_it_is_the_time_that_the_queue_takes_to_drain(rate):
    rate.count(20)
    assert rate.retry_after_s(10, 100.4, EVEN) == pytest.approx(0.2)


def test_it_follows_a_change_of_pace(rate):
    rate.count(100)
    assert rate.retry_after_s(10, 101.0, EVEN) == pytest.approx(0.1)
    rate.count(10)
    rate.retry_after_s(10, 102.0, EVEN)
    rate.count(10)
    assert rate.retry_after_s(10, 103.0, EVEN) == pytest.approx(1.0)


def test_what_was_counted_before_a_pause_says_nothing(rate):
    rate.count(1000)
    rate.begin(200.0)
    assert rate.retry_after_s(10, 200.1, EVEN) == 1.0


def test_a_queue_that_is_empty_now_and_then_keeps_its_pace(rate):
    rate.count(20)
    rate.begin(100.3)
    assert rate.retry_after_s(10, 100.4, EVEN) == pytest.approx(0.2)


@pytest.mark.parametrize(("queued", "expected"), [(1, 0.01), (10_000, 30.0)])
def test_it_is_neither_too_short_nor_too_long(rate, queued, expected):
    rate.count(100)
    assert rate.retry_after_s(queued, 100.5, EVEN) == expected


def test_it_is_spread_by_chance(rate):
    rate.count(20)
    assert [rate.retry_after_s(10, 100.4, throw) for throw in (0.0, 0.999)] == pytest.approx([0.15, 0.25], rel=0.01)
