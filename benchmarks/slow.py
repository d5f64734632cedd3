"""Clients that take or send less than they could: HTTP/2 by ngh2, over a plain socket."""

import contextlib
import socket
import struct

import ngh2

# What a client lets the server send, for a stream and altogether, and how much one `step` reads.
WINDOW = 1 << 30
READ_BYTES = 16 << 10
SETTING_INITIAL_WINDOW_SIZE = 4


class SlowReader:
    """Offers a window of 1 GB and then reads 16 KB a step, so that what it leaves fills the socket."""

    def __init__(self, address: str, path: str, request: bytes, application: str) -> None:
        self._socket, engine = _connect(address)
        stream = engine.send_request(_headers(path, application))
        engine.send_data(stream, struct.pack(">BI", 0, len(request)) + request, end_stream=True)
        self._socket.sendall(engine.data_to_send(1 << 20))
        self._socket.setblocking(False)

    def step(self) -> None:
        _read(self._socket)

    def close(self) -> None:
        self._socket.close()


class SlowWriter:
    """Announces a message of `size` bytes and sends `amount` of it a step, or what the window lets it."""

    def __init__(self, address: str, path: str, size: int, amount: int, application: str) -> None:
        self._socket, self._engine = _connect(address)
        self._stream = self._engine.send_request(_headers(path, application))
        self._engine.send_data(self._stream, struct.pack(">BI", 0, size))
        self._left = size
        self._unsent = bytearray()
        self._amount = bytes(amount)
        self._socket.setblocking(False)

    def step(self) -> None:
        if received := _read(self._socket):
            self._engine.receive_data(received)
            self._engine.events()
        if not self._unsent:
            # The engine keeps what the window does not let through: give it more only when it has let go.
            self._unsent += self._engine.data_to_send(1 << 20)
            if not self._unsent and self._left > len(self._amount):
                self._left -= len(self._amount)
                self._engine.send_data(self._stream, self._amount)
                self._unsent += self._engine.data_to_send(1 << 20)
        with contextlib.suppress(BlockingIOError):
            del self._unsent[: self._socket.send(self._unsent)]

    def close(self) -> None:
        self._socket.close()


def _connect(address: str) -> tuple[socket.socket, ngh2.Connection]:
    host, _, port = address.rpartition(":")
    engine = ngh2.Connection(ngh2.Role.CLIENT)
    engine.initiate_connection({SETTING_INITIAL_WINDOW_SIZE: WINDOW})
    engine.set_local_window_size(WINDOW)
    return socket.create_connection((host, int(port)), timeout=10), engine


def _headers(path: str, application: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"application", application.encode()),
    )


def _read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(READ_BYTES)
    except BlockingIOError:
        return b""
