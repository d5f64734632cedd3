"""The ASGI application of a `@serve.ingress` class: found, bound to the instance, started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from swerve.http_ingress import INGRESS_APP

logger = logging.getLogger("swerve.replica")

Message: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]


class AsgiApp:
    """An application whose lifespan runs. `state` is what its requests' scopes start with (the lifespan's state)."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.state: dict[str, Any] = {}
        self._lifespan: asyncio.Task[None] | None = None
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopped = asyncio.Event()

    @classmethod
    async def start(cls, instance: object) -> AsgiApp:
        """Make the application of `instance` and run what it does at its start.

        Raises:
            RuntimeError: the application's start failed.
            Exception: whatever the user's builder function raises.
        """
        started = cls(_application(instance))
        await started._start()
        return started

    async def _start(self) -> None:
        self._lifespan = asyncio.get_running_loop().create_task(self._run_lifespan())
        self._to_app.put_nowait({"type": "lifespan.startup"})
        await self._started

    async def _run_lifespan(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self.app(scope, self._to_app.get, self._send)
        except Exception as error:
            # ASGI: an application without lifespan events raises at once, and goes without.
            if self._started.done():
                logger.exception("The lifespan of the application failed")
            else:
                logger.debug("The application has no lifespan events: %r", error)
        finally:
            if not self._started.done():
                self._started.set_result(None)
            self._stopped.set()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete" and not self._started.done():
            self._started.set_result(None)
        elif kind == "lifespan.startup.failed" and not self._started.done():
            text = message.get("message") or "no message was given"
            self._started.set_exception(RuntimeError(f"The application's startup failed: {text}"))
        elif kind == "lifespan.shutdown.failed":
            logger.error("The application's shutdown failed: %s", message.get("message", ""))

    async def stop(self) -> None:
        """Run what the application does at its end."""
        lifespan = self._lifespan
        if lifespan is None or lifespan.done():
            return
        self._to_app.put_nowait({"type": "lifespan.shutdown"})
        try:
            await self._stopped.wait()
        finally:
            lifespan.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await lifespan


def _application(instance: Any) -> App:
    app = getattr(type(instance), INGRESS_APP)
    if app is None:
        app = instance.__serve_build_asgi_app__()
    elif inspect.isfunction(app) and _is_builder(app):
        app = app()
    if not callable(app):
        raise TypeError(f"@serve.ingress needs an ASGI application or a function that builds one, got {app!r}.")
    if hasattr(app, "routes"):
        from swerve.fastapi_routes import bind_methods

        bind_methods(app, instance)
    made: App = app
    return made


def _is_builder(function: Callable[..., Any]) -> bool:
    """A function without parameters that must be given builds the application; another one is it."""
    return all(
        parameter.default is not inspect.Parameter.empty
        or parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for parameter in inspect.signature(function).parameters.values()
    )
