"""Calls to the controller, from commands, drivers, proxies and replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from swerve.generated import control_pb2 as pb
from swerve.net.client import Channel
from swerve.wire.status import RpcError

_SERVICE = "/swerve.control.v1.Controller/"
_TIMEOUT_S = 10.0
# The controller gives the processes a second.
_METRICS_TIMEOUT_S = 3.0
_RETRY_FIRST_S = 0.05
_RETRY_LAST_S = 1.0


class ControllerClient:
    """The controller at an address. Methods raise RpcError; UNAVAILABLE means that nobody answers there."""

    def __init__(self, address: str) -> None:
        self._channel = Channel(address)
        self._closed = asyncio.Event()

    async def deploy(self, request: pb.DeployRequest, timeout_s: float = 30.0) -> None:
        """Apply all applications of the request; returns when the new goal is stored.

        Raises:
            RpcError: INVALID_ARGUMENT with what is wrong, or ABORTED where the options are not those any more that the
                request was made from; nothing was applied.
        """
        await self._channel.unary(_SERVICE + "Deploy", request.SerializeToString(), timeout=timeout_s)

    async def delete(self, names: Iterable[str]) -> list[str]:
        """Begin to delete applications; the names that no application has."""
        request = pb.DeleteRequest(names=names).SerializeToString()
        answer = await self._channel.unary(_SERVICE + "Delete", request, timeout=_TIMEOUT_S)
        return list(pb.DeleteResponse.FromString(answer).unknown)

    async def scale(self, app: str, deployment: str, num_replicas: int) -> None:
        """Set a deployment's number of replicas; returns when that is stored.

        Raises:
            RpcError: NOT_FOUND, or FAILED_PRECONDITION where that is not allowed.
        """
        request = pb.ScaleRequest(app=app, deployment=deployment, num_replicas=num_replicas).SerializeToString()
        await self._channel.unary(_SERVICE + "Scale", request, timeout=_TIMEOUT_S)

    async def start_canary(self, canary: pb.Canary) -> None:
        """Start a canary, or change how the present one is treated; returns when that is stored.

        Raises:
            RpcError: INVALID_ARGUMENT with what is wrong; nothing has changed.
        """
        request = pb.StartCanaryRequest(canary=canary).SerializeToString()
        await self._channel.unary(_SERVICE + "StartCanary", request, timeout=_TIMEOUT_S)

    async def change_canary(self, request: pb.ChangeCanaryRequest) -> None:
        """Weigh, promote or roll back a canary; returns when the proxies route so.

        Raises:
            RpcError: NOT_FOUND, or FAILED_PRECONDITION where the canary is not in the phase for it.
        """
        await self._channel.unary(_SERVICE + "ChangeCanary", request.SerializeToString(), timeout=_TIMEOUT_S)

    async def report_calls(self, request: pb.ReportCallsRequest) -> None:
        """Tell which calls of applications with a canary have ended in this proxy."""
        await self._channel.unary(_SERVICE + "ReportCalls", request.SerializeToString(), timeout=_TIMEOUT_S)

    async def report_queues(self, request: pb.ReportQueuesRequest) -> None:
        """Tell how many calls wait in this process."""
        await self._channel.unary(_SERVICE + "ReportQueues", request.SerializeToString(), timeout=_TIMEOUT_S)

    async def saw_view(self, proxy_id: str, version: int, *, reported: bool) -> None:
        """Tell that a proxy routes by this view, and whether its ready file says something new."""
        request = pb.SawViewRequest(proxy_id=proxy_id, version=version, reported=reported).SerializeToString()
        await self._channel.unary(_SERVICE + "SawView", request, timeout=_TIMEOUT_S)

    async def status(self, *, when_seen: bool = False) -> pb.InstanceStatus:
        """How everything does; `when_seen`: when the proxies route by the present state."""
        request = pb.GetStatusRequest(when_seen=when_seen).SerializeToString()
        answer = await self._channel.unary(_SERVICE + "GetStatus", request, timeout=_TIMEOUT_S)
        return pb.InstanceStatus.FromString(answer)

    async def config(self) -> str:
        """JSON of the last applied configuration file, "" if none was."""
        request = pb.GetConfigRequest().SerializeToString()
        answer = await self._channel.unary(_SERVICE + "GetConfig", request, timeout=_TIMEOUT_S)
        return pb.GetConfigResponse.FromString(answer).config_json

    async def metrics(self) -> str:
        """The series of every process of the instance, in Prometheus' text format."""
        request = pb.MetricsRequest().SerializeToString()
        answer = await self._channel.unary(_SERVICE + "Metrics", request, timeout=_METRICS_TIMEOUT_S)
        return pb.MetricsResponse.FromString(answer).text

    async def renew_certificates(self) -> pb.RenewCertificatesResponse:
        """Have the proxies read the files of their certificates; returns what they say."""
        request = pb.RenewCertificatesRequest().SerializeToString()
        answer = await self._channel.unary(_SERVICE + "RenewCertificates", request, timeout=_TIMEOUT_S)
        return pb.RenewCertificatesResponse.FromString(answer)

    async def shutdown(self) -> None:
        """Begin to end the instance and forget what was deployed."""
        request = pb.ShutdownRequest().SerializeToString()
        await self._channel.unary(_SERVICE + "Shutdown", request, timeout=_TIMEOUT_S)

    async def watch_view(self, kind: str, ident: str) -> AsyncIterator[pb.View]:
        """The view and each change of it. While the controller is away it is tried again, until this is closed."""
        request = pb.WatchViewRequest(kind=kind, id=ident).SerializeToString()
        delay = _RETRY_FIRST_S
        while not self._closed.is_set():
            stream = self._channel.stream(_SERVICE + "WatchView", request)
            try:
                async for message in stream:
                    delay = _RETRY_FIRST_S
                    yield pb.View.FromString(message)
            except RpcError:
                pass  # the controller is away: what was seen last goes on being true
            finally:
                stream.cancel()
            try:
                await asyncio.wait_for(self._closed.wait(), delay)
            except TimeoutError:
                delay = min(delay * 2, _RETRY_LAST_S)

    async def close(self) -> None:
        self._closed.set()
        await self._channel.close()
