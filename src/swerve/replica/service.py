"""The replica's private service: what the controller asks of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from swerve.generated import control_pb2
from swerve.net.server import MetadataDict, Method, ServerStream, Unary
from swerve.replica.errors import stack_trace
from swerve.replica.metrics import metrics_of
from swerve.replica.observer import ReplicaObserver
from swerve.replica.replica import Replica

_SERVICE = "/swerve.control.v1.Replica"


def replica_methods(replica: Replica, observer: ReplicaObserver) -> dict[str, Method]:
    """The methods of service `swerve.control.v1.Replica`, by path."""

    async def watch_state(request: bytes, metadata: MetadataDict) -> AsyncIterator[bytes]:
        async for state in replica.watch():
            yield state.SerializeToString()

    async def check_health(request: bytes, metadata: MetadataDict) -> bytes:
        try:
            await replica.check_health()
        except Exception as error:
            return control_pb2.CheckHealthResponse(healthy=False, message=stack_trace(error)).SerializeToString()
        return control_pb2.CheckHealthResponse(healthy=True).SerializeToString()

    async def reconfigure(request: bytes, metadata: MetadataDict) -> bytes:
        message = control_pb2.ReconfigureRequest.FromString(request)
        try:
            await replica.reconfigure(json.loads(message.config_json), message.rank, message.world_size)
        except Exception as error:
            return control_pb2.ReconfigureResponse(error=stack_trace(error)).SerializeToString()
        return control_pb2.ReconfigureResponse().SerializeToString()

    async def take_options(request: bytes, metadata: MetadataDict) -> bytes:
        answer = await replica.take_options(control_pb2.TakeOptionsRequest.FromString(request))
        return answer.SerializeToString()

    async def stop(request: bytes, metadata: MetadataDict) -> bytes:
        await replica.stop(control_pb2.StopRequest.FromString(request).timeout_s)
        return control_pb2.StopResponse().SerializeToString()

    async def metrics(request: bytes, metadata: MetadataDict) -> bytes:
        text = await metrics_of(observer, replica.ongoing)
        return control_pb2.MetricsResponse(text=text).SerializeToString()

    return {
        f"{_SERVICE}/WatchState": ServerStream(watch_state),
        f"{_SERVICE}/CheckHealth": Unary(check_health),
        f"{_SERVICE}/Reconfigure": Unary(reconfigure),
        f"{_SERVICE}/TakeOptions": Unary(take_options),
        f"{_SERVICE}/Stop": Unary(stop),
        f"{_SERVICE}/Metrics": Unary(metrics),
    }
