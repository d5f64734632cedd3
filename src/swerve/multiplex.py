"""`@serve.multiplexed`: a replica that holds several models and loads them when they are asked for (Ray Serve's name).

A replica publishes the ids it holds, so that calls for a model go first to replicas that have it: it sets
`on_models_changed` and reads `loaded_model_ids`, and calls `unload_all` when it stops.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from swerve.context import _request_context
from swerve.observe.metrics import Histogram, Labels, collectors, counter_text, gauge_text, histogram_text

logger = logging.getLogger("swerve.replica")

F = TypeVar("F", bound=Callable[..., Any])

# Called, on the event loop's thread, when `loaded_model_ids` would give something new. Set by the replica's process.
on_models_changed: Callable[[], None] | None = None

_caches: weakref.WeakSet[_Models] = weakref.WeakSet()


def get_multiplexed_model_id() -> str:
    """The model id that the current request asks for, "" if it names none."""
    context = _request_context.get()
    return context.multiplexed_model_id if context is not None else ""


def loaded_model_ids() -> list[str]:
    """The ids of the models that this process holds or is loading, sorted."""
    return sorted({model_id for cache in _caches for model_id in cache.ids()})


class _Counts:
    """What is counted of all models of this process."""

    def __init__(self) -> None:
        self.requests = 0
        self.loads = Histogram()
        self.unloads = Histogram()


_counts = _Counts()


def model_lines(replica: Labels) -> list[str]:
    """Ray Serve's series of models as lines of Prometheus' text format, with the labels of the replica.

    There are none before a loader exists.
    """
    if not _caches:
        return []
    models = {(*replica, ("model_id", model_id)): 1.0 for cache in _caches for model_id in cache.loaded()}
    lines = gauge_text("serve_num_multiplexed_models", "Models that this replica holds.", {replica: len(models)})
    lines += gauge_text("serve_registered_multiplexed_model_id", "1 for each model that is held.", models)
    lines += counter_text(
        "serve_multiplexed_get_model_requests_counter", "Calls of a loader.", {replica: _counts.requests}
    )
    lines += counter_text("serve_multiplexed_models_load_counter", "Models loaded.", {replica: _counts.loads.count})
    lines += counter_text(
        "serve_multiplexed_models_unload_counter", "Models unloaded.", {replica: _counts.unloads.count}
    )
    lines += histogram_text(
        "serve_multiplexed_model_load_latency_ms", "Time that loading a model took.", {replica: _counts.loads}
    )
    lines += histogram_text(
        "serve_multiplexed_model_unload_latency_ms", "Time that unloading a model took.", {replica: _counts.unloads}
    )
    return lines


collectors.append(model_lines)


async def unload_all() -> None:
    """Unload every model, as at the end of a replica."""
    for cache in list(_caches):
        await cache.unload_all()


@dataclass(slots=True)
class _Load:
    """The loading of one model, for all calls that wait for it."""

    # Of its own: a caller that is cancelled leaves it to the others, and to the next call.
    task: asyncio.Task[Any]
    callers: int = 0


class _Models:
    """The models of one loader (and instance), least recently used first."""

    def __init__(self, load: Callable[[str], Any], limit: int) -> None:
        self._load = load
        self._limit = limit
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._loading: str | None = None
        self._loads: dict[str, _Load] = {}
        # One load at a time: two at once could hold more models than the limit.
        self._lock = asyncio.Lock()

    def ids(self) -> list[str]:
        return [*self._models, self._loading] if self._loading is not None else list(self._models)

    def loaded(self) -> list[str]:
        return list(self._models)

    async def get(self, model_id: Any) -> Any:
        if not isinstance(model_id, str):
            raise TypeError("The model ID must be a string.")
        if not model_id:
            raise ValueError("The model ID cannot be empty.")
        _counts.requests += 1
        if model_id in self._models:
            self._models.move_to_end(model_id)
            return self._models[model_id]
        load = self._loads.get(model_id)
        if load is None:
            load = self._loads[model_id] = self._begin(model_id)
        load.callers += 1
        try:
            return await asyncio.shield(load.task)
        finally:
            load.callers -= 1
            if not load.callers and self._loading != model_id:
                # It waits for its turn, and nobody for it: it would unload a model that may be in use.
                load.task.cancel()
                self._forget(model_id, load)

    def _begin(self, model_id: str) -> _Load:
        variables = contextvars.copy_context()
        context = _request_context.get()
        if context is not None:
            # Without a deadline, as what is loaded is of use to later calls too.
            variables.run(_request_context.set, context.for_many(deadline=None))
        load = _Load(asyncio.get_running_loop().create_task(self._load_new(model_id), context=variables))
        load.task.add_done_callback(lambda task: self._loaded(model_id, load))
        return load

    def _loaded(self, model_id: str, load: _Load) -> None:
        self._forget(model_id, load)
        if not load.task.cancelled():
            load.task.exception()  # read: all who waited for it may have gone

    def _forget(self, model_id: str, load: _Load) -> None:
        # A call may have begun another load of the model since this one was given up.
        if self._loads.get(model_id) is load:
            del self._loads[model_id]

    async def _load_new(self, model_id: str) -> Any:
        async with self._lock:
            return await self._load_locked(model_id)

    async def _load_locked(self, model_id: str) -> Any:
        # Here, because a loader that was pickled by value was made in another process.
        _caches.add(self)
        self._loading = model_id
        _changed()
        try:
            while 0 < self._limit <= len(self._models):
                await self._unload_oldest()
            logger.info("Loading model '%s'.", model_id)
            started = time.monotonic()
            model = self._models[model_id] = await self._load(model_id)
            _counts.loads.observe((time.monotonic() - started) * 1000.0)
            return model
        finally:
            self._loading = None
            _changed()

    async def unload_all(self) -> None:
        async with self._lock:
            while self._models:
                await self._unload_oldest()

    async def _unload_oldest(self) -> None:
        model_id, model = self._models.popitem(last=False)
        _changed()
        logger.info("Unloading model '%s'.", model_id)
        started = time.monotonic()
        try:
            await _finalize(model)
        except Exception:
            # The model is gone either way, and the call that waits for its place has no part in this.
            logger.exception("Unloading model '%s': its __del__ failed", model_id)
        _counts.unloads.observe((time.monotonic() - started) * 1000.0)


async def _finalize(model: Any) -> None:
    """Run the model's `__del__` now, however long others still refer to it, and only once."""
    finalizer = getattr(model, "__del__", None)
    if finalizer is None:
        return
    try:
        if inspect.iscoroutinefunction(finalizer):
            await finalizer()
        else:
            # Freeing a model may take long; a thread keeps the loop serving.
            await asyncio.to_thread(finalizer)
    finally:
        _disarm(model)


def _disarm(model: Any) -> None:
    """Keep the interpreter from running the model's `__del__` again when it is collected."""
    cls = type(model)
    try:
        model.__class__ = type(cls.__name__, (cls,), {"__del__": lambda self: None, "__slots__": ()})
    except TypeError:
        # A class whose layout cannot be subclassed so (written in C) has its finalizer run again.
        logger.debug("The __del__ of a %s runs again when it is collected", cls.__qualname__)


def _changed() -> None:
    if on_models_changed is not None:
        on_models_changed()


@overload
def multiplexed(func: F, /) -> F: ...
@overload
def multiplexed(*, max_num_models_per_replica: int = 3) -> Callable[[F], F]: ...
def multiplexed(func: Callable[..., Any] | None = None, /, *, max_num_models_per_replica: int = 3) -> Any:
    """Keep what an `async def` loader of `(model_id)` or `(self, model_id)` returns, by model id.

    A call gives the model, loaded by the function if the replica does not hold it. At `max_num_models_per_replica` the
    least recently used one is unloaded first: its `__del__` is called (awaited if it is a coroutine function). -1 is no
    limit. One model is loaded at a time. A load that has begun goes on when the calls that wait for it are
    cancelled or expire; one that waits for its turn is given up.

    Raises:
        TypeError, ValueError: the function or the option is not as said above; calls raise them for a model id that is
            no string or empty.
    """
    if isinstance(max_num_models_per_replica, bool) or not isinstance(max_num_models_per_replica, int):
        raise TypeError("max_num_models_per_replica must be an integer.")
    if max_num_models_per_replica != -1 and max_num_models_per_replica <= 0:
        raise ValueError("max_num_models_per_replica must be positive.")

    def decorate(load: Callable[..., Any]) -> Callable[..., Any]:
        if not inspect.iscoroutinefunction(load):
            raise TypeError("@serve.multiplexed can only be used to decorate async functions or methods.")
        parameters = len(inspect.signature(load).parameters)
        if parameters not in (1, 2):
            raise TypeError("@serve.multiplexed can only decorate functions and methods with one 'model_id' argument.")
        return (_method if parameters == 2 else _function)(load, max_num_models_per_replica)

    return decorate if func is None else decorate(func)


def _function(load: Callable[..., Any], limit: int) -> Callable[..., Any]:
    models = _Models(load, limit)

    @functools.wraps(load)
    async def get(model_id: str) -> Any:
        return await models.get(model_id)

    return get


def _method(load: Callable[..., Any], limit: int) -> Callable[..., Any]:
    attribute = f"_serve_models_{load.__qualname__}"

    @functools.wraps(load)
    async def get(self: Any, model_id: str) -> Any:
        models: _Models | None = getattr(self, attribute, None)
        if models is None:
            # The instance owns the cache; a strong reference back would keep both until a collection.
            instance = weakref.ref(self)

            def load_here(wanted: str) -> Any:
                return load(instance(), wanted)

            models = _Models(load_here, limit)
            setattr(self, attribute, models)
        return await models.get(model_id)

    return get
