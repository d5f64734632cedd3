"""The replica's part of a unary call: `BATCH` requests in, user code, `BATCH` answers out."""

import asyncio
from functools import partial
from typing import Any

import cloudpickle
import pytest

from benchmarks.micro.peers import MESSAGE, BundleRequests, MemoryTransport, client_peer, requests, shake_hands
from swerve.config import DeploymentConfig
from swerve.deployment_code import DeploymentCode
from swerve.generated import control_pb2
from swerve.net.connection import Connection
from swerve.replica.observer import ReplicaObserver
from swerve.replica.replica import Replica
from swerve.servicers import ServedMethod
from swerve.wire.limits import Http2Limits


class Coroutine:
    async def Unary(self, request: bytes) -> bytes:
        return request


class Plain:
    def Unary(self, request: bytes) -> bytes:
        return request


@pytest.mark.parametrize("hop", ["bundles", "streams"])
@pytest.mark.parametrize("handler", [Coroutine, Plain])
def test_unary(benchmark: Any, handler: type, hop: str) -> None:
    loop = asyncio.new_event_loop()
    spec = control_pb2.ReplicaSpec(
        replica_id="one",
        app="app",
        deployment="Deployment",
        code=cloudpickle.dumps(DeploymentCode(handler)),
        config_json=DeploymentConfig(max_ongoing_requests=200).model_dump_json(),
    )
    replica = Replica(spec, loop, ReplicaObserver("app", "Deployment", "one", None))
    loop.run_until_complete(replica.start())
    method = ServedMethod("/bench.Bench/Unary", False, False, bytes, bytes, None, None)
    replica._methods = {method.path.encode(): method}
    connection, transport, client = (
        Connection(loop, Http2Limits(), accept=replica.accept),
        MemoryTransport(),
        client_peer(),
    )
    connection.connection_made(transport)
    shake_hands(connection, transport, client)

    fields = ((b"request_id", b"1"),)
    make = BundleRequests(client, fields).take if hop == "bundles" else partial(requests, client, MESSAGE, fields)

    async def serve(received: bytes) -> None:
        connection.data_received(received)
        while replica.ongoing:  # noqa: ASYNC110 (an event would be part of what is measured)
            await asyncio.sleep(0)

    def prepare() -> tuple[tuple[bytes], dict[str, Any]]:
        return (make(),), {}

    def answer(received: bytes) -> None:
        loop.run_until_complete(serve(received))
        client.receive_data(transport.take())
        assert client.events()

    benchmark.pedantic(answer, setup=prepare, rounds=500, warmup_rounds=20)
    loop.close()
