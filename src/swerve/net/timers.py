"""The deadlines of many calls on one event loop timer, and a timer that goes off again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger("swerve.net")

# Deadlines are met within this time. A finer wheel would wake up more often than clients can notice.
TICK_S = 0.005


class Expiring(Protocol):
    def expire(self) -> None: ...


class TimerWheel:
    """Calls bucketed by the tick in which they expire. Adding and removing cost a dict and a set operation."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, set[Expiring]] = {}
        self._handle: asyncio.TimerHandle | None = None
        # The tick that the handle is set for.
        self._next = 0

    def add(self, deadline: float, item: Expiring) -> None:
        """Call `item.expire()` soon after `deadline` (on the monotonic clock), unless it is removed before."""
        tick = int(deadline / TICK_S) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {item}
            if self._handle is None or tick < self._next:
                self._arm(tick)
        else:
            bucket.add(item)

    def remove(self, deadline: float, item: Expiring) -> None:
        """Forget `item`, which was added with `deadline`."""
        tick = int(deadline / TICK_S) + 1
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.discard(item)
            if not bucket:
                del self._buckets[tick]

    def _arm(self, tick: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._next = tick
        self._handle = self._loop.call_later(max(0.0, tick * TICK_S - time.monotonic()), self._fire)

    def _fire(self) -> None:
        self._handle = None
        now = int(time.monotonic() / TICK_S)
        for tick in sorted(tick for tick in self._buckets if tick <= now):
            for item in self._buckets.pop(tick, ()):
                try:
                    item.expire()
                except Exception:
                    # One call's failure must not keep the others from their deadlines.
                    logger.exception("Ending a call at its deadline failed")
        if self._buckets:
            self._arm(min(self._buckets))


class Ticker:
    """Calls `look` with the loop's time every `interval_s` seconds, until it is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float, look: Callable[[float], None]) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._look = look
        self._handle = loop.call_later(interval_s, self._tick)

    def close(self) -> None:
        """Look no more."""
        self._handle.cancel()

    def _tick(self) -> None:
        self._handle = self._loop.call_later(self._interval_s, self._tick)
        self._look(self._loop.time())
