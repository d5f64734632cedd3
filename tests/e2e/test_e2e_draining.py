"""The end of an instance, as its clients see it."""

import os
import signal
import threading
import time

import grpc
import httpx
import pytest
from e2e_support import Load, failure_of
from grpc_health.v1 import health_pb2, health_pb2_grpc

import swerve as serve
from swerve import instances
from swerve.generated import serve_pb2, serve_pb2_grpc
from tests.conftest import find_free_port, processes_of, wait_for

PROBE = "probe_pb2_grpc.add_ProbeServicer_to_server"
DRAINING = "This node is being drained."
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@serve.deployment(num_replicas=2, max_ongoing_requests=20)
class Patient:
    async def Unary(self, note):
        import asyncio

        await asyncio.sleep(0.01)
        return type(note)(text=note.text, number=1)

    async def Stream(self, note):
        import asyncio

        for number in range(note.number):
            await asyncio.sleep(0.1)
            yield type(note)(number=number, payload=bytes(1_000_000))

    async def __call__(self, request):
        import asyncio

        await asyncio.sleep(2)
        return "answer"


@pytest.mark.parametrize("how", ["shutdown", "SIGTERM"])
@pytest.mark.parametrize("num_proxies", [1, 2])
def test_an_instance_that_ends_tells_its_clients_and_finishes_their_calls(
    state_dir, proto_dir, free_port, how, num_proxies
):
    http_port = find_free_port()
    options = {"port": free_port, "grpc_servicer_functions": [PROBE], "num_proxies": num_proxies}
    serve.start(grpc_options=options, http_options={"port": http_port})
    serve.run(Patient.bind())
    agent = instances.connected().status().agent_pid
    ending = threading.Thread(target=serve.shutdown) if how == "shutdown" else None
    with Load(free_port, fresh=True) as load, grpc.insecure_channel(f"localhost:{free_port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == SERVING
        stream = load.stub.Stream(load.note(number=30), timeout=60)
        next(stream)
        web = []
        browsing = threading.Thread(target=lambda: web.append(httpx.get(f"http://127.0.0.1:{http_port}", timeout=30)))
        browsing.start()
        time.sleep(0.2)
        if ending is not None:
            ending.start()
        else:
            os.kill(agent, signal.SIGTERM)

        assert next(watch).status == NOT_SERVING
        api = serve_pb2_grpc.RayServeAPIServiceStub(channel)
        for call, request in (
            (api.Healthz, serve_pb2.HealthzRequest()),
            (api.ListApplications, serve_pb2.ListApplicationsRequest()),
        ):
            error = failure_of(lambda call=call, request=request: call(request, timeout=20))
            assert (error.code().name, error.details()) == ("UNAVAILABLE", DRAINING)
        load.goes_on()
        web.append(httpx.get(f"http://127.0.0.1:{http_port}", timeout=30))
        load.stop()
        assert [note.number for note in stream] == list(range(1, 30))
    browsing.join()
    assert [answer.text for answer in web] == ["answer"] * 2
    assert load.failures == []
    if ending is not None:
        ending.join()
    wait_for(lambda: not processes_of(state_dir), what="the end of the instance")
