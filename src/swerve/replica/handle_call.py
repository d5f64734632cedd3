"""A call from a `DeploymentHandle`: Python objects in and out. Only the private socket leads here."""

from __future__ import annotations

import time
from typing import Any, Protocol, cast

from swerve.caller import codec
from swerve.caller.destination import CALL_PATH, STREAM_PATH
from swerve.caller.lending import LENDER
from swerve.context import RequestContext
from swerve.net.server_call import CallSide
from swerve.net.streams import Headers
from swerve.replica.user_call import Runtime, UserCall
from swerve.replica.user_code import MissingMethodError, UserCode
from swerve.wire.deadline import parse_timeout
from swerve.wire.message import IDENTITY, MAX_MESSAGE_SIZE, prefix
from swerve.wire.status import OK, Status, StatusCode

# The paths of handle calls, unary and streaming.
CALL = CALL_PATH.encode()
STREAM = STREAM_PATH.encode()

# Parts of a message that is smaller than this are joined; larger ones are not copied.
_JOIN_BELOW = 64 * 1024


class HandleRuntime(Runtime, Protocol):
    """What a handle's call needs of its replica."""

    app: str
    user_code: UserCode


class HandleCall(UserCall):
    """One `handle.method.remote(...)`."""

    __slots__ = ("_method", "_stream")

    runtime: HandleRuntime

    def __init__(
        self,
        connection: CallSide,
        stream_id: int,
        headers: Headers,
        fields: dict[bytes, bytes],
        runtime: HandleRuntime,
    ) -> None:
        get = fields.get
        timeout = get(b"grpc-timeout")
        seconds = None if timeout is None else parse_timeout(timeout)
        context = RequestContext(
            request_id=get(b"request_id", b"").decode(),
            route=get(b"swerve-route", b"").decode(),
            app_name=get(b"application", b"").decode() or runtime.app,
            multiplexed_model_id=get(b"multiplexed_model_id", b"").decode(),
            session_id=get(b"session_id", b"").decode(),
            deadline=None if seconds is None else time.monotonic() + seconds,
            headers=headers,
        )
        self._method = get(b"swerve-method", b"__call__").decode()
        UserCall.__init__(
            self, connection, stream_id, headers, MAX_MESSAGE_SIZE, IDENTITY, runtime, context, self._method
        )
        self._stream = fields[b":path"] == STREAM

    def message_received(self, message: bytes) -> None:
        if self._ran:
            self.refuse(Status(StatusCode.INTERNAL, "The call has more than one arguments message."))
            return
        try:
            args, kwargs = cast(
                tuple[tuple[Any, ...], dict[str, Any]], codec.decode(codec.claim(message, self.connection))
            )
            handler = self.runtime.user_code.handler(self._method)
        except MissingMethodError as error:
            self.refuse(Status(StatusCode.UNIMPLEMENTED, str(error)))
        except Exception as error:
            # The arguments' classes cannot be imported here, most likely: the caller must see which.
            self._fail(error)
            self._stop_user_code()
        else:
            self.run(handler, args, kwargs, self._stream)

    def half_closed(self) -> None:
        if not self._ran:
            self.refuse(Status(StatusCode.INTERNAL, "The call has no arguments message."))

    def encode(self, value: Any) -> bytes | codec.Pieces:
        # A stream's items are held back by their bytes in messages: lent, they would not wait for their reader.
        message = codec.encode_reply(value, None if self._stream else LENDER.lend)
        return _framed(message.to(self.connection) if isinstance(message, codec.Lent) else message)

    def outcome(self) -> Status:
        return OK

    def failed(self, error: BaseException) -> None:
        """Send the exception itself: it keeps its type."""
        if not self.done:
            self._send(_framed(codec.encode_exception(error)))
            self._end(OK)
            self.status = StatusCode.UNKNOWN


def _framed(parts: codec.Pieces) -> bytes | codec.Pieces:
    """One gRPC message of these parts."""
    size = sum(map(len, parts))
    if size > MAX_MESSAGE_SIZE:
        raise ValueError(f"A result of {size} bytes is larger than a message can be ({MAX_MESSAGE_SIZE} bytes).")
    if size < _JOIN_BELOW:
        return b"".join((prefix(size), *parts))
    return [prefix(size), *parts]
