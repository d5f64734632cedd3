"""An event loop in a daemon thread, for programs that have none of their own for handles to live on."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

import uvloop

logger = logging.getLogger("swerve.caller")

T = TypeVar("T")

_STOP_TIMEOUT_S = 5.0
# What a thread that does not hang needs to end.
_LEAVE_S = 0.2


class LoopThread:
    """Runs an event loop until `stop` or the program's end, which waits for it unless it is `untrusted`: user code may
    hang in it."""

    def __init__(self, name: str, *, untrusted: bool = False) -> None:
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._at_exit = self._leave if untrusted else self.stop
        atexit.register(self._at_exit)

    def call(self, make: Callable[[], Coroutine[Any, Any, T]], timeout_s: float | None = None) -> T:
        """The result of the coroutine that `make` gives, run on the loop. From any other thread.

        Raises:
            TimeoutError: it took longer than `timeout_s` seconds.
        """
        return asyncio.run_coroutine_threadsafe(make(), self.loop).result(timeout_s)

    def stop(self) -> None:
        """Cancel what runs on the loop and end the thread. From any other thread; repeated calls do nothing."""
        atexit.unregister(self._at_exit)
        if not self._thread.is_alive():
            return
        try:
            self.call(_cancel_all, _STOP_TIMEOUT_S)
        except FutureTimeoutError:
            logger.warning("The tasks of thread '%s' did not end within %.0f s", self._thread.name, _STOP_TIMEOUT_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_STOP_TIMEOUT_S)

    def abandon(self) -> None:
        """End the thread without waiting for it. From any other thread."""
        atexit.unregister(self._at_exit)
        with contextlib.suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self.loop.stop)

    def _leave(self) -> None:
        self.abandon()
        self._thread.join(_LEAVE_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
