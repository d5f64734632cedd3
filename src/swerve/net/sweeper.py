"""A coarse timer over a listener's connections: limits in time are kept here, so that no call pays for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from swerve.net.connection import Connection
from swerve.net.limits import Action, ConnectionLife, ConnectionLimits
from swerve.net.stalls import StallWatch
from swerve.net.streams import CONNECTION_LOST, HUNG_UP
from swerve.wire.frames import ErrorCode
from swerve.wire.http2 import Http2Error

logger = logging.getLogger("swerve.net")

# How often connections are looked at: limits are kept within this time, or a quarter of the shortest of them.
_INTERVAL_S = 1.0
_MIN_INTERVAL_S = 0.02
# Connections that are looked at in one turn of the loop, so that calls wait no longer than about a millisecond.
_BATCH = 500
# What the ping says that asks whether the peer is there.
_KEEPALIVE = b"swerve-k"


class WatchedConnection:
    """What is remembered of a connection: whose it is, for its listener, and for the sweeper how it behaves."""

    __slots__ = ("client", "life", "stalls")

    def __init__(self, life: ConnectionLife, client: str = "") -> None:
        self.client = client
        self.life = life
        self.stalls: StallWatch[int] | None = None


class Sweeper:
    """Keeps `limits` on all of `connections`, which their owner adds to and takes from."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connections: Mapping[Connection, WatchedConnection],
        limits: ConnectionLimits,
    ) -> None:
        self._loop = loop
        self._connections = connections
        self._armed = False
        self._due: list[tuple[Connection, WatchedConnection]] = []
        self._set(limits)

    def _set(self, limits: ConnectionLimits) -> None:
        self._stall_timeout_s = limits.stall_timeout_s
        # A count is no time; it is looked at as often.
        self._idle = limits.shortest_s == float("inf") and limits.max_calls_per_connection is None
        self._interval = min(_INTERVAL_S, max(_MIN_INTERVAL_S, limits.shortest_s / 4))

    def go_by(self, limits: ConnectionLimits) -> None:
        """Keep other limits from now on. What a connection's life is limited to was decided when it began."""
        self._set(limits)
        self.start()

    def start(self) -> None:
        """Look at the connections for as long as there are any. To be called when there is a first one."""
        if not self._armed and not self._idle:
            self._armed = True
            self._loop.call_later(self._interval, self._sweep)

    def _sweep(self) -> None:
        if not self._due:
            self._due = list(self._connections.items())
        batch, self._due = self._due[:_BATCH], self._due[_BATCH:]
        now = self._loop.time()
        for connection, watched in batch:
            try:
                self._look_at(connection, watched, now)
            except Exception:
                # One connection's failure must not keep the others from their limits.
                logger.exception("Keeping the limits of %s failed", connection.peer)
        if self._due:
            self._loop.call_soon(self._sweep)
            return
        self._armed = False
        if self._connections:
            self.start()

    def _look_at(self, connection: Connection, watched: WatchedConnection, now: float) -> None:
        if connection.closed:
            return
        heard, connection.heard = connection.heard, False
        decision = watched.life.decide(
            now,
            established=connection.established,
            heard=heard,
            # A client's streams have odd ids, in order (RFC 9113, section 5.1.1). Those that it leaves out count too.
            calls=(connection.last_request + 1) // 2,
            running=len(connection.streams),
        )
        match decision.action:
            case Action.PING:
                with contextlib.suppress(Http2Error):
                    connection.http2.ping(_KEEPALIVE)
                connection.flush()
            case Action.DRAIN:
                logger.info("Asking %s to connect anew: %s", connection.peer, decision.reason)
                connection.drain()
            case Action.CLOSE | Action.LOST:
                logger.info("Closing connection of %s: %s", connection.peer, decision.reason)
                connection.close(CONNECTION_LOST if decision.action is Action.LOST else HUNG_UP)
                return
        if self._stall_timeout_s is not None:
            self._end_stalled(connection, watched, now, self._stall_timeout_s)

    def _end_stalled(self, connection: Connection, watched: WatchedConnection, now: float, timeout_s: float) -> None:
        waiting = _waiting(connection)
        if not waiting:
            watched.stalls = None
            return
        if watched.stalls is None:
            watched.stalls = StallWatch()
        stalled = watched.stalls.stalled(now, timeout_s, waiting)
        if connection._pause is not None:
            # Streams stand still as long as nothing can be written, and may go on after that.
            if 0 not in stalled:
                return
            logger.info("Closing connection of %s: it read nothing within stall_timeout_s", connection.peer)
            connection.close(HUNG_UP)
            return
        for stream_id in stalled:
            logger.info("Ending a call of %s: its response was not read within stall_timeout_s", connection.peer)
            connection.reset(stream_id, ErrorCode.ENHANCE_YOUR_CALM)


def _waiting(connection: Connection) -> dict[int, tuple[int, object]]:
    """What waits for the peer to take it, as `StallWatch` wants it: by stream, and under 0 for a connection to which
    nothing can be written."""
    waiting = connection.http2.queued_bodies()
    if connection._pause is not None and connection.transport is not None:
        waiting[0] = (connection.transport.get_write_buffer_size(), connection._pause)
    # Of these it is known when bytes were added.
    backlog = connection.backlog
    for stream_id, these in (*backlog.callbacks.items(), *backlog.owed.items()):
        waiting[stream_id] = (connection.unsent(stream_id), these)
    return waiting
