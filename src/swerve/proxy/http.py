"""The proxy's HTTP front door: an ASGI application that hands each request to a replica and answers its own routes.

Paths, headers, statuses and texts are Ray Serve's. `/-/metrics` is Swerve's own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from swerve.generated import control_pb2
from swerve.generated.http_pb2 import HttpEvent, HttpField, HttpPeer, HttpRequest
from swerve.proxy.forward import new_request_id
from swerve.proxy.http_call import HttpCall
from swerve.proxy.http_observer import CLIENT_CLOSED_REQUEST, HttpObserver
from swerve.proxy.http_routes import HttpRoute, HttpRoutes, Wanted, build_http_routes, read_wanted
from swerve.proxy.ingress import Ingress
from swerve.routing.router import Shed, Unavailable
from swerve.wire.status import RpcError, Status, StatusCode

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Fields: TypeAlias = list[tuple[bytes, bytes]]

_TEXT = b"text/plain; charset=utf-8"
_REQUEST_ID = b"x-request-id"
_INTERNAL_ERROR = "Internal Server Error"

# What a call that its replica did not answer is answered; other codes are faults of ours.
_HTTP_STATUS = {
    StatusCode.DEADLINE_EXCEEDED: 408,
    StatusCode.NOT_FOUND: 404,
    StatusCode.RESOURCE_EXHAUSTED: 503,
    StatusCode.UNAVAILABLE: 503,
}


class HttpIngress:
    """Serves HTTP by the last view that it was given. `metrics` gives the proxy's other series."""

    def __init__(
        self,
        ingress: Ingress,
        observer: HttpObserver,
        metrics: Callable[[], str],
        request_timeout_s: float | None,
    ) -> None:
        self._ingress = ingress
        self._observer = observer
        self._metrics = metrics
        self._timeout_s = request_timeout_s
        self._routes = HttpRoutes()
        self._own = {"/-/routes": self._list_routes, "/-/healthz": self._healthz, "/-/metrics": self._prometheus}

    def update(self, view: control_pb2.View) -> None:
        """Route by `view` from now on."""
        self._routes = build_http_routes(view)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_at = time.monotonic()
        wanted = read_wanted(scope["headers"])
        request_id = wanted.request_id or new_request_id().decode()
        reply = Reply(send, request_id)
        path = route_path(scope)
        own = self._own.get(path)
        if own is not None:
            await own(reply)
            return
        route = self._routes.match(path)
        self._observer.ongoing += 1
        try:
            if route is None:
                await reply.text(404, f"Path '{path}' not found. Ping http://.../-/routes for available routes.")
            else:
                timeout = self._timeout_s if wanted.timeout_s is None else wanted.timeout_s
                await self._forward(scope, receive, reply, route, wanted, timeout)
        finally:
            self._observer.ongoing -= 1
            app, deployment, prefix = (route.app, route.deployment, route.prefix) if route else ("", "", "")
            seconds = time.monotonic() - started_at
            status = reply.status or CLIENT_CLOSED_REQUEST
            self._observer.ended(
                app, deployment, prefix, scope["method"], status, request_id, path_for_log(scope), seconds
            )

    # --- routes of the proxy ----------------------------------------------------------------------------------------

    async def _list_routes(self, reply: Reply) -> None:
        if await self._healthy(reply):
            body = json.dumps(self._routes.applications, separators=(",", ":")).encode()
            await reply.whole(200, body, b"application/json")

    async def _healthz(self, reply: Reply) -> None:
        if await self._healthy(reply):
            await reply.text(200, "success")

    async def _healthy(self, reply: Reply) -> bool:
        state = self._ingress.builtin.state()
        if state.code == StatusCode.OK:
            return True
        await reply.text(503, state.details)
        return False

    async def _prometheus(self, reply: Reply) -> None:
        text = self._metrics() + self._observer.prometheus_text()
        await reply.whole(200, text.encode(), b"text/plain; version=0.0.4; charset=utf-8")

    # --- requests for applications ----------------------------------------------------------------------------------

    async def _forward(
        self, scope: Scope, receive: Receive, reply: Reply, route: HttpRoute, wanted: Wanted, timeout: float | None
    ) -> None:
        target = self._ingress.target(route.app, route.deployment)
        if target is None:
            await reply.text(503, f"Application '{route.app}' is not deployed yet.")
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        call = HttpCall(target, HttpEvent(request=request_of(scope, route, wanted, reply.request_id)), deadline)
        try:
            call.submit()
        except Shed as shed:
            retry = route.retry_after_s
            extra = [] if retry is None else [(b"retry-after", f"{retry:g}".encode())]
            text = (
                f"Request dropped due to backpressure (num_queued_requests={shed.queued}, "
                f"max_queued_requests={shed.limit})."
            )
            await reply.text(route.shed_status, text, extra)
            return
        except Unavailable:
            text = (
                f"Deployment(name='{route.deployment}', app='{route.app}') is unavailable because it failed to deploy."
            )
            await reply.text(503, text)
            return
        upload = asyncio.get_running_loop().create_task(_upload(receive, call, detached=wanted.detached))
        try:
            async with asyncio.timeout(timeout):
                await _relay(call, reply)
        except TimeoutError:
            await reply.fail(408, _timed_out(reply.request_id, timeout))
        except RpcError as error:
            code = error.status.code
            if code == StatusCode.CANCELLED:
                reply.status = CLIENT_CLOSED_REQUEST
            elif code == StatusCode.DEADLINE_EXCEEDED:
                await reply.fail(408, _timed_out(reply.request_id, timeout))
            else:
                status = _HTTP_STATUS.get(code, 500)
                await reply.fail(status, error.status.details if status != 500 else _INTERNAL_ERROR)
        finally:
            call.cancel()
            upload.cancel()


async def _upload(receive: Receive, call: HttpCall, *, detached: bool) -> None:
    """Pass the client's body on, then watch for its going away."""
    complete = False
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            if detached and complete:
                return
            call.cancel()
            return
        complete = not event.get("more_body", False)
        body = event.get("body", b"")
        if body or complete:
            await call.write(HttpEvent(body=body) if body else None, last=complete)


async def _relay(call: HttpCall, reply: Reply) -> None:
    """Pass the replica's response on.

    Raises:
        RpcError: the call ended without a complete response.
    """
    head = await call.read()
    if head is None:
        raise RpcError(Status(StatusCode.INTERNAL, "The replica ended the call without a response."))
    await reply.start(head.response.status, [(field.name, field.value) for field in head.response.headers])
    while not reply.complete:
        event = None if call.exhausted else await call.read()
        if event is None:
            await reply.body(b"", more=False)
        else:
            await reply.body(event.body, more=not call.exhausted)


class Reply:
    """The response to one request. `status` is 0 until there is one."""

    __slots__ = ("_send", "complete", "request_id", "status")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status = 0
        self.complete = False

    async def start(self, status: int, headers: Fields) -> None:
        """Send the head, with the request's id as its `X-Request-ID`."""
        self.status = status
        headers = [field for field in headers if field[0].lower() != _REQUEST_ID]
        headers.append((_REQUEST_ID, self.request_id.encode("latin-1")))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, data: bytes, *, more: bool) -> None:
        self.complete = not more
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def whole(self, status: int, data: bytes, content_type: bytes, extra: Fields | None = None) -> None:
        """Answer with `data`."""
        length = str(len(data)).encode()
        await self.start(status, [(b"content-type", content_type), (b"content-length", length), *(extra or [])])
        await self.body(data, more=False)

    async def text(self, status: int, text: str, extra: Fields | None = None) -> None:
        """Answer with plain text."""
        await self.whole(status, text.encode("utf-8", "replace"), _TEXT, extra)

    async def fail(self, status: int, text: str) -> None:
        """Answer with an error; if the head has left already, the response stays incomplete and the server hangs up,
        so that no client takes it for whole."""
        if self.status:
            self.status = status
        else:
            await self.text(status, text)


def route_path(scope: Scope) -> str:
    """The path below the `root_path` option."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] or "/" if root and path.startswith(root) else path


def path_for_log(scope: Scope) -> str:
    """The path as the client wrote it, without line breaks and not too long."""
    return bytes(scope.get("raw_path") or b"").decode("latin-1")[:256]


def request_of(scope: Scope, route: HttpRoute, wanted: Wanted, request_id: str) -> HttpRequest:
    """The request as the replica gets it: the route's prefix is part of its root path (ASGI: `path` stays whole)."""
    prefix = "" if route.prefix == "/" else route.prefix
    return HttpRequest(
        request_id=request_id,
        route=route.prefix,
        multiplexed_model_id=wanted.model_id,
        session_id=wanted.session_id,
        websocket=scope["type"] == "websocket",
        method=scope.get("method", ""),
        scheme=scope["scheme"],
        http_version=scope["http_version"],
        path=scope["path"],
        raw_path=scope.get("raw_path") or b"",
        query_string=scope["query_string"],
        root_path=scope.get("root_path", "") + prefix,
        headers=[HttpField(name=name, value=value) for name, value in scope["headers"]],
        client=_peer(scope.get("client")),
        server=_peer(scope.get("server")),
        subprotocols=scope.get("subprotocols", ()),
    )


def _peer(address: tuple[str, int | None] | None) -> HttpPeer | None:
    return None if address is None else HttpPeer(host=address[0], port=address[1] or 0)


def _timed_out(request_id: str, timeout: float | None) -> str:
    return f"Request {request_id} timed out after {timeout}s."
