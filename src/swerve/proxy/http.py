"""The proxy's HTTP front door: an ASGI application that hands each request to a replica and answers its own routes.

Paths, headers, statuses and texts are Ray Serve's. `/-/metrics` is Swerve's own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from swerve.exceptions import BackPressureError
from swerve.generated import control_pb2
from swerve.generated.http_pb2 import HttpEvent, HttpField, HttpPeer, HttpRequest
from swerve.observe.metrics import CONTENT_TYPE
from swerve.proxy.http_call import HttpCall
from swerve.proxy.http_exchange import STALLED, relay_response, upload_body
from swerve.proxy.http_observer import CLIENT_CLOSED_REQUEST, HttpObserver, is_server_error
from swerve.proxy.http_reply import Fields, Receive, Reply, Send
from swerve.proxy.http_routes import HttpRoute, HttpRoutes, Wanted, build_http_routes, read_wanted
from swerve.proxy.http_websocket import WebSocketReply, relay_websocket, upload_messages
from swerve.proxy.ingress import Ingress
from swerve.proxy.request_ids import new_request_id, path_for_log
from swerve.routing.calls import Shed
from swerve.wire.retry import retry_after
from swerve.wire.status import RpcError, StatusCode

logger = logging.getLogger("swerve.proxy")

Scope: TypeAlias = MutableMapping[str, Any]

_INTERNAL_ERROR = "Internal Server Error"
_CLOSED = (
    "Interceptors decide who may call applications here, and they see gRPC calls alone (bypass_interceptors of "
    "http_options lets HTTP requests go past them)."
)
# What is left of a request that was answered early is not worth reading.
_CLOSE = (b"connection", b"close")

# What a call that its replica did not answer is answered; other codes are faults of ours.
_HTTP_STATUS = {StatusCode.RESOURCE_EXHAUSTED: 503, StatusCode.UNAVAILABLE: 503}


class HttpIngress:
    """Serves HTTP by the last view that it was given. `metrics` gives the text of `/-/metrics`."""

    def __init__(
        self,
        ingress: Ingress,
        observer: HttpObserver,
        metrics: Callable[[], Awaitable[str]],
    ) -> None:
        self.request_timeout_s: float | None = None
        self.stall_timeout_s: float | None = None
        self._ingress = ingress
        self._observer = observer
        self._metrics = metrics
        self._routes = HttpRoutes()
        # Interceptors would be worth nothing where the same applications are served without them.
        self._closed = False
        self._own = {"/-/routes": self._list_routes, "/-/healthz": self._healthz, "/-/metrics": self._prometheus}

    def update(self, view: control_pb2.View) -> None:
        """Route by `view` from now on."""
        self._routes = build_http_routes(view)
        closed = _is_closed(view.options)
        if closed and not self._closed:
            logger.warning("HTTP requests for applications are refused: %s", _CLOSED)
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_at = time.monotonic()
        wanted = read_wanted(scope["headers"])
        request_id = wanted.request_id or new_request_id().decode()
        websocket = scope["type"] == "websocket"
        reply = WebSocketReply(send, request_id) if websocket else Reply(send, request_id)
        path = route_path(scope)
        own = self._own.get(path)
        if own is not None and not websocket:
            await own(reply)
            return
        route = self._routes.match(path)
        call: HttpCall | None = None
        self._observer.ongoing += 1
        try:
            if route is None:
                await reply.text(404, _not_found(path))
            elif self._closed:
                await reply.text(403, _CLOSED)
            else:
                timeout = self.request_timeout_s if wanted.timeout_s is None else wanted.timeout_s
                call = self._call(scope, reply, route, wanted, timeout)
                await self._forward(scope, receive, reply, route, call, timeout, wanted)
        finally:
            self._observer.ongoing -= 1
            seconds = time.monotonic() - started_at
            self._record(scope, reply, route, call, seconds)

    def _record(
        self, scope: Scope, reply: Reply, route: HttpRoute | None, call: HttpCall | None, seconds: float
    ) -> None:
        """Count and log a request that has been answered."""
        app, deployment, prefix, version = "", "", "", ""
        status = reply.status or CLIENT_CLOSED_REQUEST
        if route is not None and call is not None:
            app, deployment, prefix = route.app, call.target.deployment, route.prefix
            side = self._ingress.side(call.target)
            if side is not None:
                version = side.version
                side.tally.add(error=is_server_error(status) and call.shed_because is None)
        method = scope.get("method", "WEBSOCKET")
        asked = path_for_log(scope.get("raw_path") or b"")
        self._observer.ended(app, deployment, prefix, method, status, reply.request_id, asked, seconds, version)

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
        await reply.whole(200, (await self._metrics()).encode(), CONTENT_TYPE.encode())

    # --- requests for applications ----------------------------------------------------------------------------------

    def _call(self, scope: Scope, reply: Reply, route: HttpRoute, wanted: Wanted, timeout: float | None) -> HttpCall:
        target = self._ingress.target(route.upstream, scope["headers"])
        # A WebSocket has its time to open, and then no end.
        bounded = None if isinstance(reply, WebSocketReply) else timeout
        deadline = None if bounded is None else time.monotonic() + bounded
        return HttpCall(target, HttpEvent(request=request_of(scope, route, wanted, reply.request_id)), deadline)

    async def _forward(
        self,
        scope: Scope,
        receive: Receive,
        reply: Reply,
        route: HttpRoute,
        call: HttpCall,
        timeout: float | None,
        wanted: Wanted,
    ) -> None:
        if isinstance(reply, WebSocketReply):
            call.begin(whole=False)
            upload = upload_messages(receive, call, reply)
        else:
            call.begin(whole=wanted.whole)
            stall_timeout_s = self.stall_timeout_s if wanted.whole else None
            upload = upload_body(receive, call, detached=wanted.detached, stall_timeout_s=stall_timeout_s)
        uploading = asyncio.get_running_loop().create_task(upload)
        try:
            async with asyncio.timeout(timeout) as limit:
                if isinstance(reply, WebSocketReply):
                    await relay_websocket(call, reply, limit)
                else:
                    await relay_response(call, reply)
        except TimeoutError:
            await reply.fail(408, _timed_out(reply.request_id, timeout))
        except RpcError as error:
            code = error.status.code
            if call.shed_because is not None:
                await _answer_shed(reply, route, call.shed_because)
            elif code == StatusCode.CANCELLED:
                reply.status = CLIENT_CLOSED_REQUEST
            elif code == StatusCode.NOT_FOUND:
                # The application was deleted while the request waited.
                await reply.fail(404, _not_found(route_path(scope)))
            elif code == STALLED:
                await reply.fail(408, error.status.details, [_CLOSE])
            elif code == StatusCode.DEADLINE_EXCEEDED:
                await reply.fail(408, _timed_out(reply.request_id, timeout))
            else:
                status = _HTTP_STATUS.get(code, 500)
                text = error.status.details if status != 500 else _INTERNAL_ERROR
                await reply.fail(status, text, _retry_field(call.retry_after_s))
        finally:
            call.cancel()
            uploading.cancel()


def _is_closed(options: control_pb2.InstanceOptions) -> bool:
    """Whether there are interceptors that nobody said to go past."""
    interceptors = json.loads(options.grpc_options_json or "{}").get("interceptors")
    return bool(interceptors) and not json.loads(options.http_options_json or "{}").get("bypass_interceptors", False)


def route_path(scope: Scope) -> str:
    """The path below the `root_path` option."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] or "/" if root and path.startswith(root) else path


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


def _not_found(path: str) -> str:
    return f"Path '{path}' not found. Ping http://.../-/routes for available routes."


async def _answer_shed(reply: Reply, route: HttpRoute, shed: Shed) -> None:
    text = str(BackPressureError(shed.queued, shed.limit))
    await reply.text(route.shed_status, text, _retry_field(route.retry_after_s))


def _retry_field(delay_s: float | None) -> Fields:
    return [] if delay_s is None else [(b"retry-after", retry_after(delay_s).encode())]


def _timed_out(request_id: str, timeout: float | None) -> str:
    return f"Request {request_id} timed out after {timeout}s."
