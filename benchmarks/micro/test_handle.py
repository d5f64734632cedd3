"""A handle call, both ends: `BATCH` calls with a small argument from a caller's process to a replica's and back."""

import asyncio
from typing import Any

import cloudpickle

from benchmarks.micro.peers import BATCH, MemoryTransport
from swerve.caller.runtime import CallerRuntime, set_runtime
from swerve.caller.seams import Routed
from swerve.caller.target import Target
from swerve.config import DeploymentConfig
from swerve.deployment_code import DeploymentCode
from swerve.generated import control_pb2
from swerve.handle import DeploymentHandle
from swerve.net.bundles import BundleCaller
from swerve.net.connection import Connection
from swerve.replica.observer import ReplicaObserver
from swerve.replica.replica import Replica
from swerve.routing.replicas import ReplicaInfo
from swerve.wire.limits import Http2Limits


class Back:
    async def number(self, number: int) -> int:
        return number


def test_small_argument(benchmark: Any) -> None:
    loop = asyncio.new_event_loop()
    to_replica, out = Connection(loop, Http2Limits()), MemoryTransport()
    runtime = loop.run_until_complete(caller(to_replica))
    replica = loop.run_until_complete(serving(loop))
    from_caller, back = Connection(loop, Http2Limits(), accept=replica.accept), MemoryTransport()
    to_replica.connection_made(out)
    from_caller.connection_made(back)
    bundles = BundleCaller(to_replica)
    set_runtime(runtime)
    handle = DeploymentHandle("Back", "app")

    def move() -> None:
        if data := out.take():
            from_caller.data_received(data)
        if data := back.take():
            to_replica.data_received(data)

    async def get_ready() -> None:
        while not bundles.ready:
            await asyncio.sleep(0)
            move()

    async def calls() -> list[int]:
        responses = [handle.number.remote(number) for number in range(BATCH)]
        results = asyncio.gather(*responses)
        while not results.done():
            await asyncio.sleep(0)
            move()
        return await results

    def batch() -> None:
        assert loop.run_until_complete(calls()) == list(range(BATCH))

    try:
        loop.run_until_complete(get_ready())
        benchmark.pedantic(batch, rounds=500, warmup_rounds=20)
    finally:
        set_runtime(None)
        loop.close()


async def caller(link: Connection) -> CallerRuntime:
    """A runtime that knows one replica, over `link`, and asks no controller."""
    runtime = CallerRuntime.in_replica("unix:/none", "caller")
    target: Target[Routed] = Target("app", "Back", runtime.loop)
    for added in target.router.update([ReplicaInfo("one", "unix:/none", 200)]):
        added.link = link
    runtime._targets["app", "Back"] = target
    return runtime


async def serving(loop: asyncio.AbstractEventLoop) -> Replica:
    spec = control_pb2.ReplicaSpec(
        replica_id="one",
        app="app",
        deployment="Back",
        code=cloudpickle.dumps(DeploymentCode(Back)),
        config_json=DeploymentConfig(max_ongoing_requests=200).model_dump_json(),
    )
    replica = Replica(spec, loop, ReplicaObserver("app", "Back", "one", None))
    await replica.start()
    return replica
