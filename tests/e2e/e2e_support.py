"""Clients of the end-to-end tests: grpcio's stubs, and one on the bare wire."""

import asyncio
import contextlib
import importlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc

from swerve.net.connection import Connection
from swerve.wire.frames import ErrorCode
from swerve.wire.limits import Http2Limits
from swerve.wire.message import frame
from tests.conftest import wait_for

TIMEOUT_S = 20


def metadata_of(app: str | None, extra: dict[str, str] | None = None) -> tuple[tuple[str, str], ...]:
    named = (("application", app),) if app else ()
    return (*named, *(extra or {}).items())


@dataclass
class Client:
    """A grpcio channel to one application."""

    channel: grpc.Channel
    pb: object
    lab: object
    probe: object
    app: str | None = "lab"

    def note(self, text: str = "", number: int = 0, payload: bytes = b""):
        return self.pb.Note(text=text, number=number, payload=payload)

    def of(self, app: str | None) -> "Client":
        return Client(self.channel, self.pb, self.lab, self.probe, app)

    def call(self, method: str, text: str = "", number: int = 0, payload: bytes = b"", timeout=TIMEOUT_S, **metadata):
        """The response and the call of a unary method."""
        return getattr(self.lab, method).with_call(
            self.note(text, number, payload), timeout=timeout, metadata=metadata_of(self.app, metadata)
        )

    def ask(self, method: str, text: str = "", number: int = 0, payload: bytes = b"", **metadata):
        return self.call(method, text, number, payload, **metadata)[0]

    def begin(self, method: str, text: str = "", number: int = 0, timeout=TIMEOUT_S, **metadata):
        """The future of a unary call."""
        return getattr(self.lab, method).future(
            self.note(text, number), timeout=timeout, metadata=metadata_of(self.app, metadata)
        )

    def stream(self, method: str, text: str = "", number: int = 0, payload: bytes = b"", timeout=TIMEOUT_S, **metadata):
        return getattr(self.lab, method)(
            self.note(text, number, payload), timeout=timeout, metadata=metadata_of(self.app, metadata)
        )

    def upload(self, method: str, notes, timeout=TIMEOUT_S):
        stub = getattr(self.lab, method)
        if method == "Total":
            return stub.with_call(notes, timeout=timeout, metadata=metadata_of(self.app))
        return stub(notes, timeout=timeout, metadata=metadata_of(self.app))

    def script(self, *steps, method: str = "Script", timeout=TIMEOUT_S, **metadata):
        return self.call(method, json.dumps(steps), timeout=timeout, **metadata)

    def script_stream(self, *steps, method: str = "ScriptStream", timeout=TIMEOUT_S, **metadata):
        return self.stream(method, json.dumps(steps), timeout=timeout, **metadata)

    def events(self, key: str, of_helper: bool = False) -> list[str]:
        return json.loads(self.ask("Events", key, int(of_helper)).text)

    def outcome(self, method: str, text: str = "", number: int = 0, **options) -> str:
        """The name of the code that a unary call ends with."""
        return self.begin(method, text, number, **options).code().name

    def failure(self, method: str, text: str = "", number: int = 0, payload: bytes = b"", **options) -> grpc.RpcError:
        """The error that a unary call ends with."""
        return failure_of(lambda: self.call(method, text, number, payload, **options))


class Occupied:
    """The narrow application, whose only slot is taken until `free` is called."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._holding = self.client.begin("Hold", "the-slot", timeout=60)
        # Another call that only waits shows that the slot is taken.
        waits = "DEADLINE_EXCEEDED"
        wait_for(lambda: client.outcome("__call__", timeout=0.2) == waits, what="the slot being taken")

    def free(self) -> None:
        self._holding.cancel()
        assert self.client.ask("__call__", "free").text == "Hello free"


def failure_of(call) -> grpc.RpcError:
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call ended OK")


def read(stream) -> list:
    return list(stream)


def trailer(call, key: str):
    """The value of a trailing metadata key; a list if there are several."""
    found = [value for name, value in call.trailing_metadata() or () if name == key]
    return found[0] if len(found) == 1 else found


@dataclass
class Raw:
    """What came back on the wire."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    reset: int | None = None

    def trailer(self, name: bytes) -> bytes | None:
        return dict(self.trailers or self.headers).get(name)


class _RawStream:
    def __init__(self, loop) -> None:
        self.raw = Raw()
        self.connection = None
        self.stream_id = 0
        self.closed = loop.create_future()
        self.answered = loop.create_future()

    def on_headers(self, headers, end_stream) -> None:
        self.raw.headers = list(headers)
        if not self.answered.done():
            self.answered.set_result(None)

    def on_data(self, data, end_stream) -> None:
        self.raw.body += data
        self.connection.acknowledge(self.stream_id, len(data))

    def on_trailers(self, headers) -> None:
        self.raw.trailers = list(headers)

    def on_closed(self, error_code) -> None:
        self.raw.reset = error_code
        for future in (self.closed, self.answered):
            if not future.done():
                future.set_result(None)


def raw_headers(path: str, extra=()) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *extra,
    )


async def open_raw(port: int | str) -> Connection:
    """A client connection to a port of this machine, or to a unix socket."""
    loop = asyncio.get_running_loop()

    def make() -> Connection:
        return Connection(loop, Http2Limits(max_concurrent_streams=0))

    if isinstance(port, str):
        return (await loop.create_unix_connection(make, port))[1]
    return (await loop.create_connection(make, "localhost", port))[1]


async def raw_exchange(connection: Connection, path: str, body: bytes, extra=()) -> Raw:
    stream = _RawStream(asyncio.get_running_loop())
    stream.connection = connection
    stream.stream_id = connection.open_stream(raw_headers(path, extra), stream)
    connection.send_data(stream.stream_id, body, end_stream=True)
    async with asyncio.timeout(TIMEOUT_S):
        await stream.closed
    return stream.raw


def raw_call(port: int, path: str, message: bytes, extra=()) -> Raw:
    """One call on a connection of its own; `message` is framed here."""

    async def exchange() -> Raw:
        connection = await open_raw(port)
        try:
            return await raw_exchange(connection, path, frame(message), extra)
        finally:
            connection.close()

    return asyncio.run(exchange())


async def raw_cancelled_call(connection: Connection, path: str, message: bytes, extra=()) -> None:
    """A whole request and its cancellation, so near together that they leave in one write."""
    stream = _RawStream(asyncio.get_running_loop())
    stream.connection = connection
    stream.stream_id = connection.open_stream(raw_headers(path, extra), stream)
    connection.send_data(stream.stream_id, frame(message), end_stream=True)
    connection._write()
    connection.reset(stream.stream_id, ErrorCode.CANCEL)
    async with asyncio.timeout(TIMEOUT_S):
        await stream.closed


@contextlib.contextmanager
def in_threads(count: int, work) -> Iterator[list]:
    """Runs `work(index)` in threads while the block runs; raises what one of them raised when all have ended."""
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        for thread in threads:
            thread.join(60)
    if failures:
        raise failures[0]


class Load:
    """Calls without end over one connection, each of which must succeed; with `fresh` over new ones as well."""

    def __init__(self, port, *, fresh=False):
        self.port = port
        self.channel = grpc.insecure_channel(f"localhost:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = importlib.import_module("probe_pb2_grpc").ProbeStub(self.channel)
        self.note = importlib.import_module("probe_pb2").Note
        self.answered = 0
        self.failures = []
        self.pids = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(3)]
        if fresh:
            self._threads.append(threading.Thread(target=self._connect_and_call))

    def _call(self):
        while not self._stop.is_set():
            try:
                self.pids.add(self.stub.Unary(self.note(text="x"), timeout=20).number)
                self.answered += 1
            except grpc.RpcError as error:
                self.failures.append((error.code(), error.details()))
                self._stop.wait(0.05)

    def _connect_and_call(self):
        options = [("grpc.use_local_subchannel_pool", 1)]
        while not self._stop.is_set():
            with grpc.insecure_channel(f"localhost:{self.port}", options=options) as channel:
                try:
                    importlib.import_module("probe_pb2_grpc").ProbeStub(channel).Unary(self.note(), timeout=20)
                except grpc.RpcError as error:
                    self.failures.append((error.code(), f"a new connection: {error.details()}"))
                    self._stop.wait(0.05)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        try:
            self.goes_on()
        except AssertionError as error:
            self.__exit__()
            raise AssertionError(f"no answers: {self.failures[:3]}") from error
        return self

    def goes_on(self):
        """Wait until it is seen that calls are answered now."""
        before = self.answered
        wait_for(lambda: self.answered > before + 20, what="answers")

    def stop(self):
        """Call no more; calls that run finish."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def __exit__(self, *error):
        self.stop()
        self.channel.close()
