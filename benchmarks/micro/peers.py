"""The other ends: transports that keep what is written, and HTTP/2 peers straight on the engine."""

import asyncio

import ngh2

from swerve.net.connection import Connection

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
