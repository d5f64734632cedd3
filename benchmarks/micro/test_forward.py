"""The proxy's part of a unary call: `BATCH` requests in, `BATCH` answers out, one client and one replica."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from benchmarks.micro.peers import (
    BATCH,
    BundlePeer,
    MemoryTransport,
    client_peer,
    requests,
    responses,
    server_peer,
    shake_hands,
)
from swerve.generated import control_pb2
from swerve.net.connection import Connection
from swerve.proxy.ingress import Ingress
from swerve.proxy.observer import ProxyObserver
from swerve.routing.replicas import ReplicaInfo
from swerve.wire.limits import Http2Limits

_VIEW = control_pb2.View(
    version=1,
    options=control_pb2.InstanceOptions(
        grpc_options_json="{}", grpc_methods=[control_pb2.GrpcMethod(path="/bench.Bench/Unary")], num_proxies=1
    ),
    applications=[control_pb2.ApplicationView(name="app", ingress="Deployment")],
    deployments=[control_pb2.DeploymentView(app="app", name="Deployment", max_queued_requests=-1)],
)


@pytest.mark.parametrize("hop", ["bundles", "streams"])
def test_unary(benchmark: Any, hop: str) -> None:
    loop = asyncio.new_event_loop()
    ingress = Ingress(loop, ProxyObserver(None))
    ingress.update(_VIEW)
    (target,) = ingress.targets.values()
    to_replica, replica_side = Connection(loop, Http2Limits()), MemoryTransport()
    to_replica.connection_made(replica_side)
    answers: Callable[[bytes], bytes]
    if hop == "bundles":
        answers = BundlePeer(to_replica, replica_side).answers
    else:
        replica = server_peer()
        shake_hands(to_replica, replica_side, replica)
        answers = partial(responses, replica)
    for added in target.router.update([ReplicaInfo("one", "unix:/none", 200)]):
        added.link = to_replica
    to_client, client_side, client = (
        Connection(loop, Http2Limits(), accept=ingress.accept),
        MemoryTransport(),
        client_peer(),
    )
    to_client.connection_made(client_side)
    shake_hands(to_client, client_side, client)

    def prepare() -> tuple[tuple[bytes], dict[str, Any]]:
        return (requests(client),), {}

    def forward(received: bytes) -> None:
        to_client.data_received(received)
        to_replica.flush()
        to_replica.data_received(answers(replica_side.take()))
        to_client.flush()
        client.receive_data(client_side.take())
        assert len(client.events()) >= BATCH

    benchmark.pedantic(forward, setup=prepare, rounds=500, warmup_rounds=20)
    loop.close()
