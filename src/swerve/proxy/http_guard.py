"""What uvicorn has no limits for: connections at a time, the time that a request's head may take, and how long one
connection may hold the event loop.

This stands on parts of uvicorn that are not its public face; `tests/proxy/test_uvicorn_internals.py` has them all:

    both protocols    `transport`, `loop`, `client`, and `connections`, where each is that is open; bytes come by
                      `data_received`, in pieces of any size
    for HTTP          `flow`, a `FlowControl` from `connection_made` on, whose `read_paused` says that it has paused
                      reading; `cycle`, the last request or None, with `response_complete`; `timeout_keep_alive_task`,
                      set while no request has begun since; a WebSocket's protocol takes its place at the transport
    for WebSockets    `read_paused`; `frames`, the fragments of a message that is not whole yet; `receive`, by which the
                      application takes a message
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sized
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl

from swerve.net.timers import Ticker

logger = logging.getLogger("swerve.proxy")

# How often connections are looked at: the time is kept within this, or a quarter of it if that is shorter.
_INTERVAL_S = 1.0

# How long a connection's bytes are parsed before others have their turn. A chunk of a body costs the parser, which is
# written in Python, some microseconds, and may have six bytes; so the time is looked at after pieces of so many bytes,
# and of more where they cost little.
_TURN_S = 0.002
_PIECE, _LARGE_PIECE = 2048, 16 * 1024

# Bytes that wait for a client to read them, above which nothing more is parsed that may be answered, and how often that
# is looked at.
_UNREAD, _UNREAD_CHECK_S = 256 * 1024, 0.1


# Of one message: it may have 16 MiB, which is uvicorn's limit, in fragments of some hundred bytes. Empty ones have no
# other limit.
_FRAGMENTS = 100_000


class _InTurns:
    """Before one of uvicorn's protocols: takes what comes in turns with all else on the event loop."""

    transport: Any
    loop: asyncio.AbstractEventLoop
    client: Any
    # What has come and was not parsed in its turn. Reading is paused meanwhile.
    unparsed = memoryview(b"")
    # Whether it will be gone on with in some later turn, whatever else happens.
    _due = False

    def data_received(self, data: bytes) -> None:
        if self.unparsed:
            self.unparsed = memoryview(b"".join((self.unparsed, data)))
            self.parse_first()
            return
        self.unparsed = memoryview(data)
        self._parse()
        self.parse_first()

    def parse_first(self) -> None:
        """Have nothing more read while some of what was read is not parsed, whether or not the server has just resumed
        reading: it does so for less than what a read may bring."""
        if self.unparsed and not self.transport.is_closing():
            self.transport.pause_reading()
            self._go_on_later()

    def _go_on_later(self) -> None:
        if self._due or self._holds():
            return
        self._due = True
        if self.transport.get_write_buffer_size() > _UNREAD:
            self.loop.call_later(_UNREAD_CHECK_S, self._go_on)
        else:
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._due = False
        self._parse()
        if self.unparsed:
            self.parse_first()
        elif not (self.transport.is_closing() or self._paused()):
            self.transport.resume_reading()

    def _parse(self) -> None:
        """Go on with what has come, until its end or that of the turn."""
        size = _PIECE
        now = time.monotonic()
        until = now + _TURN_S
        while self.unparsed and now < until:
            if self.transport.is_closing() or self._replaced():
                self.unparsed = memoryview(b"")
                return
            if self._holds() or self.transport.get_write_buffer_size() > _UNREAD:
                return
            piece, self.unparsed = bytes(self.unparsed[:size]), self.unparsed[size:]
            super().data_received(piece)  # type: ignore[misc]  # uvicorn's, with which this is mixed
            began, now = now, time.monotonic()
            if now - began < _TURN_S / 16:
                size = min(2 * size, _LARGE_PIECE)

    def _replaced(self) -> bool:
        """Whether another protocol has the connection now."""
        return False

    def _paused(self) -> bool:
        """Whether the server has paused reading."""
        raise NotImplementedError

    def _holds(self) -> bool:
        """Whether what comes has to wait for the application."""
        return False


class _HttpInTurns(_InTurns):
    flow: FlowControl
    cycle: Any
    timeout_keep_alive_task: asyncio.TimerHandle | None

    def awaits_head(self) -> bool:
        """Whether a request has begun, or the first is to, and its head is not whole."""
        return self.timeout_keep_alive_task is None and (self.cycle is None or bool(self.cycle.response_complete))

    def _paused(self) -> bool:
        return self.flow.read_paused

    def _replaced(self) -> bool:
        # By a WebSocket's. What comes with the request, before the handshake is over, the server drops.
        return self.transport.get_protocol() is not self


class _WebSocketInTurns(_InTurns):
    """A WebSocket's messages wait here until the application has received those before: parsed, each takes some hundred
    bytes more."""

    read_paused: bool
    frames: Sized

    def _paused(self) -> bool:
        return self.read_paused

    def _holds(self) -> bool:
        return self.read_paused

    def _parse(self) -> None:
        super()._parse()
        if len(self.frames) > _FRAGMENTS:
            logger.info("Closing WebSocket of %s: its message has more than %d fragments", self.client, _FRAGMENTS)
            self.transport.abort()

    async def receive(self) -> Any:
        message = await super().receive()  # type: ignore[misc]  # as above
        self.parse_first()
        return message


class _Flow(FlowControl):
    """How a request's application has uvicorn resume reading."""

    def __init__(self, connection: _InTurns) -> None:
        super().__init__(connection.transport)
        self._connection = connection

    def resume_reading(self) -> None:
        super().resume_reading()
        self._connection.parse_first()


def bounded(protocol: type[Any], max_connections: int) -> type[Any]:
    """uvicorn's `protocol` for HTTP, which hangs up on connections beyond `max_connections`, and takes turns."""

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        protocol.connection_made(self, transport)
        self.flow = _Flow(self)
        if len(self.connections) > max_connections:
            transport.abort()

    return type(protocol.__name__, (_HttpInTurns, protocol), {"connection_made": connection_made})


def websocket_in_turns(protocol: type[Any]) -> type[Any]:
    """uvicorn's `protocol` for WebSockets, which takes turns."""
    return type(protocol.__name__, (_WebSocketInTurns, protocol), {})


class HeadWatch:
    """Hangs up on those of uvicorn's `connections` that have not sent a whole head within `timeout_s`.

    The time between requests is uvicorn's to limit (`keep_alive_timeout_s`), until the next one begins.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: Collection[Any], timeout_s: float) -> None:
        self._connections = connections
        self._timeout_s = timeout_s
        self._since: dict[Any, float] = {}
        self._ticker = Ticker(loop, min(_INTERVAL_S, timeout_s / 4), self.look)

    def close(self) -> None:
        """Look no more."""
        self._ticker.close()

    def look(self, now: float) -> None:
        """Hang up on those whose time is over at `now`."""
        awaited = (one for one in self._connections if isinstance(one, _HttpInTurns) and one.awaits_head())
        since = {one: self._since.get(one, now) for one in awaited}
        for one, begun_at in since.items():
            if now - begun_at >= self._timeout_s:
                logger.info("Closing HTTP connection of %s: no whole head came within header_timeout_s", one.client)
                one.transport.abort()
        self._since = since
