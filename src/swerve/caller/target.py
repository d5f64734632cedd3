"""One deployment as a caller reaches it: its router, the connections to its replicas, and the timer between them.

Proxies and handles share it. A replica counts for the router only while its connection is open, so a call that the
router hands out can be sent at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from swerve.exceptions import BackPressureError, DeploymentUnavailableError
from swerve.generated import control_pb2
from swerve.net.bundles import BundleCaller
from swerve.net.client import Channel
from swerve.net.connection import Connection
from swerve.routing.calls import RoutedCall, Shed, Unavailable
from swerve.routing.options import RouterOptions
from swerve.routing.replicas import Replica, ReplicaInfo
from swerve.routing.router import Router
from swerve.wire.http2 import Http2Error
from swerve.wire.status import RpcError

if TYPE_CHECKING:
    from swerve.caller.user_router import UserRouter

logger = logging.getLogger("swerve.caller")

_RECONNECT_MIN_S = 0.02
_RECONNECT_MAX_S = 1.0

Call = TypeVar("Call", bound=RoutedCall)


class Target(Generic[Call]):
    """A deployment's router with its connections. Each call is told to `send` itself when a replica is found for it;
    `replica.link` is the open connection to that. Lives on one event loop."""

    def __init__(
        self,
        app: str,
        deployment: str,
        loop: asyncio.AbstractEventLoop,
        release_id: str = "",
    ) -> None:
        self.app = app
        self.deployment = deployment
        self.release_id = release_id
        self.router: Router[Call] = Router()
        self._loop = loop
        self._wanted: dict[str, ReplicaInfo] = {}
        self._links: dict[str, _Link] = {}
        # Whether the end of this turn of the event loop will be noticed.
        self._turn_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        # Ends a call that found the deployment forgotten; set by `close`.
        self._drop: Callable[[Call], None] | None = None
        self._view = control_pb2.DeploymentView(max_queued_requests=-1)
        self._user_router: UserRouter | None = None

    def update(self, view: control_pb2.DeploymentView) -> None:
        """Take over what the view says of the deployment."""
        known, self._view = self._view, view
        if (view.request_router_json, view.request_router) != (known.request_router_json, known.request_router):
            self._configure(view)
        self.router.max_queued = view.max_queued_requests
        self.router.unavailable = view.unavailable
        self._wanted = {info.replica_id: info for info in replica_infos(view)}
        for replica_id in [known for known in self._links if known not in self._wanted]:
            self._links.pop(replica_id).close()
        for replica_id, info in self._wanted.items():
            if replica_id not in self._links:
                self._links[replica_id] = _Link(info.address, self._links_changed, self._loop)
        self._links_changed()

    def _configure(self, view: control_pb2.DeploymentView) -> None:
        options = RouterOptions.of(view.request_router_json)
        if self._user_router is not None:
            self._user_router.close()
            self._user_router = None
        if not view.request_router:
            self.router.configure(options)
            return
        # Only a caller of a deployment that has one pays for it.
        from swerve.caller.user_router import UserRouter

        self._user_router = UserRouter(
            self.app, self.deployment, view.request_router, view.sys_path, options, self._loop, self._poll
        )
        self.router.configure(options, self._user_router.affinity)

    @property
    def settled(self) -> bool:
        """True when there are replicas and a connection to each is open."""
        return bool(self._wanted) and self._wanted.keys() == self.router.replicas.keys()

    def shed_error(self, shed: Shed) -> BackPressureError:
        """What Python code sees of a call that was shed; `backpressure_config` may say when to try again."""
        view = self._view
        after = view.backpressure_retry_after_s if view.HasField("backpressure_retry_after_s") else shed.retry_after_s
        return BackPressureError(shed.queued, shed.limit, view.backpressure_status_code or 503, after)

    def unavailable_error(self) -> DeploymentUnavailableError:
        """What becomes of a call that nothing will ever serve."""
        return DeploymentUnavailableError(self.deployment, self.app)

    def submit(self, call: Call) -> None:
        """Take a new call: it is sent, waits, ends, or is dropped where the deployment is gone."""
        if self._drop is not None:
            self._drop(call)
            return
        try:
            replica = self.router.submit(call)
        except Shed as why:
            call.shed(why)
            return
        except Unavailable:
            call.unavailable()
            return
        if replica is not None:
            call.send(replica)
            if not self._turn_due and self.router.together.calls:
                self._turn_due = True
                self._loop.call_soon(self._turn_over)
        elif self.router.attention:
            self.attend()

    def _turn_over(self) -> None:
        self._turn_due = False
        self.router.together.turn_over()

    def release(self, replica: Replica, call: Call) -> None:
        """`call`, which the router sent to `replica`, ended there; the one that waits longest takes its slot."""
        if self._user_router is not None:
            self._user_router.completed(call, replica)
        router = self.router
        for call, free in router.release(replica):
            call.send(free)
        if router.attention:
            self.attend()

    def refused(self, replica: Replica, call: Call) -> None:
        """`replica` turned `call` away: it goes to another one, or waits in front."""
        if self._drop is not None:
            self._drop(call)
            return
        self._send_all(self.router.refused(replica, call))

    def adopt(self, call: Call) -> None:
        """Take a call that another target let wait."""
        if self._drop is not None:
            self._drop(call)
            return
        self._send_all(self.router.adopt(call))

    def attend(self) -> None:
        """See to what the router asks for, also after a `submit` that let a call wait."""
        router = self.router
        router.attention = False
        while router.pushed_out:
            call, why = router.pushed_out.pop()
            call.shed(why)
        if self._user_router is not None:
            self._user_router.attend()
        wake_at = router.wake_at
        if wake_at is None or (self._timer is not None and self._timer_at <= wake_at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = wake_at
        self._timer = self._loop.call_later(max(0.0, wake_at - time.monotonic()), self._wake)

    def close(self, drop: Callable[[Call], None]) -> None:
        """Forget the deployment. `drop` ends the calls that wait, or moves them, and later those that a replica turns
        away; calls that run go on."""
        self._drop = drop
        if self._timer is not None:
            self._timer.cancel()
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._wanted.clear()
        self.router.update([])
        for call in self.router.drop_waiting():
            drop(call)
        if self._user_router is not None:
            self._user_router.close()
            self._user_router = None

    def _wake(self) -> None:
        self._timer = None
        self._poll()

    def _poll(self) -> None:
        self._send_all(self.router.poll())

    def _links_changed(self) -> None:
        up = {
            replica_id: link.connection
            for replica_id, link in self._links.items()
            if link.connection is not None and link.connection.usable
        }
        # A replica that was reconnected is a new one: calls of its old connection must not free slots of the new.
        for replica in list(self.router.replicas.values()):
            if replica.link is not up.get(replica.info.replica_id):
                self.router.lost(replica)
        for replica in self.router.update([self._wanted[replica_id] for replica_id in up]):
            replica.link = up[replica.info.replica_id]
            replica.shared = replica.link.bundles
        if self._user_router is not None:
            self._user_router.replicas_changed(list(self.router.replicas.values()))
        self._poll()

    def _send_all(self, assigned: list[tuple[Call, Replica]]) -> None:
        for call, replica in assigned:
            call.send(replica)
        if self.router.attention:
            self.attend()


def replica_infos(deployment: control_pb2.DeploymentView) -> list[ReplicaInfo]:
    """The replicas of a deployment, from the view."""
    return [
        ReplicaInfo(
            replica.replica_id,
            replica.address,
            replica.max_ongoing_requests,
            frozenset(replica.multiplexed_model_ids),
            replica.routing_stats_json,
        )
        for replica in deployment.replicas
    ]


def queue_keys(view: control_pb2.View) -> tuple[bytes, ...]:
    """The metadata keys that the queue of some deployment goes by."""
    options = [RouterOptions.of(deployment.request_router_json) for deployment in view.deployments]
    return tuple({key for one in options if one.queue is not None for key in one.queue.keys})


class _Link:
    """A connection to one replica that is opened, and opened again with growing pauses, until `close`."""

    def __init__(self, address: str, on_change: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self.connection: Connection | None = None
        self._channel = Channel(address, learns_begun=True)
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = loop.create_task(self._keep_open())

    async def _keep_open(self) -> None:
        pause = _RECONNECT_MIN_S
        while True:
            try:
                self.connection = await self._channel.connect()
            except RpcError as error:
                logger.info("A replica cannot be reached: %s", error.status.details)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _RECONNECT_MAX_S)
                continue
            with contextlib.suppress(Http2Error):  # it is going away again, which is seen below
                BundleCaller(self.connection)
            self._on_change()
            pause = _RECONNECT_MIN_S
            await self.connection.wait_unusable()
            self.connection = None
            self._on_change()
            # A replica that accepts and hangs up again must not be tried in a tight loop.
            await asyncio.sleep(pause)

    def close(self) -> None:
        """Open no new calls here; the connection closes when those that run have ended."""
        task, self._task = self._task, None
        # It ends with a traceback whose frames hold this link. Held by it in turn, the task would leave both, and
        # the connection, to the garbage collector.
        if task is not None:
            task.cancel()
        self._channel.open_no_more()
        if self.connection is not None:
            self.connection.drain()
