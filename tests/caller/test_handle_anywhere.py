"""Handles on any thread and loop, in a driving program as in a replica; what a handle is by itself."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from caller_support import Instance, handle, instance, until

from swerve.caller.loop_thread import LoopThread
from swerve.caller.runtime import CallerRuntime, get_runtime, set_runtime
from swerve.exceptions import BackPressureError, RequestCancelledError
from swerve.handle import DeploymentHandle


class Model:
    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0

    async def __call__(self, value):
        return value * 2

    async def held(self):
        self.started += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def count(self, number):
        async def items():
            for index in range(number):
                yield index

        return items()


@pytest.fixture
def model(tmp_path):
    """A program's view: the instance runs elsewhere (a thread here), the runtime on its own background loop."""
    there = LoopThread("instance")
    model = Model()

    async def start():
        running = Instance(tmp_path)
        await running.start()
        await running.add("model", model)
        return running

    running = there.call(start)
    runtime = CallerRuntime.for_driver(running.address)
    set_runtime(runtime)
    yield model
    set_runtime(None)
    runtime.close()
    there.call(running.stop)
    there.stop()


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_result_waits_in_a_plain_thread(model):
    response = handle().remote(21)
    assert response.result(timeout_s=20) == 42
    assert response.result() == 42


def test_result_gives_up_after_its_timeout_and_the_call_goes_on(model):
    response = handle("model", "held").remote()
    wait_for(lambda: model.started == 1)
    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        response.result(timeout_s=0.05)
    assert model.cancelled == 0
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=20)
    wait_for(lambda: model.cancelled == 1)


def test_many_threads_call_at_once(model):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: handle().remote(number).result(timeout_s=20), range(200)))
    assert results == list(range(0, 400, 2))


def test_several_threads_wait_for_one_response(model):
    response = handle().remote(4)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: response.result(timeout_s=20), range(4))) == [8] * 4


def test_await_works_in_a_loop_that_is_not_the_runtimes(model):
    async def main():
        assert asyncio.get_running_loop() is not get_runtime().loop
        assert await asyncio.gather(*(handle().remote(number) for number in range(20))) == list(range(0, 40, 2))
        items = handle("model", "count").options(stream=True).remote(100)
        assert [item async for item in items] == list(range(100))

    asyncio.run(main())


def test_a_response_made_in_a_thread_can_be_awaited_in_a_loop(model):
    response = handle().remote(1)

    async def main():
        return await response

    assert asyncio.run(main()) == 2


def test_a_stream_is_iterated_in_a_plain_thread(model):
    assert list(handle("model", "count").options(stream=True).remote(1000)) == list(range(1000))


def test_a_slow_plain_reader_misses_nothing(model):
    items = handle("model", "count").options(stream=True).remote(200)
    received = []
    for item in items:
        received.append(item)
        if item % 20 == 0:
            time.sleep(0.005)
    assert received == list(range(200))


def test_result_inside_an_event_loop_is_refused(model):
    async def main():
        response = handle().remote(1)
        with pytest.raises(RuntimeError, match="Use `await response` instead"):
            response.result()
        broadcast = handle().broadcast("__call__", 1)
        with pytest.raises(RuntimeError, match="Use `await response` instead"):
            broadcast.results()
        assert await response == 2

    asyncio.run(main())


def test_broadcast_and_responses_as_arguments_work_from_a_thread(model):
    assert handle().broadcast("__call__", 3).results(timeout_s=20) == [6]
    assert handle().remote(handle().remote(1)).result(timeout_s=20) == 4


def test_choosing_a_replica_works_in_any_loop(model):
    async def main():
        async with handle().choose_replica() as selection:
            return await handle().dispatch(selection, 5)

    assert asyncio.run(main()) == 10


def test_a_plain_handler_in_a_pool_thread_calls_on(tmp_path):
    class Outer:
        def __init__(self, inner):
            self.inner = inner

        async def __call__(self, value):
            return await asyncio.to_thread(lambda: self.inner.remote(value).result(timeout_s=20) + 1)

    async def main():
        async with instance(tmp_path) as running:
            await running.add("model", Model())
            await running.add("outer", Outer(handle()))
            assert await asyncio.wait_for(handle("outer").remote(20), 30) == 41

    asyncio.run(main())


def test_closing_the_drivers_runtime_ends_its_thread_and_its_calls(model):
    response = handle("model", "held").remote()
    wait_for(lambda: model.started == 1)
    runtime = get_runtime()
    runtime.close()
    with pytest.raises(Exception, match=r"lost|disconnected"):
        response.result(timeout_s=20)
    assert "swerve-handles" not in [thread.name for thread in threading.enumerate()]
    runtime.close()


def test_a_program_ends_cleanly_with_a_call_running(tmp_path):
    program = (
        "from swerve.caller.runtime import CallerRuntime, set_runtime\n"
        "from swerve.handle import DeploymentHandle\n"
        f"set_runtime(CallerRuntime.for_driver('unix:{tmp_path}/nobody.sock'))\n"
        "response = DeploymentHandle('a', 'b').remote(1)\n"
        "stream = DeploymentHandle('a', 'b').options(stream=True).remote(1)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


# --- the handle itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [pickle.loads, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_a_handle_survives_copying_with_its_options(copied):
    original = DeploymentHandle("d", "a").options(
        method_name="m", multiplexed_model_id="x", session_id="s", stream=True
    )
    other = copied(pickle.dumps(original) if copied is pickle.loads else original)
    assert (other.deployment_name, other.app_name, str(other.deployment_id)) == (
        "d",
        "a",
        "Deployment(name='d', app='a')",
    )
    assert other._destination == original._destination


def test_options_change_a_copy_and_keep_the_rest():
    base = DeploymentHandle("d", "a")
    one = base.options(method_name="m").options(multiplexed_model_id="x")
    assert (one._destination.method, one._destination.model_id) == ("m", "x")
    assert (base._destination.method, base._destination.model_id) == ("__call__", "")


def test_rays_other_options_are_taken():
    DeploymentHandle("d", "a").options(
        _prefer_local_routing=True, _by_reference=False, request_serialization="pickle", response_serialization="pickle"
    )


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="no_such_option"):
        DeploymentHandle("d", "a").options(no_such_option=1)


@pytest.mark.parametrize(("value", "error"), [(7, TypeError), ("a\nb", ValueError), (" a", ValueError)])
def test_an_option_that_cannot_be_sent_is_refused(value, error):
    with pytest.raises(error, match="multiplexed_model_id must"):
        DeploymentHandle("d", "a").options(multiplexed_model_id=value)


def test_a_method_by_attribute_is_made_once():
    base = DeploymentHandle("d", "a")
    assert base.predict is base.predict
    assert base.predict._destination.method == "predict"
    assert getattr(base, "__call__")._destination.method == "__call__"  # noqa: B004, B009 (the handle's own attribute)
    with pytest.raises(AttributeError):
        base.__array__  # noqa: B018 (to look it up is the test)


def test_a_handle_is_initialized_once_and_early():
    one = DeploymentHandle("d", "a")
    assert not one.is_initialized
    one._init(_prefer_local_routing=True)
    assert one.is_initialized
    with pytest.raises(RuntimeError, match="cannot be initialized twice"):
        one._init()
    with pytest.raises(ValueError, match="nonsense"):
        DeploymentHandle("d", "a")._init(nonsense=1)


def test_running_replicas_are_populated_once_they_are_connected(tmp_path):
    async def main():
        async with instance(tmp_path) as running:
            await running.add("model", Model())
            one = handle()
            assert not one.running_replicas_populated()
            await one.remote(1)
            assert one.running_replicas_populated()
            await until(lambda: True)

    asyncio.run(main())


def test_backpressure_survives_pickling_with_its_numbers():
    error = pickle.loads(pickle.dumps(BackPressureError(3, 2)))
    assert "num_queued_requests=3, max_queued_requests=2" in str(error)
