"""The user's class or function in this replica: constructed, looked into, reconfigured, checked and destroyed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from swerve.replica.threads import HookThread


class Kind(Enum):
    """How a handler runs."""

    COROUTINE = "coroutine"
    ASYNC_GENERATOR = "async generator"
    # In a thread. What it returns may still turn out to be a coroutine, or a generator of either kind.
    PLAIN = "plain"
    GENERATOR = "generator"


@dataclass(frozen=True, slots=True)
class Handler:
    """One method that calls may name."""

    name: str
    function: Callable[..., Any]
    kind: Kind
    takes_grpc_context: bool


class MissingMethodError(Exception):
    """A call named a method that the deployment does not have."""

    def __init__(self, method: str, available: list[str]) -> None:
        super().__init__(method, available)
        self.method = method
        self.available = available

    def __str__(self) -> str:
        return f"Tried to call a method '{self.method}' that does not exist. Available methods: {self.available}."


class UserCode:
    """The deployment's callable. A class is instantiated by `construct`; a function serves every method name."""

    def __init__(self, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._target = target
        self._args = args
        self._kwargs = kwargs
        self._is_class = inspect.isclass(target)
        self._handlers: dict[str, Handler] = {}
        self._hooks: dict[str, HookThread] = {}
        self.instance: Any = None

    async def construct(self) -> None:
        """Make the instance. Its `__init__` runs on the event loop, and may be a coroutine function."""
        if not self._is_class:
            self.instance = self._target
            return
        cls: Any = self._target
        if inspect.iscoroutinefunction(cls.__init__):
            self.instance = cls.__new__(cls)
            await cls.__init__(self.instance, *self._args, **self._kwargs)
        else:
            self.instance = cls(*self._args, **self._kwargs)

    def handler(self, name: str) -> Handler:
        """The handler for the method `name`.

        Raises:
            MissingMethodError: the deployment has none of that name.
        """
        found = self._handlers.get(name)
        if found is None:
            found = self._handlers[name] = self._look_up(name)
        return found

    def _look_up(self, name: str) -> Handler:
        if not self._is_class:
            return _handler(name, self.instance)
        function = getattr(self.instance, name, None)
        if not callable(function):
            raise MissingMethodError(name, self.method_names())
        return _handler(name, function)

    def method_names(self) -> list[str]:
        """The names that calls may use."""
        names = [name for name in dir(type(self.instance)) if not name.startswith("_") or name == "__call__"]
        return [name for name in names if callable(getattr(self.instance, name, None))]

    async def reconfigure(self, user_config: Any, rank: Any) -> None:
        """Hand the user's configuration to `reconfigure`.

        Raises:
            ValueError: there is nothing to hand it to.
        """
        if not self._is_class:
            raise ValueError("deployment_def must be a class to use user_config or rank")
        method = getattr(self.instance, "reconfigure", None)
        if method is None:
            raise ValueError("user_config or rank specified but the deployment is missing a reconfigure method")
        takes_rank = "rank" in _parameters(method)
        await self._run(lambda: method(user_config, rank=rank) if takes_rank else method(user_config), method)

    async def check_health(self) -> None:
        """Run the user's `check_health`, if there is one; what it raises means unhealthy."""
        method = getattr(self.instance, "check_health", None) if self._is_class else None
        if method is not None:
            await self._run(method, method)

    @property
    def has_autoscaling_stats(self) -> bool:
        """Whether the user's object has metrics of its own for autoscaling policies."""
        return self._is_class and hasattr(self.instance, "record_autoscaling_stats")

    async def autoscaling_stats(self) -> dict[str, float]:
        """What the user's `record_autoscaling_stats` says.

        Raises:
            TypeError, ValueError: it is no dict of numbers by name.
        """
        method = self.instance.record_autoscaling_stats
        stats = await self._run(method, method)
        if not isinstance(stats, dict):
            raise TypeError(f"record_autoscaling_stats must return a dict of numbers by name, got: {stats!r}.")
        return {str(name): float(value) for name, value in stats.items()}

    @property
    def has_routing_stats(self) -> bool:
        """Whether the user's object tells request routers something."""
        return self._is_class and hasattr(self.instance, "record_routing_stats")

    async def routing_stats(self) -> Any:
        """What the user's `record_routing_stats` says."""
        method = self.instance.record_routing_stats
        return await self._run(method, method)

    async def destroy(self) -> None:
        """Run the user's `__del__` once, and let the instance go."""
        instance, self.instance = self.instance, None
        self._handlers.clear()
        finalizer = getattr(type(instance), "__del__", None) if self._is_class and instance is not None else None
        if finalizer is not None:
            done = finalizer(instance)
            if inspect.isawaitable(done):
                await done
            # The interpreter must not run it a second time when the instance is collected.
            type(instance).__del__ = lambda self: None

    async def _run(self, call: Callable[[], Any], method: Callable[..., Any]) -> Any:
        if inspect.iscoroutinefunction(method):
            return await call()
        name = getattr(method, "__name__", "hook")
        result = await self._hooks.setdefault(name, HookThread(name)).run(call)
        return await result if inspect.isawaitable(result) else result


def _handler(name: str, function: Callable[..., Any]) -> Handler:
    # An instance with __call__ is looked at through its method.
    plain = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004 (its method is wanted)
    if inspect.isasyncgenfunction(plain):
        kind = Kind.ASYNC_GENERATOR
    elif inspect.iscoroutinefunction(plain):
        kind = Kind.COROUTINE
    elif inspect.isgeneratorfunction(plain):
        kind = Kind.GENERATOR
    else:
        kind = Kind.PLAIN
    return Handler(name, function, kind, "grpc_context" in _parameters(function))


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return frozenset()
