"""Tells the controller how many calls of this process wait for autoscaled deployments."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from swerve.control.client import ControllerClient
from swerve.generated import control_pb2
from swerve.observe.faults import RepeatedFault
from swerve.wire.status import RpcError

logger = logging.getLogger("swerve.caller")

# Changes are told at most this often.
_INTERVAL_S = 0.1
# While any call waits it is told again so often: the controller forgets who is silent, and may have started anew.
_REPEAT_S = 1.0

# Application, deployment and release.
Key = tuple[str, str, str]


class Queue(Protocol):
    """What is looked at of a router."""

    @property
    def queued(self) -> int: ...


class QueueReporter:
    """Reads the routers' queue lengths by a timer, which runs while the view names an autoscaled deployment.

    `find` gives the router of a deployment, None if this process does not call it.
    """

    def __init__(
        self,
        client: ControllerClient,
        kind: str,
        ident: str,
        find: Callable[[str, str, str], Queue | None],
    ) -> None:
        self._client = client
        self._kind = kind
        self._ident = ident
        self._find = find
        self._autoscaled: list[Key] = []
        self._told: dict[Key, int] = {}
        self._repeat_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._fault = RepeatedFault(logger, "Queue lengths cannot be reported to the controller")

    def update(self, view: control_pb2.View) -> None:
        """The deployments that are autoscaled now. On the loop that the routers live on."""
        self._autoscaled = [(item.app, item.name, item.release) for item in view.deployments if item.autoscaled]
        if self._autoscaled and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif not self._autoscaled:
            self.close()

    def close(self) -> None:
        """Report nothing any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._told = {}

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            try:
                await self._report(asyncio.get_running_loop().time())
                self._fault.worked()
            except RpcError:
                pass  # the controller is away, and hears of it when it is back
            except Exception as error:
                self._fault.failed(error)

    async def _report(self, now: float) -> None:
        queues = {key: count for key in self._autoscaled if (count := self._queued(key))}
        if queues == self._told and (not queues or now < self._repeat_at):
            return
        await self._client.report_queues(self._request(queues))
        self._told = queues
        self._repeat_at = now + _REPEAT_S

    def _queued(self, key: Key) -> int:
        router = self._find(*key)
        return 0 if router is None else router.queued

    def _request(self, queues: dict[Key, int]) -> control_pb2.ReportQueuesRequest:
        return control_pb2.ReportQueuesRequest(
            kind=self._kind,
            id=self._ident,
            queues=[
                control_pb2.QueueLength(app=app, deployment=deployment, release=release, queued=count)
                for (app, deployment, release), count in queues.items()
            ],
        )
