"""gRPC client channels on asyncio: one connection to an address, opened at need and reopened when it was lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from swerve.net.address import parse_address
from swerve.net.begun import Look
from swerve.net.client_call import ClientCall, request_headers
from swerve.net.connection import Connection
from swerve.net.streams import Headers
from swerve.net.tls import H2
from swerve.wire.deadline import format_timeout
from swerve.wire.http2 import Http2Error
from swerve.wire.limits import PRIVATE_LIMITS
from swerve.wire.message import frame
from swerve.wire.status import RpcError, Status, StatusCode

_CONNECT_TIMEOUT_S = 5.0
# Inside an instance the caller counts calls itself, so the window is all that bounds a connection.
_LIMITS = replace(PRIVATE_LIMITS, max_concurrent_streams=0)
# Messages of a stream that may wait for their reader before credit is withheld from the server.
_STREAM_BUFFER = 16


class Channel:
    """A gRPC channel to one address ("unix:/path" or "host:port"), used on one event loop.

    With `tls` (`net.tls.h2_client_context`) it speaks TLS over TCP, and the server's certificate must be for the
    address's host. With `learns_begun` a call that a server had not begun when it died ends as if it had been refused
    (where the server notes what it begins).
    """

    def __init__(self, address: str, tls: ssl.SSLContext | None = None, *, learns_begun: bool = False) -> None:
        self.address = address
        self._learns_begun = learns_begun
        self._target = parse_address(address)
        self._tls = tls
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._closed = False

    @property
    def ready(self) -> Connection | None:
        """The open connection, if there is one: for callers that must not wait."""
        connection = self._connection
        return connection if connection is not None and connection.usable else None

    async def connect(self) -> Connection:
        """The open connection, made first if there is none.

        Raises:
            RpcError: UNAVAILABLE when nobody listens at the address, or one side does not trust the other.
        """
        connection = self.ready
        if connection is not None:
            return connection
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        # Shielded: one waiter's cancellation must not break the attempt for the others.
        return await asyncio.shield(self._connecting)

    def _connected(self, task: asyncio.Task[Connection]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # read, so that an attempt that nobody waits for any more is not reported as lost

    async def _connect(self) -> Connection:
        if self._closed:
            raise RpcError(Status(StatusCode.UNAVAILABLE, f"The channel to {self.address} is closed."))
        loop = asyncio.get_running_loop()

        def make() -> Connection:
            return Connection(loop, _LIMITS)

        target = self._target
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                if target.path and self._learns_begun:
                    connection = await _connect_named(make, target.path)
                elif target.path:
                    _, connection = await loop.create_unix_connection(make, target.path)
                else:
                    transport, connection = await loop.create_connection(make, target.host, target.port, ssl=self._tls)
                    if self._tls is not None:
                        _require_h2(transport)
        except (OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise RpcError(Status(StatusCode.UNAVAILABLE, f"Cannot connect to {self.address}: {reason}")) from error
        self._connection = connection
        connection.peer = self.address
        return connection

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float | None,
        metadata: Sequence[tuple[bytes, bytes]] = (),
    ) -> bytes:
        """Call a unary method and return its response message. `timeout` is in seconds; None waits for ever.

        Raises:
            RpcError: the call ended with a status other than OK.
        """
        call = _UnaryCall(asyncio.get_running_loop())
        try:
            async with asyncio.timeout(timeout):
                await self._begin(call, path, request, timeout, metadata)
                return await call.result
        except TimeoutError as error:
            raise RpcError(
                Status(StatusCode.DEADLINE_EXCEEDED, f"{path} at {self.address} did not answer within {timeout} s.")
            ) from error
        finally:
            call.cancel()

    def stream(
        self,
        path: str,
        request: bytes,
        *,
        metadata: Sequence[tuple[bytes, bytes]] = (),
    ) -> MessageStream:
        """Call a server-streaming method. It goes on until it ends or is cancelled."""
        return MessageStream(self, path, request, metadata)

    async def _begin(
        self,
        call: ClientCall,
        path: str,
        request: bytes,
        timeout: float | None,
        metadata: Sequence[tuple[bytes, bytes]],
    ) -> None:
        connection = await self.connect()
        extra = (*metadata, (b"grpc-timeout", format_timeout(timeout))) if timeout is not None else metadata
        try:
            call.begin(connection, request_headers(path, "swerve", extra), (frame(request),))
        except Http2Error as error:
            raise RpcError(Status(StatusCode.UNAVAILABLE, f"{self.address} takes no new calls: {error}")) from error

    async def close(self) -> None:
        """Close the connection. Calls that run end with UNAVAILABLE."""
        self.open_no_more()
        if self._connection is not None:
            self._connection.close()

    def open_no_more(self) -> None:
        """Make no connection from here on; one that is open stays."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()


def _require_h2(transport: asyncio.Transport) -> None:
    if transport.get_extra_info("ssl_object").selected_alpn_protocol() != H2:
        transport.abort()
        raise ConnectionAbortedError("the server does not offer h2 by ALPN")


async def _connect_named(make: Callable[[], Connection], path: str) -> Connection:
    """A connection from a socket with a name, by which its calls are found on the server's board."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    look = None
    try:
        sock.setblocking(False)
        sock.bind("")  # the system chooses the name
        with contextlib.suppress(OSError):
            look = Look(path, sock.getsockname())
        await loop.sock_connect(sock, path)
        if look is not None and not look.is_current():
            look.settle(final=False)
            look = None
        connection = make()
        connection.look = look
        await loop.create_unix_connection(lambda: connection, sock=sock)
    except BaseException:
        sock.close()
        if look is not None:
            look.settle(final=False)
        raise
    return connection


class _UnaryCall(ClientCall):
    __slots__ = ("_message", "result")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.result: asyncio.Future[bytes] = loop.create_future()
        self._message: bytes | None = None

    def message_received(self, message: bytes) -> None:
        self._message = message

    def ended(self, status: Status, trailers: Headers) -> None:
        if self.result.done():
            return
        if status.code != StatusCode.OK:
            self.result.set_exception(RpcError(status, trailers))
            self.result.exception()  # read: a caller that was cancelled meanwhile does not
        elif self._message is None:
            self.result.set_exception(RpcError(Status(StatusCode.INTERNAL, "The response has no message.")))
        else:
            self.result.set_result(self._message)


class MessageStream:
    """The responses of a server-streaming call, as an async iterator of messages.

    Iteration raises RpcError when the call ends with a status other than OK. `cancel()` abandons the call; leaving the
    iteration early should be followed by it.
    """

    def __init__(
        self,
        channel: Channel,
        path: str,
        request: bytes,
        metadata: Sequence[tuple[bytes, bytes]],
    ) -> None:
        self._channel = channel
        self._start = (path, request, None, metadata)
        self._call: _StreamCall | None = None

    def __aiter__(self) -> MessageStream:
        return self

    async def __anext__(self) -> bytes:
        if self._call is None:
            call = _StreamCall(asyncio.get_running_loop())
            await self._channel._begin(call, *self._start)
            self._call = call
        return await self._call.next()

    def cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()


class _StreamCall(ClientCall):
    """Messages wait here for their reader; credit is withheld while many do."""

    __slots__ = ("_buffer", "_end_status", "_loop", "_owed", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._buffer: deque[bytes] = deque()
        self._owed = 0
        self._end_status: tuple[Status, Headers] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def message_received(self, message: bytes) -> None:
        self._buffer.append(message)
        self._wake()

    def consume(self, amount: int) -> None:
        if self.done or len(self._buffer) < _STREAM_BUFFER:
            super().consume(amount)
        else:
            self._owed += amount

    def ended(self, status: Status, trailers: Headers) -> None:
        self._end_status = (status, trailers)
        # Nothing more comes, so nothing has to be held back; other streams need the connection's window.
        if self._owed:
            super().consume(self._owed)
            self._owed = 0
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> bytes:
        while not self._buffer:
            if self._end_status is not None:
                status, trailers = self._end_status
                if status.code == StatusCode.OK:
                    raise StopAsyncIteration
                raise RpcError(status, trailers)
            self._waiter = self._loop.create_future()
            await self._waiter
        message = self._buffer.popleft()
        if self._owed and len(self._buffer) < _STREAM_BUFFER:
            owed, self._owed = self._owed, 0
            super().consume(owed)
        return message
