"""Responses as arguments; broadcasts; chosen replicas."""

from __future__ import annotations

import asyncio
import pickle
import time

import pytest
from caller_support import Model, handle, request, run, until

from swerve.caller.runtime import get_runtime
from swerve.exceptions import (
    RayServeException,
    RequestCancelledError,
)

# --- responses as arguments ------------------------------------------------------------------------------------------


def test_a_response_as_an_argument_is_replaced_by_its_result(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        one = handle().remote(1)
        assert await handle("model", "echo").remote(one, 5, also=handle().remote(one)) == ((2, 5), {"also": 4})

    run(scenario, tmp_path)


def test_the_error_of_an_argument_is_the_error_of_the_call(tmp_path):
    async def scenario(running):
        replica = await running.add("model", Model())
        failing = handle("model", "fail").remote(KeyError("first"))
        with pytest.raises(KeyError, match="first"):
            await handle().remote(failing)
        assert len(replica.metadata) == 1

    run(scenario, tmp_path)


def test_cancelling_a_call_that_waits_for_an_argument_leaves_the_argument(tmp_path):
    async def scenario(running):
        model = Model()
        replica = await running.add("model", model)
        argument = handle("model", "held").remote("kept")
        call = handle("model", "echo").remote(argument)
        await until(lambda: model.started == 1)
        call.cancel()
        with pytest.raises(RequestCancelledError):
            await call
        model.release.set()
        assert await argument == "kept"
        assert len(replica.metadata) == 1

    run(scenario, tmp_path)


def test_a_response_within_an_argument_is_not_serializable(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        one = handle().remote(1)
        with pytest.raises(RayServeException, match="`DeploymentResponse` is not serializable"):
            await handle().remote([one])
        with pytest.raises(RayServeException, match="`DeploymentResponse` is not serializable"):
            pickle.dumps(one)
        await one

    run(scenario, tmp_path)


def test_a_stream_as_an_argument_is_refused(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        stream = handle("model", "echo").options(stream=True).remote()
        with pytest.raises(RuntimeError, match="Streaming deployment handle results cannot be passed"):
            await handle().remote(stream)

    run(scenario, tmp_path)


# --- every replica, a chosen replica ---------------------------------------------------------------------------------


def test_a_broadcast_reaches_every_replica_however_busy(tmp_path):
    class Named:
        def __init__(self, name):
            self.name = name
            self.release = asyncio.Event()

        async def hold(self):
            await self.release.wait()

        async def who(self, suffix):
            return self.name + suffix

    async def scenario(running):
        targets = [Named(name) for name in "abc"]
        for target in targets:
            await running.add("model", target, max_ongoing=1)
        holding = [handle("model", "hold").remote() for _ in targets]
        await until(lambda: sum(len(replica.metadata) for replica in running.replicas.values()) == 3)
        response = handle().broadcast("who", "!")
        assert sorted(await response.results_async(timeout_s=20)) == ["a!", "b!", "c!"]
        for target in targets:
            target.release.set()
        await asyncio.gather(*holding)

    run(scenario, tmp_path)


def test_a_broadcast_asks_a_replica_again_that_refuses(tmp_path):
    async def scenario(running):
        replica = await running.add("model", Model())
        replica.refuse_next = 2
        assert await handle().broadcast("__call__", 1).results_async() == [2]

    run(scenario, tmp_path)


def test_a_broadcast_gives_or_raises_errors_as_asked(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        response = handle().broadcast("fail", KeyError("x"))
        assert [type(error) for error in await response.results_async(return_exceptions=True)] == [KeyError]
        with pytest.raises(KeyError):
            await response.results_async()

    run(scenario, tmp_path)


def test_a_broadcast_times_out_in_the_words_of_ray(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model)
        response = handle().broadcast("held")
        with pytest.raises(TimeoutError, match="Timed out waiting for broadcast results"):
            await response.results_async(timeout_s=0.05)
        with pytest.raises(ValueError, match="timeout_s must be None or non-negative"):
            await response.results_async(timeout_s=-1)
        response.cancel()
        await until(lambda: model.cancelled == 1)

    run(scenario, tmp_path)


def test_a_chosen_replica_gets_the_dispatched_call(tmp_path):
    async def scenario(running):
        for _ in range(3):
            await running.add("model", Model())
        async with handle().choose_replica() as selection:
            assert await handle().dispatch(selection, 4) == 8
        chosen = running.replicas[selection.replica_id]
        assert len(chosen.metadata) == 1
        assert selection.to_dict()["address"] == chosen.view.address

    run(scenario, tmp_path)


def test_a_chosen_replica_is_reserved_until_the_block_ends(tmp_path):
    async def scenario(running):
        await running.add("model", Model(), max_ongoing=1)
        async with handle().choose_replica():
            other = handle().remote(1)
            await asyncio.sleep(0.02)
            assert get_runtime().target("app", "model").router.queued == 1
        assert await other == 2

    run(scenario, tmp_path)


def test_a_selection_serves_one_call_of_its_deployment(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        async with handle().choose_replica() as selection:
            with pytest.raises(ValueError, match="Cannot dispatch a selection created for a different deployment"):
                handle("other").dispatch(selection)
            await handle().dispatch(selection, 1)
            with pytest.raises(ValueError, match="Cannot dispatch a selection twice"):
                handle().dispatch(selection, 1)

    run(scenario, tmp_path)


def test_choosing_gives_up_at_the_deadline(tmp_path):
    async def scenario(running):
        async with request(deadline=time.monotonic() + 0.05):
            with pytest.raises(TimeoutError):
                async with handle().choose_replica():
                    raise AssertionError

    run(scenario, tmp_path)
