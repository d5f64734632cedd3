"""What uvicorn has no limits for: connections at a time, and the time that a request's head may take."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any

from swerve.net.timers import Ticker

logger = logging.getLogger("swerve.proxy")

# How often connections are looked at: the time is kept within this, or a quarter of it if that is shorter.
_INTERVAL_S = 1.0


def bounded(protocol: type[Any], max_connections: int) -> type[Any]:
    """uvicorn's `protocol` for HTTP, which hangs up on connections beyond `max_connections`."""

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        protocol.connection_made(self, transport)
        if len(self.connections) > max_connections:
            transport.abort()

    return type(protocol.__name__, (protocol,), {"connection_made": connection_made})


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
