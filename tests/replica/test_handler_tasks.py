"""A coroutine handler runs in a task of its own, on the replica's event loop, as if the loop had made it."""

import asyncio
import contextvars
import sys
from typing import ClassVar

import pytest
from replica_lab import UNARY, run

from swerve.context import _get_serve_request_context
from swerve.wire.status import StatusCode

mark = contextvars.ContextVar("mark", default="unset")


class Tells:
    async def Unary(self, note):
        await asyncio.sleep(0)
        return type(note)(text=asyncio.current_task().get_name())


class AtOnce:
    """Waits for nothing, unless it is told to."""

    tasks: ClassVar[list[asyncio.Task]] = []

    async def Unary(self, note):
        assert mark.get() == "unset"
        mark.set(note.text)
        task = asyncio.current_task()
        type(self).tasks.append(task)
        if note.text == "late":
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            except TimeoutError:
                assert asyncio.current_task() is task
        return type(note)(text=f"{mark.get()} {_get_serve_request_context().request_id}")


def answer(caller, call):
    return caller.pb2.Note.FromString(call.messages[0]).text


def test_a_task_is_named_after_its_method(probe):
    async def scenario(lab):
        caller = await lab.caller()
        call = caller.call()
        await call.over()
        assert answer(caller, call) == UNARY

    run(scenario, Tells, probe)


def test_a_task_factory_of_user_code_makes_the_task(probe):
    made = []

    def factory(loop, coroutine, **options):
        task = asyncio.Task(coroutine, loop=loop, name="user's", **options)
        made.append(task)
        return task

    async def scenario(lab):
        caller = await lab.caller()
        asyncio.get_running_loop().set_task_factory(factory)
        call = caller.call()
        await call.over()
        assert answer(caller, call) == "user's"
        assert len(made) == 1

    run(scenario, Tells, probe)


def test_each_task_is_one_call_with_a_context_of_its_own(probe):
    AtOnce.tasks.clear()

    async def scenario(lab):
        caller = await lab.caller()
        for text in ("one", "late", "three"):
            call = caller.call(text=text)
            assert (await call.over()).details == ""
            assert answer(caller, call) == f"{text} r-1"
        assert len(set(AtOnce.tasks)) == 3
        assert mark.get() == "unset"
        assert lab.replica.ongoing == 0

    run(scenario, AtOnce, probe, max_ongoing=10)


class Counts:
    """Sees how many calls are under way when it runs."""

    replica = None
    seen: ClassVar[list[int]] = []

    async def Unary(self, note):
        self.seen.append(self.replica.ongoing)
        return note


@pytest.mark.skipif(sys.version_info < (3, 12), reason="this Python begins a task in the loop's next turn")
def test_a_handler_that_waits_for_nothing_ends_before_the_next_call_is_looked_at(probe):
    Counts.seen.clear()

    async def scenario(lab):
        Counts.replica = lab.replica
        caller = await lab.caller()
        # They leave together, and arrive so.
        for call in [caller.call() for _ in range(3)]:
            assert (await call.over()).code == StatusCode.OK
        assert Counts.seen == [1, 1, 1]
        assert lab.replica.ongoing == 0

    run(scenario, Counts, probe, max_ongoing=10)
