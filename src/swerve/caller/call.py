"""One handle call: from the caller's arguments, through the router, to a replica and back.

Everything here happens on the runtime's event loop, except `cancel_soon` and `resume_soon`, which any thread may call.
A call ends exactly once, whatever comes first: its result, an error, its deadline or its cancellation.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import cast

from swerve.caller import codec
from swerve.caller.codec import Encoded, Lent, Pieces, claim
from swerve.caller.destination import Arguments, Destination, describe
from swerve.caller.seams import Home, Routed, Sink
from swerve.caller.target import Target
from swerve.context import RequestContext
from swerve.exceptions import (
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from swerve.net.bundles import BundleCaller
from swerve.net.client_call import ClientCall
from swerve.net.connection import Connection
from swerve.net.streams import CONNECTION_LOST, Headers
from swerve.routing.calls import CallDescription, Shed
from swerve.routing.replicas import Replica
from swerve.routing.sessions import SESSION_FIELD
from swerve.wire.bundle import MAX_BODY
from swerve.wire.deadline import format_timeout
from swerve.wire.frames import ErrorCode
from swerve.wire.http2 import Http2Error
from swerve.wire.message import MAX_MESSAGE_SIZE, PREFIX_SIZE, prefix
from swerve.wire.peer import carried_fields
from swerve.wire.status import Status, StatusCode

# Items of a stream that may wait for their reader before credit is withheld from the replica.
MAX_UNREAD = 16
# A replica that a call is bound to refused it: the pause before it is asked again.
_PINNED_RETRY_S = 0.02


class RemoteCall(ClientCall):
    """A call of a deployment. `start`, then `submit` when its arguments are there."""

    __slots__ = (
        "_body",
        "_home",
        "_lent",
        "_origin",
        "_owed",
        "_pinned",
        "_replica",
        "_reserved_by",
        "_sink",
        "_target",
        "_unread",
        "destination",
        "finished",
        "model_id",
    )

    def __init__(
        self,
        home: Home,
        destination: Destination,
        origin: RequestContext,
        sink: Sink,
        unread: deque[bytes] | None = None,
    ) -> None:
        super().__init__(MAX_MESSAGE_SIZE)
        self.destination = destination
        self.model_id = destination.model_id
        self.finished = False
        # What the router chose the replica for, when not this call.
        self._reserved_by: Routed | None = None
        self._home = home
        self._origin = origin
        self._sink: Sink | None = sink
        # A stream's items that wait for their reader; they set the pace at which the replica may send.
        self._unread = unread
        self._owed = 0
        self._target: Target[Routed] | None = None
        self._replica: Replica | None = None
        self._pinned = False
        self._body: Pieces = []
        self._lent: Lent | None = None
        origin.children[id(self)] = self.cancel_soon

    # --- the way there ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The clock runs from here on, also while arguments are still being computed."""
        deadline = self._origin.deadline
        if self._origin.cancelled:
            self._cancel()
        elif deadline is not None and not self.finished:
            if deadline <= time.monotonic():
                self.expire()
            else:
                self._home.timers.add(deadline, self)

    def pin(self, replica: Replica, reserved_by: Routed | None = None) -> None:
        """Go to `replica` and to no other. Its slot was taken for this call, or by the reservation that it uses."""
        self._reserved_by = reserved_by
        self._target = self._home.target(self.destination.app, self.destination.deployment)
        self._replica = replica
        self._pinned = True

    def launch(self, message: Encoded) -> None:
        """`start` and `submit`."""
        self.start()
        self.submit(message)

    def submit(self, message: Encoded) -> None:
        """Send the encoded arguments to the replica that the router chooses, now or when one has a free slot."""
        if self.finished or not self._take(message):
            return
        if self._replica is not None:
            self.send(self._replica)
            return
        target = self._target = self._home.target(self.destination.app, self.destination.deployment)
        target.submit(self)

    def send(self, replica: Replica) -> None:
        """The router chose `replica`."""
        self._replica = replica
        connection: Connection = replica.link
        if self._lent is not None:
            pieces = self._lent.to(connection)
            self._body = _framed(pieces, sum(map(len, pieces)))
        body = self._body
        if not self.destination.stream and len(body) == 1 and len(body[0]) <= MAX_BODY:
            bundles: BundleCaller | None = replica.link.bundles
            if bundles is not None and bundles.ready:
                self.begin_in_bundle(bundles, self._headers(), bytes(body[0]))
                return
        try:
            self.begin(connection, self._headers(), body)
        except Http2Error:
            # The connection takes no new streams, so nothing was sent.
            self._turned_away()

    def field(self, name: bytes) -> str:
        return self.destination.session_id if name == SESSION_FIELD else self._origin.metadata_field(name)

    def describe(self) -> CallDescription:
        """The call as a user's request router sees it."""
        body, lent = self._body, self._lent

        def arguments() -> Arguments:
            message = b"".join(body)[PREFIX_SIZE:] if lent is None else lent.plain()
            return cast(Arguments, codec.decode(message))

        return describe(self.destination, self._origin, arguments)

    def _take(self, message: Encoded) -> bool:
        if isinstance(message, Lent):
            size = len(message)
        else:
            size = len(message[0]) if len(message) == 1 else sum(map(len, message))
        if size > MAX_MESSAGE_SIZE:
            self.fail(
                RayServeException(
                    f"The arguments of a call of '{self.destination.method}' take {size} bytes; "
                    f"at most {MAX_MESSAGE_SIZE} can be sent."
                )
            )
            return False
        if isinstance(message, Lent):
            self._lent = message
        else:
            self._body = _framed(message, size)
        return True

    def _headers(self) -> Headers:
        origin = self._origin
        extra = [(b"request_id", origin.request_id.encode())]
        if origin.app_name:
            extra.append((b"application", origin.app_name.encode()))
        if origin.route:
            extra.append((b"swerve-route", origin.route.encode()))
        keys = self._home.queue_keys
        if keys:
            extra += carried_fields(origin.headers, keys)
        if origin.deadline is not None:
            extra.append((b"grpc-timeout", format_timeout(origin.deadline - time.monotonic())))
        return (*self.destination.headers, *extra)

    def _turned_away(self) -> None:
        """The replica did not begin the call: another one may."""
        replica, self._replica = self._replica, None
        assert replica is not None
        assert self._target is not None
        self.done = False
        if self._lent is not None:
            self._lent.loan.refused(replica.link)
        if not self._pinned:
            self._target.refused(replica, self)
        elif replica.link.usable:
            self._replica = replica
            self._home.loop.call_later(_PINNED_RETRY_S, self._send_again, replica)
        else:
            self._target.release(replica, self._reserved_by or self)
            self.fail(ReplicaUnavailableError(f"Replica '{replica.info.replica_id}' is gone."))

    def _send_again(self, replica: Replica) -> None:
        if not self.finished:
            self.send(replica)

    # --- the way back ----------------------------------------------------------------------------------------------

    def message_received(self, message: bytes) -> None:
        if self._sink is not None:
            assert self.connection is not None
            self._sink._on_message(claim(message, self.connection, 1))

    def consume(self, amount: int) -> None:
        if self.done or self._unread is None or len(self._unread) < MAX_UNREAD:
            super().consume(amount)
        else:
            self._owed += amount
            # The reader, on its thread, may have emptied the buffer since.
            self.resume()

    def resume_soon(self) -> None:
        """`resume`, from any thread."""
        self._home.post(self.resume)

    def resume(self) -> None:
        """The reader of a stream caught up: pay the credit that was withheld."""
        if self._owed and self._unread is not None and len(self._unread) < MAX_UNREAD:
            owed, self._owed = self._owed, 0
            super().consume(owed)

    @property
    def owes(self) -> bool:
        return self._owed > 0

    def on_closed(self, error_code: int) -> None:
        # A request that has not left completely cannot have begun.
        if error_code == CONNECTION_LOST and self.connection is not None and self.connection.unsent(self.stream_id):
            error_code = ErrorCode.REFUSED_STREAM
        super().on_closed(error_code)

    def ended(self, status: Status, trailers: Headers) -> None:
        if self.refused and not self.finished:
            self._turned_away()
            return
        if self._owed:
            # Nothing more comes to be held back, and other calls need the connection's window.
            super().consume(self._owed)
            self._owed = 0
        self._leave_replica()
        if not self.finished:
            self._finish(None if status.code == StatusCode.OK else self._error(status))

    def _error(self, status: Status) -> Exception:
        match status.code:
            case StatusCode.CANCELLED:
                return RequestCancelledError(self._origin.request_id)
            case StatusCode.DEADLINE_EXCEEDED:
                return TimeoutError(status.details)
            case StatusCode.UNAVAILABLE:
                return ReplicaUnavailableError(
                    f"The replica of deployment '{self.destination.deployment}' in application "
                    f"'{self.destination.app}' was lost while it had the call: {status.details}",
                    None if self._target is None else self._target.router.retry_after_s(),
                )
            case _:
                return RayServeException(status.details)

    # --- ending ----------------------------------------------------------------------------------------------------

    def cancel_soon(self) -> None:
        """Cancel the call, from any thread, a finalizer included: never at once. Nothing happens when it is over."""
        if not self.finished:
            with contextlib.suppress(RuntimeError):  # the loop has been closed, and the call with it
                self._home.loop.call_soon_threadsafe(self._cancel)

    def fail(self, error: BaseException) -> None:
        """End the call with `error`, wherever it is."""
        if self.finished:
            return
        if self._target is not None:
            self._target.router.withdraw(self)
        self._finish(error)
        if self._replica is not None:
            if self.done or self.connection is None:
                self._leave_replica()
            else:
                super().cancel()

    def shed(self, why: Shed) -> None:
        """The queue is full."""
        assert self._target is not None
        self.fail(self._target.shed_error(why))

    def unavailable(self) -> None:
        """The deployment has failed."""
        assert self._target is not None
        self.fail(self._target.unavailable_error())

    def _cancel(self) -> None:
        self.fail(RequestCancelledError(self._origin.request_id))

    def expire(self) -> None:
        """The deadline has passed."""
        self.fail(TimeoutError(f"Request {self._origin.request_id} reached its deadline."))

    def _leave_replica(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None and self._target is not None:
            self._target.release(replica, self._reserved_by or self)

    def _finish(self, error: BaseException | None) -> None:
        self.finished = True
        self._body = []
        self._lent = None
        if self._origin.deadline is not None:
            self._home.timers.remove(self._origin.deadline, self)
        self._origin.children.pop(id(self), None)
        sink, self._sink = self._sink, None
        if sink is not None:
            sink._on_finished(error)


def _framed(pieces: Pieces, size: int) -> Pieces:
    """One gRPC message of these pieces, which have `size` bytes."""
    # One part is cheaper to send than two, and a first piece is small enough to be joined.
    return [prefix(size) + bytes(pieces[0]), *pieces[1:]]
