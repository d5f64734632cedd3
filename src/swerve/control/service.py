"""The controller's own gRPC service, over its private socket."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace

from swerve.control import scale
from swerve.control.canary import BY_COMMAND, CanaryNotFound, CanaryRefused, check_change
from swerve.control.controller import Controller
from swerve.control.deploy import Rejected, check
from swerve.control.events import Delete, PromoteCanary, RollBackCanary, Scale, StartCanary, WeighCanary
from swerve.control.model import DeploymentKey, Ended
from swerve.control.requests import deploy_event, new_canary
from swerve.control.scale import ScaleNotFound, ScaleRefused
from swerve.control.store import StoreError
from swerve.generated import control_pb2 as pb
from swerve.net.server import Method, ServerStream, Unary
from swerve.wire.status import RpcError, Status, StatusCode

logger = logging.getLogger("swerve.control")

_Change = Callable[[bytes, Mapping[str, str]], Awaitable[bytes]]

SERVICE = "/swerve.control.v1.Controller/"


def methods(controller: Controller) -> Mapping[str, Method]:
    """The service's methods, by path."""
    service = _Service(controller)
    return {
        SERVICE + "Deploy": Unary(_stored(service.deploy)),
        SERVICE + "Delete": Unary(_stored(service.delete)),
        SERVICE + "Scale": Unary(_stored(service.scale)),
        SERVICE + "StartCanary": Unary(_stored(service.start_canary)),
        SERVICE + "ChangeCanary": Unary(_stored(service.change_canary)),
        SERVICE + "ReportCalls": Unary(service.report_calls),
        SERVICE + "ReportQueues": Unary(service.report_queues),
        SERVICE + "SawView": Unary(service.saw_view),
        SERVICE + "GetStatus": Unary(service.get_status),
        SERVICE + "GetConfig": Unary(service.get_config),
        SERVICE + "Metrics": Unary(service.metrics),
        SERVICE + "RenewCertificates": Unary(service.renew_certificates),
        SERVICE + "Shutdown": Unary(service.shutdown),
        SERVICE + "WatchView": ServerStream(service.watch_view),
    }


def _stored(change: _Change) -> _Change:
    """`change`, which says so when what it leads to cannot be stored."""

    async def changed(request: bytes, metadata: Mapping[str, str]) -> bytes:
        try:
            return await change(request, metadata)
        except StoreError as error:
            logger.error("%s", error)
            raise RpcError(Status(StatusCode.FAILED_PRECONDITION, str(error))) from error

    return changed


class Outdated(Exception):
    """The request was made from options that are not in force any more. Nothing of it was applied."""


class _Service:
    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        # One after the other: what is prepared for one holds until it is applied.
        self._deploying = asyncio.Lock()

    async def deploy(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        message = pb.DeployRequest.FromString(request)
        try:
            async with self._deploying:
                await self._apply(message)
        except Rejected as error:
            raise RpcError(Status(StatusCode.INVALID_ARGUMENT, str(error))) from error
        except Outdated as error:
            raise RpcError(Status(StatusCode.ABORTED, str(error))) from error
        if message.applications:
            logger.info("deployed %s", ", ".join(app.name for app in message.applications))
        # An application that needs no replica runs at once; its first call must find it.
        await self._controller.until_seen()
        return pb.DeployResponse().SerializeToString()

    async def _apply(self, message: pb.DeployRequest) -> None:
        event, code = deploy_event(message, asyncio.get_running_loop().time(), time.time())
        present = self._controller.state.options
        if message.options_digest not in ("", present.digest):
            raise Outdated("The instance's options have been changed meanwhile. Nothing was deployed; try again.")
        if (event.options, event.base_options or present.base) == (present.in_force, present.base):
            event = replace(event, options=None)
        if event.options is not None:
            check(self._controller.state, event)
            event = replace(event, outdated=await self._controller.prepare(event.options))
            logger.info("the instance's options change")
        self._controller.apply(event, code)

    async def delete(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        names = tuple(pb.DeleteRequest.FromString(request).names)
        unknown = [name for name in names if name not in self._controller.state.applications]
        self._controller.apply(Delete(asyncio.get_running_loop().time(), names))
        logger.info("deleted %s", ", ".join(names))
        return pb.DeleteResponse(unknown=unknown).SerializeToString()

    async def scale(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        message = pb.ScaleRequest.FromString(request)
        application = self._controller.state.applications.get(message.app)
        release = "" if application is None else application.release
        key = DeploymentKey(message.app, message.deployment, release)
        try:
            scale.check(self._controller.state, key)
        except ScaleNotFound as error:
            raise RpcError(Status(StatusCode.NOT_FOUND, str(error))) from error
        except ScaleRefused as error:
            raise RpcError(Status(StatusCode.FAILED_PRECONDITION, str(error))) from error
        logger.info("%s:%s is scaled to %d replicas from outside", key.app, key.name, message.num_replicas)
        self._controller.apply(Scale(asyncio.get_running_loop().time(), key, message.num_replicas, autoscaling=False))
        return pb.ScaleResponse().SerializeToString()

    async def start_canary(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        message = pb.StartCanaryRequest.FromString(request)
        try:
            canary, code = new_canary(message.canary, time.time())
            self._controller.apply(StartCanary(asyncio.get_running_loop().time(), canary), code)
        except Rejected as error:
            raise RpcError(Status(StatusCode.INVALID_ARGUMENT, str(error))) from error
        logger.info("a canary of %s starts", canary.application.name)
        await self._controller.until_seen()
        return pb.StartCanaryResponse().SerializeToString()

    async def change_canary(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        message = pb.ChangeCanaryRequest.FromString(request)
        event = _change(message, asyncio.get_running_loop().time())
        try:
            check_change(self._controller.state, event)
        except CanaryNotFound as error:
            raise RpcError(Status(StatusCode.NOT_FOUND, str(error))) from error
        except CanaryRefused as error:
            raise RpcError(Status(StatusCode.FAILED_PRECONDITION, str(error))) from error
        logger.info("the canary of %s: %s by command", event.app, message.WhichOneof("change"))
        self._controller.apply(event)
        await self._controller.until_seen()
        return pb.ChangeCanaryResponse().SerializeToString()

    async def report_calls(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        for item in pb.ReportCallsRequest.FromString(request).ended:
            self._controller.calls_ended(item.app, item.release, Ended(item.calls, item.errors))
        return pb.ReportCallsResponse().SerializeToString()

    async def report_queues(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        message = pb.ReportQueuesRequest.FromString(request)
        queues = {DeploymentKey(item.app, item.deployment, item.release): item.queued for item in message.queues}
        self._controller.queues_reported(message.kind, message.id, queues)
        return pb.ReportQueuesResponse().SerializeToString()

    async def saw_view(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        message = pb.SawViewRequest.FromString(request)
        if message.reported:
            self._controller.proxy_reported(message.proxy_id)
        self._controller.publisher.saw(message.proxy_id, message.version)
        return pb.SawViewResponse().SerializeToString()

    async def get_status(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        if pb.GetStatusRequest.FromString(request).when_seen:
            await self._controller.until_seen()
        return self._controller.status().SerializeToString()

    async def get_config(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        return pb.GetConfigResponse(config_json=self._controller.state.config_json).SerializeToString()

    async def metrics(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        return pb.MetricsResponse(text=await self._controller.metrics()).SerializeToString()

    async def renew_certificates(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        return (await self._controller.renew_certificates()).SerializeToString()

    async def shutdown(self, request: bytes, metadata: Mapping[str, str]) -> bytes:
        await self._controller.shutdown(forget=True)
        return pb.ShutdownResponse().SerializeToString()

    async def watch_view(self, request: bytes, metadata: Mapping[str, str]) -> AsyncIterator[bytes]:
        message = pb.WatchViewRequest.FromString(request)
        logger.debug("%s %s watches", message.kind, message.id)
        async for view in self._controller.publisher.watch():
            yield view


def _change(message: pb.ChangeCanaryRequest, now: float) -> WeighCanary | PromoteCanary | RollBackCanary:
    """The event that a request asks for.

    Raises:
        RpcError: it asks for none that there is.
    """
    match message.WhichOneof("change"):
        case "weight" if 0 <= message.weight <= 100:
            return WeighCanary(now, message.app, message.weight)
        case "promote":
            return PromoteCanary(now, message.app)
        case "rollback":
            return RollBackCanary(now, message.app, BY_COMMAND)
    raise RpcError(Status(StatusCode.INVALID_ARGUMENT, "A canary's weight is a number from 0 to 100."))
