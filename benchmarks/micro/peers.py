"""The other ends: transports that keep what is written, and HTTP/2 peers by ngh2."""

import asyncio
import itertools

import ngh2

from swerve.net.bundles import BundleCaller
from swerve.net.connection import Connection
from swerve.wire import bundle
from swerve.wire.message import MessageReader

# As many calls as a busy connection brings in one read.
BATCH = 16
PATH = b"/bench.Bench/Unary"
REQUEST_HEADERS = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", PATH),
    (b":authority", b"localhost:9000"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
    (b"user-agent", b"grpc-python/1.70"),
)
RESPONSE_HEADERS = ((b":status", b"200"), (b"content-type", b"application/grpc"))
MESSAGE = b"\x00\x00\x00\x00\x14" + b"x" * 20


class MemoryTransport(asyncio.Transport):
    """Keeps what is written until `take`."""

    def __init__(self) -> None:
        super().__init__()
        self._written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        written = b"".join(self._written)
        self._written.clear()
        return written


def client_peer() -> ngh2.Connection:
    peer = ngh2.Connection(ngh2.Role.CLIENT)
    peer.initiate_connection({4: 1 << 20})
    return peer


def server_peer() -> ngh2.Connection:
    peer = ngh2.Connection(ngh2.Role.SERVER)
    peer.initiate_connection({3: 1000, 4: 1 << 20})
    return peer


def shake_hands(ours: Connection, transport: MemoryTransport, peer: ngh2.Connection) -> None:
    """Exchange settings."""
    for _ in range(3):
        data = peer.data_to_send(1 << 16)
        if data:
            ours.data_received(data)
        data = transport.take()
        if data:
            peer.receive_data(data)
    peer.events()


def requests(peer: ngh2.Connection, body: bytes = MESSAGE, headers: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """The bytes of `BATCH` unary requests."""
    for _ in range(BATCH):
        stream_id = peer.send_request((*REQUEST_HEADERS, *headers))
        peer.send_data(stream_id, body, end_stream=True)
    return peer.data_to_send(1 << 20)


class BundlePeer:
    """A replica that answers each call of a bundle with `MESSAGE`."""

    def __init__(self, ours: Connection, transport: MemoryTransport) -> None:
        self._engine = server_peer()
        self._reader = MessageReader(1 << 20)
        shake_hands(ours, transport, self._engine)
        BundleCaller(ours)
        ours.flush()
        self._engine.receive_data(transport.take())
        (opened,) = (event for event in self._engine.events() if isinstance(event, ngh2.RequestReceived))
        self._stream_id = opened.stream_id
        self._engine.send_response(self._stream_id, RESPONSE_HEADERS)
        ours.data_received(self._engine.data_to_send(1 << 20))

    def answers(self, received: bytes) -> bytes:
        """The bytes that answer each call in `received`."""
        self._engine.receive_data(received)
        data = [event.data for event in self._engine.events() if isinstance(event, ngh2.DataReceived)]
        bundles = [bundle.unpack(message) for part in data for message in self._reader.feed(part)]
        for records in bundles:
            answers = [(bundle.ANSWER, number, None, MESSAGE, ()) for _, number, *_ in records]
            self._engine.send_data(self._stream_id, bundle.pack(answers))
        return self._engine.data_to_send(1 << 20)


class BundleRequests:
    """Makes the bytes of `BATCH` requests in bundles."""

    def __init__(self, peer: ngh2.Connection, fields: tuple[tuple[bytes, bytes], ...]) -> None:
        self._peer = peer
        self._headers = (bundle.pack_headers(REQUEST_HEADERS), *fields)
        self._stream_id = peer.send_request(((b":path", bundle.PATH), *REQUEST_HEADERS[:2], *REQUEST_HEADERS[3:]))
        self._numbers = itertools.count(1)

    def take(self) -> bytes:
        calls = [(bundle.CALL, number, self._headers, MESSAGE) for number in itertools.islice(self._numbers, BATCH)]
        self._peer.send_data(self._stream_id, bundle.pack(calls))
        return self._peer.data_to_send(1 << 20)


def responses(peer: ngh2.Connection, received: bytes) -> bytes:
    """The bytes that answer each request in `received`."""
    peer.receive_data(received)
    for event in peer.events():
        if isinstance(event, ngh2.RequestReceived):
            peer.send_response(event.stream_id, RESPONSE_HEADERS)
            peer.send_data(event.stream_id, MESSAGE)
            peer.send_trailers(event.stream_id, ((b"grpc-status", b"0"),))
    answer = peer.data_to_send(1 << 20)
    peer.events()
    return answer
