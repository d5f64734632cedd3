"""The instance that this process talks to: found, started, connected to, left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from swerve.config import state_dir
from swerve.context import current_replica_context
from swerve.exceptions import RayServeException
from swerve.wire.status import RpcError, StatusCode

if TYPE_CHECKING:
    from swerve.caller.runtime import CallerRuntime
    from swerve.control.client import ControllerClient
    from swerve.control.instance import Instance
    from swerve.generated import control_pb2

T = TypeVar("T")

# One exchange with the controller over a local socket; generous, for a machine that is busy.
_CALL_TIMEOUT_S = 30.0
# The agent restarts a controller within seconds.
_AWAY_S = 15.0
_RETRY_S = 0.05
# Of deploys at the same moment one comes first each time; so many at once are no accident.
_DEPLOY_TRIES = 5
# Applications drain first; Ray Serve's tiers of a shutdown are 30 s each.
_SHUTDOWN_TIMEOUT_S = 90.0
_NO_INSTANCE = "There is no Serve instance running on this Ray cluster."


class ConflictError(RayServeException):
    """Another change came first. Nothing was applied."""


@dataclass(slots=True)
class InstanceConnection:
    """The instance that this process talks to, over a loop in a background thread."""

    runtime: CallerRuntime
    # None in a replica, which neither starts nor stops the instance it belongs to.
    instance: Instance | None
    # Whether the instance ends with this process.
    owned: bool = False

    def call(self, exchange: Callable[[ControllerClient], Coroutine[Any, Any, T]]) -> T:
        """The result of an exchange with the controller. While that is away (it starts, or starts again) this waits.

        Raises:
            RayServeException: the controller refused or stayed away; the message is its own.
            ConflictError: another change came first.
        """
        deadline = time.monotonic() + _AWAY_S
        while True:
            future: Future[T] = asyncio.run_coroutine_threadsafe(exchange(self.runtime.controller), self.runtime.loop)
            try:
                return future.result(_CALL_TIMEOUT_S)
            except RpcError as error:
                if error.status.code == StatusCode.ABORTED:
                    raise ConflictError(error.status.details) from error
                if error.status.code != StatusCode.UNAVAILABLE:
                    raise RayServeException(error.status.details) from error
                if self.gone():
                    raise RayServeException("The Serve instance has ended meanwhile.") from error
                if time.monotonic() > deadline:
                    raise RayServeException(f"{error.status.details}{self._where_it_says_why()}") from error
            time.sleep(_RETRY_S)

    def deploy(
        self, request_for: Callable[[control_pb2.InstanceStatus], control_pb2.DeployRequest]
    ) -> tuple[control_pb2.InstanceStatus, control_pb2.DeployRequest]:
        """Deploy what `request_for` makes of the present state; where another deploy has changed the options meanwhile,
        it is asked again. Returns the request that was applied, and the state that it was made of.

        Raises:
            RayServeException: the controller refused, and nothing was applied, or stayed away.
        """
        for _ in range(_DEPLOY_TRIES - 1):
            with contextlib.suppress(ConflictError):
                return self._deploy_once(request_for)
        return self._deploy_once(request_for)

    def _deploy_once(
        self, request_for: Callable[[control_pb2.InstanceStatus], control_pb2.DeployRequest]
    ) -> tuple[control_pb2.InstanceStatus, control_pb2.DeployRequest]:
        status = self.status()
        request = request_for(status)
        if request.HasField("options"):
            request.options_digest = status.options_digest
        self.call(lambda client: client.deploy(request))
        return status, request

    def status(self) -> control_pb2.InstanceStatus:
        return self.call(lambda client: client.status())

    def _where_it_says_why(self) -> str:
        if self.instance is None:
            return ""
        logs = self.instance.state_dir / "logs"
        return (
            f". The controller does not answer; if it cannot start, {logs / 'controller.out'} says why and what to do."
        )

    def gone(self) -> bool:
        """Whether the instance has ended."""
        from swerve.control import instance as instances

        return self.instance is not None and instances.find(self.instance.state_dir) is None


@dataclass(slots=True)
class _Process:
    """What this process has decided: where its instance lives (None: what the environment says), and the connection."""

    chosen: Path | None = None
    connection: InstanceConnection | None = None


_process = _Process()


def current_state_dir() -> Path:
    """Where this process's instance lives, or would."""
    return _process.chosen or state_dir()


def connected() -> InstanceConnection | None:
    """The connection to the running instance, None if none runs."""
    from swerve.control import instance as instances

    present = _process.connection
    folder = current_state_dir()
    if present is not None and present.instance is None:
        return present
    if current_replica_context() is None:
        # One that ends would take what is asked of it along.
        instances.wait_if_ending(folder)
    same = present is not None and present.instance is not None and present.instance.state_dir == folder
    if same and instances.find(folder) is not None:
        return present
    disconnect()
    if current_replica_context() is not None:
        from swerve.caller.runtime import get_runtime

        # Not the replica's own runtime: waiting on its loop from that loop would never end.
        return _connect(get_runtime().controller_address, None)
    found = instances.find(folder)
    return None if found is None else _connect(found.controller_address, found)


def _connect(address: str, instance: Instance | None, *, owned: bool = False) -> InstanceConnection:
    from swerve.caller.runtime import CallerRuntime, set_runtime

    runtime = CallerRuntime.for_driver(address)
    if instance is not None:
        set_runtime(runtime)
    _process.connection = InstanceConnection(runtime, instance, owned)
    return _process.connection


def disconnect() -> None:
    """Leaves the instance, which keeps running."""
    from swerve.caller.runtime import set_runtime

    connection, _process.connection = _process.connection, None
    if connection is not None:
        if connection.instance is not None:
            set_runtime(None)
        connection.runtime.close()


def required() -> InstanceConnection:
    """The connection to the running instance.

    Raises:
        RayServeException: none runs.
    """
    connection = connected()
    if connection is None:
        raise RayServeException(
            f"{_NO_INSTANCE} Start one with `swerve start` or `serve.start()` (state folder: {current_state_dir()})."
        )
    return connection


def use_state_dir(path: Path) -> None:
    """From now on this process's instance is the one in `path`."""
    _process.chosen = state_dir(path)


def start_instance(options: control_pb2.InstanceOptions, *, owned: bool) -> InstanceConnection:
    """Starts an instance and connects to it; an owned one ends with this process.

    Raises:
        InstanceError: it cannot start; nothing of it is left then.
    """
    from swerve.control import instance as instances

    started = instances.start(current_state_dir(), options, owner_pid=os.getpid() if owned else None)
    return _connect(started.controller_address, started, owned=owned)


def end_started() -> None:
    """Ends the instance that this process has started, if it has; what is deployed is kept for the next start."""
    from swerve.control import instance as instances

    disconnect()
    instances.end_started(current_state_dir())


def shut_down(connection: InstanceConnection) -> None:
    """Stops the instance and waits until it is gone.

    Raises:
        TimeoutError: it is still there after 90 s.
        RayServeException: this process is a replica of it.
    """
    from swerve.control import instance as instances

    if connection.instance is None:
        raise RayServeException("A replica cannot shut down the instance that it belongs to.")
    try:
        connection.call(lambda client: client.shutdown())
    except RayServeException:
        # It may end by itself meanwhile.
        if not connection.gone():
            raise
    disconnect()
    if not instances.wait_stopped(connection.instance, _SHUTDOWN_TIMEOUT_S):
        raise TimeoutError(
            f"The instance in {connection.instance.state_dir} did not stop within {_SHUTDOWN_TIMEOUT_S:.0f} s."
        )
