"""Handles between real replicas in processes of their own, and from the program that deployed them."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import swerve as serve
from swerve.caller.codec import RemoteTraceback
from swerve.exceptions import BackPressureError, RayServeException, RequestCancelledError


class Picture:
    def __init__(self, pixels):
        self.pixels = pixels


class ModelError(Exception):
    pass


@serve.deployment(max_ongoing_requests=20)
class Inner:
    def __init__(self):
        self.running = 0
        self.cancelled = 0
        self.loads = []

    async def __call__(self, value):
        return value

    def plain(self, picture):
        return Picture(picture.pixels[::-1])

    async def hold(self):
        self.running += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def counts(self):
        return self.running, self.cancelled

    async def fail(self):
        raise ModelError("inner")

    async def count(self, number):
        for index in range(number):
            yield index

    def plain_count(self, number):
        yield from range(number)

    @serve.multiplexed(max_num_models_per_replica=2)
    async def model(self, model_id):
        self.loads.append(model_id)
        return f"model {model_id}"

    async def predict(self):
        return await self.model(serve.get_multiplexed_model_id())

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=10)
    async def batched(self, values):
        return [(value, len(values)) for value in values]


@serve.deployment(max_ongoing_requests=20)
class Outer:
    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, value):
        return await self.inner.remote(value)

    def plainly(self, value):
        return self.inner.remote(value).result(timeout_s=20)

    def plain_stream(self, number):
        yield from self.inner.options(stream=True, method_name="plain_count").remote(number)

    async def stream(self, number):
        async for item in self.inner.options(stream=True).count.remote(number):
            yield item

    async def hold(self):
        await self.inner.hold.remote()

    async def fail(self):
        await self.inner.fail.remote()

    async def chain(self, value):
        return await self.inner.remote(self.inner.remote(value))


@serve.deployment(max_ongoing_requests=1, max_queued_requests=1)
class Narrow:
    async def hold(self):
        await asyncio.Event().wait()

    async def __call__(self):
        return os.getpid()


@serve.deployment
class Source:
    def make(self, size):
        return Pixels(bytes(range(256)) * (size // 256))

    def pid(self):
        return os.getpid()


class Pixels:
    """Offers its memory out of band, as a numpy array does."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Pixels, (pickle.PickleBuffer(self.data),)


@pytest.fixture(scope="module")
def outer():
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="swerve-") as folder:
        patch.setenv("SWERVE_STATE_DIR", str(Path(folder) / "state"))
        handle = serve.run(Outer.bind(Inner.bind()), name="app")
        yield handle
        serve.shutdown()


@pytest.fixture
def inner(outer):
    return serve.get_deployment_handle("Inner", "app")


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_value_passes_through_coroutines_and_plain_methods(outer):
    assert outer.remote({"a": [1]}).result(timeout_s=20) == {"a": [1]}
    assert outer.plainly.remote("x").result(timeout_s=20) == "x"
    assert outer.chain.remote(3).result(timeout_s=20) == 3


def test_the_programs_own_classes_come_back_as_themselves(inner):
    picture = inner.plain.remote(Picture(b"abc")).result(timeout_s=20)
    assert type(picture) is Picture
    assert picture.pixels == b"cba"


def test_a_large_value_passes(inner):
    value = os.urandom(20 << 20)
    assert inner.remote(value).result(timeout_s=60) == value


def lent_to_this_process():
    return Path("/proc/self/maps").read_text().count("/memfd:swerve (deleted)")


def lent_by(pid):
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return links.count("/memfd:swerve (deleted)")


def test_a_large_buffer_passes_by_shared_memory_there_and_back(outer):
    before = lent_to_this_process()
    data = bytes(range(256)) * (4 << 12)
    pixels = outer.remote(Pixels(bytearray(data))).result(timeout_s=20)
    assert pixels.data == data
    assert memoryview(pixels.data).readonly
    # What this process lent, and what it was lent.
    assert lent_to_this_process() >= before + 2
    del pixels
    wait_for(lambda: lent_to_this_process() <= before and not lent_by(os.getpid()))


def test_a_buffer_outlives_its_replica_and_nothing_outlives_the_buffer(outer):
    source = serve.run(Source.bind(), name="source", route_prefix="/source")
    before = lent_to_this_process()
    pixels = source.make.remote(1 << 20).result(timeout_s=20)
    pid = source.pid.remote().result(timeout_s=20)
    assert lent_by(pid)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or not any(Path(f"/proc/{pid}/fd").iterdir()))
    assert pixels.data == bytes(range(256)) * (1 << 12)
    assert lent_to_this_process() == before + 1
    del pixels
    assert lent_to_this_process() == before
    serve.delete("source")


def test_streams_pass_through_generators_of_both_kinds(outer):
    assert list(outer.options(stream=True).stream.remote(500)) == list(range(500))
    assert list(outer.options(stream=True).plain_stream.remote(500)) == list(range(500))


def test_an_exception_keeps_its_type_across_two_replicas(outer):
    with pytest.raises(ModelError, match="inner") as caught:
        outer.fail.remote().result(timeout_s=20)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fail" in str(caught.value.__cause__)


def test_a_missing_method_is_named_with_those_there_are(outer):
    with pytest.raises(RayServeException, match=r"'nothing' that does not exist. Available methods: .*'plainly'"):
        outer.nothing.remote().result(timeout_s=20)


def test_cancelling_a_call_cancels_the_calls_that_it_made(outer, inner):
    running, cancelled = inner.counts.remote().result(timeout_s=20)
    response = outer.hold.remote()
    wait_for(lambda: inner.counts.remote().result(timeout_s=20)[0] > running)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=20)
    wait_for(lambda: inner.counts.remote().result(timeout_s=20)[1] > cancelled)


def test_models_are_chosen_by_the_handle(inner):
    for model_id in ("a", "b", "a"):
        assert inner.options(multiplexed_model_id=model_id).predict.remote().result(timeout_s=20) == f"model {model_id}"


def test_calls_share_batches(inner):
    responses = [inner.batched.remote(number) for number in range(4)]
    assert [response.result(timeout_s=20) for response in responses] == [(number, 4) for number in range(4)]


def test_many_threads_and_a_loop_call_together(outer):
    async def gather():
        return await asyncio.gather(*(outer.remote(number) for number in range(100)))

    with ThreadPoolExecutor(4) as pool:
        loop_results = pool.submit(asyncio.run, gather())
        results = list(pool.map(lambda number: outer.remote(number).result(timeout_s=20), range(100)))
    assert results == loop_results.result() == list(range(100))


def test_a_broadcast_reaches_the_replica(inner):
    assert inner.broadcast("__call__", 1).results(timeout_s=20) == [1]


def test_a_full_deployment_sheds_and_every_replica_answers(outer):
    narrow = serve.run(Narrow.options(num_replicas=2).bind(), name="narrow", route_prefix="/narrow")
    wait_for(lambda: len(set(narrow.broadcast("__call__").results(timeout_s=20))) == 2)
    held = [narrow.hold.remote() for _ in range(2)]
    wait_for(lambda: sum(replica.ongoing for replica in _replicas("narrow", "Narrow")) == 2)
    waiting = narrow.remote()
    with pytest.raises(BackPressureError, match="num_queued_requests=1, max_queued_requests=1"):
        narrow.remote().result(timeout_s=20)
    waiting.cancel()
    for response in held:
        response.cancel()
    serve.delete("narrow")


def _replicas(app, deployment):
    from swerve.caller.runtime import get_runtime

    return get_runtime().target(app, deployment).router.replicas.values()
