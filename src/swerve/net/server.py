"""A small gRPC server for our own services: methods are coroutines and async generators over message bytes."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from swerve.net.connection import Connection
from swerve.net.listener import Listener, ListenOptions, listen
from swerve.net.server_call import HIGH_WATER, ServerCall
from swerve.net.streams import Headers
from swerve.wire.limits import PRIVATE_LIMITS
from swerve.wire.message import MAX_MESSAGE_SIZE
from swerve.wire.status import OK, RpcError, Status, StatusCode

logger = logging.getLogger("swerve.net")

MetadataDict = dict[str, str]


@dataclass(frozen=True, slots=True)
class Unary:
    """A unary method: `fn(request, metadata)` returns the response, or raises RpcError to end with its status."""

    fn: Callable[[bytes, MetadataDict], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class ServerStream:
    """A server-streaming method: `fn(request, metadata)` returns an async iterator of responses."""

    fn: Callable[[bytes, MetadataDict], AsyncIterator[bytes]]


Method = Unary | ServerStream


class Server:
    """Serves a table of methods at one address."""

    def __init__(self, address: str, listener: Listener) -> None:
        self.address = address
        self._listener = listener

    async def close(self, grace_s: float) -> None:
        """Stop listening; calls that run have `grace_s` seconds to finish."""
        await self._listener.close(grace_s)


def serve(address: str, methods: Mapping[str, Method], tls: ssl.SSLContext | None = None) -> Server:
    """Serve `methods`, by path ("/package.Service/Method"), at `address`; over TCP with `tls` if it is given.

    Raises:
        OSError: the address cannot be bound.
    """
    options = ListenOptions(limits=PRIVATE_LIMITS, tls=tls)
    return Server(address, listen(address, method_acceptor(methods), options))


def method_acceptor(methods: Mapping[str, Method]) -> Callable[[Connection, int, Headers, bool], ServerCall | None]:
    """An acceptor of requests for `methods`; others end UNIMPLEMENTED."""
    by_path = {path.encode(): method for path, method in methods.items()}

    def accept(connection: Connection, stream_id: int, headers: Headers, end_stream: bool) -> ServerCall | None:
        path = dict(headers).get(b":path", b"")
        call = _MethodCall(connection, stream_id, headers, by_path.get(path))
        if by_path.get(path) is None:
            call.refuse(Status(StatusCode.UNIMPLEMENTED, f"Method {path.decode('latin-1')} is not served here."))
        elif end_stream:
            call.end_of_request()
        return call

    return accept


class _MethodCall(ServerCall):
    __slots__ = ("_message", "_method", "_task")

    def __init__(self, connection: Connection, stream_id: int, headers: Headers, method: Method | None) -> None:
        super().__init__(connection, stream_id, headers, MAX_MESSAGE_SIZE)
        self._method = method
        self._message: bytes | None = None
        self._task: asyncio.Task[None] | None = None

    def message_received(self, message: bytes) -> None:
        self._message = message

    def half_closed(self) -> None:
        if self._message is None:
            self.refuse(Status(StatusCode.INTERNAL, "The request has no message."))
        else:
            self._task = asyncio.get_running_loop().create_task(self._run(self._message))

    def cancelled(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, message: bytes) -> None:
        metadata = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers if name[:1] != b":"}
        try:
            if isinstance(self._method, Unary):
                self.send_message(await self._method.fn(message, metadata))
            elif self._method is not None:
                await self._stream(self._method.fn(message, metadata))
            self.finish(OK)
        except RpcError as error:
            self.finish(error.status)
        except asyncio.CancelledError:
            self.finish(Status(StatusCode.CANCELLED, "The call was cancelled."))
            raise
        except Exception as error:
            logger.exception("%s failed", dict(self.headers).get(b":path", b"").decode("latin-1"))
            self.finish(Status(StatusCode.INTERNAL, f"{type(error).__name__}: {error}"))

    async def _stream(self, responses: AsyncIterator[bytes]) -> None:
        self.start()
        async for response in responses:
            self.send_message(response)
            if self.connection.unsent(self.stream_id) > HIGH_WATER:
                await self.drained()
