"""What uvicorn has no limits for: connections at a time, the time that a request's head may take, and how long one
connection may hold the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Any

from swerve.net.timers import Ticker

logger = logging.getLogger("swerve.proxy")

# How often connections are looked at: the time is kept within this, or a quarter of it if that is shorter.
_INTERVAL_S = 1.0


# How long a connection's bytes are parsed before others have their turn. A chunk of a body costs the parser, which is
# written in Python, some microseconds, and may have six bytes; so the time is looked at after pieces of so many bytes,
# and of more where they cost little.
_TURN_S = 0.002
_PIECE, _LARGE_PIECE = 2048, 16 * 1024


def bounded(protocol: type[Any], max_connections: int) -> type[Any]:
    """uvicorn's `protocol` for HTTP, which hangs up on connections beyond `max_connections`, and takes what comes in
    turns with all else on the event loop."""

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        self.unparsed = memoryview(b"")
        protocol.connection_made(self, transport)
        if len(self.connections) > max_connections:
            transport.abort()

    def data_received(self: Any, data: bytes) -> None:
        if self.unparsed:
            # The server has resumed reading. What is here goes first.
            self.unparsed = memoryview(b"".join((self.unparsed, data)))
            self.transport.pause_reading()
        elif len(data) <= _PIECE:
            protocol.data_received(self, data)
        else:
            self.unparsed = memoryview(data)
            if not parse(self):
                self.transport.pause_reading()
                self.loop.call_soon(go_on, self)

    def go_on(self: Any) -> None:
        if not parse(self):
            self.loop.call_soon(go_on, self)
        elif not (self.transport.is_closing() or self.flow.read_paused):
            self.transport.resume_reading()

    def parse(self: Any) -> bool:
        """Go on with what has come. False when the turn was over before its end."""
        size = _PIECE
        now = time.monotonic()
        until = now + _TURN_S
        while self.unparsed and not self.transport.is_closing():
            if now >= until:
                return False
            piece, self.unparsed = bytes(self.unparsed[:size]), self.unparsed[size:]
            # A WebSocket has another protocol after its first request.
            reader = self.transport.get_protocol()
            if reader is self:
                protocol.data_received(self, piece)
            else:
                reader.data_received(piece)
            began, now = now, time.monotonic()
            if now - began < _TURN_S / 16:
                size = min(2 * size, _LARGE_PIECE)
        self.unparsed = memoryview(b"")
        return True

    methods = {"connection_made": connection_made, "data_received": data_received}
    return type(protocol.__name__, (protocol,), methods)


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
        since = {one: self._since.get(one, now) for one in self._connections if _awaits_head(one)}
        for one, begun_at in since.items():
            if now - begun_at >= self._timeout_s:
                logger.info("Closing HTTP connection of %s: no whole head came within header_timeout_s", one.client)
                one.transport.abort()
        self._since = since


def _awaits_head(connection: Any) -> bool:
    # A WebSocket's connection has no cycle.
    cycle: Any = getattr(connection, "cycle", _NO_HTTP)
    if cycle is _NO_HTTP or connection.timeout_keep_alive_task is not None:
        return False
    return cycle is None or bool(cycle.response_complete)


_NO_HTTP = object()
