"""The controller's own gRPC service, over its private socket."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping

from swerve.control.controller import Controller
from swerve.control.deploy import Rejected
from swerve.control.events import Delete
from swerve.control.requests import deploy_event
from swerve.generated import control_pb2 as pb
from swerve.net.server import Method, ServerStream, Unary
from swerve.wire.status import RpcError, Status, StatusCode

logger = logging.getLogger("swerve.control")

SERVICE = "/swerve.control.v1.Controller/"


def methods(controller: Controller) -> Mapping[str, Method]:
    """The service's methods, by path."""
    service = _Service(controller)
    return {
        SERVICE + "Deploy": Unary(service.deploy),
        SERVICE + "Delete": Unary(service.delete),
        SERVICE + "GetStatus": Unary(service.get_status),
        SERVICE + "GetConfig": Unary(service.get_config),
        SERVICE + "Shutdown": Unary(service.shutdown),
        SERVICE + "WatchView": ServerStream(service.watch_view),
    }


class _Service:
    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def deploy(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        message = pb.DeployRequest.FromString(request)
        try:
            event, code = deploy_event(message, asyncio.get_running_loop().time(), time.time())
            self._controller.apply(event, code)
        except Rejected as error:
            raise RpcError(Status(StatusCode.INVALID_ARGUMENT, str(error))) from error
        logger.info("deployed %s", ", ".join(app.name for app in message.applications))
        return pb.DeployResponse().SerializeToString()

    async def delete(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        names = tuple(pb.DeleteRequest.FromString(request).names)
        unknown = [name for name in names if name not in self._controller.state.applications]
        self._controller.apply(Delete(asyncio.get_running_loop().time(), names))
        logger.info("deleted %s", ", ".join(names))
        return pb.DeleteResponse(unknown=unknown).SerializeToString()

    async def get_status(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        return self._controller.status().SerializeToString()

    async def get_config(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        return pb.GetConfigResponse(config_json=self._controller.state.config_json).SerializeToString()

    async def shutdown(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        await self._controller.shutdown(forget=True)
        return pb.ShutdownResponse().SerializeToString()

    async def watch_view(self, request: bytes, metadata: Mapping[str, str]) -> AsyncIterator[bytes]:
        message = pb.WatchViewRequest.FromString(request)
        logger.debug("%s %s watches", message.kind, message.id)
        async for view in self._controller.publisher.watch():
            yield view
