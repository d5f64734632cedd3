"""Calls whose replicas a user's request router chooses: asked about, placed, paused, and never held up for long."""

import pytest

from swerve.routing.asked import Asked
from swerve.routing.calls import Shed
from swerve.routing.options import RouterOptions
from swerve.routing.replicas import ReplicaInfo
from swerve.routing.router import Router
from tests.routing.routing_support import Call

OPTIONS = RouterOptions("mine:Router", initial_backoff_s=0.1, backoff_multiplier=2, max_backoff_s=0.3)


class Lab:
    """A router whose choice is the test's."""

    def __init__(self, **limits: int) -> None:
        self.now = 100.0
        self.forgotten: list[Call] = []
        self.asked: Asked[Call] = Asked(OPTIONS, self.forgotten.append, lambda: self.now)
        self.router: Router[Call] = Router(clock=lambda: self.now, rng=lambda: 0.0)
        self.router.configure(OPTIONS, self.asked)
        self.router.update([ReplicaInfo(name, f"unix:/{name}", limit) for name, limit in limits.items()])

    def submit(self, name: str) -> Call:
        call = Call(name)
        assert self.router.submit(call) is None
        return call

    def answer(self, call: Call, *ranks: str) -> dict[str, str]:
        """What is handed out, when the router names these replicas (a letter each) for `call`."""
        self.asked.answered(call, [list(rank) for rank in ranks])
        return self.poll()

    def poll(self) -> dict[str, str]:
        return {call.name: replica.info.replica_id for call, replica in self.router.poll()}

    def questions(self) -> list[str]:
        return [call.name for call in self.asked.take_questions()]


def test_a_call_waits_for_the_choice_and_goes_there():
    lab = Lab(a=1, b=1)
    call = lab.submit("x")
    assert lab.questions() == ["x"]
    assert lab.answer(call, "b") == {"x": "b"}
    assert lab.asked.placed == [(call, "b")]
    assert lab.asked.undecided == lab.router.queued == 0


@pytest.mark.parametrize(
    ("busy", "ranks", "chosen"),
    [("", ("b", "a"), "b"), ("b", ("b", "a"), "a"), ("b", ("bc", "a"), "c"), ("", ("zz", "", "a"), "a")],
)
def test_it_goes_to_the_first_rank_that_has_a_slot(busy, ranks, chosen):
    lab = Lab(a=1, b=1, c=1)
    for name in busy:
        lab.router.take(lab.router.replicas[name])
    assert lab.answer(lab.submit("x"), *ranks) == {"x": chosen}


def test_within_a_rank_it_goes_to_the_least_loaded():
    lab = Lab(a=5, b=5)
    lab.router.take(lab.router.replicas["a"])
    assert lab.answer(lab.submit("x"), "ab") == {"x": "b"}


def test_nobody_is_asked_while_no_replica_has_a_slot():
    lab = Lab(a=1)
    a = lab.router.replicas["a"]
    lab.router.take(a)
    lab.submit("x")
    assert lab.questions() == []
    lab.router.release(a)
    assert lab.questions() == ["x"]


def test_a_call_whose_replicas_are_busy_is_asked_about_after_growing_pauses():
    lab = Lab(a=1, b=1)
    lab.router.take(lab.router.replicas["a"])
    call = lab.submit("x")
    pauses = []
    for _ in range(4):
        assert lab.questions() == ["x"]
        assert lab.answer(call, "a") == {}
        assert lab.questions() == []
        pauses.append(lab.router.wake_at - lab.now)
        lab.now = lab.router.wake_at
        lab.poll()
    assert pauses == pytest.approx([0.1, 0.2, 0.3, 0.3])


def test_a_paused_call_is_asked_about_at_once_when_its_replica_has_a_slot():
    lab = Lab(a=1, b=1)
    a = lab.router.replicas["a"]
    lab.router.take(a)
    call = lab.submit("x")
    lab.questions()
    lab.answer(call, "a")
    lab.router.release(a)
    assert lab.questions() == ["x"]
    assert lab.answer(call, "a") == {"x": "a"}


def test_a_router_that_names_nobody_makes_the_call_wait():
    lab = Lab(a=1)
    call = lab.submit("x")
    assert lab.answer(call) == {}
    lab.now += 0.1
    lab.poll()
    assert lab.answer(call, "a") == {"x": "a"}


def test_a_failed_choice_places_the_call_anywhere():
    lab = Lab(a=1)
    call = lab.submit("x")
    lab.asked.answered(call, None)
    assert lab.poll() == {"x": "a"}
    assert lab.asked.placed == []


def test_a_choice_that_takes_too_long_is_not_waited_for_nor_asked_for_again():
    lab = Lab(a=2, b=2)
    late = lab.submit("late")
    assert lab.router.wake_at == pytest.approx(lab.now + 1.0)
    lab.now += 1.0
    assert lab.poll() == {"late": "a"}
    assert lab.asked.stuck
    assert lab.router.submit(Call("next")) is not None
    lab.asked.answered(late, [["b"]])
    lab.submit("asked again")
    assert lab.questions() == ["asked again"]


def test_a_router_that_cannot_be_asked_is_not():
    lab = Lab(a=2)
    lab.submit("x")
    lab.asked.fail()
    assert lab.poll() == {"x": "a"}
    assert lab.router.submit(Call("y")) is not None


def test_a_cancelled_call_is_forgotten():
    lab = Lab(a=1)
    call = lab.submit("x")
    lab.router.withdraw(call)
    assert lab.questions() == []
    assert lab.answer(call, "a") == {}
    assert lab.forgotten == [call]
    assert lab.asked.undecided == 0


def test_a_refused_call_is_asked_about_again():
    lab = Lab(a=1, b=1)
    call = lab.submit("x")
    lab.questions()
    lab.answer(call, "a")
    lab.router.refused(lab.router.replicas["a"], call)
    assert lab.questions() == ["x"]
    assert lab.answer(call, "b") == {"x": "b"}


def test_calls_that_are_being_decided_do_not_fill_the_queue():
    lab = Lab(a=2, b=2)
    lab.router.max_queued = 1
    for name in "vwxy":
        lab.submit(name)
    assert lab.questions() == list("vwxy")


def test_a_full_queue_sheds():
    lab = Lab(a=1)
    lab.router.max_queued = 1
    lab.router.take(lab.router.replicas["a"])
    lab.submit("x")
    with pytest.raises(Shed):
        lab.router.submit(Call("y"))


def test_only_the_first_in_line_are_asked_about():
    lab = Lab(a=100, b=100)
    calls = [lab.submit(str(number)) for number in range(20)]
    assert lab.questions() == list("0123")
    assert lab.answer(calls[0], "a") == {"0": "a"}
    assert lab.questions() == ["4"]


def test_calls_with_models_are_the_router_s_too():
    lab = Lab(a=1, b=1)
    call = Call("x", "model")
    assert lab.router.submit(call) is None
    assert lab.questions() == ["x"]
    assert lab.answer(call, "b") == {"x": "b"}
