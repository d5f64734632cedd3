"""Hooks of user code that run in threads, and watching a replica's state."""

import asyncio
import threading

import pytest
from replica_lab import GENEROUS_S, run, until


class Hooked:
    raises: BaseException | None = None
    hold = threading.Event()
    checks = 0

    def Unary(self, note):
        type(self).hold.wait(GENEROUS_S)
        return note

    def check_health(self):
        type(self).checks += 1
        if self.raises is not None:
            raise self.raises

    def record_autoscaling_stats(self):
        return {"a": 1.0}


@pytest.mark.parametrize("raised", [StopIteration("x"), SystemExit(3), KeyboardInterrupt()])
def test_a_hook_that_raises_what_no_future_carries_is_a_failed_check(probe, raised):
    async def scenario(lab):
        Hooked.raises = raised
        with pytest.raises(RuntimeError, match=type(raised).__name__):
            async with asyncio.timeout(10):
                await lab.replica.check_health()

    Hooked.raises = None
    try:
        run(scenario, Hooked, probe)
    finally:
        Hooked.raises = None


def test_hooks_run_while_handlers_hold_all_their_threads(probe):
    async def scenario(lab):
        Hooked.hold.clear()
        call = (await lab.caller()).call()
        await until(lambda: lab.replica.slots.taken == 1)
        try:
            async with asyncio.timeout(5):
                await lab.replica.check_health()
                assert await lab.replica.user_code.autoscaling_stats() == {"a": 1.0}
        finally:
            Hooked.hold.set()
        await call.over()

    run(scenario, Hooked, probe)


class Hanging:
    go_on = threading.Event()
    running = most = 0
    hangs = False

    async def Unary(self, note):
        return note

    def check_health(self):
        cls = type(self)
        cls.running += 1
        cls.most = max(cls.most, cls.running)
        if cls.hangs:
            cls.go_on.wait(GENEROUS_S)
        cls.running -= 1


def test_a_hook_that_hangs_is_not_begun_again(probe):
    async def scenario(lab):
        Hanging.hangs = True
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await lab.replica.check_health()
        Hanging.go_on.set()
        async with asyncio.timeout(10):
            await lab.replica.check_health()
        assert Hanging.most == 1

    run(scenario, Hanging, probe)


def test_each_of_two_watchers_sees_each_change(probe):
    async def scenario(lab):
        watchers = [lab.replica.watch(), lab.replica.watch()]
        for watcher in watchers:
            assert (await anext(watcher)).message == ""
        for text in ("one", "two"):
            news = [asyncio.ensure_future(anext(watcher)) for watcher in watchers]
            await asyncio.sleep(0.02)
            lab.replica._set_phase(lab.replica._phase, text)
            async with asyncio.timeout(10):
                assert [(await state).message for state in news] == [text, text]
        # One that is late finds what another has been told already.
        lab.replica._set_phase(lab.replica._phase, "three")
        async with asyncio.timeout(10):
            for watcher in watchers:
                assert (await anext(watcher)).message == "three"
        for watcher in watchers:
            await watcher.aclose()

    run(scenario, Hanging, probe)
