"""Cancellation and deadlines of handle calls."""

from __future__ import annotations

import asyncio
import time

import pytest
from caller_support import Model, handle, request, run, until

from swerve.caller.runtime import get_runtime
from swerve.exceptions import (
    RequestCancelledError,
)


def test_cancel_ends_a_running_call_at_its_replica(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model)
        response = handle("model", "held").remote()
        await until(lambda: model.started == 1)
        assert not response.cancelled()
        response.cancel()
        with pytest.raises(RequestCancelledError, match=response.request_id):
            await response
        assert response.cancelled()
        await until(lambda: model.cancelled == 1)

    run(scenario, tmp_path)


def test_a_waiting_call_that_is_cancelled_never_starts(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model, max_ongoing=1)
        first, second, third = (handle("model", "held").remote(number) for number in range(3))
        await until(lambda: model.started == 1)
        second.cancel()
        with pytest.raises(RequestCancelledError):
            await second
        assert get_runtime().target("app", "model").router.queued == 1
        model.release.set()
        assert await asyncio.gather(first, third) == [0, 2]
        assert model.started == 2

    run(scenario, tmp_path)


def test_cancel_after_the_end_keeps_the_result(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        response = handle().remote(1)
        await response
        response.cancel()
        assert await response == 2

    run(scenario, tmp_path)


def test_a_cancelled_call_frees_its_slot(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model, max_ongoing=1)
        response = handle("model", "held").remote()
        await until(lambda: model.started == 1)
        response.cancel()
        assert await handle().remote(1) == 2

    run(scenario, tmp_path)


def test_cancelling_the_last_task_that_awaits_cancels_the_call(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model)
        response = handle("model", "held").remote()
        tasks = [asyncio.ensure_future(_await(response)) for _ in range(2)]
        await until(lambda: model.started == 1)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        await asyncio.sleep(0.02)
        assert model.cancelled == 0
        tasks[1].cancel()
        await until(lambda: model.cancelled == 1)

    run(scenario, tmp_path)


async def _await(response):
    return await response


def test_the_calls_of_a_request_are_cancelled_by_its_children(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model, max_ongoing=1)
        async with request() as context:
            responses = [handle("model", "held").remote() for _ in range(2)]
            await until(lambda: model.started == 1)
            assert len(context.children) == 2
            for cancel in list(context.children.values()):
                cancel()
            for response in responses:
                with pytest.raises(RequestCancelledError, match="Request r-1 was cancelled"):
                    await response
            assert context.children == {}
        await until(lambda: model.cancelled == 1)

    run(scenario, tmp_path)


def test_a_finished_call_is_no_child_of_its_request_any_more(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        async with request() as context:
            await handle().remote(1)
            assert context.children == {}

    run(scenario, tmp_path)


def test_a_call_that_a_replica_cancelled_raises_request_cancelled(tmp_path):
    class Cancelling:
        async def __call__(self):
            raise asyncio.CancelledError

    async def scenario(running):
        await running.add("model", Cancelling())
        with pytest.raises(RequestCancelledError):
            await handle().remote()

    run(scenario, tmp_path)


def test_calls_inherit_the_request_but_not_model_and_session(tmp_path):
    async def scenario(running):
        replica = await running.add("model", Model())
        deadline = time.monotonic() + 60
        async with request(deadline=deadline, multiplexed_model_id="m", session_id="s"):
            assert handle().remote(1).request_id == "r-1"
            await handle().options(multiplexed_model_id="other", session_id="mine").remote(1)
        plain, with_options = replica.metadata
        assert plain["request_id"] == "r-1"
        assert plain["application"] == "outer"
        assert plain["swerve-route"] == "/outer"
        assert "multiplexed_model_id" not in plain
        assert "session_id" not in plain
        assert plain["grpc-timeout"].endswith("u")
        assert (with_options["multiplexed_model_id"], with_options["session_id"]) == ("other", "mine")

    run(scenario, tmp_path)


def test_calls_outside_requests_have_ids_of_their_own_and_no_deadline(tmp_path):
    async def scenario(running):
        replica = await running.add("model", Model())
        ids = {(response := handle().remote(1)).request_id for _ in range(2)}
        assert len(ids) == 2
        await response
        await until(lambda: len(replica.metadata) == 2)
        assert all("grpc-timeout" not in metadata for metadata in replica.metadata)

    run(scenario, tmp_path)


def test_a_running_call_ends_at_the_deadline_of_its_request(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model)
        await handle().remote(0)
        async with request(deadline=time.monotonic() + 0.1):
            with pytest.raises(TimeoutError):
                await handle("model", "held").remote()
        await until(lambda: model.cancelled == 1)

    run(scenario, tmp_path)


def test_a_waiting_call_ends_at_the_deadline_and_never_starts(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model, max_ongoing=1)
        first = handle("model", "held").remote(1)
        await until(lambda: model.started == 1)
        async with request(deadline=time.monotonic() + 0.05):
            with pytest.raises(TimeoutError, match="deadline"):
                await handle("model", "held").remote()
        assert get_runtime().target("app", "model").router.queued == 0
        model.release.set()
        await first
        assert await handle().remote(1) == 2
        assert model.started == 1

    run(scenario, tmp_path)


def test_an_expired_request_calls_nobody(tmp_path):
    async def scenario(running):
        replica = await running.add("model", Model())
        await handle().remote(0)
        async with request(deadline=time.monotonic() - 1):
            with pytest.raises(TimeoutError, match="deadline"):
                await handle().remote(1)
        assert len(replica.metadata) == 1

    run(scenario, tmp_path)


def test_a_cancelled_request_calls_nobody(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model)
        async with request() as context:
            context.cancelled = True
            with pytest.raises(RequestCancelledError):
                await handle("model", "held").remote()
        assert model.started == 0

    run(scenario, tmp_path)
