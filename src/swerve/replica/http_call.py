"""A client's HTTP request in the replica: ASGI's events over the call that the proxy makes, and user code behind them.

User code is the ASGI application of `@serve.ingress`, or a plain callable that gets a Starlette request; what that
returns becomes the response as in Ray Serve.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from starlette.requests import Request

from swerve.context import RequestContext, _request_context
from swerve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from swerve.generated.http_pb2 import HttpEvent, HttpField, HttpPeer, HttpRequest, HttpResponse
from swerve.net.server_call import HIGH_WATER, CallSide
from swerve.net.streams import Headers
from swerve.replica.asgi_app import AsgiApp, Message
from swerve.replica.errors import stack_trace
from swerve.replica.http_response import as_response, error_response
from swerve.replica.threads import for_future
from swerve.replica.user_call import Runtime, UserCall
from swerve.replica.user_code import Handler, Kind, UserCode
from swerve.wire.deadline import parse_timeout
from swerve.wire.message import IDENTITY, MAX_MESSAGE_SIZE, frame
from swerve.wire.peer import PEER_FIELD
from swerve.wire.status import OK, RpcError, Status, StatusCode

logger = logging.getLogger("swerve.replica")

# One event of a body is no larger, so that the proxy never has to hold a large one whole.
_CHUNK = 64 * 1024

_EXPECTED = (BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError, RequestCancelledError, RpcError)


class HttpRuntime(Runtime, Protocol):
    """What an HTTP request needs of its replica."""

    app: str
    user_code: UserCode
    asgi_app: AsgiApp | None


class HttpCall(UserCall):
    """One request."""

    __slots__ = ("_events", "_handlers", "_news", "_partial", "_request_read")

    logged_by_proxy = True

    runtime: HttpRuntime

    def __init__(
        self,
        connection: CallSide,
        stream_id: int,
        headers: Headers,
        fields: dict[bytes, bytes],
        runtime: HttpRuntime,
    ) -> None:
        timeout = fields.get(b"grpc-timeout")
        seconds = None if timeout is None else parse_timeout(timeout)
        # The rest of the context comes with the request's head.
        context = RequestContext(app_name=runtime.app, deadline=None if seconds is None else time.monotonic() + seconds)
        super().__init__(connection, stream_id, headers, MAX_MESSAGE_SIZE, IDENTITY, runtime, context)
        # Events that user code has not received, each with the bytes of credit that the proxy gets when it has.
        self._events: deque[tuple[HttpEvent, int]] = deque()
        # Bytes of an incomplete event whose credit is withheld.
        self._partial = 0
        self._request_read = False
        # Set for a moment when there is an event, the end of the request or the end of the call.
        self._news = asyncio.Event()
        # The task of the request, and the thread that its handler runs in.
        self._handlers = 0

    # --- the request ------------------------------------------------------------------------------------------------

    def deliver(self, messages: list[bytes], size: int) -> None:
        self.received += size
        self._partial += size
        # What does not parse ends the call, and `closed` gives the credit.
        events = [HttpEvent.FromString(message) for message in messages]
        if not events and self._events:
            # Part of an event. Its credit waits too, unless the event is all that user code waits for.
            return
        size, self._partial = self._partial, 0
        if not events:
            self.connection.acknowledge(self.stream_id, size)
            return
        last = len(events) - 1
        for index, event in enumerate(events):
            credit = size if index == last else 0
            if event.HasField("request"):
                self.connection.acknowledge(self.stream_id, credit)
                if self._ran:
                    self.refuse(Status(StatusCode.INTERNAL, "The call has more than one request."))
                else:
                    self._begin(event.request)
                if self.done:
                    self.connection.acknowledge(self.stream_id, 0 if index == last else size)
                    return
            else:
                self._events.append((event, credit))
        self._wake()

    def half_closed(self) -> None:
        if self._ran:
            self._wake()
        else:
            self.refuse(Status(StatusCode.INTERNAL, "The call has no request."))

    def _begin(self, request: HttpRequest) -> None:
        context = self.context
        context.request_id = request.request_id
        # One of that name is the client's invention: nobody tells anything of an HTTP client.
        context.headers = tuple((field.name, field.value) for field in request.headers if field.name != PEER_FIELD)
        context.route = request.route
        context.multiplexed_model_id = request.multiplexed_model_id
        context.session_id = request.session_id
        self.admit(functools.partial(self._start_serving, request))

    def _start_serving(self, request: HttpRequest) -> None:
        self._handlers = 1
        self._spawn(self._serve(request))

    async def _asgi_receive(self) -> Message:
        """ASGI's `receive`."""
        while not self.done:
            if self._events:
                body = self._next_event().body
                more = bool(self._events) or not self._half_closed
                self._request_read = not more
                return {"type": "http.request", "body": body, "more_body": more}
            if self._half_closed and not self._request_read:
                self._request_read = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await self._news.wait()
        return {"type": "http.disconnect"}

    def _next_event(self) -> HttpEvent:
        event, credit = self._events.popleft()
        if not self._events:
            credit += self._partial
            self._partial = 0
        self.connection.acknowledge(self.stream_id, credit)
        return event

    def _wake(self) -> None:
        self._news.set()
        self._news.clear()

    # --- the response -----------------------------------------------------------------------------------------------

    async def _asgi_send(self, message: Message) -> None:
        """ASGI's `send`. After the end it does nothing, as ASGI asks."""
        if self.done:
            return
        kind = message["type"]
        if kind == "http.response.start":
            self._send_event(HttpEvent(response=HttpResponse(status=message["status"], headers=fields_of(message))))
        elif kind == "http.response.body":
            body = message.get("body", b"")
            for start in range(0, len(body), _CHUNK):
                self._send_event(HttpEvent(body=bytes(body[start : start + _CHUNK])))
            if not message.get("more_body", False):
                self._end(OK)
            elif self.connection.unsent(self.stream_id) > HIGH_WATER:
                await self.drained()
        else:
            raise RuntimeError(
                f"The application sent an event of the type '{kind}', which is none of an HTTP response."
            )

    def _send_event(self, event: HttpEvent) -> None:
        self.send_framed(frame(event.SerializeToString()))

    # --- user code --------------------------------------------------------------------------------------------------

    async def _serve(self, request: HttpRequest) -> None:
        _request_context.set(self.context)
        self.connection.mark_begun(self.stream_id)
        try:
            await self._run_application(request)
        except BaseException as error:
            await self._answer_error(error)
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
        finally:
            if not self.done:
                self._break_off()
            self._handler_ended()

    async def _run_application(self, request: HttpRequest) -> None:
        asgi = self.runtime.asgi_app
        scope = scope_of(request, asgi.state if asgi else {})
        if asgi is not None:
            await asgi.app(scope, self._asgi_receive, self._asgi_send)
        else:
            response = as_response(await self._call_handler(Request(scope, self._asgi_receive, self._asgi_send)))
            await response(scope, self._asgi_receive, self._asgi_send)
        if not self.done:
            self._returned()

    def _returned(self) -> None:
        """User code has returned, and the call has not ended."""
        raise RuntimeError("The application returned without completing its response.")

    async def _call_handler(self, request: Request) -> Any:
        handler = self.runtime.user_code.handler("__call__")
        if handler.kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR):
            raise TypeError(
                "A handler that streams over HTTP returns its generator in a starlette.responses.StreamingResponse."
            )
        args = (request,) if _takes_arguments(handler) else ()
        if handler.kind is Kind.COROUTINE:
            return await handler.function(*args)
        value = await self._in_thread(functools.partial(handler.function, *args))
        return await value if inspect.isawaitable(value) else value

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        """Run `function` in the replica's pool. The slot stays taken until it has ended, even if nobody waits."""
        finished: asyncio.Future[Any] = self.runtime.loop.create_future()
        context = contextvars.copy_context()
        post = self.runtime.mailbox.post

        def job() -> None:
            value: Any = None
            error: BaseException | None = None
            # It may have been cancelled while it waited for the thread.
            if not finished.cancelled():
                try:
                    value = context.run(function)
                except BaseException as raised:
                    error = raised
            post(functools.partial(self._settle_thread, finished, value, error))

        self.runtime.pool.submit(job)
        self._handlers += 1
        return await finished

    def _settle_thread(self, finished: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        if not finished.done():
            if error is None:
                finished.set_result(value)
            else:
                finished.set_exception(for_future(error))
        self._handler_ended()

    def _handler_ended(self) -> None:
        self._handlers -= 1
        if not self._handlers:
            self._finished()

    async def _answer_error(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._end(Status(StatusCode.CANCELLED, "The request was cancelled."))
            return
        if not self._explains_itself(error):
            logger.error("The request failed:\n%s", stack_trace(error), extra={"request_id": self.context.request_id})
        if self.done:
            return
        if self.started:
            self._break_off()
        else:
            response = error_response(error)
            await response({"type": "http"}, self._asgi_receive, self._asgi_send)
        self.status = StatusCode.UNKNOWN

    def _explains_itself(self, error: BaseException) -> bool:
        """Whether what the client is told says all that there is to know."""
        return isinstance(error, _EXPECTED)

    def _break_off(self) -> None:
        """End a response that has begun and cannot be completed."""
        self._end(Status(StatusCode.INTERNAL, "The response broke off."))

    def closed(self) -> None:
        unread = self._partial + sum(credit for _, credit in self._events)
        self._partial = 0
        self._events.clear()
        self.connection.acknowledge(self.stream_id, unread)
        self._wake()


def scope_of(request: HttpRequest, state: dict[str, Any]) -> Message:
    """The ASGI connection scope of a request."""
    scope: Message = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.query_string,
        "root_path": request.root_path,
        "headers": [(field.name, field.value) for field in request.headers],
        "client": _address(request.client) if request.HasField("client") else None,
        "server": _address(request.server) if request.HasField("server") else None,
        "state": state.copy(),
    }
    if request.websocket:
        scope["type"] = "websocket"
        scope["subprotocols"] = list(request.subprotocols)
        scope["extensions"] = {"websocket.http.response": {}}
    else:
        scope["method"] = request.method
    return scope


def fields_of(message: Message) -> list[HttpField]:
    """The header fields of an application's event."""
    return [HttpField(name=bytes(name), value=bytes(value)) for name, value in message.get("headers", ())]


def _address(peer: HttpPeer) -> tuple[str, int]:
    return peer.host, peer.port


def _takes_arguments(handler: Handler) -> bool:
    try:
        return bool(inspect.signature(handler.function).parameters)
    except (TypeError, ValueError):
        return True
