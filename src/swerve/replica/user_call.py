"""One call of user code, however it is written: `def`, `async def`, and generators of both kinds.

Subclasses bring the wire: how arguments come, how a value goes out, what an end means. The slot that the call takes in
the replica is given back when user code has really ended, which for a thread may be after its caller has gone.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar, Protocol

from swerve.context import RequestContext, _request_context
from swerve.net.connection import Connection, Headers
from swerve.net.mailbox import Mailbox
from swerve.net.server_call import ServerCall
from swerve.net.timers import TimerWheel
from swerve.replica.threads import ThreadPool
from swerve.replica.user_code import Handler, Kind
from swerve.wire.status import StatusCode

# A generator waits while this many bytes of its call have not left yet.
HIGH_WATER = 256 * 1024
# How often a generator in a thread looks whether its call is still wanted while it waits for the reader.
_STALL_CHECK_S = 1.0
# A generator that takes longer for a value may be blocking the loop with its work, as models do: what it yields is
# written before it goes on. The values of a faster one leave together.
_SLOW_STEP_S = 0.001


class Runtime(Protocol):
    """What a call needs of its replica."""

    loop: asyncio.AbstractEventLoop
    mailbox: Mailbox
    pool: ThreadPool
    timers: TimerWheel

    def call_finished(self, call: UserCall) -> None:
        """User code of the call has ended; its slot is free."""


class UserCall(ServerCall):
    """A call that runs a handler of the user's."""

    # True for a call that has its line in the proxy's access log: each call is logged once, at the edge.
    logged_by_proxy: ClassVar[bool] = False

    __slots__ = (
        "_gate",
        "_ran",
        "_task",
        "_timed",
        "_unsent",
        "context",
        "path",
        "runtime",
        "started_at",
        "status",
    )

    def __init__(
        self,
        connection: Connection,
        stream_id: int,
        headers: Headers,
        max_message_size: int,
        encoding: bytes,
        runtime: Runtime,
        context: RequestContext,
    ) -> None:
        super().__init__(connection, stream_id, headers, max_message_size, encoding)
        self.runtime = runtime
        self.context = context
        self.started_at = time.monotonic()
        # What was called and how it ended, for logs and metrics.
        self.path = ""
        self.status = StatusCode.UNKNOWN
        self._task: asyncio.Task[None] | None = None
        self._ran = False
        # Set while a generator in a thread may go on.
        self._gate: threading.Event | None = None
        # Bytes that a generator's thread has produced and the loop has not sent on.
        self._unsent = 0
        self._timed = context.deadline is not None
        if context.deadline is not None:
            runtime.timers.add(context.deadline, self)

    # --- what subclasses bring --------------------------------------------------------------------------------------

    def encode(self, value: Any) -> bytes | list[bytes | memoryview]:
        """A value of the handler's as framed message bytes. May run in a thread. What it raises fails the call."""
        raise NotImplementedError

    def answer(self, data: bytes | list[bytes | memoryview]) -> None:
        """End a call of one response with it."""
        self._send(data)
        self.succeeded()

    def succeeded(self) -> None:
        """The handler has ended and all that it gave has been sent."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> None:
        """The handler, or `encode`, raised."""
        raise NotImplementedError

    def expire(self) -> None:
        """The deadline has passed. Subclasses end the call, then call this."""
        self._stop_user_code()

    # --- running ----------------------------------------------------------------------------------------------------

    def run(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any], *, stream: bool) -> None:
        """Run the handler and send what it gives: one value, or with `stream` each value as it is yielded."""
        if self._timed and self.context.deadline is not None and time.monotonic() >= self.context.deadline:
            # It expired on its way here.
            self.expire()
            return
        self._ran = True
        kind = handler.kind
        if kind is Kind.COROUTINE and not stream:
            self._spawn(self._run_coroutine(handler, args, kwargs))
        elif kind is Kind.ASYNC_GENERATOR or kind is Kind.COROUTINE:
            self._spawn(self._run_async(handler, args, kwargs, stream))
        else:
            context = contextvars.copy_context()
            context.run(_request_context.set, self.context)
            self.runtime.pool.submit(functools.partial(context.run, self._run_in_thread, handler, args, kwargs, stream))

    def end_unstarted(self) -> None:
        """The call ended before user code was reached."""
        if not self._ran:
            self._ran = True
            self._finished()

    def _spawn(self, coroutine: Any) -> None:
        self._task = self.runtime.loop.create_task(coroutine)

    def _finished(self) -> None:
        if self._timed:
            self._timed = False
            assert self.context.deadline is not None
            self.runtime.timers.remove(self.context.deadline, self)
        self._task = None
        self.runtime.call_finished(self)

    async def _run_coroutine(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _request_context.set(self.context)
        try:
            value = await handler.function(*args, **kwargs)
            self.answer(self.encode(value))
        except BaseException as error:
            self.failed(error)
        finally:
            self._finished()

    async def _run_async(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any], stream: bool) -> None:
        await self._finish_async(handler.function(*args, **kwargs), handler.name, stream)

    async def _deliver(self, made: Any, name: str, stream: bool) -> None:
        """Send what a handler returned, on the loop."""
        if not stream:
            _refuse_generator(made, name)
            self.answer(self.encode(made))
        elif isinstance(made, AsyncIterator):
            clock = time.monotonic
            previous = 0.0
            try:
                async for value in made:
                    self._send(self.encode(value))
                    now = clock()
                    if self.connection.unsent(self.stream_id) > HIGH_WATER:
                        await self._drained()
                        now = clock()
                    elif now - previous > _SLOW_STEP_S:
                        self.connection.flush()
                        await asyncio.sleep(0)
                        now = clock()
                    # What other calls did meanwhile is not this one's slowness.
                    previous = now
            finally:
                close = getattr(made, "aclose", None)
                if close is not None:
                    await close()
            self.succeeded()
        else:
            raise _not_a_generator(name)

    def _send(self, data: bytes | list[bytes | memoryview]) -> None:
        if isinstance(data, bytes):
            self.send_framed(data)
        else:
            for part in data:
                self.send_framed(part)

    async def _drained(self) -> None:
        drained = self.runtime.loop.create_future()
        self.connection.when_drained(self.stream_id, functools.partial(_resolve, drained))
        await drained

    # --- in a thread ------------------------------------------------------------------------------------------------

    def _run_in_thread(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any], stream: bool) -> None:
        post = self.runtime.mailbox.post
        try:
            made = handler.function(*args, **kwargs)
            if inspect.iscoroutine(made) or (stream and isinstance(made, AsyncIterator)):
                # A plain function that wraps a coroutine function: the loop has to go on with it.
                post(functools.partial(self._go_on_async, made, handler.name, stream))
                return
            if stream:
                if not isinstance(made, Iterator):
                    raise _not_a_generator(handler.name)
                self._iterate(made)
                post(functools.partial(self._settle, None))
            else:
                _refuse_generator(made, handler.name)
                post(functools.partial(self._settle_value, self.encode(made)))
        except BaseException as error:
            post(functools.partial(self._settle, error))

    def _iterate(self, values: Iterator[Any]) -> None:
        """Send each value of a generator, waiting for the reader where it is slow."""
        post = self.runtime.mailbox.post
        gate = self._gate = threading.Event()
        try:
            for value in values:
                if self.done:
                    return
                data = self.encode(value)
                size = len(data) if isinstance(data, bytes) else sum(map(len, data))
                self._unsent += size
                if self._unsent > HIGH_WATER:
                    gate.clear()
                    post(functools.partial(self._send_from_thread, data, size))
                    post(self._open_gate_when_drained)
                    # Woken by the reader, by the call's end, or to look whether the loop is still there.
                    while not gate.wait(_STALL_CHECK_S) and not self.done and not self.runtime.loop.is_closed():
                        pass
                else:
                    post(functools.partial(self._send_from_thread, data, size))
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                close()

    def _send_from_thread(self, data: bytes | list[bytes | memoryview], size: int) -> None:
        self._unsent -= size
        self._send(data)

    def _open_gate_when_drained(self) -> None:
        assert self._gate is not None
        if self.done:
            self._gate.set()
        else:
            self.connection.when_drained(self.stream_id, self._gate.set)

    def _go_on_async(self, made: Any, name: str, stream: bool) -> None:
        if not self.done:
            self._spawn(self._finish_async(made, name, stream))
            return
        if inspect.iscoroutine(made):
            made.close()
        self._finished()

    async def _finish_async(self, made: Any, name: str, stream: bool) -> None:
        _request_context.set(self.context)
        try:
            if inspect.isawaitable(made):
                made = await made
            await self._deliver(made, name, stream)
        except BaseException as error:
            self.failed(error)
        finally:
            self._finished()

    def _settle_value(self, data: bytes | list[bytes | memoryview]) -> None:
        try:
            self.answer(data)
        finally:
            self._finished()

    def _settle(self, error: BaseException | None) -> None:
        try:
            if error is None:
                self.succeeded()
            else:
                self.failed(error)
        finally:
            self._finished()

    # --- stopping ---------------------------------------------------------------------------------------------------

    def cancelled(self) -> None:
        self._stop_user_code()

    def _stop_user_code(self) -> None:
        """Cancel what can be: the task, the calls that it made. A thread goes on to its next `yield` or its end."""
        self.end_unstarted()
        task = self._task
        if task is not None:
            coroutine = task.get_coro()
            if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                # Cancelled before its first step it never runs, and never reaches its `finally`.
                self._finished()
            # At once: woken by the end of its input first, the handler would take a broken upload for a complete one.
            task.cancel()
        if self._gate is not None:
            self._gate.set()
        for cancel in list(self.context.children.values()):
            cancel()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _refuse_generator(value: Any, name: str) -> None:
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        close = getattr(value, "close", None)
        if close is not None:
            close()
        raise TypeError(
            f"Method '{name}' returned a generator. You must use `handle.options(stream=True)` to call generators on a "
            "deployment."
        )


def _not_a_generator(name: str) -> TypeError:
    return TypeError(f"Called method '{name}' with `handle.options(stream=True)` but it did not return a generator.")
