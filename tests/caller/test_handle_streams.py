"""Streams of results: order, pace, ends, cancellation."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from caller_support import handle, instance, request, until

from swerve.caller.call import MAX_UNREAD
from swerve.exceptions import RayServeException, ReplicaUnavailableError, RequestCancelledError
from swerve.handle import DeploymentResponseGenerator


class Source:
    def __init__(self) -> None:
        self.yielded = 0
        self.closed = 0
        self.go_on = asyncio.Event()

    async def count(self, number, padding=0):
        async def items():
            try:
                for index in range(number):
                    self.yielded += 1
                    yield index, bytes(padding)
            finally:
                self.closed += 1

        return items()

    async def then_fail(self):
        async def items():
            yield 1
            raise KeyError("after one")

        return items()

    async def one_by_one(self):
        async def items():
            try:
                yield "first"
                await self.go_on.wait()
                yield "second"
            finally:
                self.closed += 1

        return items()

    async def hold(self):
        await self.go_on.wait()


def run(coroutine_function, tmp_path):
    async def main():
        async with instance(tmp_path) as running:
            source = Source()
            await running.add("model", source, max_ongoing=2)
            await asyncio.wait_for(coroutine_function(running, source), 30)

    asyncio.run(main())


def stream(method):
    return handle("model", method).options(stream=True)


def test_the_items_come_in_order_and_end(tmp_path):
    async def scenario(running, source):
        items = stream("count").remote(50)
        assert isinstance(items, DeploymentResponseGenerator)
        assert [index async for index, _ in items] == list(range(50))
        with pytest.raises(StopAsyncIteration):
            await items.__anext__()

    run(scenario, tmp_path)


def test_an_item_arrives_when_it_is_yielded(tmp_path):
    async def scenario(running, source):
        items = stream("one_by_one").remote()
        assert await items.__anext__() == "first"
        source.go_on.set()
        assert await items.__anext__() == "second"

    run(scenario, tmp_path)


def test_an_exception_ends_the_stream_after_its_items(tmp_path):
    async def scenario(running, source):
        items = stream("then_fail").remote()
        assert await items.__anext__() == 1
        with pytest.raises(KeyError, match="after one"):
            await items.__anext__()
        with pytest.raises(StopAsyncIteration):
            await items.__anext__()

    run(scenario, tmp_path)


def test_a_slow_reader_holds_the_replica_back_and_misses_nothing(tmp_path):
    async def scenario(running, source):
        items = stream("count").remote(300, padding=64 * 1024)
        await items.__anext__()
        seen = -1
        # The replica stops by itself: wait until it has yielded nothing new for a while.
        while seen != source.yielded:
            seen = source.yielded
            await asyncio.sleep(0.1)
        assert MAX_UNREAD < source.yielded < 200
        assert [index async for index, _ in items] == list(range(1, 300))

    run(scenario, tmp_path)


def test_cancel_ends_the_stream_here_and_there(tmp_path):
    async def scenario(running, source):
        items = stream("one_by_one").remote()
        await items.__anext__()
        items.cancel()
        assert items.cancelled()
        with pytest.raises(RequestCancelledError, match=items.request_id):
            await items.__anext__()
        await until(lambda: source.closed == 1)

    run(scenario, tmp_path)


def test_a_stream_that_is_dropped_is_cancelled(tmp_path):
    async def scenario(running, source):
        async for _ in stream("one_by_one").remote():
            break
        await until(lambda: source.closed == 1)

    run(scenario, tmp_path)


def test_a_streams_request_cancels_it(tmp_path):
    async def scenario(running, source):
        async with request() as context:
            items = stream("one_by_one").remote()
            await items.__anext__()
            for cancel in list(context.children.values()):
                cancel()
            with pytest.raises(RequestCancelledError):
                await items.__anext__()
            assert items.cancelled()

    run(scenario, tmp_path)


def test_a_stream_whose_replica_dies_raises(tmp_path):
    async def scenario(running, source):
        items = stream("one_by_one").remote()
        await items.__anext__()
        running.replicas["model-0"].die()
        with pytest.raises(ReplicaUnavailableError):
            await items.__anext__()

    run(scenario, tmp_path)


def test_a_finished_stream_frees_its_slot(tmp_path):
    async def scenario(running, source):
        for _ in range(5):
            assert len([item async for item in stream("count").remote(3)]) == 3

    run(scenario, tmp_path)


def test_misuse_is_named(tmp_path):
    async def scenario(running, source):
        items = stream("count").remote(1)
        with pytest.raises(TypeError, match="cannot be awaited directly"):
            await items
        with pytest.raises(TypeError, match=r"doesn't support `.result\(\)`"):
            items.result()
        with pytest.raises(RuntimeError, match="Sync methods should not be called from within an `asyncio` event loop"):
            next(items)
        with pytest.raises(RayServeException, match="not serializable"):
            pickle.dumps(items)

    run(scenario, tmp_path)
