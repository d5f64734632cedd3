"""Tells the controller how the calls end of applications that have a canary."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from swerve.control.client import ControllerClient
from swerve.generated import control_pb2
from swerve.observe.faults import RepeatedFault
from swerve.proxy.observer import Tally
from swerve.wire.status import RpcError, StatusCode

logger = logging.getLogger("swerve.proxy")

_INTERVAL_S = 0.5


class CallReporter:
    """Takes what tallies have counted by a timer, which runs while there are any. No call is told twice."""

    def __init__(self, client: ControllerClient) -> None:
        self._client = client
        self._tallies: Mapping[tuple[str, str], Tally] = {}
        self._task: asyncio.Task[None] | None = None
        self._fault = RepeatedFault(logger, "Ended calls cannot be reported to the controller")

    def update(self, tallies: Mapping[tuple[str, str], Tally]) -> None:
        """What is to be told of from now on, by application and release. On the loop that the calls end on."""
        self._tallies = tallies
        if tallies and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif not tallies and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            told = [(key, tally, *tally.take()) for key, tally in self._tallies.items() if tally.calls]
            if told:
                await self._tell(told)

    async def _tell(self, told: Sequence[tuple[tuple[str, str], Tally, int, int]]) -> None:
        ended = [
            control_pb2.EndedCalls(app=app, release=release, calls=calls, errors=errors)
            for (app, release), _, calls, errors in told
        ]
        try:
            await self._client.report_calls(control_pb2.ReportCallsRequest(ended=ended))
            self._fault.worked()
        except RpcError as error:
            # Nobody has heard, or who heard is dead and has forgotten. A report whose answer is only late, or a fault,
            # may have been counted: it is not told again.
            if error.status.code == StatusCode.UNAVAILABLE:
                for _, tally, calls, errors in told:
                    tally.put_back(calls, errors)
            else:
                self._fault.failed(error)
        except Exception as error:
            self._fault.failed(error)
