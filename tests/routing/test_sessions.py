"""Session affinity: where a session's calls go, and how few sessions move."""

from collections import Counter

import pytest

from swerve.routing.replicas import FreeList
from swerve.routing.sessions import HashRing, SessionAffinity
from tests.routing.routing_support import Call, in_session, replica

SESSIONS = [f"session-{number}" for number in range(2000)]


def first_of(ring: HashRing) -> dict[str, str]:
    return {session: next(ring.walk(session)) for session in SESSIONS}


def test_every_process_computes_the_same_ring():
    assert list(HashRing(["a", "b", "c"]).walk("session")) == list(HashRing(["c", "a", "b"]).walk("session"))
    # A value that another process has computed.
    assert list(HashRing(["a", "b", "c"]).walk("session")) == ["a", "b", "c"]


def test_a_walk_names_each_once():
    assert sorted(HashRing(list("abcdef")).walk("session")) == list("abcdef")


def test_an_empty_ring_has_no_names():
    assert list(HashRing([]).walk("session")) == []


def test_sessions_are_shared_out():
    counts = Counter(first_of(HashRing(list("abcd"))).values())
    assert all(300 < counts[name] < 700 for name in "abcd")


@pytest.mark.parametrize(("before", "after"), [("abcd", "abcde"), ("abcde", "abcd")])
def test_only_the_sessions_of_the_replica_that_comes_or_goes_move(before, after):
    (changed,) = set(before) ^ set(after)
    old, new = first_of(HashRing(list(before))), first_of(HashRing(list(after)))
    moved = [session for session in SESSIONS if old[session] != new[session]]
    assert all(changed in (old[session], new[session]) for session in moved)
    assert len(moved) < len(SESSIONS) * 0.3


@pytest.fixture
def five():
    """Five replicas, all free, a list of those that are, and the affinity."""
    replicas = {name: replica(name) for name in "abcde"}
    free = FreeList()
    for one in replicas.values():
        free.add(one)
    affinity = SessionAffinity()
    affinity.replicas_changed(replicas)
    return replicas, free, affinity


def find(five, call: Call, *, patient: bool = True) -> str | None:
    _, free, affinity = five
    found = affinity.find(call, free.items, lambda: 0.0, patient=patient)
    return found and found.info.replica_id


def test_a_session_keeps_its_replica_whatever_the_load(five):
    home = find(five, in_session("x", "s"))
    five[0][home].ongoing = 9
    assert find(five, in_session("y", "s")) == home


def test_two_others_stand_in_for_a_busy_one_and_no_more(five):
    replicas, free, _ = five
    found = []
    for _ in range(3):
        found.append(find(five, in_session("x", "s")))
        free.remove(replicas[found[-1]])
    assert found == list(HashRing(list("abcde")).walk("s"))[:3]
    assert find(five, in_session("x", "s")) is None
    assert find(five, in_session("x", "s"), patient=False) is not None


def test_a_call_without_a_session_goes_anywhere(five):
    replicas, _, _ = five
    for name in "abcd":
        replicas[name].ongoing = 5
    assert find(five, Call("x")) in "abcde"


def test_a_session_moves_when_its_replica_is_gone_and_returns_with_it(five):
    replicas, free, affinity = five
    home = find(five, in_session("x", "s"))
    free.remove(replicas[home])
    affinity.replicas_changed({name: one for name, one in replicas.items() if name != home})
    assert find(five, in_session("x", "s")) != home
    free.add(replicas[home])
    affinity.replicas_changed(replicas)
    assert find(five, in_session("x", "s")) == home


@pytest.mark.parametrize("session", ["\x00", "é" * 4000, "x" * 16_000, "a:0"])
def test_any_text_may_name_a_session(five, session):
    assert find(five, in_session("x", session)) in "abcde"
