"""Local testing mode: an application in the caller's process, reached by handles only.

Deployments live on one background event loop, as each would in its replica: coroutines on the loop, plain functions in
threads. Arguments and results are pickled on the way, so nothing is shared by identity. There are no replicas, limits
or routing; `choose_replica` and `dispatch` are not implemented and a broadcast is a single call.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import itertools
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

from swerve.application import Application
from swerve.build import deployments_of
from swerve.caller import codec
from swerve.caller.call import MAX_UNREAD
from swerve.caller.codec import Encoded
from swerve.caller.destination import Destination
from swerve.caller.loop_thread import LoopThread
from swerve.caller.seams import Routed, Sink
from swerve.context import RequestContext, _request_context
from swerve.exceptions import RayServeException, RequestCancelledError
from swerve.handle import DeploymentHandle
from swerve.net.mailbox import Mailbox
from swerve.replica.threads import ThreadPool
from swerve.replica.user_code import Handler, Kind, MissingMethodError, UserCode
from swerve.routing.replicas import Replica, ReplicaInfo

# Threads for plain functions of one application, which may wait for each other. They are started as needed.
_THREADS = 256

_applications: weakref.WeakValueDictionary[int, LocalApplication] = weakref.WeakValueDictionary()
_numbers = itertools.count()
_ENDED = object()


def run_locally(app: Application, name: str = "default") -> DeploymentHandle:
    """Construct the application's deployments in this process and return a handle to its ingress.

    Raises:
        Exception: what a constructor or `reconfigure` raised.
    """
    thread = _thread()

    async def make() -> DeploymentHandle:
        local = LocalApplication(asyncio.get_running_loop())
        graph = deployments_of(app, name, lambda deployment, of: DeploymentHandle(deployment, of, _local=local))
        # The ingress comes first, and each needs those after it.
        for deployment_name, (deployment, code) in reversed(graph.items()):
            user_code = UserCode(code.target, code.init_args, code.init_kwargs)
            await user_code.construct()
            if deployment.user_config is not None:
                await user_code.reconfigure(deployment.user_config, None)
            local.deployments[deployment_name] = user_code
        return DeploymentHandle(next(iter(graph)), name, _local=local)

    return thread.call(make)


@functools.cache
def _thread() -> LoopThread:
    return LoopThread("swerve-local-testing")


class LocalApplication:
    """One application's deployments. Its handles keep it alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.lend = None
        self.pool = ThreadPool(_THREADS)
        self.deployments: dict[str, UserCode] = {}
        self.post = Mailbox(loop).run
        self._number = next(_numbers)
        _applications[self._number] = self

    def call(
        self, destination: Destination, origin: RequestContext, sink: Sink, unread: deque[bytes] | None = None
    ) -> LocalCall:
        return LocalCall(self, destination, origin, sink, unread)

    def reaches(self, destination: Destination) -> bool:
        return True

    def take_everyone(self, destination: Destination) -> list[Replica] | None:
        return [Replica(ReplicaInfo("local", "", 0))]

    def __reduce__(self) -> Any:
        # A handle among a call's arguments reaches the same application.
        return _application, (self._number,)


def _application(number: int) -> LocalApplication:
    return _applications[number]


class LocalCall:
    """One call; the counterpart of `RemoteCall`."""

    def __init__(
        self,
        app: LocalApplication,
        destination: Destination,
        origin: RequestContext,
        sink: Sink,
        unread: deque[bytes] | None,
    ) -> None:
        self._app = app
        self._destination = destination
        self._origin = origin
        self._sink: Sink | None = sink
        self._unread = unread
        self._task: asyncio.Task[None] | None = None
        # Set while a stream waits for its reader.
        self._stalled: asyncio.Event | None = None
        self._context = RequestContext(
            request_id=origin.request_id,
            route=origin.route,
            app_name=destination.app,
            multiplexed_model_id=destination.model_id,
            session_id=destination.session_id,
            deadline=origin.deadline,
        )
        origin.children[id(self)] = self.cancel_soon

    def pin(self, replica: Replica, reserved_by: Routed | None = None) -> None:
        """There is one place only."""

    def start(self) -> None:
        """Local calls have no deadline of their own."""

    def submit(self, message: Encoded) -> None:
        if self._sink is not None:
            self._task = self._app.loop.create_task(self._run(codec.joined(message)))

    def launch(self, message: Encoded) -> None:
        self.submit(message)

    def fail(self, error: BaseException) -> None:
        self._finish(error)

    def cancel_soon(self) -> None:
        self._app.post(self._cancel)

    @property
    def owes(self) -> bool:
        return self._stalled is not None

    def resume_soon(self) -> None:
        self._app.post(self._resume)

    def _resume(self) -> None:
        if self._stalled is not None:
            self._stalled.set()

    def _cancel(self) -> None:
        self._finish(RequestCancelledError(self._origin.request_id))
        if self._task is not None:
            self._task.cancel()
        for cancel in list(self._context.children.values()):
            cancel()

    def _finish(self, error: BaseException | None) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            self._origin.children.pop(id(self), None)
            sink._on_finished(error)

    def _send(self, message: bytes) -> None:
        if self._sink is not None:
            self._sink._on_message(message)

    async def _run(self, message: bytes) -> None:
        _request_context.set(self._context)
        try:
            args, kwargs = cast("tuple[tuple[Any, ...], dict[str, Any]]", codec.decode(message))
            made = await self._made(self._handler(), args, kwargs)
            if self._destination.stream:
                await self._deliver(made)
            elif inspect.isgenerator(made) or inspect.isasyncgen(made):
                raise TypeError(
                    f"Method '{self._destination.method}' returned a generator. You must use "
                    "`handle.options(stream=True)` to call generators on a deployment."
                )
            else:
                self._send(codec.joined(codec.encode_reply(made)))
        except asyncio.CancelledError:
            self._finish(RequestCancelledError(self._origin.request_id))
            raise
        except Exception as error:
            self._send(codec.joined(codec.encode_exception(error)))
        finally:
            self._finish(None)

    def _handler(self) -> Handler:
        try:
            return self._app.deployments[self._destination.deployment].handler(self._destination.method)
        except MissingMethodError as error:
            raise RayServeException(str(error)) from None

    async def _made(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the handler returned; of a generator its iterator."""
        if handler.kind in (Kind.COROUTINE, Kind.ASYNC_GENERATOR):
            made = handler.function(*args, **kwargs)
        else:
            made = await self._in_thread(functools.partial(handler.function, *args, **kwargs))
        return await made if inspect.isawaitable(made) else made

    async def _deliver(self, made: Any) -> None:
        if isinstance(made, AsyncIterator):
            values = made
        elif isinstance(made, Iterator):
            values = self._stepped(made)
        else:
            raise TypeError(
                f"Called method '{self._destination.method}' with `handle.options(stream=True)` but it did not return "
                "a generator."
            )
        async for value in values:
            self._send(codec.joined(codec.encode_reply(value)))
            await self._room()

    async def _stepped(self, values: Iterator[Any]) -> AsyncIterator[Any]:
        """A plain generator's values, each made in a thread."""
        try:
            while (value := await self._in_thread(functools.partial(next, values, _ENDED))) is not _ENDED:
                yield value
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                close()

    async def _room(self) -> None:
        assert self._unread is not None
        self._stalled = asyncio.Event()
        while len(self._unread) >= MAX_UNREAD and self._sink is not None:
            await self._stalled.wait()
            self._stalled.clear()
        self._stalled = None

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        result: asyncio.Future[Any] = self._app.loop.create_future()
        context = contextvars.copy_context()

        def job() -> None:
            try:
                value = context.run(function)
            except StopIteration as error:
                # A future cannot hold it.
                self._app.post(functools.partial(_settle, result, None, RuntimeError(f"{error!r} was raised")))
            except BaseException as error:
                self._app.post(functools.partial(_settle, result, None, error))
            else:
                self._app.post(functools.partial(_settle, result, value, None))

        self._app.pool.submit(job)
        return await result


def _settle(result: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if result.done():
        return
    if error is not None:
        result.set_exception(error)
    else:
        result.set_result(value)
