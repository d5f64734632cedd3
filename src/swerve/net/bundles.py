"""The two ends of a connection's bundle stream (`wire/bundle.py`): small calls that share messages.

    BundleCaller    makes calls; whoever makes one is told of its answer as a `BundledCall`
    BundleServer    hands requests to an acceptor, and is to their calls what a `Connection` is to calls with streams

Like a connection's streams, calls end exactly once, also when the connection is lost. Unlike those of streams, the
handler of a request that was answered hears no more of it.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from swerve.net.client_call import request_headers
from swerve.net.connection import CALLS_PER_WRITE, Connection
from swerve.net.pace import Pace
from swerve.net.server_call import OK_TRAILERS, RESPONSE_HEADERS
from swerve.net.streams import Headers, StreamHandler, end_all
from swerve.wire.bundle import (
    ANSWER,
    CALL,
    CREDIT,
    MAX_BODY,
    PACE,
    PATH,
    RESET,
    WINDOW,
    PackedHeaders,
    Record,
    pack,
    unpack,
)
from swerve.wire.frames import ErrorCode
from swerve.wire.known_headers import KnownHeaders, SharedHeaders
from swerve.wire.limits import PRIVATE_HEADER_LIST_SIZE
from swerve.wire.message import MessageReader
from swerve.wire.status import RpcError

logger = logging.getLogger("swerve.net")

_REQUEST = request_headers(PATH.decode(), "swerve")
# No bundle has more calls than this, and none of them more than its part.
_MAX_RECORD = MAX_BODY + PRIVATE_HEADER_LIST_SIZE
_MAX_BUNDLE = CALLS_PER_WRITE * _MAX_RECORD
# By how much a pace has changed that the caller is told anew: a part of it, and seconds.
_CHANGE = 0.25
_LEAST_CHANGE_S = 5e-6


class _Bundles:
    """What both ends have in common. Satisfies `StreamHandler` with `on_record` and `lost`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.stream_id = 0
        self._pending: list[Record] = []
        self._due = False
        self._reader = MessageReader(_MAX_BUNDLE)

    def _add(self, record: Record) -> None:
        """Send `record` with those of this turn of the event loop, or with the next few."""
        pending = self._pending
        pending.append(record)
        if len(pending) >= CALLS_PER_WRITE:
            self._send()
        elif not self._due:
            self._due = True
            self.connection.loop.call_soon(self._send_due)

    def _send_due(self) -> None:
        self._due = False
        if self._pending:
            self._send()

    def _send(self) -> None:
        pending, self._pending = self._pending, []
        message = pack(pending)
        if len(message) > _MAX_BUNDLE:
            # The peer would hang up on all calls for it.
            message = pack([self._fitting(record) for record in pending])
        self.connection.send_now(self.stream_id, message)

    def _fitting(self, record: Record) -> Record:
        """`record`; what ends its call when the headers are so large that it is more than its part of a bundle."""
        size, number = len(pack((record,))), record[1]
        if size <= _MAX_RECORD:
            return record
        logger.error("A call is broken off: with its metadata it takes %d bytes, and %d can be sent", size, _MAX_RECORD)
        # Soon: whoever made the call may still be about to note its number.
        self.connection.loop.call_soon(self.break_off, number)
        return (RESET, number, ErrorCode.INTERNAL_ERROR)

    def on_record(self, record: Record) -> None:
        raise NotImplementedError

    def on_data(self, data: bytes, end_stream: bool) -> None:
        try:
            for message in self._reader.feed(data):
                for record in unpack(message):
                    try:
                        self.on_record(record)
                    except Exception:
                        # One call's failure must not lose the others of its bundle.
                        logger.exception("Handling a call of a bundle failed")
                        self.break_off(record[1])
        except (RpcError, ValueError) as error:
            logger.error("Closing connection of %s: a bundle is broken: %s", self.connection.peer or "peer", error)
            self.connection.close()
        # The connection, which looks after each read whether there is something to write, sends it.
        self.connection.give_credit(self.stream_id, len(data))

    def break_off(self, number: int) -> None:
        """End a call whose record could not be handled, on both ends."""
        raise NotImplementedError

    def on_trailers(self, headers: Headers) -> None:
        pass


class BundledCall(Protocol):
    """What an answer's arrival calls. None of these may wait."""

    def on_answer(self, headers: Headers | None, body: bytes | None, trailers: Headers | None) -> None:
        """A response, or part of one, as `wire/bundle.py` says. With trailers the call is over. Credit is owed for the
        body of a part without."""

    def on_reset(self, error_code: int) -> None:
        """The call is over without an answer: an HTTP/2 error code, or CONNECTION_LOST."""


class BundleCaller(_Bundles):
    """The caller's end. Calls may be made while `ready`: when the other end has said that it takes bundles."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.ready = False
        # What the other end has said of its `Pace`.
        self.pace_s = math.inf
        self.calls: dict[int, BundledCall] = {}
        self._last = 0
        self.stream_id = connection.open_stream(_REQUEST, self)
        connection.bundles = self

    @property
    def idle(self) -> bool:
        return not self.calls

    def call(self, headers: PackedHeaders, body: bytes, call: BundledCall) -> int:
        """Make a call. Returns its number."""
        self._last = number = self._last + 1
        self.calls[number] = call
        self._add((CALL, number, headers, body))
        return number

    def reset(self, number: int, error_code: int = ErrorCode.CANCEL) -> None:
        """Abandon a call; its `on_reset` is not called."""
        if self.calls.pop(number, None) is not None:
            self._add((RESET, number, error_code))

    def give_credit(self, number: int, amount: int) -> None:
        """`amount` bytes of a call's answer have been passed on."""
        if number in self.calls:
            self._add((CREDIT, number, amount))

    acknowledge = give_credit

    def send_credit(self) -> None:
        """Part of `CreditSource`: a record is on its way as soon as it is there."""

    def unsent(self, number: int) -> int:
        """Part of `CallerSide`: a call that has not left when the connection is lost counts as refused, see below."""
        return 0

    def on_headers(self, headers: Headers, end_stream: bool) -> None:
        self.ready = not end_stream and headers[0] == RESPONSE_HEADERS[0]

    def on_record(self, record: Record) -> None:
        number = record[1]
        call = self.calls.get(number)
        if call is None:
            if record[0] == PACE:
                self.pace_s = max(0, record[2]) / 1e6
            return  # or it ended here while this was on its way
        if record[0] == ANSWER:
            _, _, headers, body, trailers = record
            call.on_answer(headers, body, trailers)
            if trailers is None:
                return
        else:
            call.on_reset(record[2])
        self.calls.pop(number, None)

    def break_off(self, number: int) -> None:
        call = self.calls.get(number)
        if call is not None:
            self.reset(number)
            call.on_reset(ErrorCode.INTERNAL_ERROR)

    def on_closed(self, error_code: int) -> None:
        self.connection.bundles = None
        self.ready = False
        unsent = {record[1] for record in self._pending if record[0] == CALL}
        self._pending.clear()
        look = self.connection.look
        calls, self.calls = self.calls, {}
        end_all(
            (call.on_reset, number in unsent or (look is not None and look.never_began_bundled(number)))
            for number, call in calls.items()
        )


class _Outgoing:
    """The rest of an answer that is larger than a record."""

    __slots__ = ("callbacks", "parts", "size", "trailers", "window")

    def __init__(self) -> None:
        self.parts: deque[memoryview] = deque()
        self.size = 0
        self.window = WINDOW
        self.trailers: Headers | None = None
        self.callbacks: list[Callable[[], None]] = []


# Takes (server, number, shared, added, end_stream) of a request, whose headers are the shared ones and those that were
# added to them. Returns as an `Acceptor` does.
BundleAcceptor = Callable[["BundleServer", int, SharedHeaders, Headers, bool], StreamHandler | None]


class BundleServer(_Bundles):
    """The replica's end: takes requests, and offers calls the methods of a `Connection`, by number."""

    def __init__(self, connection: Connection, stream_id: int, accept: BundleAcceptor, pace: Pace) -> None:
        super().__init__(connection)
        self.stream_id = stream_id
        # None while the acceptor has not returned.
        self.calls: dict[int, StreamHandler | None] = {}
        self._accept = accept
        self._pace = pace
        # What the caller knows of it.
        self._told_s = math.inf
        self._outgoing: dict[int, _Outgoing] = {}
        self._known = KnownHeaders()
        # In any thread: the call of this number begins, see `Connection.mark_begun`.
        self.mark_begun = _unseen if connection.begun is None else connection.begun.mark_bundled
        connection.bundles = self
        connection.send_headers(stream_id, RESPONSE_HEADERS)

    @property
    def idle(self) -> bool:
        # The caller hangs up when it has its answers. Until it has heard that it should, requests may be on their way.
        return False

    def _send(self) -> None:
        pace = self._pace.seconds
        if abs(pace - self._told_s) > pace * _CHANGE + _LEAST_CHANGE_S:
            self._told_s = pace
            self._pending.append((PACE, 0, int(pace * 1e6)))
        super()._send()

    def on_record(self, record: Record) -> None:
        kind, number = record[0], record[1]
        if kind == CALL:
            _, _, headers, body = record
            calls = self.calls
            calls[number] = None
            accept = self._accept
            first = headers[0]
            if type(first) is bytes:
                call = accept(self, number, self._known.find(first), headers[1:], not body)
            else:
                call = accept(self, number, SharedHeaders(headers), (), not body)
            # What is not there any more was answered or turned away at once.
            if number in calls:
                if call is None:
                    del calls[number]
                    return
                calls[number] = call
                if body:
                    call.on_data(body, True)
        elif kind == RESET:
            self._outgoing.pop(number, None)
            call = self.calls.pop(number, None)
            if call is not None:
                call.on_closed(record[2])
        elif number in self._outgoing:
            self._outgoing[number].window += record[2]
            self._go_on(number)

    def on_headers(self, headers: Headers, end_stream: bool) -> None:
        raise AssertionError("a server's stream has no response headers")

    def on_closed(self, error_code: int) -> None:
        self.connection.bundles = None
        self._pending.clear()
        self._outgoing.clear()
        calls, self.calls = self.calls, {}
        end_all((call.on_closed, False) for call in calls.values() if call is not None)

    # --- what a call sends -----------------------------------------------------------------------------------------

    def respond(self, number: int, headers: Headers, body: bytes, trailers: Headers) -> None:
        """A whole response at once."""
        if number not in self.calls:
            return
        beyond = None if headers is RESPONSE_HEADERS or headers == RESPONSE_HEADERS else headers
        if len(body) <= MAX_BODY:
            del self.calls[number]
            self._add((ANSWER, number, beyond, body, () if trailers is OK_TRAILERS else trailers))
        else:
            if beyond is not None:
                self._add((ANSWER, number, beyond, None, None))
            self.send_data(number, body)
            self.send_trailers(number, trailers)

    def send_headers(self, number: int, headers: Headers, *, end_stream: bool = False) -> None:
        if number not in self.calls:
            return
        if end_stream:
            del self.calls[number]
            self._add((ANSWER, number, None, None, headers))
        else:
            self._add((ANSWER, number, headers, None, None))

    def send_data(self, number: int, data: bytes | memoryview, *, end_stream: bool = False) -> None:
        if number not in self.calls:
            return
        outgoing = self._outgoing.get(number)
        if outgoing is None:
            outgoing = self._outgoing[number] = _Outgoing()
        view = memoryview(data)
        outgoing.parts.extend(view[start : start + MAX_BODY] for start in range(0, len(view), MAX_BODY))
        outgoing.size += len(view)
        self._go_on(number)

    def send_trailers(self, number: int, headers: Headers) -> None:
        outgoing = self._outgoing.get(number)
        if outgoing is not None and outgoing.parts:
            outgoing.trailers = headers
        elif number in self.calls:
            self._end(number, headers)

    def _go_on(self, number: int) -> None:
        """Send what the caller has given credit for."""
        outgoing = self._outgoing[number]
        parts = outgoing.parts
        while parts and outgoing.window > 0:
            part = parts.popleft()
            outgoing.window -= len(part)
            outgoing.size -= len(part)
            self._add((ANSWER, number, None, part, None))
        if not parts:
            callbacks, outgoing.callbacks = outgoing.callbacks, []
            for callback in callbacks:
                callback()
            if outgoing.trailers is not None:
                self._end(number, outgoing.trailers)

    def _end(self, number: int, trailers: Headers) -> None:
        del self.calls[number]
        self._outgoing.pop(number, None)
        self._add((ANSWER, number, None, None, trailers))

    def break_off(self, number: int) -> None:
        call = self.calls.get(number)
        self.reset(number, ErrorCode.INTERNAL_ERROR)
        if call is not None:
            call.on_closed(ErrorCode.INTERNAL_ERROR)

    def reset(self, number: int, error_code: int = ErrorCode.CANCEL) -> None:
        self._outgoing.pop(number, None)
        if self.calls.pop(number, self) is not self:
            self._add((RESET, number, error_code))

    # --- what a call asks, as of a `Connection` ---------------------------------------------------------------------

    def acknowledge(self, number: int, amount: int) -> None:
        """A whole request is no larger than a record: its bytes have been given credit for."""

    def end_early(self, number: int) -> None:
        """A whole request has no end to wait for."""

    def unsent(self, number: int) -> int:
        outgoing = self._outgoing.get(number)
        return 0 if outgoing is None else outgoing.size

    def when_drained(self, number: int, callback: Callable[[], None]) -> None:
        outgoing = self._outgoing.get(number)
        if outgoing is None or not outgoing.parts:
            self.connection.loop.call_soon(callback)
        else:
            outgoing.callbacks.append(callback)

    def flush(self) -> None:
        if self._pending:
            self._send()


def _unseen(number: int) -> None:
    """Nobody looks which calls have begun."""
