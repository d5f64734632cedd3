"""A gRPC server of the net room on a loop of its own thread, for clients of any kind."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from swerve.net.connection import Connection
from swerve.net.listener import Listener, ListenOptions, bind_tcp
from swerve.net.server import Method, method_acceptor
from swerve.net.server_call import ServerCall
from swerve.wire import metadata
from swerve.wire.message import IDENTITY, check_encoding, frame, frame_compressed
from swerve.wire.status import OK, RpcError, Status, StatusCode

LIMIT = 32 << 20


class LabCall(ServerCall):
    """What it does is in its path: Echo, Repeat (as often as the message says), Collect, Chat, Fail, Hang, Flood."""

    __slots__ = ("collected", "fields", "kind", "lab")

    def __init__(self, lab: "Lab", connection: Connection, stream_id: int, headers) -> None:
        self.fields = dict(headers)
        encoding = self.fields.get(b"grpc-encoding", IDENTITY)
        super().__init__(connection, stream_id, headers, LIMIT, encoding)
        self.lab = lab
        self.kind = self.fields[b":path"].rsplit(b"/", 1)[1].decode()
        self.collected: list[bytes] = []
        custom = [pair for pair in metadata.decode(headers) if pair[0].startswith("x-")]
        self.initial = metadata.encode(custom)
        answer = self.fields.get(b"answer-encoding")
        if answer:
            self.initial += ((b"grpc-encoding", answer),)
        try:
            check_encoding(encoding)
        except RpcError as error:
            self.refuse(error.status)

    def reply(self, message: bytes) -> None:
        encoding = self.fields.get(b"answer-encoding")
        self.send_framed(frame_compressed(message, encoding) if encoding else frame(message))

    def end(self, status: Status = OK) -> None:
        self.finish(status, tuple((b"t" + name, value) for name, value in self.initial if name[:2] == b"x-"))

    def message_received(self, message: bytes) -> None:
        self.collected.append(message)
        if self.kind == "Chat":
            self.reply(message)

    def half_closed(self) -> None:
        message = self.collected[0] if self.collected else b""
        match self.kind:
            case "Hang":
                self.lab.hanging.append(self)
                return
            case "Fail":
                self.end(Status(StatusCode.DATA_LOSS, message.decode()))
                return
            case "Echo":
                self.reply(message)
            case "Repeat":
                for number in range(int(message)):
                    self.reply(b"%d" % number)
            case "Flood":
                for _ in range(int(message)):
                    self.reply(bytes(1 << 20))
            case "Collect":
                self.reply(b"%d %d" % (len(self.collected), sum(map(len, self.collected))))
        self.end()

    def cancelled(self) -> None:
        self.lab.cancelled.append(self.kind)


class Lab:
    def __init__(self, options: ListenOptions, methods: Mapping[str, Method]) -> None:
        self.options = options
        self._methods = {path.encode() for path in methods}
        self._accept_method = method_acceptor(methods)
        self.hanging: list[LabCall] = []
        self.cancelled: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.listener: Listener | None = None
        self.port = 0
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> "Lab":
        self._thread.start()
        self.run(self._listen())
        return self

    def __exit__(self, *exc) -> None:
        assert self.listener is not None
        self.run(self.listener.close(0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _listen(self) -> None:
        (sock,) = bind_tcp("127.0.0.1", 0, share=False)
        self.port = sock.getsockname()[1]
        self.listener = Listener(self._accept, self.options)
        self.listener.listen_on(sock)

    def _accept(self, connection, stream_id, headers, end_stream):
        if dict(headers)[b":path"] in self._methods:
            return self._accept_method(connection, stream_id, headers, end_stream)
        call = LabCall(self, connection, stream_id, headers)
        if end_stream:
            call.end_of_request()
        return call

    async def count(self) -> tuple[int, int]:
        """How many connections and streams are open."""
        assert self.listener is not None
        connections = list(self.listener.connections)
        return len(connections), sum(len(connection.streams) for connection in connections)


@contextmanager
def lab(options: ListenOptions | None = None, methods: Mapping[str, Method] | None = None) -> Iterator[Lab]:
    """A running server; `methods` are served beside the lab's own."""
    with Lab(options or ListenOptions(), methods or {}) as made:
        yield made
