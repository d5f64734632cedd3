"""The proxy's front door: each request is checked, routed by the current view, and handed on."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from swerve.caller.target import Target
from swerve.generated import control_pb2
from swerve.net.connection import Connection
from swerve.net.server_call import RESPONSE_HEADERS, status_trailers
from swerve.net.streams import Headers, StreamHandler
from swerve.net.timers import TimerWheel
from swerve.observe.metrics import CANARY
from swerve.proxy.builtin import UNKNOWN_METHOD, BuiltinServices
from swerve.proxy.forward import REQUEST_ID_FIELD, CallKind, CallObserver, CallSeries, ForwardedCall
from swerve.proxy.observer import IngressObserver, SideObserver, Tally
from swerve.proxy.request_ids import is_usable, new_request_id
from swerve.proxy.routes import RouteTable, Upstream, build_routes, not_found
from swerve.routing.calls import RoutedCall
from swerve.wire.deadline import parse_timeout
from swerve.wire.header_block import MAX_REMEMBERED, HeaderBlock
from swerve.wire.status import Status, StatusCode

if TYPE_CHECKING:
    from swerve.proxy.interception import Interceptors

# With a format of the messages, or without. "application/grpc-web" is another protocol, whose clients could not read
# the answer.
_GRPC_CONTENT_TYPE = re.compile(rb"application/grpc([+; ].*)?", re.IGNORECASE)
_DEADLINE_EXCEEDED = "Deadline Exceeded"


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What becomes of requests with a header block while `routes` are in force."""

    routes: RouteTable
    kind: CallKind
    ingress: Upstream
    # Where they go, and are counted, if their application has no canary.
    target: Target[ProxiedCall]
    series: CallSeries
    # Whether it has one.
    split: bool
    # Whether they have a deadline.
    timed: bool


class ProxiedCall(RoutedCall, Protocol):
    """A client's call, of whichever protocol, as its deployment's router hands it out."""

    def fail(self, code: StatusCode, details: str) -> None:
        """End, while it waits."""

    def move(self, target: Target[ProxiedCall], observer: CallObserver) -> None:
        """Wait for another release instead."""


class Ingress:
    """Routes requests by the last view that it was given."""

    def __init__(self, loop: asyncio.AbstractEventLoop, observer: IngressObserver) -> None:
        self.builtin = BuiltinServices()
        self._loop = loop
        self._observer = observer
        self._timers = TimerWheel(loop)
        self._routes = RouteTable()
        self._targets: dict[Upstream, Target[ProxiedCall]] = {}
        # Of the applications that have a canary.
        self._sides: dict[Upstream, SideObserver] = {}
        self._make_call: Callable[..., ForwardedCall] = ForwardedCall
        self._accept_builtin: Callable[..., StreamHandler] = self.builtin.accept

    def intercept(self, interceptors: Interceptors | None) -> None:
        """Have these see each call first from now on."""
        if interceptors is None:
            self._make_call, self._accept_builtin = ForwardedCall, self.builtin.accept
            return
        # Only a proxy that has interceptors pays for what they need.
        from swerve.proxy.interception import InterceptedCall, builtin_acceptor

        self._make_call = functools.partial(InterceptedCall, interceptors)
        self._accept_builtin = builtin_acceptor(interceptors, self.builtin, self._refuse)

    # --- the view --------------------------------------------------------------------------------------------------

    def update(self, view: control_pb2.View) -> None:
        """Route by `view` from now on. Calls that wait for a deployment that is gone end NOT_FOUND."""
        self._routes = build_routes(view)
        self._follow_canaries(view)
        wanted = {*self._routes.ingresses.values(), *(canary.upstream for canary in self._routes.canaries.values())}
        deployments = {Upstream(item.app, item.name, item.release): item for item in view.deployments}
        for key in wanted:
            target = self._targets.get(key)
            if target is None:
                target = self._targets[key] = Target(key.app, key.deployment, self._loop, key.release)
            deployment = deployments.get(key)
            if deployment is not None:
                target.update(deployment)
        for key in [known for known in self._targets if known not in wanted]:
            self._targets.pop(key).close(functools.partial(self._pass_on, key.app.encode()))
        self.builtin.update(self._routes.applications, view, reflects=self._routes.limits.enable_reflection)

    def _pass_on(self, app: bytes, call: ProxiedCall) -> None:
        """Give a call, whose release of `app` is gone, to the one that takes new calls now."""
        # Looked up for each call: a closed target that named the next would keep all that follow it alive, for as long
        # as a client is idle whose header block leads to it.
        heir = self._routes.ingresses.get(app)
        if heir is None:
            call.fail(StatusCode.NOT_FOUND, not_found(app))
        else:
            call.move(self._targets[heir], self._observer_of(heir))

    def _follow_canaries(self, view: control_pb2.View) -> None:
        """Count the calls of both sides where there is a canary, also while it gets none."""
        versions: dict[Upstream, str] = {}
        for app in view.applications:
            if app.HasField("canary"):
                versions[Upstream(app.name, app.ingress, app.release)] = ""
                versions[Upstream(app.name, app.canary.ingress, app.canary.release)] = CANARY
        known = self._sides
        self._sides = {
            key: side
            if (side := known.get(key)) is not None and side.version == version
            else SideObserver(self._observer, version)
            for key, version in versions.items()
        }

    def _observer_of(self, ingress: Upstream) -> CallObserver:
        return self._sides.get(ingress, self._observer)

    def target(self, ingress: Upstream, headers: Iterable[tuple[bytes, bytes]]) -> Target[ProxiedCall]:
        """Where a request with these headers goes, for the other protocols of this proxy."""
        if ingress in self._sides:
            ingress = self._routes.side(ingress, dict(headers))
        return self._targets[ingress]

    def side(self, target: Target[ProxiedCall]) -> SideObserver | None:
        """What counts a target's calls where the application has a canary."""
        return self._sides.get(Upstream(target.app, target.deployment, target.release_id))

    @property
    def targets(self) -> Mapping[Upstream, Target[ProxiedCall]]:
        """The ingress deployments of the applications in the view."""
        return self._targets

    @property
    def tallies(self) -> dict[tuple[str, str], Tally]:
        """The calls that have ended of applications with a canary, by application and release."""
        return {(key.app, key.release): side.tally for key, side in self._sides.items()}

    def takes_one_message(self, path: bytes) -> bool:
        """Whether a request for `path` is one message, and not a stream of them."""
        method = self._routes.methods.get(path)
        return method is not None and not method.client_streaming

    # --- requests --------------------------------------------------------------------------------------------------

    def accept(
        self, connection: Connection, stream_id: int, headers: Headers, end_stream: bool
    ) -> StreamHandler | None:
        """An `Acceptor` for client connections."""
        block = HeaderBlock.of(headers, connection.block)
        verdict: _Verdict | None = block.verdict
        if verdict is None or verdict.routes is not self._routes:
            handler = self._judge(connection, stream_id, headers, block, end_stream)
            if handler is not None:
                return handler
            verdict = block.verdict
            assert verdict is not None
        target, series = verdict.target, verdict.series
        if verdict.split:
            ingress = verdict.routes.side(verdict.ingress, block.fields)
            target = self._targets[ingress]
            series = self._observer_of(ingress).series(ingress.app, verdict.kind.method.path)
        call = self._make_call(connection, stream_id, block, verdict.kind, target, series)
        self._observer.ongoing += 1
        if verdict.timed and not self._limit_time(call, block.timeout):
            return call
        if end_stream or not call.incomplete:
            call.open(end_stream)
        return call

    def _judge(
        self, connection: Connection, stream_id: int, headers: Headers, block: HeaderBlock, end_stream: bool
    ) -> StreamHandler | None:
        """Give `block` a verdict, or return what handles a request that is not for an application."""
        # The last value of a name counts, as in Ray Serve.
        routes, fields = self._routes, block.fields
        path = fields.get(b":path", b"")
        method = routes.methods.get(path)
        if method is None:
            if path in self.builtin.methods:
                return self._accept_builtin(connection, stream_id, headers, path, end_stream)
            return self._refuse(connection, stream_id, fields, end_stream, StatusCode.UNIMPLEMENTED, UNKNOWN_METHOD)
        if not _GRPC_CONTENT_TYPE.fullmatch(fields.get(b"content-type", b"")):
            connection.send_headers(stream_id, ((b":status", b"415"),), end_stream=True)
            return _Refused(connection, stream_id, end_stream)
        limit = routes.limits.max_metadata_size
        if block.size > limit:
            details = f"Received metadata larger than max ({block.size} vs. {limit})."
            return self._refuse(connection, stream_id, fields, end_stream, StatusCode.RESOURCE_EXHAUSTED, details)
        ingress = routes.find(fields.get(b"application"))
        if ingress is None:
            details = not_found(fields.get(b"application"))
            return self._refuse(connection, stream_id, fields, end_stream, StatusCode.NOT_FOUND, details)
        block.verdict = _Verdict(
            routes,
            CallKind.of(method, fields, connection),
            ingress,
            self._targets[ingress],
            self._observer.series(ingress.app, path),
            ingress in self._sides,
            block.timeout is not None or routes.limits.request_timeout_s is not None,
        )
        if block.size <= MAX_REMEMBERED:
            connection.block = block
        return None

    def _limit_time(self, call: ForwardedCall, requested: bytes | None) -> bool:
        """Give the call its deadline. False when it ended because it asks for none that can be understood."""
        timeout, details = self._routes.limits.request_timeout_s, ""
        if timeout is not None:
            details = f"Request timed out after {timeout}s."
        if requested is not None:
            client_timeout = parse_timeout(requested)
            if client_timeout is None:
                text = requested.decode("latin-1")
                call.fail(StatusCode.INTERNAL, f"The call's grpc-timeout '{text}' is malformed.")
                return False
            if timeout is None or client_timeout < timeout:
                timeout, details = client_timeout, _DEADLINE_EXCEEDED
        if timeout is not None:
            call.expire_after(timeout, details, self._timers)
        return True

    def _refuse(
        self,
        connection: Connection,
        stream_id: int,
        fields: dict[bytes, bytes],
        end_stream: bool,
        code: StatusCode,
        details: str,
        extra: Headers = (),
    ) -> StreamHandler:
        """Answer a request that no deployment gets. `extra` fields go with the status."""
        given = fields.get(REQUEST_ID_FIELD, b"")
        request_id = given if is_usable(given) else new_request_id()
        trailers = status_trailers(Status(code, details), ((REQUEST_ID_FIELD, request_id), *extra))
        connection.send_headers(stream_id, RESPONSE_HEADERS + trailers, end_stream=True)
        self._observer.refused(fields.get(b":path", b""), request_id, code)
        return _Refused(connection, stream_id, end_stream)


class _Refused:
    """What is left of a request that has been answered: its body is read and thrown away."""

    __slots__ = ("_connection", "_stream_id")

    def __init__(self, connection: Connection, stream_id: int, ended: bool) -> None:
        self._connection = connection
        self._stream_id = stream_id
        if not ended:
            connection.end_early(stream_id)

    def on_headers(self, headers: Headers, end_stream: bool) -> None:
        raise AssertionError("a client's stream has no response headers")

    def on_data(self, data: bytes, end_stream: bool) -> None:
        self._connection.acknowledge(self._stream_id, len(data))

    def on_trailers(self, headers: Headers) -> None:
        pass

    def on_closed(self, error_code: int) -> None:
        pass
