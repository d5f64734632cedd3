"""An instance in miniature on the test's event loop: a controller that only publishes views, and replicas that answer
handle calls by calling methods of an object."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from swerve.caller import codec
from swerve.caller.destination import CALL_PATH, STREAM_PATH
from swerve.caller.runtime import CallerRuntime, set_runtime
from swerve.context import RequestContext, _request_context
from swerve.generated import control_pb2 as pb
from swerve.handle import DeploymentHandle
from swerve.net.bundles import BundleServer
from swerve.net.connection import Connection
from swerve.net.listener import Listener, ListenOptions, listen
from swerve.net.pace import Pace
from swerve.net.server import ServerStream, Unary, method_acceptor, serve
from swerve.net.streams import Headers
from swerve.wire import bundle
from swerve.wire.frames import ErrorCode
from swerve.wire.known_headers import SharedHeaders
from swerve.wire.limits import Http2Limits
from swerve.wire.status import RpcError, Status, StatusCode

_GENEROUS_S = 20.0


async def until(condition, what: str = "the condition") -> None:
    """Wait until `condition()`; fails the test after a time that no machine needs."""
    deadline = time.monotonic() + _GENEROUS_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        await asyncio.sleep(0.005)


class Replica:
    """Answers handle calls with the methods of `target`. `metadata` has that of every call."""

    def __init__(self, replica_id: str, address: str, target: object, max_ongoing: int) -> None:
        self.view = pb.ReplicaView(replica_id=replica_id, address=address, max_ongoing_requests=max_ongoing)
        self.target = target
        self.metadata: list[dict[str, str]] = []
        self.refuse_next = 0
        self.refused = 0
        self.listener: Listener | None = None
        self._accept = method_acceptor({CALL_PATH: Unary(self._unary), STREAM_PATH: ServerStream(self._stream)})

    async def start(self) -> None:
        limits = Http2Limits(max_concurrent_streams=1000, connection_window=1 << 20)
        self.listener = listen(self.view.address, self._admit, ListenOptions(limits=limits))

    async def stop(self) -> None:
        if self.listener is not None:
            listener, self.listener = self.listener, None
            await listener.close(0.0)

    def die(self) -> None:
        for connection in list(self.listener.connections):
            connection.close()

    def _admit(self, connection: Connection, stream_id: int, headers: Headers, end_stream: bool):
        if (b":path", bundle.PATH) in headers:
            return BundleServer(connection, stream_id, self._admit_bundled, Pace())
        if self.refuse_next:
            self.refuse_next -= 1
            self.refused += 1
            connection.reset(stream_id, ErrorCode.REFUSED_STREAM)
            return None
        return self._accept(connection, stream_id, headers, end_stream)

    def _admit_bundled(self, side: BundleServer, number: int, shared: SharedHeaders, added: Headers, end_stream: bool):
        return self._admit(side, number, shared.headers + added, end_stream)

    async def _unary(self, request: bytes, metadata: dict[str, str]) -> bytes:
        try:
            return codec.joined(codec.encode_reply(await self._run(request, metadata)))
        except RpcError:
            raise
        except Exception as error:
            return codec.joined(codec.encode_exception(error))

    async def _stream(self, request: bytes, metadata: dict[str, str]) -> AsyncIterator[bytes]:
        try:
            async for value in await self._run(request, metadata):
                yield codec.joined(codec.encode_reply(value))
        except RpcError:
            raise
        except Exception as error:
            yield codec.joined(codec.encode_exception(error))

    async def _run(self, request: bytes, metadata: dict[str, str]):
        metadata = {name: value.encode("latin-1").decode() for name, value in metadata.items()}
        self.metadata.append(metadata)
        method = getattr(self.target, metadata["swerve-method"], None)
        if method is None:
            raise RpcError(Status(StatusCode.UNIMPLEMENTED, "No such method."))
        args, kwargs = codec.decode(request)
        made = method(*args, **kwargs)
        return await made if inspect.isawaitable(made) else made


class Instance:
    def __init__(self, folder) -> None:
        self._folder = folder
        self._changed = asyncio.Event()
        self._controller = None
        self.view = pb.View()
        self.replicas: dict[str, Replica] = {}
        self.address = f"unix:{folder}/controller.sock"
        self.watchers = 0

    async def start(self) -> None:
        self._controller = serve(self.address, {"/swerve.control.v1.Controller/WatchView": ServerStream(self._watch)})

    async def stop_controller(self) -> None:
        if self._controller is not None:
            controller, self._controller = self._controller, None
            await controller.close(0.0)

    async def stop(self) -> None:
        await self.stop_controller()
        for replica in self.replicas.values():
            await replica.stop()

    async def add(self, deployment: str, target: object, *, max_ongoing: int = 100, **view) -> Replica:
        """Start a replica of `deployment` and publish it."""
        name = f"{deployment}-{len(self.replicas)}"
        replica = self.replicas[name] = Replica(name, f"unix:{self._folder}/{name}.sock", target, max_ongoing)
        await replica.start()
        self.deployment(deployment, **view).replicas.append(replica.view)
        self.publish()
        return replica

    def deployment(self, name: str, **view) -> pb.DeploymentView:
        """The deployment in the view, added when it is not there."""
        for found in self.view.deployments:
            if found.name == name:
                return found
        return self.view.deployments.add(app="app", name=name, **{"max_queued_requests": -1, **view})

    def publish(self) -> None:
        self.view.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def _watch(self, request: bytes, metadata: dict[str, str]) -> AsyncIterator[bytes]:
        self.watchers += 1
        while True:
            changed = self._changed
            yield self.view.SerializeToString()
            await changed.wait()


@asynccontextmanager
async def instance(folder) -> AsyncIterator[Instance]:
    """An instance, and this process's handles connected to it on the test's loop."""
    running = Instance(folder)
    await running.start()
    runtime = CallerRuntime.in_replica(running.address, "caller")
    runtime.lend = None  # these replicas do not see the connection that a message comes from
    set_runtime(runtime)
    try:
        yield running
    finally:
        set_runtime(None)
        await runtime.aclose()
        await running.stop()


def handle(deployment: str = "model", method: str = "__call__") -> DeploymentHandle:
    return DeploymentHandle(deployment, "app").options(method_name=method)


@asynccontextmanager
async def request(**fields) -> AsyncIterator[RequestContext]:
    """The code inside runs as in a request with these fields."""
    context = RequestContext(**{"request_id": "r-1", "app_name": "outer", "route": "/outer", **fields})
    token = _request_context.set(context)
    try:
        yield context
    finally:
        _request_context.reset(token)


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

    async def items(self):
        async def two():
            yield 1
            yield 2

        return two()

    async def fail(self, error):
        raise error

    def echo(self, *args, **kwargs):
        return args, kwargs


def run(coroutine_function, tmp_path):
    """Run a scenario with an instance that is its argument."""

    async def main():
        async with instance(tmp_path) as running:
            await asyncio.wait_for(coroutine_function(running), 30)

    asyncio.run(main())
