"""Tells the controller how the calls end of applications that have a canary."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from swerve.control.client import ControllerClient
from swerve.generated import control_pb2
from swerve.proxy.observer import Tally
from swerve.wire.status import RpcError

logger = logging.getLogger("swerve.proxy")

_INTERVAL_S = 0.5


class CallReporter:
    """Reads tallies by a timer, which runs while there are any. What the controller was told is taken off them."""

    def __init__(self, client: ControllerClient) -> None:
        self._client = client
        self._tallies: Mapping[tuple[str, str], Tally] = {}
        self._task: asyncio.Task[None] | None = None

    def update(self, tallies: Mapping[tuple[str, str], Tally]) -> None:
        """What is to be told of from now on, by application and release. On the loop that the calls end on."""
        self._tallies = tallies
        if tallies and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(_ended)
        elif not tallies and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            told = {key: (tally, tally.calls, tally.errors) for key, tally in self._tallies.items() if tally.calls}
            if not told:
                continue
            ended = [
                control_pb2.EndedCalls(app=app, release=release, calls=calls, errors=errors)
                for (app, release), (_, calls, errors) in told.items()
            ]
            try:
                await self._client.report_calls(control_pb2.ReportCallsRequest(ended=ended))
            except RpcError:
                continue  # the controller is away, and hears of them when it is back
            for tally, calls, errors in told.values():
                tally.calls -= calls
                tally.errors -= errors


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("Ended calls are reported no more", exc_info=task.exception())
