"""How fast a process serves calls, as its callers hear of it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerve.net.pace import Pace

SHORT_S = 20e-6
LONG_S = 0.1


def served(*spans: tuple[float, float]) -> float:
    """The pace after calls that began and ended at these times."""
    pace = Pace()
    for began_at, ended_at in spans:
        pace.ended(began_at, ended_at)
    return pace.seconds


def one_by_one(*lengths: float) -> float:
    """The pace after calls that came one after the other."""
    ends = [sum(lengths[: index + 1]) for index in range(len(lengths))]
    return served(*((end - length, end) for end, length in zip(ends, lengths, strict=True)))


def test_calls_that_came_together_share_the_time_that_they_took():
    assert served(*((0.0, SHORT_S * (index + 1)) for index in range(200))) == pytest.approx(SHORT_S, rel=0.05)


def test_waking_up_does_not_count():
    assert served(*((second, second + 0.00005) for second in range(200))) < SHORT_S


def test_time_in_which_nothing_was_under_way_does_not_count():
    assert served(*((second, second + 0.00105) for second in range(200))) == pytest.approx(0.001, rel=0.01)


def test_calls_that_wait_side_by_side_delay_each_other_little():
    assert served(*((index * SHORT_S, 0.1 + index * SHORT_S) for index in range(1000))) < 2 * SHORT_S


def test_calls_that_compute_delay_those_behind_them():
    assert one_by_one(*[LONG_S] * 20) > 50 * SHORT_S


def test_calls_of_a_batch_share_its_time():
    batches = [(number * 0.016, (number + 1) * 0.016) for number in range(20) for _ in range(8)]
    assert served(*batches) == pytest.approx(0.002, rel=0.05)


def test_a_process_that_has_shown_little_is_taken_for_slow():
    assert one_by_one(*[SHORT_S] * 5) == math.inf


def test_a_slow_first_call_is_soon_forgotten():
    assert one_by_one(0.01, *[SHORT_S] * 100) < 2 * SHORT_S


def test_a_moment_without_the_processor_is_soon_forgotten():
    assert one_by_one(*[SHORT_S] * 100, 0.002, *[SHORT_S] * 40) < 2 * SHORT_S


def test_a_tenth_of_long_calls_shows():
    paces = [one_by_one(*([SHORT_S] * 9 + [LONG_S]) * 20, *[SHORT_S] * more) for more in range(10)]
    assert min(paces) > 10 * SHORT_S


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=16))
def test_the_pace_is_never_less_than_nothing_and_no_longer_than_long(spans):
    ends = sorted(end for _, end in spans)
    pace = served(*((min(began, end), end) for (began, _), end in zip(spans, ends, strict=True)))
    assert 0 <= pace < LONG_S
