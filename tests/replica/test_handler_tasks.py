"""A coroutine handler runs in a task of its own, on the replica's event loop, as if the loop had made it."""

import asyncio

from replica_lab import UNARY, run


class Tells:
    async def Unary(self, note):
        await asyncio.sleep(0)
        return type(note)(text=asyncio.current_task().get_name())


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
