"""The controller's connections to its replicas: the reports they send, and the calls made to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swerve.control.events import Phase
from swerve.generated import control_pb2 as pb
from swerve.net.client import Channel
from swerve.wire.status import RpcError

_SERVICE = "/swerve.control.v1.Replica/"
# A new replica listens as soon as its interpreter runs; one that lost its connection is tried less often.
_RETRY_FIRST_S = 0.01
_RETRY_STARTING_S = 0.05
_RETRY_LOST_S = 0.5
_RECONFIGURE_TIMEOUT_S = 600.0
# Importing generated code takes a fraction of a second; whoever deploys waits for it.
_LEARN_TIMEOUT_S = 10.0
# What an answer to Stop may take beyond the time that calls have.
_STOP_SLACK_S = 1.0
_PHASES = {
    pb.ReplicaState.INITIALIZING: Phase.INITIALIZING,
    pb.ReplicaState.RUNNING: Phase.RUNNING,
    pb.ReplicaState.FAILED: Phase.FAILED,
    pb.ReplicaState.DRAINING: Phase.DRAINING,
}

OnReport = Callable[[str, Phase, pb.ReplicaState], None]
OnLoad = Callable[[str, pb.ReplicaState], None]


class ReplicaLink:
    """One replica. Its methods raise RpcError when the replica does not answer."""

    def __init__(self, replica_id: str, address: str, on_report: OnReport, on_load: OnLoad) -> None:
        self._id = replica_id
        self._channel = Channel(address)
        self._on_report = on_report
        self._on_load = on_load

    async def watch(self) -> None:
        """Pass on each report of the replica, until cancelled; one that tells of nothing but its load only as such."""
        delay, longest = _RETRY_FIRST_S, _RETRY_STARTING_S
        try:
            while True:
                stream = self._channel.stream(_SERVICE + "WatchState", pb.WatchStateRequest().SerializeToString())
                told = None
                try:
                    async for message in stream:
                        delay, longest = _RETRY_FIRST_S, _RETRY_LOST_S
                        report = pb.ReplicaState.FromString(message)
                        if report.phase not in _PHASES:
                            continue
                        models = tuple(report.multiplexed_model_ids)
                        content = (report.phase, report.message, models, report.routing_stats_json)
                        if content != told:
                            told = content
                            self._on_report(self._id, _PHASES[report.phase], report)
                        self._on_load(self._id, report)
                except RpcError:
                    pass  # not there yet, or gone: the engine says which
                finally:
                    stream.cancel()
                await asyncio.sleep(delay)
                delay = min(delay * 2, longest)
        finally:
            await self._channel.close()

    async def check_health(self, timeout_s: float) -> pb.CheckHealthResponse:
        request = pb.CheckHealthRequest().SerializeToString()
        answer = await self._channel.unary(_SERVICE + "CheckHealth", request, timeout=timeout_s)
        return pb.CheckHealthResponse.FromString(answer)

    async def reconfigure(self, request: pb.ReconfigureRequest) -> str:
        """The error, "" when it succeeded."""
        message = request.SerializeToString()
        answer = await self._channel.unary(_SERVICE + "Reconfigure", message, timeout=_RECONFIGURE_TIMEOUT_S)
        return pb.ReconfigureResponse.FromString(answer).error

    async def take_options(self, request: pb.TakeOptionsRequest) -> pb.TakeOptionsResponse:
        message = request.SerializeToString()
        answer = await self._channel.unary(_SERVICE + "TakeOptions", message, timeout=_LEARN_TIMEOUT_S)
        return pb.TakeOptionsResponse.FromString(answer)

    async def stop(self, timeout_s: float) -> None:
        request = pb.StopRequest(timeout_s=timeout_s).SerializeToString()
        await self._channel.unary(_SERVICE + "Stop", request, timeout=timeout_s + _STOP_SLACK_S)
