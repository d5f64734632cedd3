"""What a handle call gives back: its result or its stream of results, to be had on any thread or event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, NoReturn

from swerve.caller import codec, waiting
from swerve.caller.call import MAX_UNREAD
from swerve.caller.seams import PendingCall
from swerve.exceptions import RayServeException, RequestCancelledError


def refuse_in_event_loop() -> None:
    """Sync methods would block the loop that is to bring their result.

    Raises:
        RuntimeError: an event loop runs in this thread.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "Sync methods should not be called from within an `asyncio` event loop. Use `await response` instead."
        )


def _not_serializable(what: str) -> NoReturn:
    raise RayServeException(
        f"`{what}` is not serializable. To give a response to another call, pass it as an argument of its own: "
        "the call then gets its result. Within a list, a dict or another object, await it first."
    )


class DeploymentResponse:
    """The future result of one call. `await` it, or call `result()` outside event loops; both as often as you like.

    Passed as an argument of its own to another handle call, its result is passed when it is there. As with an asyncio
    task, cancelling the last one that awaits the response cancels the call.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_cancelled",
        "_done",
        "_error",
        "_message",
        "_value",
        "_waiters",
        "request_id",
    )

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self._call: PendingCall | None = None
        self._cancelled = False
        self._done = False
        self._message: bytes | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiters: waiting.Waiters = []

    @property
    def by_reference(self) -> bool:
        """False: results travel by value (Ray Serve's by-reference results live in Ray's object store)."""
        return False

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._done:
            try:
                yield from waiting.on_loop(self._waiters, self._is_done)
            except asyncio.CancelledError:
                if not self._waiters:
                    self.cancel()
                raise
        try:
            return self._outcome()
        finally:
            del self  # see `_outcome`

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the result, at most `timeout_s` seconds; the call goes on after that.

        Raises:
            TimeoutError: it was not there in time, or the call reached its own deadline.
            RequestCancelledError: the call was cancelled.
            RuntimeError: called inside an event loop.
            Exception: whatever the called method raised, with its remote traceback as the cause.
        """
        refuse_in_event_loop()
        if not waiting.on_thread(self._waiters, self._is_done, timeout_s):
            raise TimeoutError(f"Request {self.request_id} had no result within {timeout_s} s.")
        try:
            return self._outcome()
        finally:
            del self  # see `_outcome`

    def cancel(self) -> None:
        """Ask for the call to be cancelled. Waiting for it then raises RequestCancelledError, unless it was over.

        A call that still waits is never started; a running coroutine gets a CancelledError; a plain method runs to its
        end unheard.
        """
        self._cancelled = True
        call = self._call
        if call is not None:
            call.cancel_soon()

    def cancelled(self) -> bool:
        """True once `cancel` was called or the call was cancelled together with the request that it was made in."""
        return self._cancelled or isinstance(self._error, RequestCancelledError)

    def __reduce__(self) -> NoReturn:
        _not_serializable("DeploymentResponse")

    def __repr__(self) -> str:
        state = "pending" if not self._done else "failed" if self._error is not None else "done"
        return f"<DeploymentResponse {self.request_id} {state}>"

    def _is_done(self) -> bool:
        return self._done

    def _when_done(self, callback: Callable[[], None]) -> bool:
        """True when it is done; else `callback` will be called, on the runtime's loop, when it is."""
        if self._done:
            return True
        self._waiters.append(callback)
        return self._done and waiting.leave(self._waiters, callback)

    def _outcome(self) -> Any:
        # Decoded by whoever wants it, so that the runtime's loop does not pay for it.
        message = self._message
        if message is not None:
            try:
                self._value = codec.decode_reply(message)
            except BaseException as error:
                self._error = error
            self._message = None
        try:
            if self._error is not None:
                raise self._error
            return self._value
        finally:
            # The error has a traceback, whose frames must not lead back to the response, which keeps the error: in an
            # overload many calls fail, and what they have would stay until the collector looks for cycles.
            del self

    def _on_message(self, message: bytes) -> None:
        self._message = message

    def _on_finished(self, error: BaseException | None) -> None:
        if error is None and self._message is None:
            error = RayServeException("The replica ended the call without a result.")
        if error is not None:
            self._message = None
            self._error = error
        self._call = None
        self._done = True
        waiting.wake(self._waiters)


class StreamBuffer:
    """The items of a stream that its reader has not taken yet. The runtime's loop fills it, any thread empties it."""

    __slots__ = ("ended", "error", "unread", "waiters")

    def __init__(self) -> None:
        self.unread: deque[bytes] = deque()
        self.ended = False
        self.error: BaseException | None = None
        self.waiters: waiting.Waiters = []

    def changed(self) -> bool:
        return bool(self.unread) or self.ended

    def _on_message(self, message: bytes) -> None:
        self.unread.append(message)
        waiting.wake(self.waiters)

    def _on_finished(self, error: BaseException | None) -> None:
        self.error = error
        self.ended = True
        waiting.wake(self.waiters)


class DeploymentResponseGenerator:
    """The results of one call of a generator (`options(stream=True)`), as they are yielded.

    Iterate with `async for`, or with `for` outside event loops. A reader that falls behind slows the replica down. The
    call is cancelled when its generator is dropped before the end.
    """

    def __init__(self, request_id: str, buffer: StreamBuffer, call: PendingCall) -> None:
        self.request_id = request_id
        self._buffer = buffer
        self._call = call
        self._cancelled = False
        self._exhausted = False

    @property
    def by_reference(self) -> bool:
        """False, as for `DeploymentResponse`."""
        return False

    def __aiter__(self) -> DeploymentResponseGenerator:
        return self

    async def __anext__(self) -> Any:
        buffer = self._buffer
        while True:
            # Read before `unread`: what is set last must be looked at first.
            ended = buffer.ended
            if buffer.unread:
                return self._take()
            if ended:
                self._raise_end(StopAsyncIteration)
            await waiting.Change(buffer.waiters, buffer.changed)

    def __iter__(self) -> DeploymentResponseGenerator:
        return self

    def __next__(self) -> Any:
        refuse_in_event_loop()
        buffer = self._buffer
        while True:
            ended = buffer.ended
            if buffer.unread:
                return self._take()
            if ended:
                self._raise_end(StopIteration)
            waiting.on_thread(buffer.waiters, buffer.changed, None)

    def cancel(self) -> None:
        """Ask for the call to be cancelled: iterating then ends with RequestCancelledError after the items received."""
        self._cancelled = True
        self._call.cancel_soon()

    def cancelled(self) -> bool:
        """True once `cancel` was called or the call was cancelled together with the request that it was made in."""
        return self._cancelled or isinstance(self._buffer.error, RequestCancelledError)

    def __await__(self) -> NoReturn:
        raise TypeError(
            "`DeploymentResponseGenerator` cannot be awaited directly. Use `async for` or `await response.__anext__()`."
        )

    def result(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not for streams.

        Raises:
            TypeError: always.
        """
        raise TypeError("`DeploymentResponseGenerator` doesn't support `.result()`. Use `__next__` or a `for` loop.")

    def __reduce__(self) -> NoReturn:
        _not_serializable("DeploymentResponseGenerator")

    def __del__(self) -> None:
        if not self._buffer.ended:
            self._call.cancel_soon()

    def _take(self) -> Any:
        unread = self._buffer.unread
        message = unread.popleft()
        if self._call.owes and len(unread) <= MAX_UNREAD // 2:
            self._call.resume_soon()
        return codec.decode_reply(message)

    def _raise_end(self, stop: Callable[[], BaseException]) -> NoReturn:
        error = self._buffer.error
        if error is None or self._exhausted:
            raise stop()
        # As a generator does: it raises once and has nothing more from then on.
        self._exhausted = True
        raise error
