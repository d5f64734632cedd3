"""Threads for plain `def` handlers and hooks. `swerve.net.mailbox` is handlers' way back to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("swerve.replica")


class ThreadPool:
    """At most `size` daemon threads, started as they are needed. A job runs at once or next: callers admit no more than
    `size` at a time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # Jobs submitted and not finished; threads started.
        self._busy = 0
        self._threads = 0
        self._lock = threading.Lock()

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` in a thread. It must not raise.

        Raises:
            RuntimeError: the system gives no thread, and there is none yet; the job will not run.
        """
        with self._lock:
            if self._threads < min(self._busy + 1, self.size):
                name = f"swerve-handler-{self._threads + 1}"
                try:
                    threading.Thread(target=self._work, name=name, daemon=True).start()
                except RuntimeError:
                    if not self._threads:
                        raise
                    # The job runs when one of the others is free.
                    logger.exception("A thread for handlers cannot be started")
                else:
                    self._threads += 1
            self._busy += 1
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception:
                logger.exception("A handler's thread failed")
            del job
            with self._lock:
                self._busy -= 1


class HookThread:
    """Runs one hook of the user's, each time in a thread of its own, so that handlers that hold all their threads do
    not hold it up. It runs once at a time, also when nobody waits any more for a run that hangs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: asyncio.Future[tuple[Any, BaseException | None]] | None = None

    async def run(self, hook: Callable[[], Any]) -> Any:
        """What `hook` returns or raises."""
        while self._running is not None:
            await asyncio.wait((self._running,))
        loop = asyncio.get_running_loop()
        outcome = self._running = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            self._running = None
            outcome.set_result((result, error))

        def work() -> None:
            result: Any = None
            error: BaseException | None = None
            try:
                result = hook()
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has gone
                loop.call_soon_threadsafe(settle, result, error)

        try:
            threading.Thread(target=work, name=f"swerve-{self._name}", daemon=True).start()
        except RuntimeError as refused:
            settle(None, refused)
        # Not the future itself: it stays open while the thread runs, whoever stops waiting.
        await asyncio.wait((outcome,))
        result, error = outcome.result()
        if error is not None:
            raise for_future(error)
        return result


def for_future(error: BaseException) -> BaseException:
    """What stands for `error` in a coroutine or a future: neither carries StopIteration, and what ends a process is not
    for a thread to raise."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    made = RuntimeError(f"User code raised {type(error).__name__}")
    made.__cause__ = error
    return made
