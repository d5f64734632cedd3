"""`@serve.batch`: calls of one item each become calls of a list (Ray Serve's decorator of the same name)."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar, overload

from swerve.batch_metrics import counts_of
from swerve.batch_queue import BatchQueue, C, Call, Options, Single, Stream, at_least_one
from swerve.exceptions import RayServeException

F = TypeVar("F", bound=Callable[..., Any])


def _lists(batch: Sequence[Call]) -> tuple[list[list[Any]], dict[str, list[Any]]]:
    args = [list(column) for column in zip(*(call.args for call in batch), strict=True)]
    return args, {name: [call.kwargs[name] for call in batch] for name in batch[0].kwargs}


def _check_length(results: Any, batch: Sequence[Call]) -> None:
    try:
        length = len(results)
    except TypeError:
        raise RayServeException(
            f"A batched function must give a list with one result for each of its {len(batch)} inputs, "
            f"not {type(results).__name__}."
        ) from None
    if length != len(batch):
        raise RayServeException(
            "Batched function doesn't preserve batch size. "
            f"The input list has length {len(batch)} but the returned list has length {length}."
        )


async def _run_single(func: Callable[..., Awaitable[Any]], bound: tuple[Any, ...], batch: list[Single]) -> None:
    args, kwargs = _lists(batch)
    results = await func(*bound, *args, **kwargs)
    _check_length(results, batch)
    for call, result in zip(batch, results, strict=True):
        if not call.gone():
            call.result.set_result(result)


async def _run_stream(
    func: Callable[..., AsyncGenerator[Any, None]], bound: tuple[Any, ...], batch: list[Stream]
) -> None:
    args, kwargs = _lists(batch)
    steps = func(*bound, *args, **kwargs)
    try:
        async for results in steps:
            _check_length(results, batch)
            for call, result in zip(batch, results, strict=True):
                if call.gone():
                    continue
                if result is StopIteration or result is StopAsyncIteration:
                    call.end()
                else:
                    call.add(result)
            for call in batch:
                await call.has_room()
            if all(call.gone() for call in batch):
                break
    finally:
        await steps.aclose()
    for call in batch:
        call.end()


class _Queues:
    """Finds the queue of a call: one a function, or one an instance for a method."""

    def __init__(self, func: Callable[..., Any], run: Callable[..., Awaitable[None]], options: Options) -> None:
        self._run = functools.partial(run, func)
        self._options = options
        self._signature = inspect.signature(func)
        parameters = list(self._signature.parameters)
        self._is_method = parameters[:1] == ["self"]
        self._name = func.__name__
        self._attribute = f"_serve_batch_queue_{func.__qualname__}"
        self._own: BatchQueue[Any] | None = None

    def put(self, kind: type[C], args: tuple[Any, ...], kwargs: dict[str, Any]) -> C:
        """Queue a call.

        Raises:
            TypeError: the function does not take these arguments.
        """
        # Normal form, so that calls by position and by keyword share a batch.
        arguments = self._signature.bind(*args, **kwargs)
        loop = asyncio.get_running_loop()
        bound, args = (arguments.args[:1], arguments.args[1:]) if self._is_method else ((), arguments.args)
        call = kind(args, arguments.kwargs, loop)
        self._queue(bound, loop).put(call)
        return call

    def _queue(self, bound: tuple[Any, ...], loop: asyncio.AbstractEventLoop) -> BatchQueue[Any]:
        queue = getattr(bound[0], self._attribute, None) if bound else self._own
        if queue is None or queue.loop is not loop:
            queue = BatchQueue(functools.partial(self._run, bound), self._options, loop, counts_of(self._name))
            if bound:
                setattr(bound[0], self._attribute, queue)
            else:
                self._own = queue
        return queue


@overload
def batch(_func: F, /) -> F: ...
@overload
def batch(
    *,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: Callable[[list[Any]], int] | None = None,
) -> Callable[[F], F]: ...
def batch(
    _func: Callable[..., Any] | None = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: Callable[[list[Any]], int] | None = None,
) -> Any:
    """Collect calls of an `async def` function, method or async generator into calls with lists.

    The function gets a list for each argument and returns a list of the same length (a generator yields one a step,
    with `StopIteration` in the places of callers whose stream has ended). It has `set_max_batch_size(n)` and
    `set_batch_wait_timeout_s(s)`. Calls for different multiplexed models never share a batch. A function whose first
    parameter is `self` is a method: each instance has a queue of its own.

    Args:
        max_batch_size: the most items of a batch, or the most that `batch_size_fn` may weigh them.
        batch_wait_timeout_s: seconds after its first item at which a batch starts even if it is not full.
        max_concurrent_batches: how many batches of a queue run at a time.
        batch_size_fn: gives the size of a list of items, where that is not their number.

    Raises:
        TypeError, ValueError: the function or an option is not as said above.
    """
    options = Options(10, 0.01, 1, batch_size_fn)
    options.set_max_batch_size(max_batch_size)
    options.set_batch_wait_timeout_s(batch_wait_timeout_s)
    options.max_concurrent_batches = at_least_one(
        "max_concurrent_batches must be an integer >= 1", max_concurrent_batches
    )
    if batch_size_fn is not None and not callable(batch_size_fn):
        raise TypeError(f"batch_size_fn must be a function of a list or None, got {batch_size_fn}")

    def decorate(func: Callable[..., Any]) -> Any:
        if not callable(func):
            raise TypeError("@serve.batch can only be used to decorate functions or methods.")
        wrapper: Any = _stream_wrapper(func, options) if inspect.isasyncgenfunction(func) else _wrapper(func, options)
        wrapper.set_max_batch_size = options.set_max_batch_size
        wrapper.set_batch_wait_timeout_s = options.set_batch_wait_timeout_s
        return wrapper

    return decorate if _func is None else decorate(_func)


def _wrapper(func: Callable[..., Any], options: Options) -> Callable[..., Any]:
    if not inspect.iscoroutinefunction(func):
        raise TypeError("Functions decorated with @serve.batch must be 'async def'")

    @functools.wraps(func)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await queues.put(Single, args, kwargs).result

    queues = _Queues(func, _run_single, options)
    return call


def _stream_wrapper(func: Callable[..., Any], options: Options) -> Callable[..., Any]:
    @functools.wraps(func)
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        items = queues.put(Stream, args, kwargs).items()
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()

    queues = _Queues(func, _run_stream, options)
    return call
