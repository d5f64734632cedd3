"""Threads for plain `def` handlers. `swerve.net.mailbox` is their way back to the event loop."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger("swerve.replica")


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
