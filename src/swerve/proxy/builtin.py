"""The services that the proxy answers itself: Ray Serve's own, the standard health service, and server reflection.

Sources: Ray Serve's RayServeAPIService with its UNAVAILABLE texts; grpc.health.v1; grpc.reflection.v1 and v1alpha,
which have the same messages.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from swerve.generated import control_pb2
from swerve.generated.serve_pb2 import HealthzResponse, ListApplicationsResponse
from swerve.net.connection import Connection
from swerve.net.server_call import ServerCall
from swerve.net.streams import Headers
from swerve.proxy.reflection import Reflection
from swerve.routing.drain import unknown_delay_s
from swerve.wire.message import IDENTITY
from swerve.wire.retry import retry_trailers
from swerve.wire.status import OK, RpcError, Status, StatusCode

_MAX_MESSAGE_SIZE = 8 * 1024
# Health watchers of one proxy; a client needs one a connection.
_MAX_WATCHERS = 10_000
# Bytes of reflection's answers that may wait for their reader before the next request is looked at.
_REFLECTION_UNSENT = 64 * 1024

# Ray Serve's words for a path that nobody serves.
UNKNOWN_METHOD = "Method not found!"
_NOT_POPULATED = "Route table is not populated yet."
_DRAINING = "This node is being drained."

HEALTH_SERVICE = "grpc.health.v1.Health"
API_SERVICE = "ray.serve.RayServeAPIService"


class BuiltinServices:
    """The state that the built-in services report, and their methods by path."""

    def __init__(self) -> None:
        self.applications: list[str] = []
        self.draining = False
        self._populated = False
        self._services: frozenset[str] = frozenset()
        self._watchers: set[_HealthWatch] = set()
        self._reflection = Reflection()
        self.methods: dict[bytes, Callable[[Connection, int, Headers], ServerCall]] = {
            b"/ray.serve.RayServeAPIService/ListApplications": self._unary(self._list_applications),
            b"/ray.serve.RayServeAPIService/Healthz": self._unary(self._healthz),
            b"/grpc.health.v1.Health/Check": self._unary(self._check),
            b"/grpc.health.v1.Health/Watch": self._watch,
        }
        self._base_methods = dict(self.methods)

    def update(self, applications: list[str], view: control_pb2.View, *, reflects: bool = True) -> None:
        """Report the view from now on; `reflects` says whether the services may be looked at by reflection."""
        self.applications = applications
        # As in Ray Serve, once populated it stays so, even when the last application is deleted.
        self._populated = self._populated or bool(applications)
        self.draining = self.draining or view.draining
        self._services = frozenset(method.path.split("/")[1] for method in view.options.grpc_methods)
        self.methods = dict(self._base_methods)
        if reflects and view.options.file_descriptors:
            self._reflection.update(view.options.file_descriptors, self._services)
            for path in Reflection.PATHS:
                self.methods[path] = self._reflect
        self._notify()

    def drain(self) -> None:
        """Report that this proxy takes itself out of service."""
        self.draining = True
        self._notify()

    def accept(
        self, connection: Connection, stream_id: int, headers: Headers, path: bytes, end_stream: bool
    ) -> ServerCall:
        """Serve a request for one of `methods`."""
        call = self.methods[path](connection, stream_id, headers)
        if end_stream:
            call.end_of_request()
        return call

    # --- Ray Serve's service ---------------------------------------------------------------------------------------

    def state(self) -> Status:
        """OK, or why this proxy should get no traffic."""
        if self.draining:
            return Status(StatusCode.UNAVAILABLE, _DRAINING)
        return OK if self._populated else Status(StatusCode.UNAVAILABLE, _NOT_POPULATED)

    def _require_healthy(self) -> None:
        status = self.state()
        if status.code != StatusCode.OK:
            raise RpcError(status)

    def _list_applications(self, request: bytes) -> bytes:
        self._require_healthy()
        return ListApplicationsResponse(application_names=self.applications).SerializeToString()

    def _healthz(self, request: bytes) -> bytes:
        self._require_healthy()
        return HealthzResponse(message="success").SerializeToString()

    # --- grpc.health.v1 --------------------------------------------------------------------------------------------

    def serving_status(self, service: str) -> int | None:
        """The health of `service` ("" is the whole server), None when it is unknown here."""
        if service and service not in self._services and service not in (API_SERVICE, HEALTH_SERVICE):
            return None
        healthy = self.state().code == StatusCode.OK
        return int(HealthCheckResponse.SERVING if healthy else HealthCheckResponse.NOT_SERVING)

    def _check(self, request: bytes) -> bytes:
        service = _parse_health_request(request)
        status = self.serving_status(service)
        if status is None:
            raise RpcError(Status(StatusCode.NOT_FOUND, f"Service '{service}' is not served here."))
        return bytes(HealthCheckResponse(status=status).SerializeToString())

    def _watch(self, connection: Connection, stream_id: int, headers: Headers) -> ServerCall:
        return _HealthWatch(connection, stream_id, headers, self, self._watchers)

    def _notify(self) -> None:
        for watcher in list(self._watchers):
            watcher.report()

    # --- the rest --------------------------------------------------------------------------------------------------

    def _reflect(self, connection: Connection, stream_id: int, headers: Headers) -> ServerCall:
        return _ReflectionCall(connection, stream_id, headers, self._reflection)

    def _unary(self, answer: Callable[[bytes], bytes]) -> Callable[[Connection, int, Headers], ServerCall]:
        return lambda connection, stream_id, headers: _UnaryCall(connection, stream_id, headers, answer)


def _parse_health_request(request: bytes) -> str:
    try:
        return str(HealthCheckRequest.FromString(request).service)
    except Exception as error:
        raise RpcError(
            Status(StatusCode.INVALID_ARGUMENT, "The request is no grpc.health.v1.HealthCheckRequest.")
        ) from error


class _BuiltinCall(ServerCall):
    __slots__ = ()

    def __init__(self, connection: Connection, stream_id: int, headers: Headers) -> None:
        super().__init__(
            connection, stream_id, headers, _MAX_MESSAGE_SIZE, dict(headers).get(b"grpc-encoding", IDENTITY)
        )


class _UnaryCall(_BuiltinCall):
    __slots__ = ("_answer", "_request")

    def __init__(
        self, connection: Connection, stream_id: int, headers: Headers, answer: Callable[[bytes], bytes]
    ) -> None:
        super().__init__(connection, stream_id, headers)
        self._answer = answer
        self._request = b""

    def message_received(self, message: bytes) -> None:
        self._request = message

    def half_closed(self) -> None:
        try:
            self.send_message(self._answer(self._request))
        except RpcError as error:
            self.finish(error.status)
        else:
            self.finish(OK)

    def cancelled(self) -> None:
        pass


class _HealthWatch(_BuiltinCall):
    """`Watch`: the status now, and again at each change, for as long as the client stays."""

    __slots__ = ("_last", "_service", "_services", "_watchers")

    def __init__(
        self,
        connection: Connection,
        stream_id: int,
        headers: Headers,
        services: BuiltinServices,
        watchers: set[_HealthWatch],
    ) -> None:
        super().__init__(connection, stream_id, headers)
        self._services = services
        self._watchers = watchers
        self._service: str | None = None
        self._last: int | None = None

    def message_received(self, message: bytes) -> None:
        try:
            self._service = _parse_health_request(message)
        except RpcError as error:
            self.finish(error.status)

    def half_closed(self) -> None:
        if self._service is None:
            self._service = ""
        if len(self._watchers) >= _MAX_WATCHERS:
            status = Status(StatusCode.RESOURCE_EXHAUSTED, "Too many health watchers.")
            self.finish(status, retry_trailers(status, unknown_delay_s(random.random())))
            return
        self._watchers.add(self)
        self.report()

    def cancelled(self) -> None:
        self._watchers.discard(self)

    def report(self) -> None:
        """Send the status if it has changed."""
        status = self._services.serving_status(self._service or "")
        if status is None:
            status = HealthCheckResponse.SERVICE_UNKNOWN
        if status != self._last:
            self._last = status
            self.send_message(HealthCheckResponse(status=status).SerializeToString())
        if self._services.draining:
            # The last word; a watcher must not hold up the end.
            self._watchers.discard(self)
            self.finish(Status(StatusCode.UNAVAILABLE, _DRAINING))


class _ReflectionCall(_BuiltinCall):
    """Its reader sets the pace: an answer may be a thousand times the size of its request."""

    __slots__ = ("_owed", "_reflection", "_requests", "_waiting")

    def __init__(self, connection: Connection, stream_id: int, headers: Headers, reflection: Reflection) -> None:
        super().__init__(connection, stream_id, headers)
        self._reflection = reflection
        self._requests: deque[bytes] = deque()
        self._owed = 0
        self._waiting = False

    def deliver(self, messages: list[bytes], size: int) -> None:
        self._requests.extend(messages)
        self._owed += size
        self._go_on()

    def message_received(self, message: bytes) -> None:
        try:
            self.send_message(self._reflection.answer(message))
        except RpcError as error:
            self.finish(error.status)

    def half_closed(self) -> None:
        self._go_on()

    def cancelled(self) -> None:
        self._go_on()

    def _go_on(self) -> None:
        """Answer while little is unsent; when all is answered, let the client ask on."""
        while self._requests and not self.done:
            if self.connection.unsent(self.stream_id) > _REFLECTION_UNSENT:
                if not self._waiting:
                    self._waiting = True
                    self.connection.when_drained(self.stream_id, self._drained)
                return
            self.message_received(self._requests.popleft())
        self._requests.clear()
        owed, self._owed = self._owed, 0
        self.connection.acknowledge(self.stream_id, owed)
        if self._half_closed:
            self.finish(OK)

    def _drained(self) -> None:
        self._waiting = False
        self._go_on()
