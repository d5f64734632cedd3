"""Calls that interceptors see before the router, or a built-in service, does. Used where interceptors are configured.

    Interception          one call's way through the interceptors, to its admission or refusal
    InterceptedCall       a forwarded call that has this before it
    InterceptedBuiltin    a request for a built-in service that waits for it

A call has no slot and no place in a queue until it is admitted. Its bytes wait as those of a queued call do, within the
window of its stream. Whatever goes wrong with an interceptor refuses its call alone, and is logged once.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from swerve.exceptions import gRPCStatusError
from swerve.grpc_util import status_code
from swerve.interceptors import IncomingCall, Interceptor
from swerve.net.connection import Connection
from swerve.net.server_call import RESPONSE_HEADERS, status_trailers
from swerve.net.streams import Headers, StreamHandler
from swerve.proxy.builtin import API_SERVICE, HEALTH_SERVICE, UNKNOWN_METHOD, BuiltinServices
from swerve.proxy.forward import FULL_WINDOW, REQUEST_ID_FIELD, ForwardedCall
from swerve.proxy.request_ids import is_usable, new_request_id
from swerve.routing.drain import unknown_delay_s
from swerve.wire.frames import ErrorCode
from swerve.wire.peer import PEER_FIELD
from swerve.wire.retry import retry_trailers
from swerve.wire.status import Status, StatusCode

logger = logging.getLogger("swerve.proxy")

# What an operator's mistake looks like to a client, which learns nothing of it.
_FAILED = Status(StatusCode.INTERNAL, "The server could not decide whether to serve the call.")
# Probes have no credentials, and say nothing that a port which is open does not say.
EXEMPT = (f"/{HEALTH_SERVICE}/".encode(), f"/{API_SERVICE}/Healthz".encode())


@dataclass(frozen=True, slots=True)
class Interceptors:
    """The interceptors of a proxy in their order. `timeout_s` bounds what they wait for, all together."""

    chain: Sequence[Interceptor]
    timeout_s: float
    loop: asyncio.AbstractEventLoop


class Intercepted(Protocol):
    """What waits for the interceptors. One of the first two is called, once, unless the interception is cancelled."""

    def admitted(self, call: IncomingCall) -> None: ...

    def refused(self, status: Status, trailers: Headers) -> None: ...

    def broken(self) -> None:
        """The one that was called raised: end the call."""


class Interception:
    """One call's way through the interceptors."""

    __slots__ = ("_answer", "_call", "_done", "_intercepted", "_interceptors", "_task", "_timer")

    def __init__(self, interceptors: Interceptors, call: IncomingCall, intercepted: Intercepted) -> None:
        self._interceptors = interceptors
        self._call = call
        self._intercepted = intercepted
        self._done = False
        # What an interceptor waits for, until the task does.
        self._answer: Any = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Ask the interceptors. Where all are plain functions, this decides at once."""
        remaining = iter(self._interceptors.chain)
        try:
            for interceptor in remaining:
                answer = interceptor(self._call)
                if inspect.isawaitable(answer):
                    loop = self._interceptors.loop
                    self._answer = answer
                    self._task = loop.create_task(self._go_on(remaining))
                    self._timer = loop.call_later(self._interceptors.timeout_s, self._overrun)
                    return
                self._call._add(answer)
        # Whatever it raises is of this call: `sys.exit` must not end the proxy, a cancellation not leave the call open.
        except BaseException as error:
            self._raised(error)
        else:
            self._admit()

    async def _go_on(self, remaining: Iterator[Interceptor]) -> None:
        answer, self._answer = self._answer, None
        try:
            self._call._add(await answer)
            for interceptor in remaining:
                answer = interceptor(self._call)
                self._call._add(await answer if inspect.isawaitable(answer) else answer)
        except BaseException as error:
            self._raised(error)
        else:
            self._admit()

    def cancel(self) -> None:
        """The call has ended otherwise: nobody waits for the answer."""
        if not self._done:
            self._finish()
            if self._task is not None:
                self._task.cancel()
            answer, self._answer = self._answer, None
            # A task that has not begun never will, and what it would have waited for is to end too.
            if inspect.iscoroutine(answer):
                answer.close()
            elif asyncio.isfuture(answer):
                answer.cancel()

    def _finish(self) -> None:
        self._done = True
        if self._timer is not None:
            self._timer.cancel()

    def _admit(self) -> None:
        if not self._done:
            self._conclude(self._intercepted.admitted, self._call)

    def _refuse(self, status: Status, trailers: Headers = ()) -> None:
        self._conclude(self._intercepted.refused, status, trailers)

    def _conclude(self, tell: Callable[..., None], *args: Any) -> None:
        self._finish()
        try:
            tell(*args)
        except Exception:
            # In a task nobody else would hear of it, and the call would stay open.
            logger.exception("Request %s is broken off after its interception", self._call.request_id())
            self._intercepted.broken()

    def _raised(self, error: BaseException) -> None:
        if self._done:
            return  # most likely it is the cancellation that the call's end has brought
        status = _chosen(error)
        if status is not None:
            self._refuse(status, self._call._encoded_trailing)
            return
        logger.error("An interceptor failed; request %s is refused", self._call.request_id(), exc_info=error)
        self._refuse(_FAILED)

    def _overrun(self) -> None:
        """The interceptor may go on in spite of its cancellation; the call does not wait for that."""
        timeout_s = self._interceptors.timeout_s
        request_id = self._call.request_id()
        logger.error("The interceptors took more than %s s; request %s is refused", timeout_s, request_id)
        self.cancel()
        details = f"The server could not decide within {timeout_s} s whether to serve the call."
        status = Status(StatusCode.UNAVAILABLE, details)
        self._refuse(status, retry_trailers(status, unknown_delay_s(random.random())))


def _chosen(error: BaseException) -> Status | None:
    """The status that an interceptor refuses a call with on purpose."""
    if not isinstance(error, gRPCStatusError):
        return None
    try:
        code = status_code(error.grpc_code)
        return None if code is StatusCode.OK else Status(code, str(error.grpc_details or ""))
    except Exception:  # details may be any object
        return None


class InterceptedCall(ForwardedCall):
    """A forwarded call that goes to the router when the interceptors have admitted it."""

    __slots__ = ("_interception", "_interceptors")

    def __init__(self, interceptors: Interceptors, *arguments: Any) -> None:
        super().__init__(*arguments)
        # It waits for the interceptors first.
        self.incomplete = False
        self._interceptors = interceptors
        self._interception: Interception | None = None

    def open(self, end_stream: bool) -> None:
        self._request_ended = end_stream
        call = IncomingCall(
            self.headers,
            method=self.path.decode("latin-1"),
            application=self._target.app,
            request_id=self.request_id.decode("latin-1"),
            peer=self.client.peer_name.decode("latin-1"),
            deadline=self._deadline if self._timers is not None else None,
        )
        self._interception = Interception(self._interceptors, call, self)
        self._interception.start()

    def admitted(self, call: IncomingCall) -> None:
        peer = call._peer.encode()
        if peer != self.client.peer_name:
            others = (field for field in self._added if field[0] != PEER_FIELD)
            self._added = (*others, (PEER_FIELD, peer))
        self.incomplete = not self._method.client_streaming
        if self._request_ended or not self.incomplete or self._body_size >= FULL_WINDOW:
            self._submit()

    def refused(self, status: Status, trailers: Headers) -> None:
        fields = status_trailers(status, (self.id_field, *trailers))
        self.client.send_headers(self.stream_id, RESPONSE_HEADERS + fields, end_stream=True)
        self._record(status.code)

    def broken(self) -> None:
        self.client.reset(self.stream_id, ErrorCode.INTERNAL_ERROR)
        if not self.done:
            self._abandon()
            self._record(StatusCode.INTERNAL)

    def _record(self, code: int) -> None:
        if self._interception is not None:
            self._interception.cancel()
        super()._record(code)


class InterceptedBuiltin:
    """A request for a built-in service that waits for the interceptors. Satisfies `StreamHandler` meanwhile.

    `serve` and `refuse` return what takes its place then.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_ended",
        "_handler",
        "_interception",
        "_refuse",
        "_serve",
        "_stream_id",
        "_trailers_came",
    )

    def __init__(
        self,
        connection: Connection,
        stream_id: int,
        serve: Callable[[], StreamHandler],
        refuse: Callable[[StatusCode, str, Headers], StreamHandler],
    ) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._serve = serve
        self._refuse = refuse
        self._handler: StreamHandler | None = None
        self._interception: Interception | None = None
        # What has come of the request, within the window of its stream: in one piece, however small the frames are.
        self._body = bytearray()
        self._ended = False
        self._trailers_came = False

    def begin(self, interceptors: Interceptors, call: IncomingCall) -> StreamHandler:
        """Ask the interceptors; returns who handles the stream from now on."""
        self._interception = Interception(interceptors, call, self)
        self._interception.start()
        return self._handler or self

    def admitted(self, call: IncomingCall) -> None:
        self._hand_over(self._serve())

    def refused(self, status: Status, trailers: Headers) -> None:
        self._hand_over(self._refuse(status.code, status.details, trailers))

    def broken(self) -> None:
        self._connection.reset(self._stream_id, ErrorCode.INTERNAL_ERROR)

    def _hand_over(self, handler: StreamHandler) -> None:
        self._handler = handler
        if self._connection.streams.get(self._stream_id) is self:
            self._connection.streams[self._stream_id] = handler
        if self._body or self._ended:
            handler.on_data(bytes(self._body), self._ended)
        if self._trailers_came:
            handler.on_trailers(())

    def on_headers(self, headers: Headers, end_stream: bool) -> None:
        raise AssertionError("a client's stream has no response headers")

    def on_data(self, data: bytes, end_stream: bool) -> None:
        self._body += data
        self._ended = end_stream

    def on_trailers(self, headers: Headers) -> None:
        self._trailers_came = True

    def on_closed(self, error_code: int) -> None:
        assert self._interception is not None
        self._interception.cancel()
        self._connection.acknowledge(self._stream_id, len(self._body))


def builtin_acceptor(
    interceptors: Interceptors, builtin: BuiltinServices, refuse: Callable[..., StreamHandler]
) -> Callable[..., StreamHandler]:
    """`BuiltinServices.accept` behind interceptors, but for what probes ask. `refuse` is `Ingress`'s."""

    def accept(
        connection: Connection, stream_id: int, headers: Headers, path: bytes, end_stream: bool
    ) -> StreamHandler:
        if path.startswith(EXEMPT):
            return builtin.accept(connection, stream_id, headers, path, end_stream)
        fields = dict(headers)
        given = fields.get(REQUEST_ID_FIELD, b"")
        request_id = fields[REQUEST_ID_FIELD] = given if is_usable(given) else new_request_id()
        call = IncomingCall(
            headers,
            method=path.decode("latin-1"),
            application="",
            request_id=request_id.decode("latin-1"),
            peer=connection.peer_name.decode("latin-1"),
        )
        refuse_this = functools.partial(refuse, connection, stream_id, fields, end_stream)

        def serve() -> StreamHandler:
            # Reflection may have been switched off while the interceptors decided.
            if path not in builtin.methods:
                return refuse_this(StatusCode.UNIMPLEMENTED, UNKNOWN_METHOD)
            return builtin.accept(connection, stream_id, headers, path, end_stream)

        return InterceptedBuiltin(connection, stream_id, serve, refuse_this).begin(interceptors, call)

    return accept
