"""The queue behind `@serve.batch`: which calls make the next batch, and when it runs.

Forming a batch is synchronous; only a running batch is a task. Calls that were cancelled or have expired leave before
their batch starts.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from swerve.batch_metrics import BatchCounts
from swerve.context import RequestContext, _request_context

# Steps that a generator may be ahead of the slowest of its batch's readers.
_MAX_UNREAD = 64


@dataclass(slots=True)
class Options:
    """What `@serve.batch` was given; what has a setter may be changed while batches run."""

    max_batch_size: int
    batch_wait_timeout_s: float
    max_concurrent_batches: int
    batch_size_fn: Callable[[list[Any]], int] | None

    def set_max_batch_size(self, value: Any) -> None:
        self.max_batch_size = at_least_one("max_batch_size must be integer >= 1", value)

    def set_batch_wait_timeout_s(self, value: Any) -> None:
        message = f"batch_wait_timeout_s must be a float >= 0, got {value}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(message)
        if not value >= 0:
            raise ValueError(message)
        self.batch_wait_timeout_s = float(value)


def at_least_one(rule: str, value: Any) -> int:
    """`value` as a whole number from 1 on.

    Raises:
        TypeError, ValueError: it is none; the message begins with `rule`.
    """
    message = f"{rule}, got {value}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(message)
    if value < 1:
        raise ValueError(message)
    return value


class Call:
    """One waiting call: its arguments, and where its result goes."""

    __slots__ = ("args", "arrived", "context", "group", "kwargs", "variables")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        self.args = args
        self.kwargs = kwargs
        self.arrived = loop.time()
        self.variables = contextvars.copy_context()
        self.context = _request_context.get()
        model_id = self.context.multiplexed_model_id if self.context is not None else ""
        # Only calls that agree in these can share one call of the function.
        self.group = (model_id, len(args), *sorted(kwargs))

    @property
    def item(self) -> Any:
        return self.args[0] if self.args else next(iter(self.kwargs.values()), None)

    def gone(self) -> bool:
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        raise NotImplementedError


class Single(Call):
    """A call that gets one result."""

    __slots__ = ("result",)

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(args, kwargs, loop)
        self.result: asyncio.Future[Any] = loop.create_future()

    def gone(self) -> bool:
        return self.result.done()

    def fail(self, error: BaseException) -> None:
        if self.result.done():
            return
        if isinstance(error, asyncio.CancelledError):
            self.result.cancel()
        else:
            self.result.set_exception(error)


class Stream(Call):
    """A call that gets a result at each step."""

    __slots__ = ("_changed", "_ended", "_error", "_loop", "_unread")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(args, kwargs, loop)
        self._loop = loop
        self._unread: deque[Any] = deque()
        self._ended = False
        self._error: BaseException | None = None
        # Set when the other side moved: the batch added or ended, or the reader took an item or left.
        self._changed: asyncio.Future[None] | None = None

    def gone(self) -> bool:
        return self._ended

    def add(self, item: Any) -> None:
        self._unread.append(item)
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        if not self._ended:
            self._error = error
            self.end()

    async def has_room(self) -> None:
        while len(self._unread) >= _MAX_UNREAD and not self._ended:
            await self._change()

    async def items(self) -> AsyncGenerator[Any, None]:
        try:
            while True:
                while self._unread:
                    item = self._unread.popleft()
                    self._wake()
                    yield item
                if self._ended:
                    break
                await self._change()
            if self._error is not None:
                raise self._error
        finally:
            self._unread.clear()
            self.end()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _change(self) -> None:
        # Never both sides at once: one waits for an empty queue to fill, the other for a full one to empty.
        self._changed = self._loop.create_future()
        await self._changed


C = TypeVar("C", bound=Call)


class BatchQueue(Generic[C]):
    """The calls of one function (and instance) that wait, on one event loop."""

    def __init__(
        self,
        run: Callable[[list[C]], Awaitable[None]],
        options: Options,
        loop: asyncio.AbstractEventLoop,
        counts: BatchCounts,
    ) -> None:
        self.loop = loop
        self._run = run
        self._options = options
        self._counts = counts
        counts.queues.add(self)
        self._waiting: deque[C] = deque()
        # Formed batches that wait for one of the `max_concurrent_batches` places.
        self._formed: deque[list[C]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting) + sum(map(len, self._formed))

    def put(self, call: C) -> None:
        self._waiting.append(call)
        if len(self._running) < self._options.max_concurrent_batches:
            # The clock alone starts no batch here, so that calls made in the same loop turn share one.
            if self._may_be_full():
                self._start()
            else:
                self._arm()

    async def _completed(self, batch: list[C]) -> None:
        """Run the batch; whatever ends it ends every call of it."""
        # Some loops' clocks count whole milliseconds.
        started = time.perf_counter()
        try:
            self._counts.began(self.loop.time() - batch[0].arrived, self._size_of(batch), self._options.max_batch_size)
            await self._run(batch)
        except Exception as error:
            for call in batch:
                call.fail(error)
        except BaseException as error:
            for call in batch:
                call.fail(
                    asyncio.CancelledError() if isinstance(error, asyncio.CancelledError) else RuntimeError(repr(error))
                )
            raise
        finally:
            self._counts.ended(time.perf_counter() - started)

    def _size_of(self, batch: list[C]) -> float:
        weigh = self._options.batch_size_fn
        return len(batch) if weigh is None else weigh([call.item for call in batch])

    def _may_be_full(self) -> bool:
        return self._options.batch_size_fn is not None or len(self._waiting) >= self._options.max_batch_size

    def _arm(self) -> None:
        if self._timer is None and self._waiting:
            due = self._waiting[0].arrived + self._options.batch_wait_timeout_s
            self._timer = self.loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._start()

    def _start(self) -> None:
        """Start the batches that are due and have a place."""
        while len(self._running) < self._options.max_concurrent_batches:
            if not self._formed:
                self._form()
            if not self._formed:
                self._arm()
                return
            batch = _still_wanted(self._formed.popleft())
            if batch:
                variables = batch[0].variables
                variables.run(_request_context.set, _shared_context(batch))
                task = self.loop.create_task(self._completed(batch), context=variables)
                self._running.add(task)
                task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start()

    def _form(self) -> None:
        """Move the next batch out of those that wait, if it is due."""
        self._waiting = deque(call for call in self._waiting if not call.gone())
        if not self._waiting:
            return
        try:
            count, full = self._fitting()
        except Exception as error:  # the user's batch_size_fn
            for call in self._waiting:
                call.fail(error)
            self._waiting.clear()
            return
        # `loop.time()` may lag behind the timer that woke us by the clock's resolution.
        due = self._waiting[0].arrived + self._options.batch_wait_timeout_s
        if full or self.loop.time() + _CLOCK_RESOLUTION_S >= due:
            groups: dict[tuple[Any, ...], list[C]] = {}
            for _ in range(count):
                call = self._waiting.popleft()
                groups.setdefault(call.group, []).append(call)
            self._formed.extend(groups.values())

    def _fitting(self) -> tuple[int, bool]:
        """How many of those that wait fit one batch, and whether they fill it."""
        limit, weigh = self._options.max_batch_size, self._options.batch_size_fn
        if weigh is None:
            return min(limit, len(self._waiting)), len(self._waiting) >= limit
        items: list[Any] = []
        for call in self._waiting:
            items.append(call.item)
            size = weigh(list(items))
            if size > limit:
                if len(items) == 1:
                    call.fail(
                        RuntimeError(
                            f"The size of one item, {size}, is greater than max_batch_size, {limit}. Increase "
                            "max_batch_size or check what batch_size_fn returns."
                        )
                    )
                    return 1, True
                return len(items) - 1, True
            if size == limit:
                return len(items), True
        return len(items), False


_CLOCK_RESOLUTION_S = time.get_clock_info("monotonic").resolution


def _still_wanted(batch: list[C]) -> list[C]:
    """`batch` without the calls that were cancelled; those that have expired fail here and now."""
    now = time.monotonic()
    for call in batch:
        if call.context is not None and call.context.deadline is not None and call.context.deadline <= now:
            call.fail(TimeoutError("The request expired before its batch started."))
    return [call for call in batch if not call.gone()]


def _shared_context(batch: Sequence[Call]) -> RequestContext | None:
    """The request context that a batch runs in: its first call's, with the time that its most patient call has."""
    first = batch[0].context
    if first is None:
        return None
    deadlines = [None if call.context is None else call.context.deadline for call in batch]
    timed = [deadline for deadline in deadlines if deadline is not None]
    return first.for_many(max(timed) if len(timed) == len(batch) else None)
