"""The way from other threads to an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable

logger = logging.getLogger("swerve.net")


class Mailbox:
    """Callables that other threads want run on the event loop, in order. What many threads post at about the same time
    wakes the loop once. Made on the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._posted: deque[Callable[[], None]] = deque()
        self._woken = False
        self._thread = threading.get_ident()

    def run(self, callback: Callable[[], None]) -> None:
        """Run `callback` now when this is the loop's thread, else post it."""
        if threading.get_ident() == self._thread:
            callback()
        else:
            self.post(callback)

    def post(self, callback: Callable[[], None]) -> None:
        """Run `callback` on the loop soon. From any thread; dropped when the loop is closed."""
        self._posted.append(callback)
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # Cleared first: what is posted from here on wakes the loop again.
        self._woken = False
        posted = self._posted
        while posted:
            try:
                posted.popleft()()
            except Exception:
                # One call's failure must not lose the others.
                logger.exception("A callback from another thread failed")
