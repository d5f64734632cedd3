"""Waiting, on any thread or event loop, for something that a runtime's loop brings about.

`waiters` is a plain list of callbacks. The one that brings it about changes its state first and calls `wake` then; one
that waits adds itself first and looks at the state then. As appending to a list and popping from it are atomic, nobody
misses the change and no lock is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

Waiters: TypeAlias = list[Callable[[], None]]


def wake(waiters: Waiters) -> None:
    """Call each waiter once. From the thread that made the change."""
    while waiters:
        waiters.pop()()


def on_loop(waiters: Waiters, ready: Callable[[], bool]) -> Generator[Any, None, None]:
    """Wait, in the running event loop's task, until `ready()`. For `yield from` in an `__await__`."""
    loop = asyncio.get_running_loop()
    while not ready():
        future = loop.create_future()
        waiter = functools.partial(_wake_future, loop, future)
        waiters.append(waiter)
        if ready():
            leave(waiters, waiter)
            return
        try:
            yield from future
        except BaseException:
            leave(waiters, waiter)
            raise


class Change:
    """`on_loop`, for `await`."""

    __slots__ = ("_ready", "_waiters")

    def __init__(self, waiters: Waiters, ready: Callable[[], bool]) -> None:
        self._waiters = waiters
        self._ready = ready

    def __await__(self) -> Generator[Any, None, None]:
        return on_loop(self._waiters, self._ready)


def on_thread(waiters: Waiters, ready: Callable[[], bool], timeout_s: float | None) -> bool:
    """Block this thread until `ready()`, or False when `timeout_s` seconds have passed."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while not ready():
        lock = threading.Lock()
        lock.acquire()
        waiters.append(lock.release)
        if ready():
            leave(waiters, lock.release)
            return True
        if deadline is None:
            lock.acquire()
        elif not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            leave(waiters, lock.release)
            return ready()
    return True


def _wake_future(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    if asyncio._get_running_loop() is loop:
        _finish(future)
    else:
        # A loop that was closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_finish, future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def leave(waiters: Waiters, waiter: Callable[[], None]) -> bool:
    """Wait no more. False when `wake` was faster."""
    try:
        waiters.remove(waiter)
    except ValueError:
        return False
    return True
