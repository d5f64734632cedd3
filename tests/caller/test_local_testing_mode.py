"""An application in the test's own process."""

from __future__ import annotations

import asyncio
import threading

import pytest

import swerve as serve
from swerve.exceptions import RayServeException, RequestCancelledError
from swerve.handle import DeploymentHandle
from swerve.testing import run_locally


@serve.deployment
class Doubler:
    def __init__(self, factor=2):
        self.factor = factor
        self.seen = []
        self.cancelled = threading.Event()
        self.started = threading.Event()

    def __call__(self, value):
        self.seen.append(value)
        return value * self.factor

    def last_seen(self):
        return self.seen[-1]

    async def model_id(self):
        return serve.get_multiplexed_model_id()

    async def hold(self):
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    def wait_started(self):
        return self.started.wait(20)

    def wait_cancelled(self):
        return self.cancelled.wait(20)

    def count(self, number):
        yield from range(number)

    async def acount(self, number):
        for index in range(number):
            yield index

    def fail(self):
        raise KeyError("no")

    def reconfigure(self, config):
        self.factor = config["factor"]


@serve.deployment
class Outer:
    def __init__(self, inner: DeploymentHandle):
        self.inner = inner

    async def __call__(self, value):
        return await self.inner.remote(value) + 1

    def plainly(self, value):
        return self.inner.remote(value).result(timeout_s=20) + 1

    async def with_handle(self, handle, value):
        return await handle.remote(value)

    async def hold(self):
        self.call = self.inner.hold.remote()
        await asyncio.Event().wait()


@pytest.fixture
def doubler():
    return run_locally(Doubler.bind())


def test_methods_of_every_kind_answer(doubler):
    assert doubler.remote(3).result(timeout_s=20) == 6
    assert list(doubler.options(stream=True).count.remote(100)) == list(range(100))
    assert list(doubler.options(stream=True).acount.remote(100)) == list(range(100))
    assert doubler.options(multiplexed_model_id="m").model_id.remote().result(timeout_s=20) == "m"


def test_responses_are_awaited_in_the_tests_loop(doubler):
    async def main():
        return await asyncio.gather(*(doubler.remote(number) for number in range(10)))

    assert asyncio.run(main()) == list(range(0, 20, 2))


def test_deployments_call_each_other_from_coroutines_and_plain_methods():
    outer = run_locally(Outer.bind(Doubler.bind()))
    assert outer.remote(3).result(timeout_s=20) == 7
    assert outer.plainly.remote(3).result(timeout_s=20) == 7


def test_a_handle_as_an_argument_reaches_the_same_application(doubler):
    outer = run_locally(Outer.bind(Doubler.options(name="Inner").bind(10)))
    assert outer.with_handle.remote(doubler, 4).result(timeout_s=20) == 8


def test_nothing_is_shared_by_identity(doubler):
    value = [1]
    result = doubler.remote(value).result(timeout_s=20)
    value.append(2)
    assert result == [1, 1]
    assert doubler.last_seen.remote().result(timeout_s=20) == [1]


def test_an_exception_keeps_its_type(doubler):
    with pytest.raises(KeyError, match="no"):
        doubler.fail.remote().result(timeout_s=20)


def test_a_missing_method_is_named(doubler):
    with pytest.raises(RayServeException, match="Tried to call a method 'nothing' that does not exist"):
        doubler.nothing.remote().result(timeout_s=20)


def test_generators_need_stream_and_others_must_not_have_it(doubler):
    with pytest.raises(TypeError, match=r"Method 'count' returned a generator. You must use `handle.options"):
        doubler.count.remote(1).result(timeout_s=20)
    with pytest.raises(TypeError, match=r"Called method '__call__' with `handle.options"):
        list(doubler.options(stream=True).remote(1))


def test_cancelling_a_call_cancels_what_it_calls():
    inner = Doubler.bind()
    outer = run_locally(Outer.bind(inner))
    response = outer.hold.remote()
    handle = DeploymentHandle("Doubler", "default", _local=outer._local)
    assert handle.wait_started.remote().result(timeout_s=20)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=20)
    assert handle.wait_cancelled.remote().result(timeout_s=20)


def test_a_response_is_passed_as_an_argument(doubler):
    assert doubler.remote(doubler.remote(1)).result(timeout_s=20) == 4


def test_a_broadcast_is_one_call(doubler):
    assert doubler.broadcast("__call__", 2).results(timeout_s=20) == [4]


def test_replicas_cannot_be_chosen(doubler):
    async def main():
        async with doubler.choose_replica():
            raise AssertionError

    with pytest.raises(NotImplementedError):
        asyncio.run(main())


def test_user_config_is_applied():
    assert run_locally(Doubler.options(user_config={"factor": 5}).bind()).remote(2).result(timeout_s=20) == 10


def test_a_function_deployment_answers():
    @serve.deployment
    def triple(value):
        return 3 * value

    assert run_locally(triple.bind()).remote(2).result(timeout_s=20) == 6


def test_a_constructor_that_fails_fails_run():
    @serve.deployment
    class Broken:
        def __init__(self):
            raise OSError("no weights")

    with pytest.raises(OSError, match="no weights"):
        run_locally(Broken.bind())


def test_serve_run_takes_the_mode():
    handle = serve.run(Doubler.bind(3), _local_testing_mode=True)
    assert handle.remote(2).result(timeout_s=20) == 6
