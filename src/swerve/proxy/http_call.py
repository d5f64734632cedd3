"""One HTTP request between the proxy and a replica: it waits in the deployment's router, then its events are exchanged.

Unlike a gRPC call a request has a task, which the HTTP server gave it; the router and the connection to a replica call
the methods here as things happen, and the task's `read` and `write` wait for them. Until a replica has begun to answer,
what was sent is kept, so that a request which a replica turned away can go to another.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from swerve.caller.target import Target
from swerve.generated.http_pb2 import HttpEvent
from swerve.net.client_call import ClientCall, request_headers
from swerve.net.connection import Connection
from swerve.net.streams import CONNECTION_LOST, Headers
from swerve.proxy.forward import CallObserver
from swerve.proxy.ingress import ProxiedCall
from swerve.routing.calls import CallDescription, Shed
from swerve.routing.replicas import Replica
from swerve.routing.sessions import SESSION_FIELD
from swerve.wire.deadline import format_timeout
from swerve.wire.http2 import Http2Error
from swerve.wire.message import add_part, frame
from swerve.wire.status import RpcError, Status, StatusCode

# Methods of a replica's private socket.
_HTTP_HEADERS = request_headers("/swerve.control.v1.Http/Request", "swerve")
_WEBSOCKET_HEADERS = request_headers("/swerve.control.v1.Http/WebSocket", "swerve")

# A request that fits is kept for another replica, as in `swerve.proxy.forward`.
_REPLAY_LIMIT = 1 << 20
# Bytes of a request that may wait for the replica before the client is read no further.
_HIGH_WATER = 256 * 1024


class HttpCall:
    """Satisfies `ProxiedCall`. All methods are called on the event loop's thread, the waiting ones by one reader and
    one writer."""

    def __init__(self, target: Target[ProxiedCall], request: HttpEvent, deadline: float | None) -> None:
        self.model_id = request.request.multiplexed_model_id
        # Why the router turned the call away, once it has.
        self.shed_because: Shed | None = None
        # When the client may try again, once the replica has been lost.
        self.retry_after_s: float | None = None
        self._request = request.request
        self.target = target
        self._deadline = deadline
        self._headers = _WEBSOCKET_HEADERS if request.request.websocket else _HTTP_HEADERS
        self._kept: list[bytes] | None = [frame(request.SerializeToString())]
        self._kept_size = 0
        self._request_ended = False
        # The router has not been asked yet, because too little of the request has come.
        self._incomplete = False
        self._leg: _ReplicaLeg | None = None
        self._received: deque[bytes] = deque()
        self._owed = 0
        self._status: Status | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # --- the request's task -----------------------------------------------------------------------------------------

    def begin(self, *, whole: bool) -> None:
        """The request's head has come. Of a body that comes `whole` the end is waited for, or so much that it can wait
        here no longer, so that a client that begins requests and goes no further takes no slot from others."""
        self._incomplete = whole
        if not whole:
            self._submit()

    def _submit(self) -> None:
        """Hand the call to the router."""
        self._incomplete = False
        self.target.submit(self)

    async def read(self) -> HttpEvent | None:
        """The replica's next event; None when it has sent all.

        Raises:
            RpcError: the call ended otherwise.
        """
        while not self._received:
            if self._status is not None:
                if self._status.code == StatusCode.OK:
                    return None
                raise RpcError(self._status)
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        event = HttpEvent.FromString(self._received.popleft())
        if not self._received and self._leg is not None:
            owed, self._owed = self._owed, 0
            self._leg.acknowledge(owed)
        return event

    @property
    def exhausted(self) -> bool:
        """True when `read` would return None at once."""
        return not self._received and self._status is not None and self._status.code == StatusCode.OK

    async def write(self, event: HttpEvent | None, *, last: bool = False) -> None:
        """Send an event to the replica, when there is one and when it has taken those before. `last` ends the
        request."""
        self._request_ended = last
        data = b"" if event is None else frame(event.SerializeToString())
        leg = self._leg
        if self._kept is not None:
            self._kept_size += len(data)
            if self._kept_size <= _REPLAY_LIMIT or leg is None:
                # Of tiny chunks, the objects would take many times their bytes.
                add_part(self._kept, data)
            else:
                self._kept = None
        if leg is not None:
            leg.send(data, last)
        elif self._incomplete and self._status is None and (last or self._kept_size >= _HIGH_WATER):
            self._submit()
        await self._room()

    async def _room(self) -> None:
        while self._status is None:
            leg = self._leg
            if leg is not None:
                assert isinstance(leg.connection, Connection)
                if leg.connection.unsent(leg.stream_id) <= _HIGH_WATER:
                    return
                leg.connection.when_drained(leg.stream_id, self._wake_writer)
            elif self._kept_size <= _REPLAY_LIMIT:
                return
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    def cancel(self) -> None:
        """Abandon the call, if it has not ended."""
        self.give_up(StatusCode.CANCELLED, "The call was cancelled.")

    def give_up(self, code: StatusCode, details: str) -> None:
        """End the call wherever it is, if it has not ended."""
        if self._status is None:
            if self._leg is None:
                self.target.router.withdraw(self)
            self._finish(Status(code, details))
            if self._leg is not None:
                self._leg.cancel()

    # --- the router -------------------------------------------------------------------------------------------------

    def send(self, replica: Replica) -> None:
        """Send what has come of the request to `replica`, whose slot the router has taken for this call."""
        connection = replica.link
        assert isinstance(connection, Connection)
        assert self._kept is not None
        headers = self._headers
        if self._deadline is not None:
            headers = (*headers, (b"grpc-timeout", format_timeout(self._deadline - time.monotonic())))
        leg = _ReplicaLeg(self, replica)
        try:
            leg.open(connection, headers)
        except Http2Error:
            # The connection is going away; the target hears of it by itself and finds another replica.
            self.target.refused(replica, self)
            return
        self._leg = leg
        leg.send(b"".join(self._kept), self._request_ended)
        self._wake_writer()

    def field(self, name: bytes) -> str:
        """The last value of a field of the request's headers, "" if it has none."""
        if name == SESSION_FIELD:
            return self._request.session_id
        found = [field.value for field in self._request.headers if field.name == name]
        return found[-1].decode("latin-1") if found else ""

    def describe(self) -> CallDescription:
        """The request as a user's request router sees it."""
        request = self._request
        return CallDescription(
            request.request_id, request.method, self.target.app, lambda: ((), {}), route=request.route
        )

    def fail(self, code: StatusCode, details: str) -> None:
        """End a call that waits."""
        self._finish(Status(code, details))

    def shed(self, why: Shed) -> None:
        """End a call that gives way to another."""
        self.shed_because = why
        self.fail(StatusCode.RESOURCE_EXHAUSTED, "")

    def unavailable(self) -> None:
        """End a call that nothing will ever serve."""
        self.fail(StatusCode.UNAVAILABLE, str(self.target.unavailable_error()))

    def move(self, target: Target[ProxiedCall], observer: CallObserver) -> None:
        """Wait for another release of the application. Who waits for the reply counts it, by its last target."""
        self.target = target
        target.adopt(self)

    # --- the replica ------------------------------------------------------------------------------------------------

    def event_received(self, message: bytes) -> None:
        self._kept = None
        self._received.append(message)
        _wake(self._reader)

    def consumed(self, amount: int, leg: _ReplicaLeg) -> None:
        """`amount` bytes have come. The replica gets credit when the reader has taken what they completed."""
        if self._received and self._status is None:
            self._owed += amount
        else:
            leg.acknowledge(amount)

    def leg_ended(self, leg: _ReplicaLeg, status: Status) -> None:
        if leg.refused and self._kept is not None and self._status is None:
            self._leg = None
            self.target.refused(leg.replica, self)
            return
        # Nothing more comes to be held back, and other calls need the connection's window.
        owed, self._owed = self._owed, 0
        leg.acknowledge(owed)
        self.target.release(leg.replica, self)
        if status.code == StatusCode.UNAVAILABLE:
            self.retry_after_s = self.target.router.retry_after_s()
        self._finish(status)

    def _finish(self, status: Status) -> None:
        if self._status is None:
            self._status = status
            self._kept = None
            _wake(self._reader)
            self._wake_writer()

    def _wake_writer(self) -> None:
        _wake(self._writer)


class _ReplicaLeg(ClientCall):
    """The call as the connection to one replica sees it; one an attempt."""

    __slots__ = ("_call", "replica")

    def __init__(self, call: HttpCall, replica: Replica) -> None:
        super().__init__()
        self._call = call
        self.replica = replica

    def open(self, connection: Connection, headers: Headers) -> None:
        """Begin the call.

        Raises:
            Http2Error: the connection takes no new call.
        """
        self.stream_id = connection.open_stream(headers, self)
        self.connection = connection

    def send(self, data: bytes, last: bool) -> None:
        assert isinstance(self.connection, Connection)
        if data:
            self.connection.send_data(self.stream_id, data)
        if last:
            self.connection.end_stream(self.stream_id)

    def acknowledge(self, amount: int) -> None:
        assert self.connection is not None
        self.connection.acknowledge(self.stream_id, amount)

    def message_received(self, message: bytes) -> None:
        self._call.event_received(message)

    def consume(self, amount: int) -> None:
        self._call.consumed(amount, self)

    def on_closed(self, error_code: int) -> None:
        if error_code == CONNECTION_LOST and self._status is None:
            details = "The replica that served the request died or was stopped before it answered."
            self._status = Status(StatusCode.UNAVAILABLE, details)
        super().on_closed(error_code)

    def ended(self, status: Status, trailers: Headers) -> None:
        self._call.leg_ended(self, status)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
