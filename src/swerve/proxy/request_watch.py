"""Limits on requests that are incomplete or wait: kept by a coarse timer, so that no call pays for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

from swerve.net.connection import Connection
from swerve.net.server_call import ServerCall
from swerve.net.stalls import StallWatch
from swerve.net.timers import Ticker
from swerve.proxy.forward import ForwardedCall
from swerve.proxy.ingress import Ingress
from swerve.wire.status import Status, StatusCode

logger = logging.getLogger("swerve.proxy")

# How often requests are looked at. What a fast network brings meanwhile comes on top of `max_buffered_request_bytes`.
_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """None switches a limit off."""

    # Seconds within which some of an incomplete request has to come (`net.stalls`).
    stall_timeout_s: float | None = None
    # Bytes of requests that one proxy holds.
    max_buffered_request_bytes: int | None = None


class RequestWatch:
    """Keeps `limits` on the calls of `connections`, which came through `ingress`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connections: Collection[Connection],
        ingress: Ingress,
        limits: RequestLimits,
    ) -> None:
        self._connections = connections
        self._ingress = ingress
        self._limits = limits
        self._stalls: StallWatch[ForwardedCall | ServerCall] = StallWatch()
        timeout = limits.stall_timeout_s
        self._ticker = Ticker(loop, _INTERVAL_S if timeout is None else min(_INTERVAL_S, timeout / 4), self.look)

    def close(self) -> None:
        """Look no more."""
        self._ticker.close()

    def look(self, now: float) -> None:
        """End the calls that are over a limit at `now`."""
        self._end_stalled(now)
        self._shed()

    def _end_stalled(self, now: float) -> None:
        """End the calls whose one request message does not come on, though its client has credit."""
        timeout_s = self._limits.stall_timeout_s
        if timeout_s is None:
            return
        incomplete: dict[ForwardedCall | ServerCall, tuple[int, object]] = {}
        for connection in self._connections:
            for handler in connection.streams.values():
                if isinstance(handler, ForwardedCall):
                    if handler.awaits_client and self._ingress.takes_one_message(handler.path):
                        incomplete[handler] = (-handler.received, handler)
                elif isinstance(handler, ServerCall) and handler.in_message:
                    incomplete[handler] = (0, handler)
        details = f"The request was not complete, and nothing of it came for {timeout_s} s (stall_timeout_s)."
        for call in self._stalls.stalled(now, timeout_s, incomplete):
            if isinstance(call, ForwardedCall):
                call.give_up(StatusCode.DEADLINE_EXCEEDED, details)
            else:
                call.finish(Status(StatusCode.DEADLINE_EXCEEDED, details))

    def _shed(self) -> None:
        """While more bytes are held than allowed, end the calls that wait, those with the most bytes first."""
        most = self._limits.max_buffered_request_bytes
        if most is None:
            return
        excess = sum(connection.unacknowledged for connection in self._connections) - most
        if excess <= 0:
            return
        waiting = [
            handler
            for connection in self._connections
            for handler in connection.streams.values()
            if isinstance(handler, ForwardedCall) and handler.waiting
        ]
        waiting.sort(key=lambda call: call.received, reverse=True)
        details = f"The proxy holds more than {most} bytes of requests that wait (max_buffered_request_bytes)."
        ended = 0
        for call in waiting:
            if excess <= 0:
                break
            excess -= call.received
            ended += 1
            call.give_up(StatusCode.RESOURCE_EXHAUSTED, details, call.queue_time_s)
        if ended:
            logger.warning("Ended %d waiting calls: more than %d bytes of requests were held", ended, most)
