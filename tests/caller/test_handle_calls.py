"""Calls through a runtime to replicas: results, errors, waiting, retries, the view."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pickle
import weakref

import pytest
from caller_support import Model, handle, request, run, until

from swerve.caller.call import RemoteCall
from swerve.caller.codec import RemoteTraceback
from swerve.caller.runtime import get_runtime
from swerve.config import RequestRouterConfig
from swerve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)
from swerve.generated import control_pb2 as pb
from swerve.handle import DeploymentHandle, DeploymentResponse
from swerve.wire.peer import encode_peer


def test_a_call_returns_what_the_method_returned(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        assert await handle().remote(21) == 42
        assert await handle().remote(3, factor=5) == 15
        assert await handle("model", "echo").remote(1, b=2) == ((1,), {"b": 2})

    run(scenario, tmp_path)


def test_a_response_can_be_awaited_again_and_by_several(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        response = handle().remote([1])
        first, second = await asyncio.gather(response, response)
        assert first is second is await response

    run(scenario, tmp_path)


def test_a_large_argument_and_result_survive(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        data = bytes(range(256)) * (20 << 12)
        args, _ = await handle("model", "echo").remote(pickle.PickleBuffer(bytearray(data)), data)
        assert bytes(args[0]) == data
        assert args[1] == data

    run(scenario, tmp_path)


def test_an_exception_keeps_its_type_and_shows_the_remote_traceback(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        with pytest.raises(KeyError, match="lost") as caught:
            await handle("model", "fail").remote(KeyError("lost"))
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert "in fail" in str(caught.value.__cause__)

    run(scenario, tmp_path)


def test_a_method_that_does_not_exist_is_an_error(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        with pytest.raises(RayServeException, match="No such method"):
            await handle("model", "nothing").remote()

    run(scenario, tmp_path)


def test_arguments_that_cannot_be_pickled_fail_the_response_and_not_remote(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        response = handle().remote(asyncio.get_running_loop())
        with pytest.raises(TypeError, match="pickle"):
            await response

    run(scenario, tmp_path)


def test_calls_made_before_the_deployment_is_there_wait_for_it(tmp_path):
    async def scenario(running):
        response = handle().remote(1)
        await until(lambda: running.watchers)
        await running.add("model", Model())
        assert await response == 2

    run(scenario, tmp_path)


def test_no_more_calls_run_than_a_replica_has_slots(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model, max_ongoing=2)
        responses = [handle("model", "held").remote(number) for number in range(5)]
        await until(lambda: model.started == 2)
        assert get_runtime().target("app", "model").router.queued == 3
        model.release.set()
        assert await asyncio.gather(*responses) == [0, 1, 2, 3, 4]

    run(scenario, tmp_path)


def test_a_full_queue_sheds_with_its_numbers(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model, max_ongoing=1, max_queued_requests=1)
        running_call = handle("model", "held").remote()
        await until(lambda: model.started == 1)
        waiting_call = handle("model", "held").remote()
        with pytest.raises(BackPressureError) as caught:
            await handle("model", "held").remote()
        assert (caught.value.num_queued_requests, caught.value.max_queued_requests) == (1, 1)
        assert caught.value.status_code == 503
        assert caught.value.retry_after_s > 0
        model.release.set()
        await asyncio.gather(running_call, waiting_call)

    run(scenario, tmp_path)


async def awaited(make):
    await make()


@pytest.mark.parametrize(
    "take", [lambda make: make().result(), lambda make: asyncio.run(awaited(make))], ids=["result", "await"]
)
def test_a_failed_call_does_not_wait_for_the_collector(take):
    left = []

    def failed() -> DeploymentResponse:
        response = DeploymentResponse("id")
        response._on_finished(BackPressureError(1, 1))
        left.append(weakref.ref(response))
        return response

    gc.disable()
    try:
        with contextlib.suppress(BackPressureError):
            take(failed)
        assert left[0]() is None
    finally:
        gc.enable()


def test_a_shed_call_has_the_status_and_the_delay_of_the_backpressure_config(tmp_path):
    async def scenario(running):
        model = Model()
        options = {"backpressure_status_code": 429, "backpressure_retry_after_s": 7}
        await running.add("model", model, max_ongoing=1, max_queued_requests=1, **options)
        calls = [handle("model", "held").remote()]
        await until(lambda: model.started == 1)
        calls.append(handle("model", "held").remote())
        with pytest.raises(BackPressureError) as caught:
            await handle("model", "held").remote()
        assert (caught.value.status_code, caught.value.retry_after_s) == (429, 7)
        model.release.set()
        await asyncio.gather(*calls)

    run(scenario, tmp_path)


def test_a_call_that_a_replica_refuses_goes_to_another(tmp_path):
    async def scenario(running):
        refusing = await running.add("model", Model())
        other = await running.add("model", Model())
        await handle().remote(0)
        await until(lambda: get_runtime().target("app", "model").settled)
        refusing.refuse_next = 10**6
        assert await asyncio.gather(*(handle().remote(number) for number in range(20))) == list(range(0, 40, 2))
        assert refusing.refused
        assert len(other.metadata) >= 20

    run(scenario, tmp_path)


def test_the_only_replica_is_asked_again_after_a_refusal(tmp_path):
    async def scenario(running):
        replica = await running.add("model", Model())
        replica.refuse_next = 3
        assert await handle().remote(1) == 2
        assert replica.refused == 3

    run(scenario, tmp_path)


def test_a_replica_that_dies_with_a_call_is_an_error_of_that_call_only(tmp_path):
    async def scenario(running):
        model = Model()
        replica = await running.add("model", model)
        lost = handle("model", "held").remote()
        await until(lambda: model.started == 1)
        replica.die()
        with pytest.raises(ReplicaUnavailableError, match=r"'model'.*'app'") as raised:
            await lost
        # As the proxy tells its clients; it travels on to the callers of this one.
        assert pickle.loads(pickle.dumps(raised.value)).retry_after_s == raised.value.retry_after_s
        assert raised.value.retry_after_s is not None
        assert await handle().remote(1) == 2

    run(scenario, tmp_path)


def test_a_request_that_had_not_left_when_its_replica_died_is_sent_to_another(tmp_path):
    async def scenario(running):
        dying = await running.add("model", Model())
        await handle().remote(0)
        # Far more than the socket and the windows hold: most of it is still here when the connection ends.
        response = handle("model", "echo").remote(bytes(30 << 20))
        await asyncio.sleep(0)
        await dying.stop()
        await running.add("model", Model())
        args, _ = await response
        assert len(args[0]) == 30 << 20

    run(scenario, tmp_path)


def test_an_unavailable_deployment_refuses_calls_that_come_and_calls_that_wait(tmp_path):
    async def scenario(running):
        waiting = handle().remote(1)
        running.deployment("model").unavailable = True
        running.publish()
        for response in (waiting, handle().remote(1)):
            with pytest.raises(DeploymentUnavailableError, match="'model', app='app'"):
                await response

    run(scenario, tmp_path)


def test_a_deployment_that_never_appears_fails_its_calls(tmp_path, monkeypatch):
    monkeypatch.setattr("swerve.caller.runtime._ABSENT_S", 0.05)

    async def scenario(running):
        with pytest.raises(RayServeException, match=r"'nothing' in application 'app' does not exist"):
            await handle("nothing").remote()

    run(scenario, tmp_path)


def test_names_beyond_ascii_arrive(tmp_path):
    class Unusual:
        async def größe(self):
            return "größe"

    async def scenario(running):
        replica = await running.add("model", Unusual())
        assert await handle("model", "größe").options(multiplexed_model_id="modèle").remote() == "größe"
        assert replica.metadata[0]["multiplexed_model_id"] == "modèle"

    run(scenario, tmp_path)


def test_the_last_view_serves_while_the_controller_is_away(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        assert await handle().remote(1) == 2
        await running.stop_controller()
        assert await handle().remote(2) == 4
        await running.start()
        await until(lambda: running.watchers == 2)
        await running.add("model", Model())
        await until(lambda: len(get_runtime().target("app", "model").router.replicas) == 2)

    run(scenario, tmp_path)


def test_a_replica_that_left_the_view_gets_no_more_calls_but_ends_those_it_has(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model)
        old = handle("model", "held").remote("old")
        await until(lambda: model.started == 1)
        del running.deployment("model").replicas[:]
        new = await running.add("model", Model())
        await until(lambda: set(get_runtime().target("app", "model").router.replicas) == {new.view.replica_id})
        assert await handle().remote(1) == 2
        model.release.set()
        assert await old == "old"

    run(scenario, tmp_path)


def test_a_replica_with_the_model_is_preferred(tmp_path):
    async def scenario(running):
        for _ in range(4):
            await running.add("model", Model())
        running.deployment("model").replicas[2].multiplexed_model_ids.append("m7")
        running.publish()
        await handle().remote(0)
        router = get_runtime().target("app", "model").router
        await until(lambda: any(r.info.model_ids for r in router.replicas.values()) and len(router.replicas) == 4)
        before = len(running.replicas["model-2"].metadata)
        await asyncio.gather(*(handle().options(multiplexed_model_id="m7").remote(1) for _ in range(20)))
        assert len(running.replicas["model-2"].metadata) - before == 20

    run(scenario, tmp_path)


def test_closing_the_runtime_ends_calls_that_wait_and_calls_that_run(tmp_path):
    async def scenario(running):
        model = Model()
        await running.add("model", model, max_ongoing=1)
        responses = [handle("model", "held").remote() for _ in range(2)]
        await until(lambda: model.started == 1)
        await get_runtime().aclose()
        for response in responses:
            with pytest.raises(RayServeException):
                await response

    run(scenario, tmp_path)


def test_without_an_instance_a_call_says_what_to_do():
    with pytest.raises(RayServeException, match=r"serve\.run"):
        DeploymentHandle("model", "app").remote()


def test_views_with_other_deployments_only_are_no_trouble(tmp_path):
    async def scenario(running):
        running.view.deployments.add(
            app="app", name="else", replicas=[pb.ReplicaView(replica_id="x", address="unix:/x")]
        )
        await running.add("model", Model())
        assert await handle().remote(1) == 2

    run(scenario, tmp_path)


def test_finished_calls_leave_nothing_for_the_garbage_collector(tmp_path):
    async def scenario(running):
        await running.add("model", Model())
        items = handle("model", "items").options(stream=True)
        await handle().remote(0)
        gc.collect()
        gc.disable()
        try:
            for number in range(100):
                await handle().remote(number)
                assert [item async for item in items.remote()] == [1, 2]
            left = [thing for thing in gc.get_objects() if isinstance(thing, RemoteCall | DeploymentResponse)]
        finally:
            gc.enable()
        # The last one may still be on its way out.
        assert len(left) <= 3

    run(scenario, tmp_path)


def test_what_queues_go_by_is_handed_on_from_call_to_call(tmp_path):
    """Also by deployments whose own queue does not look at it."""
    queue = {"tenant_key": "auth:user", "priority_key": "x-class", "priorities": ["high", "low"]}
    options = RequestRouterConfig(queue=queue).model_dump_json()
    peer = encode_peer("ipv4:10.0.0.1:5", {"user": [b"ada"], "x509_pem_cert": [b"long"]})
    client = ((b"x-class", b"high"), (b"x-other", b"1"), (b"swerve-peer", b"forged"), (b"swerve-peer", peer))

    async def scenario(running):
        first = await running.add("model", Model())
        second = await running.add("other", Model(), request_router_json=options)
        async with request(headers=client):
            await handle().remote(1)
        # As the replica of the first call would have it.
        headers = tuple((name.encode(), value.encode("latin-1")) for name, value in first.metadata[0].items())
        async with request(headers=headers):
            await handle("other").remote(1)
        for (metadata,) in (first.metadata, second.metadata):
            assert metadata["x-class"] == "high"
            assert metadata["swerve-peer"] == 'ipv4:10.0.0.1:5 {"user":["ada"]}'
            assert "x-other" not in metadata

    run(scenario, tmp_path)
