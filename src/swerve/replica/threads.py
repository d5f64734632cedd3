"""Threads for plain `def` handlers, and the way back to the event loop.

Both directions are queues of callables. Results that many threads post at about the same time wake the loop once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

logger = logging.getLogger("swerve.replica")


class Mailbox:
    """Callables that other threads want run on the event loop, in order. Made on the loop's thread."""

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
                logger.exception("Delivering a result failed")


class ThreadPool:
    """At most `size` daemon threads, started as they are needed. A job runs at once or next: callers admit no more than
    `size` at a time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # Jobs submitted and not finished; threads started.
        self._busy = 0
        self._threads = 0
        self._lock = threading.Lock()

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` in a thread. It must not raise."""
        with self._lock:
            self._busy += 1
            if self._threads < min(self._busy, self.size):
                self._threads += 1
                name = f"swerve-handler-{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            try:
                job()
            except Exception:
                logger.exception("A handler's thread failed")
            with self._lock:
                self._busy -= 1

    def close(self) -> None:
        """End the threads that are idle; those that run a job end after it."""
        for _ in range(self._threads):
            self._jobs.put(None)
