"""The proxy's front door: each request is checked, routed by the current view, and handed on."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import Protocol

from swerve.caller.target import Target
from swerve.generated import control_pb2
from swerve.net.connection import Connection, Headers, StreamHandler
from swerve.net.server_call import RESPONSE_HEADERS, status_trailers
from swerve.net.timers import TimerWheel
from swerve.proxy.builtin import BuiltinServices
from swerve.proxy.forward import REQUEST_ID_FIELD, CallObserver, ForwardedCall
from swerve.proxy.request_ids import is_usable, new_request_id
from swerve.proxy.routes import RouteTable, build_routes, not_found
from swerve.routing.calls import RoutedCall
from swerve.routing.replicas import Replica
from swerve.wire.deadline import parse_timeout
from swerve.wire.metadata import size_of
from swerve.wire.status import Status, StatusCode

_GRPC_CONTENT_TYPE = b"application/grpc"
_DEADLINE_EXCEEDED = "Deadline Exceeded"


class ProxiedCall(RoutedCall, Protocol):
    """A client's call, of whichever protocol, as its deployment's router hands it out."""

    def start(self, replica: Replica) -> None:
        """Go to `replica`, whose slot the router has taken for this call."""

    def fail(self, code: StatusCode, details: str) -> None:
        """End, while it waits."""


class Ingress:
    """Routes requests by the last view that it was given."""

    def __init__(self, loop: asyncio.AbstractEventLoop, observer: CallObserver) -> None:
        self.builtin = BuiltinServices()
        self._loop = loop
        self._observer = observer
        self._timers = TimerWheel(loop)
        self._routes = RouteTable()
        self._targets: dict[tuple[str, str], Target[ProxiedCall]] = {}

    # --- the view --------------------------------------------------------------------------------------------------

    def update(self, view: control_pb2.View) -> None:
        """Route by `view` from now on. Calls that wait for a deployment that is gone end NOT_FOUND."""
        self._routes = build_routes(view)
        wanted = set(self._routes.ingresses.values())
        deployments = {(deployment.app, deployment.name): deployment for deployment in view.deployments}
        for key in wanted:
            target = self._targets.get(key)
            if target is None:
                target = self._targets[key] = Target(*key, _start, self._loop)
            deployment = deployments.get(key)
            if deployment is not None:
                target.update(deployment)
        for key in [known for known in self._targets if known not in wanted]:
            self._targets.pop(key).close(functools.partial(_drop, details=not_found(key[0].encode())))
        self.builtin.update(self._routes.applications, view)

    def target(self, app: str, deployment: str) -> Target[ProxiedCall]:
        """The ingress deployment of an application in the view, for the other protocols of this proxy."""
        return self._targets[app, deployment]

    @property
    def targets(self) -> Mapping[tuple[str, str], Target[ProxiedCall]]:
        """The ingress deployments of the applications in the view, by (application, deployment)."""
        return self._targets

    def takes_one_message(self, path: bytes) -> bool:
        """Whether a request for `path` is one message, and not a stream of them."""
        method = self._routes.methods.get(path)
        return method is not None and not method.client_streaming

    # --- requests --------------------------------------------------------------------------------------------------

    def accept(
        self, connection: Connection, stream_id: int, headers: Headers, end_stream: bool
    ) -> StreamHandler | None:
        """An `Acceptor` for client connections."""
        # The last value of a name counts, as in Ray Serve.
        fields = dict(headers)
        routes = self._routes
        path = fields.get(b":path", b"")
        method = routes.methods.get(path)
        if method is None:
            if path in self.builtin.methods:
                return self.builtin.accept(connection, stream_id, headers, path, end_stream)
            return self._refuse(
                connection, stream_id, fields, end_stream, StatusCode.UNIMPLEMENTED, "Method not found!"
            )
        if not fields.get(b"content-type", b"").startswith(_GRPC_CONTENT_TYPE):
            connection.send_headers(stream_id, ((b":status", b"415"),), end_stream=True)
            return _Refused(connection, stream_id, end_stream)
        size, limit = size_of(headers), routes.limits.max_metadata_size
        if size > limit:
            details = f"Received metadata larger than max ({size} vs. {limit})."
            return self._refuse(connection, stream_id, fields, end_stream, StatusCode.RESOURCE_EXHAUSTED, details)
        ingress = routes.find(fields.get(b"application"))
        if ingress is None:
            details = not_found(fields.get(b"application"))
            return self._refuse(connection, stream_id, fields, end_stream, StatusCode.NOT_FOUND, details)
        call = ForwardedCall(connection, stream_id, headers, fields, self._targets[ingress], self._observer)
        requested = fields.get(b"grpc-timeout")
        untimed = requested is None and routes.limits.request_timeout_s is None
        if untimed or self._limit_time(call, requested):
            call.open(end_stream, method)
        return call

    def _limit_time(self, call: ForwardedCall, requested: bytes | None) -> bool:
        """Give the call its deadline. False when it ended because it asks for none that can be understood."""
        timeout = self._routes.limits.request_timeout_s
        details = "" if timeout is None else f"Request timed out after {timeout}s."
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
    ) -> StreamHandler:
        """Answer a request that no deployment gets."""
        given = fields.get(REQUEST_ID_FIELD, b"")
        request_id = given if is_usable(given) else new_request_id()
        trailers = status_trailers(Status(code, details), ((REQUEST_ID_FIELD, request_id),))
        connection.send_headers(stream_id, RESPONSE_HEADERS + trailers, end_stream=True)
        self._observer.refused(fields.get(b":path", b""), request_id, code)
        return _Refused(connection, stream_id, end_stream)


def _drop(call: ProxiedCall, details: str) -> None:
    call.fail(StatusCode.NOT_FOUND, details)


def _start(call: ProxiedCall, replica: Replica) -> None:
    call.start(replica)


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
