"""Short calls that a busy caller sends the same way."""

import math

import pytest

from swerve.routing.replicas import FreeList, Replica
from swerve.routing.together import Together, joins
from tests.routing.routing_support import Shared, replica

MANY = 40


def free(name: str, ongoing: int = 0, pace_s: float | None = 1e-5, limit: int = 100) -> Replica:
    """A replica with free slots; None for one that shares no messages."""
    made = replica(name, ongoing, limit=limit)
    FreeList().add(made)
    made.shared = None if pace_s is None else Shared(pace_s)
    return made


def busy(calls: int = MANY) -> Together:
    """After a turn of so many calls."""
    made = Together()
    for _ in range(calls):
        made.choose(free("before"))
    made.turn_over()
    return made


def test_a_call_of_a_busy_caller_goes_where_the_one_before_it_went():
    together, first = busy(), free("a")
    assert [together.choose(first), together.choose(free("b")), together.choose(free("c"))] == [first] * 3


def test_a_caller_with_few_calls_spreads_them():
    together, first, second = busy(calls=8), free("a"), free("b")
    assert [together.choose(first), together.choose(second)] == [first, second]


def test_many_calls_after_a_quiet_time_are_spread():
    together = Together()
    picked = [free(str(number)) for number in range(MANY)]
    assert [together.choose(one) for one in picked] == picked


def test_a_caller_that_was_busy_is_soon_so_no_more():
    together = busy()
    for _ in range(4):
        together.choose(free("a"))
        together.turn_over()
    second = free("b")
    together.choose(free("a"))
    assert together.choose(second) is second


def test_the_first_call_of_a_turn_goes_where_it_should():
    together, second = busy(), free("b")
    together.choose(free("a"))
    together.turn_over()
    assert together.choose(second) is second


def test_calls_go_on_from_the_last_that_did_not_join():
    together, second = busy(), free("b")
    together.choose(free("a", pace_s=1.0))
    assert [together.choose(second), together.choose(free("c"))] == [second] * 2


@pytest.mark.parametrize(
    ("ongoing", "other", "pace_s", "expected"),
    [
        (1, 0, 20e-6, True),
        (15, 0, 20e-6, True),
        (16, 0, 20e-6, False),
        (30, 20, 20e-6, True),
        (16, 0, 0.0, False),
        (8, 0, 90e-6, True),
        (9, 0, 90e-6, False),
        (1, 0, 150e-6, False),
        (0, 1, math.inf, False),
        (1, 0, None, False),
    ],
)
def test_a_call_joins_others_where_that_is_soon_made_up_for(ongoing, other, pace_s, expected):
    assert joins(free("a", ongoing, pace_s), free("b", other)) is expected


@pytest.mark.parametrize(("ongoing", "expected"), [(2, True), (3, False)])
def test_half_of_the_slots_are_left_to_others(ongoing, expected):
    assert joins(free("a", ongoing, limit=5), free("b")) is expected


def test_a_call_does_not_join_others_at_a_replica_without_a_free_slot():
    full = free("a", 1)
    full.slot = -1
    assert not joins(full, free("b"))
