"""The hot path: one call on its way from a client's connection to a replica's and back.

No task, no future and no message object belongs to a call, only the two small objects below, whose methods the
connections call as bytes arrive. Header blocks and DATA pass as they came; the proxy adds fields and reads the status.

    ForwardedCall   the client's stream: request in, response out
    _ReplicaLeg     the replica's stream: request out, response in

A unary call whose request is small needs no stream to the replica and so no leg: it goes in a bundle with others
(`net/bundles.py`), and its answer comes back to the `ForwardedCall` itself.

A call goes to the target's router when its request is there (a stream of requests at once), and waits in it until a
replica has a free slot. Until a replica has begun to answer, the request's bytes are kept (at most a MiB of them), so a
call that a replica turned away can be sent to another.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from swerve.exceptions import BackPressureError
from swerve.net.bundles import BundleCaller
from swerve.net.connection import Connection
from swerve.net.server_call import OK_TRAILERS, RESPONSE_HEADERS, status_trailers
from swerve.net.streams import CONNECTION_LOST, HUNG_UP, Headers
from swerve.proxy.request_ids import is_usable, new_request_id
from swerve.proxy.routes import Method
from swerve.routing.calls import CallDescription, Shed
from swerve.wire.bundle import MAX_BODY
from swerve.wire.deadline import format_timeout
from swerve.wire.frames import ErrorCode
from swerve.wire.header_block import HeaderBlock
from swerve.wire.http2 import Http2Error
from swerve.wire.message import PREFIX_SIZE, add_part
from swerve.wire.peer import PEER_FIELD, call_field
from swerve.wire.retry import retry_trailers
from swerve.wire.status import Status, StatusCode, decode_code

if TYPE_CHECKING:
    from swerve.caller.target import Target
    from swerve.net.timers import TimerWheel
    from swerve.proxy.ingress import ProxiedCall
    from swerve.routing.replicas import Replica

# Fields that the proxy appends to what it forwards. Replicas read a name's last value, so no client can forge them.
REQUEST_ID_FIELD = b"request_id"
MULTIPLEXED_MODEL_ID_FIELD = b"multiplexed_model_id"

Field = tuple[bytes, bytes]

# Bytes of one call that its client may send before a replica takes them: the public port's window of a stream.
CLIENT_WINDOW = 256 * 1024
# When so many of a request of one message have come, it goes to the router before its end: a client that pads its DATA
# may have no room for more, a frame with one byte of the body takes up to 257 (RFC 9113, section 6.1).
FULL_WINDOW = CLIENT_WINDOW - 256
# A request whose bytes fit is kept for another replica, until its response begins.
_REPLAY_LIMIT = 1 << 20

_GRPC_STATUS = b"grpc-status"
# To look up an enum's member costs as much as to read a call's deadline.
_OK = StatusCode.OK
# What clients make of streams that this side broke off, because they did not read or had to go (`net/sweeper.py`).
_TOLD = {HUNG_UP: StatusCode.UNAVAILABLE, ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED}


class CallSeries(Protocol):
    """Where the ends of an application's calls of one RPC are counted and logged."""

    def ended(self, request_id: bytes, code: int, seconds: float) -> None: ...


class CallObserver(Protocol):
    """Has the series of each RPC of an application."""

    def series(self, app: str, path: bytes) -> CallSeries: ...


class CallKind(NamedTuple):
    """What a client's calls with the same header block have in common."""

    method: Method
    model_id: str
    # What the proxy says of the client.
    added: Headers
    # The client's own request id, if it is usable.
    id_field: Field | None

    @classmethod
    def of(cls, method: Method, fields: Mapping[bytes, bytes], client: Connection) -> CallKind:
        """The kind of the calls of `method` by `client` with these header fields."""
        model_id = fields.get(MULTIPLEXED_MODEL_ID_FIELD, b"").decode("latin-1")
        request_id = fields.get(REQUEST_ID_FIELD, b"")
        id_field = (REQUEST_ID_FIELD, request_id) if is_usable(request_id) else None
        return cls(method, model_id, ((PEER_FIELD, client.peer_name),), id_field)


class ForwardedCall:
    """A call as its client's connection sees it. Satisfies `StreamHandler` and `RoutedCall`."""

    __slots__ = (
        "_added",
        "_block",
        "_body",
        "_body_size",
        "_bundles",
        "_credited",
        "_deadline",
        "_leg",
        "_method",
        "_number",
        "_replica",
        "_request_ended",
        "_response_started",
        "_series",
        "_started_at",
        "_target",
        "_timeout_text",
        "_timers",
        "client",
        "done",
        "id_field",
        "incomplete",
        "model_id",
        "stream_id",
    )

    def __init__(
        self,
        client: Connection,
        stream_id: int,
        block: HeaderBlock,
        kind: CallKind,
        target: Target[ProxiedCall],
        series: CallSeries,
    ) -> None:
        self.client = client
        self.stream_id = stream_id
        self.done = False
        self._block = block
        self._method, self.model_id, added, id_field = kind
        if id_field is None:
            id_field = (REQUEST_ID_FIELD, new_request_id())
            added += (id_field,)
        self._added = added
        # The request id, as it goes with the answer too.
        self.id_field = id_field
        self._target = target
        self._series = series
        self._started_at = time.monotonic()
        # None where there is no deadline: then neither that nor what its expiry says is set.
        self._timers: TimerWheel | None = None
        self._replica: Replica | None = None
        self._leg: _ReplicaLeg | None = None
        # Where the call is under way in a bundle; set with its number there.
        self._bundles: BundleCaller | None = None
        self._body: list[bytes] | None = []
        self._body_size = 0
        # How many parts of the body have been forwarded once, so that their credit is settled.
        self._credited = 0
        self._request_ended = False
        # The router has not been asked yet, because too little of the request has come. A single message is waited for,
        # so that a client that begins calls and goes no further takes no slot from others.
        self.incomplete = not self._method.client_streaming
        self._response_started = False

    @property
    def path(self) -> bytes:
        """The RPC."""
        return self._method.path

    @property
    def request_id(self) -> bytes:
        return self.id_field[1]

    @property
    def headers(self) -> Headers:
        """The request's headers, and what the proxy adds to them."""
        return self._block.headers + self._added

    # --- starting --------------------------------------------------------------------------------------------------

    def expire_after(self, timeout: float, details: str, timers: TimerWheel) -> None:
        """Give the call `timeout` seconds from its start; `details` is what its expiry says."""
        self._deadline = self._started_at + timeout
        self._timeout_text = details
        self._timers = timers
        timers.add(self._deadline, self)

    def open(self, end_stream: bool) -> None:
        """Go on: the request's headers have come, and no more of it is waited for."""
        self._request_ended = end_stream
        self._submit()

    def _submit(self) -> None:
        """Hand the call to the router."""
        self.incomplete = False
        self._target.submit(self)

    def field(self, name: bytes) -> str:
        """What the request's metadata, or its client's auth context, has by this name (`wire.peer.call_field`)."""
        return call_field(self.headers, name)

    def describe(self) -> CallDescription:
        """The call as a user's request router sees it."""
        body = self._body if self._request_ended else None
        message = b"".join(body)[PREFIX_SIZE:] if body else None
        return CallDescription(
            self.request_id.decode("latin-1"),
            self.path.decode("latin-1"),
            self._target.app,
            lambda: (() if message is None else (message,), {}),
            is_streaming=not self._method.unary,
        )

    def send(self, replica: Replica) -> None:
        """Send what has come of the request to `replica`, whose slot the router has taken for this call."""
        added = self._added
        if self._timers is not None:
            left = self._deadline - time.monotonic()
            added += ((b"grpc-timeout", format_timeout(left)),)
        bundles: BundleCaller | None = replica.link.bundles
        if (
            bundles is None
            or not bundles.ready
            or not self._request_ended
            or not self._method.unary
            or self._body_size > MAX_BODY
        ):
            self._send_on_stream(replica, added)
            return
        parts = self._body
        assert parts is not None
        self._replica = replica
        self._bundles = bundles
        self._number = bundles.call(self._block.packed + added, b"".join(parts), self)
        if not self._credited:
            # A record is small enough to count as gone.
            self._credited = len(parts)
            self.client.acknowledge(self.stream_id, self._body_size)

    def _send_on_stream(self, replica: Replica, added: Headers) -> None:
        connection: Connection = replica.link
        leg = _ReplicaLeg(self, connection)
        body = self._body
        try:
            headers = self._block.headers + added
            leg.stream_id = connection.open_stream(headers, leg, end_stream=self._request_ended and not body)
        except Http2Error:
            # The connection is going away; the target hears of it by itself and finds another replica.
            self._target.refused(replica, self)
            return
        self._replica = replica
        self._leg = leg
        if body:
            last = len(body) - 1 if self._request_ended else -1
            for index, part in enumerate(body):
                if index < self._credited:
                    connection.send_data(leg.stream_id, part, end_stream=index == last)
                else:
                    connection.forward_data(leg.stream_id, part, index == last, self.client, self.stream_id)
            self._credited = len(body)

    def move(self, target: Target[ProxiedCall], observer: CallObserver) -> None:
        """Wait for another release of the application, in front of its other calls."""
        self._target, self._series = target, observer.series(target.app, self._method.path)
        target.adopt(self)

    # --- the client's stream ---------------------------------------------------------------------------------------

    def on_headers(self, headers: Headers, end_stream: bool) -> None:
        raise AssertionError("a client's stream has no response headers")

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if end_stream:
            self._request_ended = True
        if self.done:
            self.client.acknowledge(self.stream_id, len(data))
            return
        if data and end_stream and self.incomplete and not self._body_size:
            # Most requests come whole.
            self._body = [data]
            self._body_size = len(data)
            self.incomplete = False
            self._target.submit(self)
            return
        body, leg = self._body, self._leg
        self._body_size += len(data)
        # A client may send empty DATA without end.
        if body is not None and data:
            if leg is None:
                if len(body) > self._credited:
                    add_part(body, data)
                else:
                    body.append(data)
            elif self._body_size <= _REPLAY_LIMIT:
                add_part(body, data)
                self._credited = len(body)
            else:
                self._body = None
        if leg is not None:
            leg.connection.forward_data(leg.stream_id, data, end_stream, self.client, self.stream_id)
        elif self.incomplete and (end_stream or self._body_size >= FULL_WINDOW):
            self._submit()

    def on_trailers(self, headers: Headers) -> None:
        # A gRPC request has none; HTTP/2 allows them, and they end the request.
        self._request_ended = True
        if self._leg is not None and not self.done:
            self._leg.connection.end_stream(self._leg.stream_id)
        elif self.incomplete and not self.done:
            self._submit()

    def on_closed(self, error_code: int) -> None:
        self._request_ended = True
        if not self.done:
            self._abandon()
            self._record(_TOLD.get(error_code, StatusCode.CANCELLED))

    # --- what limits ask for ---------------------------------------------------------------------------------------

    @property
    def received(self) -> int:
        """Bytes of the request that have come."""
        return self._body_size

    @property
    def queue_time_s(self) -> float:
        """Seconds that the calls which wait for the same deployment will take to leave."""
        return self._target.router.drain_time_s()

    @property
    def waiting(self) -> bool:
        """Whether the request's bytes are here because no replica has the call."""
        return self._replica is None and not self.done

    @property
    def awaits_client(self) -> bool:
        """Whether more of the request is to come and the client may send it."""
        return not self.done and not self._request_ended and self.client.http2.may_receive(self.stream_id)

    # --- ending ----------------------------------------------------------------------------------------------------

    @property
    def overdue(self) -> bool:
        """Whether the call has a deadline and it has passed."""
        return self._timers is not None and time.monotonic() >= self._deadline

    def expire(self) -> None:
        """The deadline has passed."""
        self.give_up(StatusCode.DEADLINE_EXCEEDED, self._timeout_text)

    def give_up(self, code: StatusCode, details: str, retry_after_s: float | None = None) -> None:
        """End the call wherever it is."""
        self._abandon()
        self.fail(code, details, retry_after_s)

    def fail(self, code: StatusCode, details: str, retry_after_s: float | None = None) -> None:
        """End the call with a status of the proxy's own; `retry_after_s` tells the client when to try again."""
        status = Status(code, details)
        trailers = status_trailers(status)
        if retry_after_s is not None:
            trailers += retry_trailers(status, retry_after_s)
        self._answer(code, trailers)

    def _answer(self, code: StatusCode, trailers: Headers) -> None:
        if self._response_started:
            self.client.send_trailers(self.stream_id, (*trailers, self.id_field))
        else:
            self.client.respond(self.stream_id, RESPONSE_HEADERS, None, trailers, self.id_field)
        self._record(code)

    def shed(self, why: Shed) -> None:
        """The queue is full: the client is told when to try again."""
        delay_ms = math.ceil(why.retry_after_s * 1000)
        self._answer(StatusCode.RESOURCE_EXHAUSTED, _shed_trailers(why.queued, why.limit, delay_ms))

    def unavailable(self) -> None:
        """Nothing will ever serve the call."""
        self.fail(StatusCode.UNAVAILABLE, str(self._target.unavailable_error()))

    def _end(self, trailers: Headers) -> None:
        """The replica has ended the call: `trailers` are its last header block, or its only one."""
        code = _status_in(trailers)
        if code == StatusCode.DEADLINE_EXCEEDED and self.overdue:
            # The replica, or a call that the handler made, saw the deadline first. Clients hear of it in one way.
            self.fail(StatusCode.DEADLINE_EXCEEDED, self._timeout_text)
            return
        trailers = (*trailers, self.id_field)
        if self._response_started:
            self.client.send_trailers(self.stream_id, trailers)
        else:
            self.client.send_headers(self.stream_id, trailers, end_stream=True)
        self._record(code)

    def _fail_without_answer(self, error_code: int) -> None:
        """End the call: its replica, which has begun it, stopped without a status."""
        code, details = _reason(error_code)
        retry_after_s = self._target.router.retry_after_s() if code == StatusCode.UNAVAILABLE else None
        self.fail(code, details, retry_after_s)

    def _abandon(self) -> None:
        """Take the call out of the queue, or off the replica that has it."""
        leg = self._leg
        if self._bundles is not None:
            self._bundles.reset(self._number)
            self._leave_bundle()
        elif leg is None:
            self._target.router.withdraw(self)
        else:
            leg.connection.reset(leg.stream_id, ErrorCode.CANCEL)

    def _record(self, code: int) -> None:
        self.done = True
        if self._timers is not None:
            self._timers.remove(self._deadline, self)
        if not self._request_ended:
            self.client.end_early(self.stream_id)
        body, self._body = self._body, None
        if body is not None and self._credited < len(body):
            unread = sum(map(len, body[self._credited :]))
            self.client.acknowledge(self.stream_id, unread)
        self._series.ended(self.id_field[1], code, time.monotonic() - self._started_at)

    # --- the answer from a bundle ----------------------------------------------------------------------------------

    def on_answer(self, headers: Headers | None, body: bytes | None, trailers: Headers | None) -> None:
        if trailers is None:
            self._pass_on_part(headers, body)
            return
        replica, self._replica, self._bundles = self._replica, None, None
        assert replica is not None
        self._target.release(replica, self)
        if body is None:
            self._end(trailers)
            return
        self._response_started = True
        code = _status_in(trailers) if trailers else _OK
        self.client.respond(self.stream_id, headers or RESPONSE_HEADERS, body, trailers or OK_TRAILERS, self.id_field)
        self._record(code)

    def _pass_on_part(self, headers: Headers | None, body: bytes | None) -> None:
        if not self._response_started:
            self._response_started = True
            self._body = None
            self.client.send_headers(self.stream_id, headers or RESPONSE_HEADERS)
        if body is not None:
            assert self._bundles is not None
            self.client.forward_data(self.stream_id, body, False, self._bundles, self._number)

    def on_reset(self, error_code: int) -> None:
        if error_code == ErrorCode.REFUSED_STREAM and self._body is not None:
            replica, self._replica, self._bundles = self._replica, None, None
            assert replica is not None
            self._target.refused(replica, self)
            return
        self._leave_bundle()
        if not self.done:
            self._fail_without_answer(error_code)

    def _leave_bundle(self) -> None:
        """Give the replica's slot back."""
        replica, self._replica, self._bundles = self._replica, None, None
        if replica is not None:
            self._target.release(replica, self)


# Calls are shed when there is no time to lose, and mostly with the same words.
@functools.lru_cache(maxsize=1024)
def _shed_trailers(queued: int, limit: int, delay_ms: int) -> Headers:
    status = Status(StatusCode.RESOURCE_EXHAUSTED, str(BackPressureError(queued, limit)))
    return status_trailers(status) + retry_trailers(status, delay_ms / 1000)


class _ReplicaLeg:
    """A forwarded call as the replica's connection sees it. Satisfies `StreamHandler`."""

    __slots__ = ("_call", "connection", "stream_id")

    def __init__(self, call: ForwardedCall, connection: Connection) -> None:
        self._call = call
        self.connection = connection
        self.stream_id = 0

    def on_headers(self, headers: Headers, end_stream: bool) -> None:
        call = self._call
        if call.done:
            return
        call._body = None
        if end_stream:
            call._end(headers)
            return
        call._response_started = True
        call.client.send_headers(call.stream_id, headers)

    def on_data(self, data: bytes, end_stream: bool) -> None:
        call = self._call
        if call.done:
            self.connection.acknowledge(self.stream_id, len(data))
        else:
            call.client.forward_data(call.stream_id, data, False, self.connection, self.stream_id)

    def on_trailers(self, headers: Headers) -> None:
        if not self._call.done:
            self._call._end(headers)

    def on_closed(self, error_code: int) -> None:
        call = self._call
        replica = call._replica
        assert replica is not None
        call._leg = call._replica = None
        if call.done:
            call._target.release(replica, call)
        elif error_code == ErrorCode.REFUSED_STREAM and call._body is not None:
            call._target.refused(replica, call)
        else:
            call._target.release(replica, call)
            call._fail_without_answer(error_code)


def _status_in(headers: Headers) -> StatusCode:
    """The `grpc-status` of a replica's last header block."""
    for name, value in headers:
        if name == _GRPC_STATUS:
            return decode_code(value)
    return StatusCode.UNKNOWN


def _reason(error_code: int) -> tuple[StatusCode, str]:
    """The status of a call whose replica stopped without giving one."""
    if error_code == CONNECTION_LOST:
        return StatusCode.UNAVAILABLE, "The replica that served the call died or was stopped before it answered."
    if error_code == ErrorCode.REFUSED_STREAM:
        return (
            StatusCode.UNAVAILABLE,
            "The replica did not begin the call, and its request is too large to be sent to another.",
        )
    return StatusCode.INTERNAL, f"The replica reset the call with HTTP/2 error code {error_code}."
