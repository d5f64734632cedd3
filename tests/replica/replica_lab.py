"""A replica on the test's own event loop, and callers on connections to it."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from swerve.caller import codec
from swerve.config import DeploymentConfig
from swerve.deployment_code import DeploymentCode, pickled
from swerve.generated import control_pb2 as pb
from swerve.net.client import Channel
from swerve.net.client_call import ClientCall, request_headers
from swerve.net.connection import Connection
from swerve.net.listener import ListenOptions, listen
from swerve.replica.observer import ReplicaObserver
from swerve.replica.replica import Replica
from swerve.wire.limits import Http2Limits
from swerve.wire.message import frame
from swerve.wire.status import Status

GENEROUS_S = 20.0
UNARY = "/probe.v1.Probe/Unary"
STREAM = "/probe.v1.Probe/Stream"
COLLECT = "/probe.v1.Probe/Collect"
HANDLE_STREAM = "/swerve.control.v1.Handle/Stream"


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    deadline = time.monotonic() + GENEROUS_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        await asyncio.sleep(0.002)


class Call(ClientCall):
    """One call; `await call.over()` gives its status. With `reads` false nothing that came is acknowledged."""

    def __init__(self, reads: bool = True) -> None:
        super().__init__()
        self.reads = reads
        self.messages: list[bytes] = []
        self.unread = 0
        self.status: Status | None = None
        self.trailers: dict[bytes, bytes] = {}
        self._over = asyncio.get_running_loop().create_future()

    def message_received(self, message):
        self.messages.append(message)

    def consume(self, amount):
        if self.reads:
            super().consume(amount)
        else:
            self.unread += amount

    def read_on(self) -> None:
        self.reads = True
        super().consume(self.unread)

    def ended(self, status, trailers):
        self.status = status
        self.trailers = dict(trailers)
        self._over.set_result(status)

    async def over(self) -> Status:
        async with asyncio.timeout(GENEROUS_S):
            return await self._over


class Caller:
    """A connection to the replica, as a proxy or a process with handles has one."""

    def __init__(self, connection: Connection, pb2) -> None:
        self.connection = connection
        self.pb2 = pb2

    def call(self, path=UNARY, text="", number=0, metadata=(), reads=True) -> Call:
        message = self.pb2.Note(text=text, number=number).SerializeToString()
        return self.raw(path, message, metadata, reads)

    def handle_call(self, method: str, *args) -> Call:
        message = codec.joined(codec.encode((args, {})))
        return self.raw(HANDLE_STREAM, message, ((b"swerve-method", method.encode()),))

    def raw(self, path: str, message: bytes, metadata=(), reads=True) -> Call:
        call = Call(reads)
        headers = request_headers(path, "test", ((b"request_id", b"r-1"), *metadata))
        call.begin(self.connection, headers, [frame(message)])
        return call

    def open(self, path: str, metadata=()) -> Call:
        """A call whose request has only begun."""
        call = Call()
        call.connection = self.connection
        call.stream_id = self.connection.open_stream(request_headers(path, "test", metadata), call)
        return call

    def send(self, call: Call, text: str, *, last: bool = False) -> None:
        data = frame(self.pb2.Note(text=text).SerializeToString())
        self.connection.send_data(call.stream_id, data, end_stream=last)


class Lab:
    def __init__(self, replica: Replica, address: str, pb2) -> None:
        self.replica = replica
        self._address = address
        self._pb2 = pb2
        self._channels: list[Channel] = []

    async def caller(self) -> Caller:
        channel = Channel(self._address)
        self._channels.append(channel)
        return Caller(await channel.connect(), self._pb2)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@contextlib.asynccontextmanager
async def running(target: type, probe, *, max_ongoing: int = 1) -> AsyncIterator[Lab]:
    """A running replica of `target`."""
    with tempfile.TemporaryDirectory(prefix="swerve-") as folder:
        address = f"unix:{Path(folder) / 'r.sock'}"
        spec = pb.ReplicaSpec(
            replica_id="r1",
            app="app",
            deployment="D",
            code=pickled("D", DeploymentCode(target)),
            config_json=DeploymentConfig(max_ongoing_requests=max_ongoing).model_dump_json(),
            grpc_servicer_functions=[probe.add],
            is_ingress=True,
        )
        replica = Replica(spec, asyncio.get_running_loop(), ReplicaObserver("app", "D", "r1", None))
        await replica.start()
        assert replica.state().phase == pb.ReplicaState.RUNNING, replica.state().message
        limits = Http2Limits(max_concurrent_streams=1000, stream_window=4 << 20)
        listener = listen(address, replica.accept, ListenOptions(limits=limits))
        replica.connections = listener.connections
        lab = Lab(replica, address, probe.pb)
        try:
            yield lab
        finally:
            await lab.close()
            await listener.close(0.0)


def run(scenario: Callable[[Lab], object], target: type, probe, *, max_ongoing: int = 1) -> None:
    """Run `scenario` with a running replica of `target`."""

    async def main() -> None:
        async with asyncio.timeout(2 * GENEROUS_S), running(target, probe, max_ongoing=max_ongoing) as lab:
            await scenario(lab)

    asyncio.run(main())
