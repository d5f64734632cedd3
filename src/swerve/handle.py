"""Handles: how Python code calls a deployment (Ray Serve's module of the same name).

A handle is a name and options; the calling is done by the process's `CallerRuntime`, which finds the replicas, or by an
application in local testing mode.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from swerve.caller import codec
from swerve.caller.arguments import Resolution, has_responses
from swerve.caller.broadcast import DeploymentBroadcastResponse
from swerve.caller.destination import Destination
from swerve.caller.response import DeploymentResponse, DeploymentResponseGenerator, StreamBuffer
from swerve.caller.runtime import get_runtime
from swerve.caller.seams import Caller
from swerve.caller.selection import ReplicaSelection, Reservation
from swerve.context import RequestContext, _request_context
from swerve.deployment_id import DeploymentID
from swerve.routing.replicas import Replica

__all__ = [
    "DeploymentBroadcastResponse",
    "DeploymentHandle",
    "DeploymentID",
    "DeploymentResponse",
    "DeploymentResponseGenerator",
    "ReplicaSelection",
]

_KEEP: Any = object()
_INIT_OPTIONS = frozenset({"_prefer_local_routing", "_source", "_run_router_in_separate_loop"})
# Characters that would end or corrupt an HTTP/2 field value.
_UNSAFE = frozenset(map(chr, (*range(32), 127)))
# An option travels in the headers of each call, which have room for 16 KiB in all.
_MAX_TEXT = 2048


class DeploymentHandle:
    """Calls one deployment. `handle.method.remote(...)` calls a method of it, `handle.remote(...)` its `__call__`.

    Handles may be copied, pickled, and used on any thread and event loop.
    """

    def __init__(
        self,
        deployment_name: str,
        app_name: str = "default",
        *,
        _destination: Destination | None = None,
        _local: Caller | None = None,
    ) -> None:
        self._destination = _destination or Destination.make(app_name, deployment_name, "__call__", "", "", False)
        self._local = _local
        self._initialized = False

    @property
    def deployment_name(self) -> str:
        return self._destination.deployment

    @property
    def app_name(self) -> str:
        return self._destination.app

    @property
    def deployment_id(self) -> DeploymentID:
        return DeploymentID(self._destination.deployment, self._destination.app)

    @property
    def is_initialized(self) -> bool:
        """True once the handle, or one that it was made from, was used or `_init` was called."""
        return self._initialized

    def running_replicas_populated(self) -> bool:
        """True when this process is connected to a replica of the deployment, so that a call can be sent at once."""
        return self._caller().reaches(self._destination)

    def options(
        self,
        *,
        method_name: str = _KEEP,
        multiplexed_model_id: str = _KEEP,
        session_id: str = _KEEP,
        stream: bool = _KEEP,
        use_new_handle_api: bool = _KEEP,
        _prefer_local_routing: bool = _KEEP,
        _by_reference: bool = _KEEP,
        request_serialization: str = _KEEP,
        response_serialization: str = _KEEP,
    ) -> DeploymentHandle:
        """A copy of the handle with other options; those not given stay.

        Args:
            method_name: the method to call.
            multiplexed_model_id: the model that calls are for; replicas that hold it come first.
            session_id: for routers that keep the calls of a session together (`ConsistentHashRouter`).
            stream: True for generators: `remote` then gives a DeploymentResponseGenerator.
            use_new_handle_api, _prefer_local_routing, _by_reference, request_serialization, response_serialization:
                taken for Ray Serve's sake. On one machine every replica is local, and values travel by pickle.

        Raises:
            TypeError, ValueError: an option has the wrong type or cannot be sent.
        """
        self._initialized = True
        old = self._destination
        return DeploymentHandle(
            old.deployment,
            _destination=Destination.make(
                old.app,
                old.deployment,
                old.method if method_name is _KEEP else _text("method_name", method_name),
                old.model_id if multiplexed_model_id is _KEEP else _text("multiplexed_model_id", multiplexed_model_id),
                old.session_id if session_id is _KEEP else _text("session_id", session_id),
                old.stream if stream is _KEEP else bool(stream),
            ),
            _local=self._local,
        )

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the deployment. Never blocks, and what goes wrong is raised by the response.

        Returns:
            DeploymentResponse, or DeploymentResponseGenerator for a handle with `stream=True`.

        Raises:
            RayServeException: the process is connected to no instance.
        """
        return self._call(args, kwargs, None)

    def broadcast(self, method_name: str, *args: Any, **kwargs: Any) -> DeploymentBroadcastResponse:
        """Call a method of every replica, whatever its load.

        Raises:
            Exception: what pickling the arguments raised.
        """
        destination = self.options(method_name=method_name, stream=False)._destination
        return DeploymentBroadcastResponse(
            self._caller(), destination, _origin(), codec.encode((args, kwargs), self._caller().lend)
        )

    @asynccontextmanager
    async def choose_replica(self, *args: Any, **kwargs: Any) -> AsyncIterator[ReplicaSelection]:
        """Reserve a slot of a replica for one `dispatch`; it is given back at the end of the `async with` block.

        The arguments are those of the call to come, for request routers that look at them.

        Raises:
            BackPressureError, DeploymentUnavailableError, TimeoutError: no slot is to be had.
            NotImplementedError: in local testing mode.
        """
        if self._local is not None:
            raise NotImplementedError("`choose_replica` is not implemented in local testing mode.")
        reservation = Reservation(get_runtime(), self._destination, _origin(), (args, kwargs))
        self._initialized = True
        try:
            yield await reservation
        finally:
            reservation.release_soon()

    def dispatch(self, selection: ReplicaSelection, *args: Any, **kwargs: Any) -> Any:
        """Call the replica that `choose_replica` reserved. Returns a response as `remote` does.

        Raises:
            ValueError: the selection is another deployment's, or its slot was used or given back.
            NotImplementedError: in local testing mode.
        """
        if self._local is not None:
            raise NotImplementedError("`dispatch` is not implemented in local testing mode.")
        reservation = selection._reservation
        reserved = reservation.destination
        if (reserved.app, reserved.deployment) != (self.app_name, self.deployment_name):
            raise ValueError(
                "Cannot dispatch a selection created for a different deployment. It is for "
                f"{DeploymentID(reserved.deployment, reserved.app)}, this handle is for {self.deployment_id}."
            )
        replica = reservation.take()
        if replica is None:
            raise ValueError(
                "Cannot dispatch a selection twice, or after its `async with choose_replica()` block has ended."
            )
        return self._call(args, kwargs, replica, reservation)

    def shutdown(self) -> None:
        """Nothing to release: handles of a process share its connections, which end with `serve.shutdown()`."""
        self._initialized = False

    async def shutdown_async(self) -> None:
        """`shutdown`, for event loops."""
        self.shutdown()

    def _init(self, **options: Any) -> None:
        """Ray Serve's early initialisation; its options change nothing on one machine.

        Raises:
            RuntimeError: the handle was used or initialised before.
            ValueError: an option is unknown.
        """
        unknown = sorted(options.keys() - _INIT_OPTIONS)
        if unknown:
            raise ValueError(f"Unknown init options: {', '.join(unknown)}.")
        if self._initialized:
            raise RuntimeError("Handle cannot be initialized twice, or after it was used.")
        self._initialized = True

    def _call(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        replica: Replica | None,
        reservation: Reservation | None = None,
    ) -> Any:
        destination = self._destination
        caller = self._caller()
        origin = _origin()
        response: DeploymentResponse | DeploymentResponseGenerator
        if destination.stream:
            buffer = StreamBuffer()
            call = caller.call(destination, origin, buffer, buffer.unread)
            response = DeploymentResponseGenerator(origin.request_id, buffer, call)
        else:
            response = DeploymentResponse(origin.request_id)
            call = response._call = caller.call(destination, origin, response)
        if replica is not None:
            call.pin(replica, reservation)
        if has_responses(args, kwargs):
            caller.post(Resolution(call, args, kwargs, caller).start)
            return response
        try:
            message = codec.encode((args, kwargs), caller.lend)
        except Exception as error:
            caller.post(functools.partial(call.fail, error))
        else:
            caller.post(functools.partial(call.launch, message))
        return response

    def _caller(self) -> Caller:
        self._initialized = True
        return self._local or get_runtime()

    def __getattr__(self, name: str) -> DeploymentHandle:
        # Special methods are looked for by copy, pickle and others, and none is a method of the deployment.
        if name.startswith("__") and name != "__call__":
            raise AttributeError(f"'DeploymentHandle' object has no attribute '{name}'")
        handle = self.options(method_name=name)
        # Found without `__getattr__` from now on.
        self.__dict__[name] = handle
        return handle

    def __reduce__(self) -> Any:
        return _restore, (self._destination, self._local)

    def __repr__(self) -> str:
        return f"DeploymentHandle(deployment='{self.deployment_name}', app='{self.app_name}')"


def _restore(destination: Destination, local: Caller | None) -> DeploymentHandle:
    return DeploymentHandle(destination.deployment, _destination=destination, _local=local)


def _origin() -> RequestContext:
    """The request that a call is made in; outside requests a new one."""
    context = _request_context.get()
    if context is not None and context.request_id:
        return context
    return RequestContext(request_id=str(uuid.uuid4()))


def _text(option: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{option} must be a string, got {value!r}.")
    if not _UNSAFE.isdisjoint(value) or value != value.strip(" "):
        raise ValueError(f"{option} must not have control characters or spaces at its ends, got {value!r}.")
    if len(value) > _MAX_TEXT:
        raise ValueError(f"{option} must have at most {_MAX_TEXT} characters, got {len(value)}.")
    return value
