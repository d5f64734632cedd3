"""A proxy's ingress on a loop of its own thread, with replicas that are small servers in the same thread."""

import asyncio
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvloop

from swerve.config import RequestRouterConfig
from swerve.generated import control_pb2 as pb
from swerve.net.bundles import BundleServer
from swerve.net.connection import Connection
from swerve.net.listener import Listener, ListenOptions, listen
from swerve.net.pace import Pace
from swerve.proxy.forward import CLIENT_WINDOW
from swerve.proxy.ingress import Ingress
from swerve.proxy.routes import Upstream
from swerve.wire import bundle
from swerve.wire.frames import ErrorCode
from swerve.wire.limits import PRIVATE_LIMITS, Http2Limits
from tests.net.grpc_lab import LabCall
from tests.net.net_support import Recorder

METHODS = ("Echo", "Repeat", "Collect", "Chat", "Fail", "Hang", "Flood", "Early")
CLIENT_STREAMING = ("Collect", "Chat", "Early")
SERVER_STREAMING = ("Repeat", "Chat", "Flood")


class ReplicaCall(LabCall):
    """A lab's call that counts against its replica's limit."""

    __slots__ = ()

    def message_received(self, message: bytes) -> None:
        if self.kind == "Early":
            self.reply(b"enough")
            self.end()
        else:
            super().message_received(message)

    def finish(self, status, extra=()):
        self.lab.left(self)
        super().finish(status, extra)

    def on_closed(self, error_code):
        self.lab.left(self)
        super().on_closed(error_code)


class FakeReplica:
    """A server at a unix socket. It refuses calls over its limit, and the next `refuse_next` whatever its load; also
    bundles, unless `bundles`."""

    def __init__(self, path: str, limit: int, bundles: bool) -> None:
        self.address = f"unix:{path}"
        self.limit = limit
        self.bundles = bundles
        self.refuse_next = 0
        self.refused = 0
        self.pace = Pace()
        self.running: set[ReplicaCall] = set()
        self.most = 0
        self.seen: list[dict[bytes, bytes]] = []
        self.hanging: list[LabCall] = []
        self.cancelled: list[str] = []
        self.listener: Listener | None = None

    async def start(self) -> None:
        self.listener = listen(self.address, self._accept, ListenOptions(limits=PRIVATE_LIMITS))

    async def die(self) -> None:
        """Drop every connection and listen no more."""
        assert self.listener is not None
        for connection in list(self.listener.connections):
            connection.transport.abort()
        await self.listener.close(0)

    def left(self, call: ReplicaCall) -> None:
        self.running.discard(call)

    def _accept(self, connection, stream_id, headers, end_stream):
        if (b":path", bundle.PATH) in headers:
            if self.bundles:
                return BundleServer(connection, stream_id, self._accept_bundled, self.pace)
            connection.reset(stream_id, ErrorCode.REFUSED_STREAM)
            return None
        if self.refuse_next or len(self.running) >= self.limit:
            self.refuse_next = max(0, self.refuse_next - 1)
            self.refused += 1
            connection.reset(stream_id, ErrorCode.REFUSED_STREAM)
            return None
        self.seen.append(dict(headers))
        call = ReplicaCall(self, connection, stream_id, headers)
        self.running.add(call)
        self.most = max(self.most, len(self.running))
        if end_stream:
            call.end_of_request()
        return call

    def _accept_bundled(self, side, number, shared, added, end_stream):
        return self._accept(side, number, shared.headers + added, end_stream)


@dataclass
class Observer:
    ongoing: int = 0
    ends: list[tuple[str, bytes, bytes, int]] = field(default_factory=list)
    refusals: list[tuple[bytes, bytes, int]] = field(default_factory=list)

    @property
    def begun_count(self):
        return self.ongoing + len(self.ends)

    def series(self, app, path, version=""):
        return LabSeries(self, app, path)

    def refused(self, path, request_id, code):
        self.refusals.append((path, request_id, code))


@dataclass
class LabSeries:
    observer: Observer
    app: str
    path: bytes

    def ended(self, request_id, code, seconds):
        self.observer.ongoing -= 1
        self.observer.ends.append((self.app, self.path, request_id, code))


class ProxyLab:
    def __init__(self, folder: str, bundles: bool) -> None:
        self._folder = folder
        self._bundles = bundles
        self.loop = uvloop.new_event_loop()
        self.observer = Observer()
        self.replicas: dict[str, FakeReplica] = {}
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.max_queued = -1
        # What differs from the default of `request_router_config`.
        self.router: dict[str, object] = {}
        self.options: dict[str, object] = {}
        self.apps: dict[str, list[str]] = {}
        self.file_descriptors: list[bytes] = []
        self.draining = False

    def start(self) -> None:
        self._thread.start()
        self.run(self._start())

    async def _start(self) -> None:
        self.ingress = Ingress(self.loop, self.observer)
        self.listener = listen(
            "127.0.0.1:0", self.ingress.accept, ListenOptions(Http2Limits(stream_window=CLIENT_WINDOW))
        )
        port = self.listener._doors[0].socket.getsockname()[1]
        self.port = port
        self.address = f"127.0.0.1:{port}"

    def stop(self) -> None:
        self.apps = {}
        self.publish()

        async def close() -> None:
            await self.listener.close(0)
            for replica in self.replicas.values():
                await replica.die()

        self.run(close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def call(self, function):
        """Run `function` on the loop."""

        async def body():
            return function()

        return self.run(body())

    def add_replica(self, name: str, limit: int = 100) -> FakeReplica:
        replica = self.replicas[name] = FakeReplica(f"{self._folder}/{name}", limit, self._bundles)
        self.run(replica.start())
        return replica

    def view(self) -> pb.View:
        options = pb.InstanceOptions(
            grpc_options_json=json.dumps(self.options),
            grpc_methods=[
                pb.GrpcMethod(
                    path=f"/t.Lab/{name}",
                    client_streaming=name in CLIENT_STREAMING,
                    server_streaming=name in SERVER_STREAMING,
                )
                for name in METHODS
            ],
            file_descriptors=self.file_descriptors,
        )
        deployments = [
            pb.DeploymentView(
                app=app,
                name="D",
                max_queued_requests=self.max_queued,
                request_router_json=RequestRouterConfig(**self.router).model_dump_json(),
                replicas=[
                    pb.ReplicaView(
                        replica_id=name,
                        address=self.replicas[name].address,
                        max_ongoing_requests=self.replicas[name].limit,
                    )
                    for name in names
                ],
            )
            for app, names in self.apps.items()
        ]
        applications = [pb.ApplicationView(name=app, ingress="D") for app in self.apps]
        return pb.View(options=options, applications=applications, deployments=deployments, draining=self.draining)

    def publish(self, view: pb.View | None = None) -> None:
        made = self.view() if view is None else view
        self.call(lambda: self.ingress.update(made))

    def serve(self, **apps: list[str]) -> None:
        """Publish these applications with the replicas named, and wait until they can be reached."""
        self.apps = apps
        self.publish()
        for app in apps:
            self.until(lambda app=app: self.target(app).settled)
            replicas = self.target(app).router.replicas.values()
            self.until(lambda replicas=replicas: all(_knows(replica, self._bundles) for replica in replicas))

    def target(self, app: str):
        return self.ingress.targets[Upstream(app, "D")]

    def until(self, condition, timeout_s: float = 20) -> None:
        async def poll() -> None:
            async with asyncio.timeout(timeout_s):
                while not condition():  # noqa: ASYNC110 (any condition, of any object)
                    await asyncio.sleep(0.005)

        self.run(poll())

    def check_idle(self) -> None:
        """When every call has ended nothing of any is left, here or in the books."""
        self.until(lambda: not any(connection.streams for connection in self.listener.connections))
        for target in self.ingress._targets.values():
            self.until(lambda target=target: all(one.ongoing == 0 for one in target.router.replicas.values()))
            assert target.router.queued == 0
            for replica in target.router.replicas.values():
                self.until(lambda replica=replica: replica.link.idle)
                assert replica.link._unacknowledged == 0
                assert replica.link.backlog.empty
        for connection in self.listener.connections:
            assert connection._unacknowledged == 0
            assert connection.backlog.empty
        assert self.observer.begun_count == len(self.observer.ends)
        assert not self.ingress._timers._buckets


def _knows(replica, bundles: bool) -> bool:
    """Whether the proxy has heard if `replica` takes bundles."""
    known = replica.link.bundles
    return known is not None and known.ready if bundles else known is None


@contextmanager
def proxy_lab(bundles: bool) -> Iterator[ProxyLab]:
    with tempfile.TemporaryDirectory(prefix="sw-") as folder:
        made = ProxyLab(folder, bundles)
        made.start()
        try:
            yield made
        finally:
            made.stop()


def begin(proxy, *requests, body=b"", end_stream=False, **limits):
    """Calls begun by hand, each with these headers and `body`, on a connection of their own with such limits."""

    async def connect():
        def make():
            return Connection(proxy.loop, Http2Limits(max_concurrent_streams=0, **limits))

        _, connection = await proxy.loop.create_connection(make, "127.0.0.1", proxy.port)
        recorders = []
        for headers in requests:
            recorder = Recorder(connection)
            recorder.stream_id = connection.open_stream(headers, recorder)
            if body:
                connection.send_data(recorder.stream_id, body, end_stream=end_stream)
            recorders.append(recorder)
        return connection, recorders

    return proxy.run(connect())
