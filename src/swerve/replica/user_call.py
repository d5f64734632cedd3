"""One call of user code, however it is written: `def`, `async def`, and generators of both kinds.

Subclasses bring the wire: how arguments come, how a value goes out, what an end means. The slot that the call takes in
the replica is given back when user code has really ended, which for a thread may be after its caller has gone.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, ClassVar, Protocol

from swerve.context import RequestContext, _request_context
from swerve.net.mailbox import Mailbox
from swerve.net.server_call import HIGH_WATER, CallSide, ServerCall
from swerve.net.streams import Headers
from swerve.net.timers import TimerWheel
from swerve.replica.errors import TIMED_OUT, is_expected, stack_trace
from swerve.replica.slots import Slots
from swerve.replica.threads import ThreadPool
from swerve.replica.user_code import Handler, Kind
from swerve.wire.frames import ErrorCode
from swerve.wire.status import Status, StatusCode, truncate_details

logger = logging.getLogger("swerve.replica")

# How often a generator in a thread looks whether its call is still wanted while it waits for the reader.
_STALL_CHECK_S = 1.0
# A generator that takes longer for a value may be blocking the loop with its work, as models do: what it yields is
# written before it goes on. The values of a faster one leave together.
_SLOW_STEP_S = 0.001
# A proxy keeps a MiB of a request, to send it to another replica. Some of it is left to framing.
_REPEATABLE_SIZE = 1_000_000
_make_task: Callable[..., asyncio.Task[None]] = asyncio.Task
# Where Python can begin a task without a turn of the event loop, a handler that waits for nothing has ended before the
# next call is looked at.
_make_task_at_once = functools.partial(_make_task, eager_start=True) if sys.version_info >= (3, 12) else _make_task
# Looked up once: an enum's member takes longer than a function's call, and a method that is in C not much less.
_COROUTINE, _ASYNC_GENERATOR = Kind.COROUTINE, Kind.ASYNC_GENERATOR
_UNKNOWN = StatusCode.UNKNOWN
_set_request_context = _request_context.set


class Runtime(Protocol):
    """What a call needs of its replica."""

    loop: asyncio.AbstractEventLoop
    mailbox: Mailbox
    pool: ThreadPool
    slots: Slots
    timers: TimerWheel

    def call_finished(self, call: UserCall) -> None:
        """The call has ended, and its user code if that had begun: its slot is free."""


class UserCall(ServerCall):
    """A call that runs a handler of the user's."""

    # True for a call that has its line in the proxy's access log: each call is logged once, at the edge.
    logged_by_proxy: ClassVar[bool] = False

    __slots__ = (
        "_begin_user_code",
        "_delivered",
        "_draining",
        "_gate",
        "_over",
        "_produced",
        "_ran",
        "_sent",
        "_task",
        "_timed",
        "context",
        "has_slot",
        "path",
        "received",
        "runtime",
        "started_at",
        "status",
    )

    def __init__(
        self,
        connection: CallSide,
        stream_id: int,
        headers: Headers,
        max_message_size: int,
        encoding: bytes,
        runtime: Runtime,
        context: RequestContext,
        path: str = "",
    ) -> None:
        # Here and in subclasses not by `super()`, which takes longer than what it finds.
        ServerCall.__init__(self, connection, stream_id, headers, max_message_size, encoding)
        self.runtime = runtime
        self.context = context
        self.started_at = time.monotonic()
        # What was called and how it ended, for logs and metrics.
        self.path = path
        self.status = _UNKNOWN
        # Bytes of the request, as far as they say whether its caller can still send it again.
        self.received = 0
        # True from the moment at which user code begins.
        self.has_slot = False
        self._task: asyncio.Task[None] | None = None
        # The request is complete enough: user code was begun, or waits for a slot.
        self._ran = False
        self._over = False
        # Begins user code; set while the call stands in line.
        self._begin_user_code: Callable[[], None] | None = None
        # Set while a generator in a thread may go on.
        self._gate: threading.Event | None = None
        deadline = context.deadline
        self._timed = deadline is not None
        if deadline is not None:
            runtime.timers.add(deadline, self)

    # --- what subclasses bring --------------------------------------------------------------------------------------

    def encode(self, value: Any) -> bytes | list[bytes | memoryview]:
        """A value of the handler's as framed message bytes. May run in a thread. What it raises fails the call."""
        raise NotImplementedError

    def outcome(self) -> Status:
        """How the call ends when its handler has ended."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> None:
        """End the call: the handler, or `encode`, raised."""
        raise NotImplementedError

    def trailers(self) -> Headers:
        """What the call's trailers say beside its status."""
        return ()

    def closed(self) -> None:
        """The call is over on the wire: nothing more of its request will be read."""

    def let_go(self) -> None:
        """The call has ended, and its user code: drop what refers back to it, so that nothing keeps it in memory."""

    # --- getting a slot ---------------------------------------------------------------------------------------------

    def run(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any], stream: bool) -> None:
        """Run the handler and send what it gives: one value, or with `stream` each value as it is yielded."""
        if self._timed and self._overdue:
            # It expired on its way here.
            self.expire()
            return
        self._ran = True
        if self.runtime.slots.take():
            self.has_slot = True
            self._run_handler(handler, args, kwargs, stream)
        else:
            self._stand_in_line(functools.partial(self._run_handler, handler, args, kwargs, stream))

    def admit(self, begin: Callable[[], None]) -> None:
        """Take a slot and call `begin`, which may not raise: now, when one is free, or never."""
        self._ran = True
        if self.runtime.slots.take():
            self.has_slot = True
            begin()
        else:
            self._stand_in_line(begin)

    def _stand_in_line(self, begin: Callable[[], None]) -> None:
        self._begin_user_code = begin
        if not self.runtime.slots.wait(self):
            self.turn_away()

    def enter(self) -> None:
        """Begin user code, after a wait. The slot has been taken for this call."""
        begin, self._begin_user_code = self._begin_user_code, None
        assert begin is not None
        self.has_slot = True
        begin()

    @property
    def repeatable(self) -> bool:
        """Whether the caller still has the whole request and can send it again."""
        return self.received <= _REPEATABLE_SIZE

    def turn_away(self) -> None:
        """Give the call back to its caller. User code has not seen it, and it counts nowhere."""
        self.done = True
        self.runtime.slots.leave(self)
        self.connection.reset(self.stream_id, ErrorCode.REFUSED_STREAM)
        self.closed()
        self._finished(counted=False)

    def _finished(self, *, counted: bool = True) -> None:
        """User code has ended, or never began."""
        if self._over:
            return
        self._over = True
        if self._timed:
            assert self.context.deadline is not None
            self.runtime.timers.remove(self.context.deadline, self)
        self._task = self._begin_user_code = None
        self.let_go()
        if counted:
            self.runtime.call_finished(self)

    # --- running ----------------------------------------------------------------------------------------------------

    def _run_handler(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any], stream: bool) -> None:
        kind = handler.kind
        if kind is _COROUTINE and not stream:
            self._spawn(self._run_coroutine(handler, args, kwargs), _make_task_at_once)
        elif kind is _ASYNC_GENERATOR or kind is _COROUTINE:
            self._spawn(self._run_async(functools.partial(handler.function, *args, **kwargs), handler.name, stream))
        else:
            context = contextvars.copy_context()
            context.run(_set_request_context, self.context)
            try:
                self.runtime.pool.submit(
                    functools.partial(context.run, self._run_in_thread, handler, args, kwargs, stream)
                )
            except RuntimeError as error:
                # The system gives no thread.
                self._settle(self._fail, error)

    def _spawn(
        self, coroutine: Coroutine[Any, Any, None], make_task: Callable[..., asyncio.Task[None]] = _make_task
    ) -> None:
        loop = self.runtime.loop
        if loop.get_task_factory() is None:
            # What `create_task` makes, named after what it does: uvloop would have a name made up for it first.
            task = make_task(coroutine, loop=loop, name=self.path)
        else:
            task = loop.create_task(coroutine)
        # It may have ended already.
        if not self._over:
            self._task = task

    async def _run_coroutine(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _set_request_context(self.context)
        self.connection.mark_begun(self.stream_id)
        try:
            # An empty dict would be copied first.
            value = await (handler.function(*args, **kwargs) if kwargs else handler.function(*args))
            # A large request need not be there while its response is made.
            del args, kwargs
            self.answer(self.encode(value))
        except BaseException as error:
            self._fail(error)
        finally:
            self._finished()

    async def _run_async(self, make: Callable[[], Any], name: str, stream: bool) -> None:
        _set_request_context(self.context)
        self.connection.mark_begun(self.stream_id)
        try:
            await self._deliver(make(), name, stream)
        except BaseException as error:
            self._fail(error)
        finally:
            self._finished()

    async def _deliver(self, made: Any, name: str, stream: bool) -> None:
        """Send what a handler returned, on the loop."""
        if inspect.isawaitable(made):
            made = await made
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
                        await self.drained()
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

    def answer(self, data: bytes | list[bytes | memoryview]) -> None:
        """End a call of one response with it."""
        if isinstance(data, bytes):
            self._end(self.outcome(), (), data)
        else:
            self._send(data)
            self._end(self.outcome())

    def succeeded(self) -> None:
        """The handler has ended and all that it gave has been sent."""
        self._end(self.outcome())

    def _send(self, data: bytes | list[bytes | memoryview]) -> None:
        if isinstance(data, bytes):
            self.send_framed(data)
        else:
            for part in data:
                self.send_framed(part)

    # --- in a thread ------------------------------------------------------------------------------------------------

    def _run_in_thread(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any], stream: bool) -> None:
        post = self.runtime.mailbox.post
        if self.done:
            # It ended while it waited for the thread.
            post(self._finished)
            return
        self.connection.mark_begun(self.stream_id)
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
                post(functools.partial(self._settle, self.succeeded))
            else:
                _refuse_generator(made, handler.name)
                post(functools.partial(self._settle, self.answer, self.encode(made)))
        except BaseException as error:
            post(functools.partial(self._settle, self._fail, error))

    def _iterate(self, values: Iterator[Any]) -> None:
        """Send each value of a generator, waiting for the reader where it is slow."""
        post = self.runtime.mailbox.post
        gate = self._gate = threading.Event()
        # Bytes that this thread has made; those of them that the loop has sent; those that a reader has taken, about.
        # Each is written by one thread alone.
        self._produced = self._sent = self._delivered = 0
        self._draining = False
        try:
            for value in values:
                if self.done:
                    return
                data = self.encode(value)
                size = len(data) if isinstance(data, bytes) else sum(map(len, data))
                self._produced += size
                post(functools.partial(self._send_from_thread, data, size))
                if self._produced - self._delivered > HIGH_WATER:
                    gate.clear()
                    # Woken by the reader, by the call's end, or to look whether the loop is still there.
                    while (
                        self._produced - self._delivered > HIGH_WATER
                        and not self.done
                        and not self.runtime.loop.is_closed()
                    ):
                        gate.wait(_STALL_CHECK_S)
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                close()

    def _send_from_thread(self, data: bytes | list[bytes | memoryview], size: int) -> None:
        self._send(data)
        self._sent += size
        if self.done or self.connection.unsent(self.stream_id) <= HIGH_WATER:
            self._reader_took_all()
        elif not self._draining:
            self._draining = True
            self.connection.when_drained(self.stream_id, self._reader_took_all)

    def _reader_took_all(self) -> None:
        assert self._gate is not None
        self._draining = False
        self._delivered = self._sent
        self._gate.set()

    def _go_on_async(self, made: Any, name: str, stream: bool) -> None:
        if not self.done:
            self._spawn(self._run_async(lambda: made, name, stream))
            return
        if inspect.iscoroutine(made):
            made.close()
        self._finished()

    def _settle(self, end: Callable[..., None], *args: Any) -> None:
        """End the call by `end`, after user code has ended."""
        try:
            end(*args)
        except BaseException as error:
            self._fail(error)
        finally:
            self._finished()

    # --- ending -----------------------------------------------------------------------------------------------------

    def _end(self, status: Status, extra: Headers = (), body: bytes = b"") -> None:
        """End the call on the wire, after `body`; `extra` are trailers. Every end that this side decides on comes
        through here."""
        if self.done:
            return
        self.status = status.code
        try:
            self.finish(status, (*self.trailers(), *extra) if extra else self.trailers(), body)
        except Exception as error:
            # Nothing of what user code set is repeated, for it may be what cannot be sent.
            logger.exception("A call could not be ended as it should", extra={"request_id": self.context.request_id})
            self.done = False
            self.status = StatusCode.INTERNAL
            text = f"The call could not be ended as it should: {error!r}"
            self.finish(Status(StatusCode.INTERNAL, text))
        self.closed()

    def _fail(self, error: BaseException) -> None:
        """End the call with what user code raised; log it when that is a fault of user code."""
        try:
            self.failed(error)
        except Exception as second:
            self._end(Status(StatusCode.INTERNAL, truncate_details(stack_trace(second), keep_end=True)))
        if not is_expected(error, self._overdue):
            logger.error("The call failed:\n%s", stack_trace(error), extra={"request_id": self.context.request_id})

    @property
    def _overdue(self) -> bool:
        return self.context.deadline is not None and time.monotonic() >= self.context.deadline

    def refuse(self, status: Status) -> None:
        """End the call for what its client sent; user code that runs already is stopped."""
        self._end(status)
        self._stop_user_code()

    def expire(self) -> None:
        """The deadline has passed."""
        self.refuse(Status(StatusCode.DEADLINE_EXCEEDED, TIMED_OUT))

    def on_closed(self, error_code: int) -> None:
        if not self.done:
            self.done = True
            self.status = StatusCode.CANCELLED
            self.closed()
            self._stop_user_code()

    def _stop_user_code(self) -> None:
        """Cancel what can be: the task, the calls that it made. A thread goes on to its next `yield` or its end."""
        if not self.has_slot:
            self.runtime.slots.leave(self)
            self._finished()
            return
        self.context.cancelled = True
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
