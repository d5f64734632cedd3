"""A client's gRPC call in the replica: bytes to the user's messages and back, context, status, trailers."""

from __future__ import annotations

import time
from typing import Any, Protocol

from swerve.context import RequestContext
from swerve.exceptions import gRPCStatusError
from swerve.grpc_util import RayServegRPCContext, gRPCInputStream, status_code
from swerve.net.server_call import CallSide
from swerve.net.streams import Headers
from swerve.replica.errors import retry_delay_s, status_for
from swerve.replica.user_call import Runtime, UserCall
from swerve.replica.user_code import MissingMethodError, UserCode
from swerve.servicers import ServedMethod
from swerve.wire.deadline import parse_timeout
from swerve.wire.message import DEFLATE, GZIP, IDENTITY, check_encoding, frame_compressed, frame_in_parts
from swerve.wire.peer import PEER_FIELD
from swerve.wire.retry import retry_trailers
from swerve.wire.status import OK, RpcError, Status, StatusCode

_ENCODINGS = {1: DEFLATE, 2: GZIP}  # grpc.Compression's values


class GrpcRuntime(Runtime, Protocol):
    """What a gRPC call needs of its replica."""

    app: str
    deployment: str
    user_code: UserCode
    max_message_size: int
    keep_status_on_exception: bool


class GrpcHead:
    """What a replica goes by in a request's headers: found out once for all requests with the same block of them."""

    __slots__ = ("encoding", "model_id", "request_id", "session_id", "timeout")

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        self.request_id = fields.get(b"request_id", b"")
        self.timeout = fields.get(b"grpc-timeout")
        self.model_id = fields.get(b"multiplexed_model_id", b"").decode("latin-1")
        self.session_id = fields.get(b"session_id", b"").decode("latin-1")
        self.encoding = fields.get(b"grpc-encoding", IDENTITY)


class GrpcCall(UserCall):
    """One RPC. The handler gets the parsed request, or for client streaming an input stream."""

    __slots__ = ("_context", "_input", "_method", "_request")

    logged_by_proxy = True

    runtime: GrpcRuntime

    def __init__(
        self,
        connection: CallSide,
        stream_id: int,
        headers: Headers,
        head: GrpcHead,
        # Those of `headers` that are not in `head`, which they overrule.
        added: Headers,
        method: ServedMethod,
        runtime: GrpcRuntime,
    ) -> None:
        request_id, timeout, encoding = head.request_id, head.timeout, head.encoding
        for name, value in added:
            if name == b"request_id":
                request_id = value
            elif name == b"grpc-timeout":
                timeout = value
        seconds = None if timeout is None else parse_timeout(timeout)
        context = RequestContext(
            request_id.decode("latin-1"),
            runtime.app,
            runtime.app,
            head.model_id,
            head.session_id,
            None if seconds is None else time.monotonic() + seconds,
            headers,
        )
        UserCall.__init__(
            self, connection, stream_id, headers, runtime.max_message_size, encoding, runtime, context, method.path
        )
        self._method = method
        self._context: RayServegRPCContext | None = None
        self._request: bytes | None = None
        self._input: gRPCInputStream[Any] | None = None
        if encoding is not IDENTITY and encoding != IDENTITY:
            try:
                check_encoding(encoding)
            except RpcError as error:
                self.refuse(error.status)

    # --- the request -----------------------------------------------------------------------------------------------

    def begin(self, end_stream: bool) -> None:
        """The headers are in. A call whose client streams starts now, others when their message is complete."""
        if self._method.client_streaming and not self.done:
            self._input = gRPCInputStream(self._credit)
            self._invoke(self._input)
        if end_stream:
            self.end_of_request()

    def whole_request(self, message: bytes, size: int) -> None:
        if self._input is not None:
            super().whole_request(message, size)
            return
        self.received = size
        self.connection.acknowledge(self.stream_id, size)
        self._begin_with(message)

    def _credit(self, amount: int) -> None:
        self.connection.acknowledge(self.stream_id, amount)

    def deliver(self, messages: list[bytes], size: int) -> None:
        self.received += size
        stream = self._input
        if stream is None:
            super().deliver(messages, size)
            return
        if not messages:
            # Part of a large message. It may come in ahead of its turn only when nothing else waits to be read.
            if not stream._withhold(size):
                self._credit(size)
            return
        # The client gets its credit back when the handler has read the last message that these bytes completed.
        last = len(messages) - 1
        for index, message in enumerate(messages):
            try:
                parsed = self._method.deserialize(message)
            except Exception as error:
                self._credit(size)
                self.refuse(self._unparsable(error))
                return
            stream._push(parsed, size if index == last else 0)

    def message_received(self, message: bytes) -> None:
        if self._request is not None:
            self.refuse(
                Status(StatusCode.INTERNAL, f"{self.path} takes one request message, and the client sent more.")
            )
        self._request = message

    def half_closed(self) -> None:
        if self._input is not None:
            self._input._end()
            return
        message, self._request = self._request, None
        if message is None:
            self.refuse(
                Status(StatusCode.INTERNAL, f"{self.path} takes one request message, and the client sent none.")
            )
        else:
            self._begin_with(message)

    def _begin_with(self, message: bytes) -> None:
        """Run the handler with the only message of the request."""
        # Its own line: in one with the call it is looked for as a method, which takes longer.
        deserialize = self._method.deserialize
        try:
            request = deserialize(message)
        except Exception as error:
            self.refuse(self._unparsable(error))
        else:
            self._invoke(request)

    def _unparsable(self, error: Exception) -> Status:
        expected = _type_name(self._method.request_class)
        return Status(StatusCode.INVALID_ARGUMENT, f"The request of {self.path} does not parse as {expected}: {error}")

    def _invoke(self, request: Any) -> None:
        runtime = self.runtime
        try:
            handler = runtime.user_code.handler(self._method.name)
        except MissingMethodError as error:
            details = f"Deployment '{runtime.deployment}' does not serve {self.path}: {error}"
            self.refuse(Status(StatusCode.UNIMPLEMENTED, details))
            return
        kwargs: dict[str, Any] = {}
        if handler.takes_grpc_context:
            kwargs["grpc_context"] = self._make_context()
        self.run(handler, (request,), kwargs, self._method.server_streaming)

    def _make_context(self) -> RayServegRPCContext:
        peer = dict(self.headers).get(PEER_FIELD, b"")
        self._context = self.context.grpc_context = RayServegRPCContext(
            self.headers,
            request_id=self.context.request_id,
            peer=peer.decode("latin-1"),
            deadline=self.context.deadline,
        )
        self._context._send_initial = self._send_initial
        return self._context

    # --- the response ----------------------------------------------------------------------------------------------

    def _send_initial(self, metadata: Headers) -> None:
        # From any thread: a plain handler runs in one.
        self.runtime.mailbox.run(lambda: self.start(metadata))

    def encode(self, value: Any) -> bytes | list[bytes | memoryview]:
        method = self._method
        serialize = method.serialize
        context = self._context
        if context is not None and not method.server_streaming and _is_error(context):
            return b""  # a unary response has no message beside a status that is not OK
        expected = method.response_class
        if type(value) is not expected and expected is not None and not isinstance(value, expected):
            raise RpcError(
                Status(
                    StatusCode.INTERNAL,
                    f"Method '{method.name}' of deployment '{self.runtime.deployment}' returned "
                    f"{_type_name(type(value))} where {self.path} expects {_type_name(expected)}.",
                )
            )
        try:
            message = serialize(value)
        except Exception as error:
            raise RpcError(
                Status(
                    StatusCode.INTERNAL,
                    f"What method '{method.name}' of deployment '{self.runtime.deployment}' returned "
                    f"({_type_name(type(value))}) cannot be serialized for {self.path}: {error}",
                )
            ) from error
        size = len(message)
        if size > self.runtime.max_message_size:
            raise RpcError(
                Status(
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"Sent message larger than max ({size} vs. {self.runtime.max_message_size}).",
                )
            )
        if context is not None and context._compression:
            encoding = self._encoding(context)
            if encoding is not None:
                return frame_compressed(message, encoding)
        return frame_in_parts(message)

    def _encoding(self, context: RayServegRPCContext) -> bytes | None:
        """How to compress the response; None when not. The response's headers say so, so the first message decides."""
        encoding = _ENCODINGS.get(int(context._compression))
        accepted = dict(self.headers).get(b"grpc-accept-encoding", b"").split(b",")
        if encoding is None or encoding not in [name.strip() for name in accepted]:
            return None
        announced = (b"grpc-encoding", encoding)
        if announced not in self.initial:
            if self.started:
                return None
            self.initial += (announced,)
        return encoding

    def outcome(self) -> Status:
        context = self._context
        if context is None:
            return OK
        code = context.code()
        if code is None and not context.details():
            return OK
        return Status(StatusCode.OK if code is None else status_code(code), context.details())

    def failed(self, error: BaseException) -> None:
        status, delay_s = self._status_of(error), retry_delay_s(error)
        self._end(status, () if delay_s is None else retry_trailers(status, delay_s))

    def _status_of(self, error: BaseException) -> Status:
        context = self._context
        chosen = isinstance(error, gRPCStatusError | RpcError)
        if context is not None and self.runtime.keep_status_on_exception and context.code() and not chosen:
            code = status_code(context.code())
            if code != StatusCode.OK:
                return Status(code, context.details() or str(error))
        return status_for(error)

    def on_closed(self, error_code: int) -> None:
        if not self.done and self._input is not None:
            self._input.cancel()
        super().on_closed(error_code)

    def closed(self) -> None:
        if self._input is not None:
            self._input._discard()

    def trailers(self) -> Headers:
        context = self._context
        return context._encoded_trailing if context is not None else ()

    def let_go(self) -> None:
        self._input = None
        context = self._context
        if context is not None:
            context._send_initial = None
            self._context = self.context.grpc_context = None


def _is_error(context: RayServegRPCContext) -> bool:
    return context.code() is not None and status_code(context.code()) != StatusCode.OK


def _type_name(cls: type | None) -> str:
    """How a message type is called in its .proto; another class by its Python name."""
    if cls is None:
        return "the expected message"
    descriptor = getattr(cls, "DESCRIPTOR", None)
    return str(descriptor.full_name) if descriptor is not None else cls.__qualname__
