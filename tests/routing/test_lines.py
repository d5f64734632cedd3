"""In which order waiting calls are served, and who gives way in a full queue."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerve.routing.lines import FairLine, Fifo, QueueOptions
from tests.routing.routing_support import Call

TENANTS = QueueOptions(tenant_key="tenant", max_tenants=4)
CLASSES = QueueOptions(
    tenant_key="tenant", max_tenants=4, priority_key="class", priorities=("high", "low", "idle"), default_priority="low"
)


def call(name: object, tenant: str = "", priority: str = "") -> Call:
    return Call(name, "", {b"tenant": tenant, b"class": priority})


def line_of(options: QueueOptions, *calls: Call) -> FairLine[Call]:
    made: FairLine[Call] = FairLine(options)
    for one in calls:
        made.add(one)
    return made


def served(line) -> list[Call]:
    """Take everything out in order."""
    order = []
    while line:
        order.append(line.first())
        line.take(order[-1])
    return order


def calls_of(text: str) -> list[Call]:
    """ "a1 b1" is a call of tenant a and one of tenant b; "a1:high" one of a class."""
    made = []
    for word in text.split():
        name, _, priority = word.partition(":")
        made.append(call(name, name[0], priority))
    return made


def names(calls) -> str:
    return " ".join(str(one.name) for one in calls)


@pytest.mark.parametrize(
    ("arrived", "order"),
    [
        ("a1 a2 a3", "a1 a2 a3"),
        ("a1 a2 a3 b1 b2", "a1 b1 a2 b2 a3"),
        ("a1 a2 a3 b1 c1", "a1 b1 c1 a2 a3"),
        ("b1 a1 a2 b2 c1", "b1 a1 c1 b2 a2"),
    ],
)
def test_tenants_take_turns(arrived, order):
    assert names(served(line_of(TENANTS, *calls_of(arrived)))) == order


@pytest.mark.parametrize(
    ("arrived", "order"),
    [
        ("a1:low a2:high", "a2 a1"),
        ("a1:idle a2:idle b1:low b2:high a3:high", "b2 a3 b1 a1 a2"),
        ("a1 a2:high a3:idle", "a2 a1 a3"),
        ("a1:urgent! a2:idle a3:high", "a3 a1 a2"),
    ],
)
def test_classes_go_by_urgency_and_an_unknown_one_is_the_default(arrived, order):
    assert names(served(line_of(CLASSES, *calls_of(arrived)))) == order


def test_a_tenant_that_was_served_goes_behind_those_that_wait():
    line = line_of(TENANTS, *calls_of("a1 b1 b2"))
    line.take(line.first())
    line.add(call("a2", "a"))
    assert names(served(line)) == "b1 a2 b2"


def test_iteration_is_the_order_of_service():
    line = line_of(CLASSES, *calls_of("a1 a2 a3:high b1 b2:idle c1 c2"))
    assert names(line) == names(served(line))


@pytest.mark.parametrize(
    ("waiting", "newcomer", "victim"),
    [
        ("a1 a2 a3", "b1", "a3"),
        ("a1 a2 b1", "b2", None),
        ("a1 a2 b1", "a3", None),
        ("a1 a2 a3 b1", "b2", "a3"),
        ("a1 b1 c1", "d1", None),
        ("a1:low b1:idle a2:idle a3:idle", "b2:low", "a3"),
        ("a1:idle", "a2:high", "a1"),
        ("a1:high a2:high a3:high", "b1:low", None),
        ("a1:high a2:high a3:high", "b1:high", "a3"),
        ("", "a1", None),
    ],
)
def test_who_has_the_most_in_the_least_urgent_class_gives_way(waiting, newcomer, victim):
    line = line_of(CLASSES, *calls_of(waiting))
    gone = line.make_room(calls_of(newcomer)[0])
    assert (gone and gone.name) == victim
    assert len(line) == len(waiting.split()) - (gone is not None)


def test_a_withdrawn_call_is_not_served_and_loses_its_tenant_no_turn():
    first, *others = calls_of("a1 a2 b1")
    line = line_of(TENANTS, first, *others)
    assert line.withdraw(first)
    assert not line.withdraw(first)
    assert names(served(line)) == "a2 b1"


def test_tenants_beyond_the_limit_share_one_turn():
    """Whoever makes up a new name for each call gets no more than the others together."""
    known = [call(f"{n}", f"tenant-{n}") for n in range(4)]
    line = line_of(TENANTS, *known, *(call(f"x{n}", f"x{n}") for n in range(50)))
    line.add(call("late", "tenant-0"))
    order = served(line)
    assert [one.name for one in order[:6]] == ["0", "1", "2", "3", "x0", "late"]


def test_a_name_of_any_length_is_kept_short():
    line = line_of(TENANTS, call("a", "x" * 100_000), call("b", "x" * 99_999 + "y"))
    assert all(len(name) <= 64 for name in line._classes[0])
    assert len(line._classes[0]) == 2


def test_a_fifo_lets_nobody_give_way():
    line: Fifo[Call] = Fifo()
    for one in calls_of("a1 a2 a3"):
        line.add(one)
    assert line.make_room(call("b1", "b")) is None
    assert names(served(line)) == "a1 a2 a3"


ARRIVALS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "", "mallory" * 20]), st.sampled_from(["high", "low", "idle", "", "?"])),
    max_size=40,
)


@given(ARRIVALS)
def test_every_call_is_served_once_by_class_and_fairly(arrivals):
    calls = [call(number, *arrival) for number, arrival in enumerate(arrivals)]
    order = served(line_of(replace(CLASSES, max_tenants=8), *calls))
    assert sorted(one.name for one in order) == list(range(len(calls)))
    ranks = [{"high": 0, "idle": 2}.get(one.fields[b"class"], 1) for one in order]
    assert ranks == sorted(ranks)
    for _, group in itertools.groupby(zip(ranks, order, strict=True), key=lambda pair: pair[0]):
        tenants = [one.fields[b"tenant"] for _, one in group]
        served_of: Counter[str] = Counter()
        left = Counter(tenants)
        for tenant in tenants:
            # Nobody else who still waits has had fewer turns than the one that is served.
            assert all(served_of[tenant] <= served_of[other] for other in left if left[other])
            served_of[tenant] += 1
            left[tenant] -= 1


@given(ARRIVALS, st.integers(1, 6))
def test_a_full_queue_stays_full_and_ends_up_shared(arrivals, limit):
    options = QueueOptions(tenant_key="tenant", max_tenants=8)
    line: FairLine[Call] = FairLine(options)
    offered: Counter[str] = Counter()
    for number, (tenant, _) in enumerate(arrivals):
        newcomer = call(number, tenant)
        offered[tenant] += 1
        if len(line) < limit or line.make_room(newcomer) is not None:
            line.add(newcomer)
    assert len(line) == min(limit, len(arrivals))
    kept = Counter(one.fields[b"tenant"] for one in line)
    turned_away = [tenant for tenant in offered if offered[tenant] > kept[tenant]]
    # Nobody holds two places more than one who was turned away.
    assert all(most <= kept[tenant] + 1 for tenant in turned_away for most in kept.values())
