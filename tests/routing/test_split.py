"""Which calls go to a canary."""

from itertools import cycle

import pytest

from swerve.routing.split import Split

MATCH = {b"x-version": b"new", b"x-who": b"us"}


def split(weight=0.0, match=None, sticky_key=b"", release=b"r1", rng=None):
    return Split(weight, match or {}, sticky_key, release, rng or (lambda: 0.5))


@pytest.mark.parametrize(
    ("weight", "drawn", "taken"),
    [
        (0, 0.0, False),
        (0.5, 0.0049, True),
        (0.5, 0.005, False),
        (30, 0.29, True),
        (30, 0.3, False),
        (100, 0.9999, True),
    ],
)
def test_the_weight_is_the_share_of_the_draws(weight, drawn, taken):
    assert split(weight, rng=lambda: drawn).takes({}) is taken


def test_of_evenly_spread_draws_the_canary_gets_its_percent():
    draws = cycle(number / 1000 for number in range(1000))
    one = split(12.5, rng=lambda: next(draws))
    assert sum(one.takes({}) for _ in range(2000)) == 250


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({}, False),
        (MATCH, True),
        ({**MATCH, b"other": b"x"}, True),
        ({b"x-version": b"new"}, False),
        ({**MATCH, b"x-who": b"them"}, False),
    ],
)
def test_calls_that_have_all_fields_of_the_match_go_there(fields, taken):
    assert split(match=MATCH).takes(fields) is taken


def test_no_match_matches_nothing():
    assert not split().takes({b"a": b"b"})


def users(count=20_000):
    return [f"user-{number}".encode() for number in range(count)]


def taken_users(weight, release=b"r1"):
    one = split(weight, sticky_key=b"user", release=release, rng=None)
    return {user for user in users() if one.takes({b"user": user})}


@pytest.mark.parametrize("weight", [0, 1, 10, 50, 90, 100])
def test_values_of_the_sticky_key_are_spread_by_weight(weight):
    share = len(taken_users(weight)) / len(users())
    assert abs(share - weight / 100) < 0.015


def test_a_growing_weight_takes_nobody_back():
    assert taken_users(5) < taken_users(20) < taken_users(60)


def test_another_canary_has_other_callers():
    first, second = taken_users(10), taken_users(10, b"r2")
    assert len(first & second) < len(first) / 2


def test_calls_without_the_sticky_key_are_drawn():
    assert split(60, sticky_key=b"user").takes({b"other": b"x"})
    assert not split(40, sticky_key=b"user").takes({b"other": b"x"})
