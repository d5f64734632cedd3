"""The guard's pace. What it does is seen on whole instances, in tests/control."""

import fcntl

import pytest

from swerve.engine import guard
from swerve.engine.layout import Layout


class Enough(Exception):
    pass


@pytest.fixture
def layout(tmp_path):
    made = Layout(tmp_path / "state")
    made.make()
    made.lock.touch()
    return made


def pauses(monkeypatch, layout, number, at_each=lambda number: None):
    """The first pauses of a guard, and at which of them it tried to start an agent, which never helps."""
    slept, tried = [], []

    def sleep(seconds):
        if len(slept) == number:
            raise Enough
        slept.append(seconds)
        at_each(len(slept))

    monkeypatch.setattr(guard.time, "sleep", sleep)
    monkeypatch.setattr(guard, "revive_agent", lambda layout: tried.append(len(slept)))
    with pytest.raises(Enough):
        guard._Guard(layout, guard.PROXY_LOOKS).run()
    return slept, tried


def test_an_agent_that_cannot_be_brought_back_is_tried_ever_more_slowly(monkeypatch, layout):
    slept, tried = pauses(monkeypatch, layout, 8)
    assert slept == [0.5, 0.5, 1, 2, 4, 5, 5, 5]
    assert tried == [2, 3, 4, 5, 6, 7, 8]


def test_a_moment_without_an_agent_is_its_controller_s_to_end(monkeypatch, layout):
    with layout.lock.open() as lock:

        def agent(look):
            """Away at every second look."""
            fcntl.flock(lock, fcntl.LOCK_UN if look % 2 else fcntl.LOCK_EX)

        slept, tried = pauses(monkeypatch, layout, 8, agent)
    assert slept == [0.5] * 8
    assert tried == []
