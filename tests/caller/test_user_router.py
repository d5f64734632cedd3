"""Request routers of users, in the thread that handles have for them."""

import asyncio
import subprocess
import sys
import time

import pytest

from swerve.build import _router
from swerve.caller.runtime import get_runtime
from swerve.config import RequestRouterConfig
from swerve.request_router import (
    FIFOMixin,
    LocalityMixin,
    MultiplexMixin,
    PowerOfTwoChoicesRequestRouter,
    RequestRouter,
)
from tests.caller.caller_support import Model, handle, run, until


class First(RequestRouter):
    """The replica whose id comes first."""

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        return [[min(candidate_replicas, key=lambda replica: replica.replica_id.unique_id)]]


class ByArgument(RequestRouter):
    """The replica whose number is the call's argument; asks for the kwargs of the deployment too."""

    def initialize_state(self, shift):
        self.shift = shift

    def choose_replicas(self, candidate_replicas, pending_request=None):
        wanted = f"model-{pending_request.args[0] + self.shift}"
        assert pending_request.metadata.call_method == "__call__"
        return [[one for one in candidate_replicas if one.replica_id.unique_id == wanted]]


class ByStats(FIFOMixin, MultiplexMixin, LocalityMixin, RequestRouter):
    async def choose_replicas(self, candidate_replicas, pending_request=None):
        near = self.rank_replicas_via_locality(replicas=candidate_replicas)[0]
        free = self.select_available_replicas(candidates=near)
        return [[min(free, key=lambda replica: replica.routing_stats.get("throughput", 0))]]


class Raises(RequestRouter):
    async def choose_replicas(self, candidate_replicas, pending_request=None):
        raise RuntimeError("no idea")


class Blocks(RequestRouter):
    async def choose_replicas(self, candidate_replicas, pending_request=None):
        time.sleep(3)  # noqa: ASYNC251 (to block is what it is for)
        return [candidate_replicas]


class CannotStart(RequestRouter):
    def __init__(self, **kwargs):
        raise RuntimeError("no config")


class Tells(PowerOfTwoChoicesRequestRouter):
    """Writes down what it hears into a file, for it is a copy of the class that runs."""

    def initialize_state(self, path):
        self.path = path

    def tell(self, *words):
        with open(self.path, "a") as file:
            print(*words, file=file)

    def on_request_routed(self, pending_request, replica_id, result):
        self.tell("routed", pending_request.metadata.internal_request_id, replica_id.unique_id)

    def on_request_completed(self, replica_id, internal_request_id):
        self.tell("completed", internal_request_id, replica_id.unique_id)


class Who:
    def __init__(self, name):
        self.name = name

    async def __call__(self, *args):
        return self.name


def config_of(router: type, **options) -> dict:
    config = RequestRouterConfig(request_router_class=router, **options)
    return {"request_router_json": config.model_dump_json(), "request_router": _router(config)}


async def serve(running, router: type, count: int = 3, **options) -> None:
    for number in range(count):
        await running.add("model", Who(number), **config_of(router, **options))
    await handle().remote(0)
    await until(lambda: get_runtime().target("app", "model").settled)


def test_calls_go_where_the_router_sends_them(tmp_path):
    async def scenario(running):
        await serve(running, First)
        assert await asyncio.gather(*(handle().remote(number) for number in range(50))) == [0] * 50

    run(scenario, tmp_path)


def test_a_router_sees_arguments_and_its_own_and_need_not_be_async(tmp_path):
    async def scenario(running):
        await serve(running, ByArgument, request_router_kwargs={"shift": 0})
        assert await asyncio.gather(*(handle().remote(number % 3) for number in range(30))) == [0, 1, 2] * 10
        async with handle().choose_replica(1) as selection:
            assert await handle().dispatch(selection, 1) == 1
        assert sorted(await handle().broadcast("__call__", 0).results_async()) == [0, 1, 2]

    run(scenario, tmp_path)


def test_a_router_sees_the_stats_of_replicas_as_they_change(tmp_path):
    async def scenario(running):
        await serve(running, ByStats)
        for best in (2, 0):
            for number, replica in enumerate(running.view.deployments[0].replicas):
                replica.routing_stats_json = f'{{"throughput": {1 if number == best else 5}}}'
            running.publish()
            called = []
            await until_async(called, best)
            assert set(await asyncio.gather(*(handle().remote() for _ in range(20)))) == {best}

    async def until_async(called, best):
        deadline = time.monotonic() + 20
        while not called or called[-1] != best:
            assert time.monotonic() < deadline
            called.append(await handle().remote())

    run(scenario, tmp_path)


def test_a_router_that_fails_holds_up_nobody_and_is_logged_once(tmp_path, caplog):
    async def scenario(running):
        await serve(running, Raises)
        assert len(await asyncio.gather(*(handle().remote() for _ in range(50)))) == 50

    run(scenario, tmp_path)
    failures = [record for record in caplog.records if "request router" in record.getMessage()]
    assert len(failures) == 1
    assert "RuntimeError: no idea" in failures[0].exc_text


def test_a_router_that_cannot_start_is_done_without(tmp_path, caplog):
    async def scenario(running):
        await serve(running, CannotStart)
        assert len(await asyncio.gather(*(handle().remote() for _ in range(50)))) == 50

    run(scenario, tmp_path)
    assert sum("cannot be used" in record.getMessage() for record in caplog.records) == 1


def test_a_router_that_blocks_does_not_block_the_loop_and_is_not_waited_for(tmp_path, caplog):
    async def scenario(running):
        began = time.monotonic()
        first = asyncio.ensure_future(serve(running, Blocks, 1))
        while not first.done():
            before = time.monotonic()
            await asyncio.sleep(0.01)
            assert time.monotonic() - before < 0.9
        await first
        # It still sleeps.
        assert await asyncio.gather(*(handle().remote() for _ in range(20))) == [0] * 20
        assert time.monotonic() - began < 2.9

    run(scenario, tmp_path)
    assert sum("took longer than" in record.getMessage() for record in caplog.records) == 1


def test_a_router_hears_which_calls_began_and_ended(tmp_path):
    heard = tmp_path / "heard"

    async def scenario(running):
        await serve(running, Tells, request_router_kwargs={"path": str(heard)})
        await asyncio.gather(*(handle().remote() for _ in range(10)))
        async with handle().choose_replica() as selection:
            await handle().dispatch(selection)
        await until(lambda: heard.read_text().count("completed") == 12)
        assert not get_runtime().target("app", "model")._user_router._pending

    run(scenario, tmp_path)
    lines = [line.split() for line in heard.read_text().splitlines()]
    routed = {tuple(line[1:]) for line in lines if line[0] == "routed"}
    assert len(routed) == 12
    assert routed == {tuple(line[1:]) for line in lines if line[0] == "completed"}


def test_calls_that_are_cancelled_while_they_are_decided_leave_nothing(tmp_path):
    async def scenario(running):
        await serve(running, Blocks, 1)
        target = get_runtime().target("app", "model")
        await running.add("other", Model(), **config_of(Blocks))
        response = handle("other").remote(1)
        await until(lambda: get_runtime().target("app", "other").router.queued == 1)
        response.cancel()
        await until(lambda: get_runtime().target("app", "other").router.queued == 0)
        assert not target._user_router._pending
        assert not get_runtime().target("app", "other")._user_router._pending

    run(scenario, tmp_path)


def test_what_is_no_router_is_refused():
    with pytest.raises(TypeError, match="is no subclass of"):
        _router(RequestRouterConfig(request_router_class=f"{__name__}:Who"))


def test_a_router_that_hangs_does_not_keep_the_process_from_ending():
    code = """
import time
from swerve.caller.loop_thread import LoopThread
LoopThread("idle", untrusted=True)
LoopThread("hanging", untrusted=True).loop.call_soon_threadsafe(time.sleep, 60)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0
