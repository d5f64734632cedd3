"""Who serves a call: the choice as a table."""

import itertools
from collections import Counter

import pytest

from swerve.routing.choose import RoundRobin, for_model, least_loaded, shorter_of_two
from swerve.routing.replicas import FreeList
from tests.routing.routing_support import replica


def numbers(*values: float):
    return itertools.cycle(values).__next__


@pytest.mark.parametrize(
    ("first", "second", "expected"), [(0.0, 0.0, "b"), (0.0, 0.9, "a"), (0.9, 0.0, "a"), (0.5, 0.9, "b")]
)
def test_of_two_picked_at_random_the_less_busy_one_is_chosen(first, second, expected):
    free = [replica("a", 2), replica("b", 1), replica("c", 3)]
    assert shorter_of_two(free, numbers(first, second)).info.replica_id == expected


def test_two_different_replicas_are_compared_whatever_the_numbers():
    free = [replica("a", 5), replica("b", 0)]
    grid = [step / 10 for step in range(10)]
    assert {shorter_of_two(free, numbers(x, y)).info.replica_id for x in grid for y in grid} == {"b"}


def test_a_lone_replica_is_chosen_without_a_throw():
    assert shorter_of_two([replica("a")], numbers()).info.replica_id == "a"


def test_equally_busy_replicas_are_chosen_equally_often():
    free = [replica(name) for name in "abcd"]
    grid = [(step + 0.5) / 12 for step in range(12)]
    counts = Counter(shorter_of_two(free, numbers(x, y)).info.replica_id for x in grid for y in grid)
    assert set(counts.values()) == {36}


def test_a_replica_that_has_the_model_is_preferred():
    free = [replica("a"), replica("b", 9, "m")]
    chosen = for_model(free, free, "m", patient=True, random=numbers(0.0))
    assert chosen is free[1]


def test_a_patient_call_waits_for_the_busy_holder():
    free, busy = replica("a"), replica("b", models="m")
    assert for_model([free], [free, busy], "m", patient=True, random=numbers(0.0)) is None


def test_an_impatient_call_goes_elsewhere():
    free, busy = replica("a"), replica("b", models="m")
    assert for_model([free], [free, busy], "m", patient=False, random=numbers(0.0)) is free


def test_an_unknown_model_goes_where_the_fewest_are():
    free = [replica("a", models="xy"), replica("b", models="z")]
    assert for_model(free, free, "m", patient=True, random=numbers(0.0)) is free[1]


def test_no_free_replica_is_none():
    assert for_model([], [], "m", patient=False, random=numbers(0.0)) is None


def test_the_free_list_stays_consistent_when_members_leave_anywhere():
    for gone in itertools.permutations(range(4)):
        members = [replica(str(index)) for index in range(4)]
        free = FreeList()
        for member in members:
            free.add(member)
            free.add(member)
        for count, index in enumerate(gone, 1):
            free.remove(members[index])
            free.remove(members[index])
            assert len(free.items) == 4 - count
            assert all(free.items[member.slot] is member for member in free.items)


@pytest.mark.parametrize(("throw", "expected"), [(0.0, "b"), (0.49, "b"), (0.5, "d"), (0.99, "d")])
def test_the_least_loaded_of_all_is_chosen_and_among_equals_by_chance(throw, expected):
    free = [replica("a", 2), replica("b", 1), replica("c", 3), replica("d", 1)]
    assert least_loaded(free, numbers(throw)).info.replica_id == expected


def test_a_round_robin_gives_each_its_turn():
    free = [replica(name) for name in "abc"]
    pick = RoundRobin()
    turns = "".join(pick(free, numbers(0.5, 0.2, 0.9)).info.replica_id for _ in range(9))
    assert turns == turns[:3] * 3
    assert sorted(turns[:3]) == list("abc")


def test_a_round_robin_passes_a_busy_one_over_and_does_not_make_up_for_it():
    a, b, c = (replica(name) for name in "abc")
    pick = RoundRobin()
    order = [pick(free, numbers(0.0)) for free in ([a, b, c], [a, c], [a, c], [a, b, c], [a, b, c])]
    assert [one.info.replica_id for one in order] == ["a", "c", "a", "b", "c"]


def test_a_round_robin_begins_at_a_random_one_so_that_callers_do_not_go_in_step():
    starts = {
        RoundRobin()([replica(name) for name in "abc"], numbers(*throws)).info.replica_id
        for throws in ((0.1, 0.5, 0.5), (0.5, 0.1, 0.5), (0.5, 0.5, 0.1))
    }
    assert starts == set("abc")


def test_a_model_is_found_by_the_choice_that_is_given():
    free = [replica("a", 0, "m"), replica("b", 3, "m"), replica("c", 1)]

    def last(candidates, random):
        return candidates[-1]

    assert for_model(free, free, "m", patient=True, random=numbers(0.0), pick=last) is free[1]
