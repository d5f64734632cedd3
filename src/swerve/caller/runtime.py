"""The one place of a process from which handles call deployments.

A runtime lives on one event loop: in a replica on its main loop, in a driving program on a loop of its own in a
background thread. It watches the controller's view, keeps the last one while the controller is away, and has a `Target`
for each deployment that was called.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections import deque
from collections.abc import Collection, Sequence

from swerve.caller.call import RemoteCall
from swerve.caller.codec import Lend
from swerve.caller.destination import Destination
from swerve.caller.lending import LENDER
from swerve.caller.loop_thread import LoopThread
from swerve.caller.queues import Queue, QueueReporter
from swerve.caller.seams import Routed, Sink
from swerve.caller.target import Target, queue_keys
from swerve.context import RequestContext
from swerve.control.client import ControllerClient
from swerve.exceptions import DeploymentUnavailableError, RayServeException
from swerve.generated import control_pb2
from swerve.net.connection import Connection
from swerve.net.mailbox import Mailbox
from swerve.net.timers import TimerWheel
from swerve.routing.replicas import Replica

logger = logging.getLogger("swerve.caller")

# How long calls of a deployment that the view does not name wait for it to appear. One that was just applied is in the
# view within milliseconds; a controller that is away is restarted within a few seconds.
_ABSENT_S = 30.0
_CLOSE_TIMEOUT_S = 5.0

Key = tuple[str, str]


class CallerRuntime:
    """Calls deployments of one instance. Create it by `in_replica` or `for_driver`."""

    def __init__(
        self,
        controller_address: str,
        kind: str,
        ident: str,
        loop: asyncio.AbstractEventLoop,
        home: tuple[str, str] = ("", ""),
    ) -> None:
        self.loop = loop
        self.lend: Lend | None = LENDER.lend
        self.timers = TimerWheel(loop)
        self.closed = False
        self.controller_address = controller_address
        self.controller = ControllerClient(controller_address)
        self._watcher = (kind, ident)
        # The application and release that calls the deployments of its own release.
        self._home = home
        self._queues = QueueReporter(self.controller, kind, ident, self._queue)
        self.queue_keys: Sequence[bytes] = ()
        self._watch_task: asyncio.Task[None] | None = None
        self._thread: LoopThread | None = None
        # Run a function on the loop: now when this is its thread, else soon, in order.
        self.post = Mailbox(loop).run
        self._views: dict[Key, control_pb2.DeploymentView] = {}
        self._targets: dict[Key, Target[Routed]] = {}
        self._absent: dict[Key, asyncio.TimerHandle] = {}

    @classmethod
    def in_replica(cls, controller_address: str, replica_id: str, app: str = "", release: str = "") -> CallerRuntime:
        """A runtime on the running event loop, for a replica of that release. It opens no connection before the first
        call."""
        return cls(controller_address, "replica", replica_id, asyncio.get_running_loop(), (app, release))

    @classmethod
    def for_driver(cls, controller_address: str) -> CallerRuntime:
        """A runtime on a loop of its own, in a daemon thread that `close` (or the program's end) stops."""
        thread = LoopThread("swerve-handles")

        async def make() -> CallerRuntime:
            return cls(controller_address, "driver", str(os.getpid()), thread.loop)

        runtime = thread.call(make)
        runtime._thread = thread
        return runtime

    # --- for calls -------------------------------------------------------------------------------------------------

    def call(
        self, destination: Destination, origin: RequestContext, sink: Sink, unread: deque[bytes] | None = None
    ) -> RemoteCall:
        """A new call, made in the request `origin`, whose outcome goes to `sink`."""
        return RemoteCall(self, destination, origin, sink, unread)

    def target(self, app: str, deployment: str) -> Target[Routed]:
        """How to reach a deployment. Made at its first call; until the view names it, calls wait in its router."""
        key = (app, deployment)
        target = self._targets.get(key)
        if target is None:
            target = self._targets[key] = Target(app, deployment, self.loop)
            self._update(key, target)
            if self._watch_task is None:
                self._watch_task = self.loop.create_task(self._watch())
        return target

    @property
    def targets(self) -> Collection[Target[Routed]]:
        """How to reach each deployment that was called."""
        return self._targets.values()

    def reaches(self, destination: Destination) -> bool:
        """True when a replica of the deployment can be called at once. From any thread."""
        target = self._targets.get((destination.app, destination.deployment))
        return target is not None and bool(target.router.replicas)

    def take_everyone(self, destination: Destination) -> list[Replica] | None:
        """A slot of each of the deployment's replicas, whatever its load. None until it is connected to all of them."""
        target = self.target(destination.app, destination.deployment)
        if not target.settled:
            return None
        replicas = list(target.router.replicas.values())
        for replica in replicas:
            target.router.take(replica)
        return replicas

    # --- the view --------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        async for view in self.controller.watch_view(*self._watcher):
            self.queue_keys = queue_keys(view)
            self._views = {(item.app, item.name): item for item in view.deployments if self._means(item)}
            for key, target in list(self._targets.items()):
                self._update(key, target)
            self._queues.update(view)

    def _means(self, deployment: control_pb2.DeploymentView) -> bool:
        """Whether this release of the deployment is the one that handles here call."""
        app, release = self._home
        return deployment.release == release if deployment.app == app else not deployment.aside

    def _queue(self, app: str, deployment: str, release: str) -> Queue | None:
        view = self._views.get((app, deployment))
        target = self._targets.get((app, deployment)) if view is not None and view.release == release else None
        return None if target is None else target.router

    def _update(self, key: Key, target: Target[Routed]) -> None:
        view = self._views.get(key)
        if view is None:
            target.update(control_pb2.DeploymentView(max_queued_requests=-1))
            if key not in self._absent:
                self._absent[key] = self.loop.call_later(_ABSENT_S, self._give_up, key)
            return
        timer = self._absent.pop(key, None)
        if timer is not None:
            timer.cancel()
        target.update(view)
        if view.unavailable and not view.replicas:
            for call in target.router.drop_waiting():
                call.fail(DeploymentUnavailableError(target.deployment, target.app))

    def _give_up(self, key: Key) -> None:
        """The deployment did not appear. A later call waits anew."""
        self._absent.pop(key, None)
        target = self._targets.pop(key)
        text = (
            f"Deployment '{target.deployment}' in application '{target.app}' does not exist "
            f"(it did not appear within {_ABSENT_S:.0f} s)."
        )
        target.close(functools.partial(_fail, text=text))

    # --- ending ----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End every call and the watching. On the runtime's loop."""
        if self.closed:
            return
        self.closed = True
        self._queues.close()
        if self._watch_task is not None:
            self._watch_task.cancel()
        for timer in self._absent.values():
            timer.cancel()
        for target in self._targets.values():
            links: list[Connection] = [replica.link for replica in target.router.replicas.values()]
            target.close(
                functools.partial(_fail, text="This process was disconnected from Serve while the call waited.")
            )
            for link in links:
                link.close()
        await self.controller.close()

    def close(self) -> None:
        """`aclose`, then end the driver's thread. From any thread but that one; repeated calls do nothing."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.call(self.aclose, _CLOSE_TIMEOUT_S)
            thread.stop()


def _fail(call: Routed, text: str) -> None:
    call.fail(RayServeException(text))


_runtime: CallerRuntime | None = None


def set_runtime(runtime: CallerRuntime | None) -> None:
    """Make `runtime` the one that this process's handles use."""
    global _runtime
    _runtime = runtime


def get_runtime() -> CallerRuntime:
    """The runtime that this process's handles use.

    Raises:
        RayServeException: the process is connected to no instance.
    """
    runtime = _runtime
    if runtime is None or runtime.closed:
        raise RayServeException(
            "This process is not connected to a Serve instance. Start one with `serve.start()` or `serve.run(...)`."
        )
    return runtime
