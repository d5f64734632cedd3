"""Calls through a runtime to replicas: results, errors, waiting, retries, deadlines, cancellation."""

from __future__ import annotations

import asyncio
import pickle
import time

import pytest
from caller_support import handle, instance, request, until

from swerve.caller.codec import RemoteTraceback
from swerve.caller.runtime import get_runtime
from swerve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from swerve.generated import control_pb2 as pb
from swerve.handle import DeploymentHandle


class Model:
    """Counts what runs; `held` blocks until `release` is set."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.release = asyncio.Event()

    async def __call__(self, value, factor=2):
        return value * factor

    async def held(self, value=None):
        self.started += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return value

    async def fail(self, error):
        raise error

    def echo(self, *args, **kwargs):
        return args, kwargs


def run(coroutine_function, tmp_path):
    async def main():
        async with instance(tmp_path) as running:
            await asyncio.wait_for(coroutine_function(running), 30)

    asyncio.run(main())


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
        model.release.set()
        await asyncio.gather(running_call, waiting_call)

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
        with pytest.raises(ReplicaUnavailableError, match="'model'.*'app'"):
            await lost
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


# --- cancellation and deadlines --------------------------------------------------------------------------------------


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


# --- the runtime -----------------------------------------------------------------------------------------------------


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
        running.view.deployments.add(app="app", name="else", replicas=[pb.ReplicaView(replica_id="x", address="unix:/x")])
        await running.add("model", Model())
        assert await handle().remote(1) == 2

    run(scenario, tmp_path)
