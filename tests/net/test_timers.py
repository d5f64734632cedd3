"""Deadlines of many calls on one timer, and a timer that goes off again and again."""

import logging
import types
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from net_support import ManualLoop

from swerve.net import timers
from swerve.net.timers import TICK_S, Ticker, TimerWheel


class Item:
    def __init__(self, loop: ManualLoop) -> None:
        self.loop = loop
        self.expired: list[float] = []

    def expire(self) -> None:
        self.expired.append(self.loop.now)


def wheel_on(loop: ManualLoop) -> tuple[TimerWheel, mock._patch]:
    return TimerWheel(loop), mock.patch.object(timers, "time", types.SimpleNamespace(monotonic=loop.time))


def run(loop: ManualLoop, seconds: float, step: float = 0.001) -> None:
    for _ in range(round(seconds / step)):
        loop.pass_time(step)


@given(
    st.lists(st.tuples(st.floats(-0.01, 0.1), st.booleans(), st.floats(0, 0.05)), max_size=20),
)
def test_each_item_expires_once_soon_after_its_deadline_unless_removed(plan):
    loop = ManualLoop()
    wheel, patched = wheel_on(loop)
    with patched:
        start = loop.now
        items = []
        for offset, removed, removed_after in plan:
            item = Item(loop)
            wheel.add(start + offset, item)
            items.append((item, start + offset, removed, start + removed_after))
        for _ in range(150):
            loop.pass_time(0.001)
            for item, deadline, removed, when in items:
                if removed and loop.now >= when and not item.expired:
                    wheel.remove(deadline, item)
        for item, deadline, removed, when in items:
            if item.expired:
                assert len(item.expired) == 1
                assert deadline <= item.expired[0] <= max(deadline, start) + 2 * TICK_S + 0.002
                assert not removed or item.expired[0] <= max(when, start) + 0.002
            else:
                assert removed
        assert loop.armed == 0


def test_removing_what_was_never_added_does_nothing():
    loop = ManualLoop()
    wheel, patched = wheel_on(loop)
    with patched:
        wheel.remove(loop.now + 1, Item(loop))


def test_an_earlier_deadline_moves_the_timer_forward():
    loop = ManualLoop()
    wheel, patched = wheel_on(loop)
    with patched:
        late, early = Item(loop), Item(loop)
        wheel.add(loop.now + 100, late)
        wheel.add(loop.now + 0.01, early)
        run(loop, 0.03)
        assert early.expired
        assert not late.expired


def test_a_failing_item_keeps_no_other_from_its_deadline(caplog):
    class Failing(Item):
        def expire(self):
            raise RuntimeError("a bug")

    loop = ManualLoop()
    wheel, patched = wheel_on(loop)
    with patched, caplog.at_level(logging.ERROR):
        same, later = Item(loop), Item(loop)
        wheel.add(loop.now + 0.010, Failing(loop))
        wheel.add(loop.now + 0.010, same)
        wheel.add(loop.now + 0.030, later)
        run(loop, 0.05)
    assert same.expired
    assert later.expired
    assert "deadline failed" in caplog.text


def test_an_item_may_remove_another_that_expires_in_the_same_tick():
    loop = ManualLoop()
    wheel, patched = wheel_on(loop)
    items: list[Item] = []
    with patched:
        deadline = loop.now + 0.01

        class Removing(Item):
            def expire(self):
                super().expire()
                for other in items:
                    wheel.remove(deadline, other)

        items.extend(Removing(loop) for _ in range(3))
        for item in items:
            wheel.add(deadline, item)
        run(loop, 0.03)
    assert all(len(item.expired) <= 1 for item in items)


def test_an_item_added_while_others_expire_gets_its_turn():
    loop = ManualLoop()
    wheel, patched = wheel_on(loop)
    with patched:
        added = Item(loop)

        class Adding(Item):
            def expire(self):
                wheel.add(self.loop.now, added)

        wheel.add(loop.now + 0.01, Adding(loop))
        run(loop, 0.05)
    assert added.expired


def test_a_deadline_in_a_thousand_years_is_kept():
    loop = ManualLoop()
    wheel, patched = wheel_on(loop)
    with patched:
        far = Item(loop)
        wheel.add(loop.now + 99_999_999 * 3600.0, far)
        run(loop, 0.05)
        assert not far.expired


def test_a_ticker_looks_at_each_interval_until_it_is_closed():
    loop = ManualLoop()
    seen: list[float] = []
    ticker = Ticker(loop, 0.5, seen.append)
    start = loop.now
    for _ in range(3):
        loop.pass_time(0.5)
    assert seen == [start + 0.5, start + 1.0, start + 1.5]
    ticker.close()
    loop.pass_time(5.0)
    assert len(seen) == 3
    assert not loop.armed
