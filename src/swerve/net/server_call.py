"""The server's side of one gRPC call: messages in, headers, messages and a status out."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Protocol

from swerve.net.streams import Headers
from swerve.wire.frames import ErrorCode
from swerve.wire.message import IDENTITY, MessageReader, frame, whole_message
from swerve.wire.status import CODE_BYTES, OK, RpcError, Status, StatusCode, encode_message, truncate_details

RESPONSE_HEADERS: Headers = ((b":status", b"200"), (b"content-type", b"application/grpc"))
OK_TRAILERS: Headers = ((b"grpc-status", b"0"),)

# What makes a stream of responses waits for its reader while this many bytes of the call have not left yet.
HIGH_WATER = 256 * 1024


def status_trailers(status: Status, extra: Headers = ()) -> Headers:
    """The trailers that end a call with `status`."""
    if not status.details:
        return ((b"grpc-status", CODE_BYTES[status.code]), *extra)
    message = encode_message(truncate_details(status.details))
    return ((b"grpc-status", CODE_BYTES[status.code]), (b"grpc-message", message), *extra)


class CallSide(Protocol):
    """Where a call came from and its response goes: a `Connection`, or a bundle stream of one."""

    def send_headers(self, stream_id: int, headers: Headers, *, end_stream: bool = False) -> None: ...
    def send_data(self, stream_id: int, data: bytes | memoryview, *, end_stream: bool = False) -> None: ...
    def send_trailers(self, stream_id: int, headers: Headers) -> None: ...
    def respond(self, stream_id: int, headers: Headers, body: bytes, trailers: Headers) -> None: ...
    def reset(self, stream_id: int, error_code: int = ErrorCode.CANCEL) -> None: ...
    def acknowledge(self, stream_id: int, amount: int) -> None: ...
    def end_early(self, stream_id: int) -> None: ...
    def unsent(self, stream_id: int) -> int: ...
    def when_drained(self, stream_id: int, callback: Callable[[], None]) -> None: ...
    def flush(self) -> None: ...
    def mark_begun(self, stream_id: int) -> None: ...


class ServerCall:
    """A call as its server sees it. Subclasses implement the three hooks; none of them may wait.

    A subclass ends the call with `finish`, once; what it sends after that, or after `cancelled`, goes nowhere.
    """

    __slots__ = (
        "_half_closed",
        "_max_message_size",
        "_reader",
        "_request_encoding",
        "_started",
        "connection",
        "done",
        "headers",
        "initial",
        "stream_id",
    )

    def __init__(
        self,
        connection: CallSide,
        stream_id: int,
        headers: Headers,
        max_message_size: int,
        encoding: bytes = IDENTITY,
    ) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.headers = headers
        self.done = False
        # Fields that the response's headers get beside the protocol's own, whenever they are sent.
        self.initial: Headers = ()
        self._max_message_size = max_message_size
        self._request_encoding = encoding
        # Made for a request that comes in pieces.
        self._reader: MessageReader | None = None
        self._started = False
        self._half_closed = False

    # --- hooks -----------------------------------------------------------------------------------------------------

    def message_received(self, message: bytes) -> None:
        raise NotImplementedError

    def half_closed(self) -> None:
        """The client has sent its last message."""
        raise NotImplementedError

    def cancelled(self) -> None:
        """The client cancelled the call or went away before it ended."""
        raise NotImplementedError

    def end_of_request(self) -> None:
        """The request's headers were all of it (or all that is left of it)."""
        self._half_closed = True
        if not self.done:
            self.half_closed()

    # --- stream events ---------------------------------------------------------------------------------------------

    def on_headers(self, headers: Headers, end_stream: bool) -> None:
        raise AssertionError("a server stream has no response headers")

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if end_stream:
            self._half_closed = True
        if self.done:
            self.connection.acknowledge(self.stream_id, len(data))
            return
        if end_stream and self._reader is None:
            message = whole_message(data, self._max_message_size)
            if message is not None:
                self.whole_request(message, len(data))
                return
        try:
            messages = self._cut(data, end_stream)
        except RpcError as error:
            self.connection.acknowledge(self.stream_id, len(data))
            self.refuse(error.status)
            return
        self.deliver(messages, len(data))
        if end_stream and not self.done:
            self.half_closed()

    def _cut(self, data: bytes, end_stream: bool) -> list[bytes]:
        """The messages that `data` completes."""
        reader = self._reader
        if reader is None:
            reader = self._reader = MessageReader(self._max_message_size, self._request_encoding)
        messages = reader.feed(data)
        if end_stream and reader.pending:
            raise RpcError(Status(StatusCode.INTERNAL, "The request ended in the middle of a message."))
        return messages

    def whole_request(self, message: bytes, size: int) -> None:
        """The request has come at once: one message, of which `size` bytes were received, and its end. Overridden where
        this way is to be short."""
        self.deliver([message], size)
        if not self.done:
            self.half_closed()

    def deliver(self, messages: list[bytes], size: int) -> None:
        """Take the messages that `size` received bytes completed, and give credit for these. Overridden where user
        code sets the pace."""
        self.connection.acknowledge(self.stream_id, size)
        for message in messages:
            if self.done:
                break  # a hook ended the call
            self.message_received(message)

    def on_trailers(self, headers: Headers) -> None:
        """A request has no trailers in gRPC; one that has them ends here all the same."""
        self.end_of_request()

    def on_closed(self, error_code: int) -> None:
        if not self.done:
            self.done = True
            self.cancelled()

    @property
    def in_message(self) -> bool:
        """Whether a part of a message has come and the rest is awaited."""
        return self._reader is not None and self._reader.pending and not self.done

    # --- sending ---------------------------------------------------------------------------------------------------

    def start(self, extra: Headers = ()) -> None:
        """Send the response's headers now, with `extra` fields, unless they have been sent."""
        if not self._started and not self.done:
            self._started = True
            self.connection.send_headers(self.stream_id, RESPONSE_HEADERS + self.initial + extra)

    @property
    def started(self) -> bool:
        return self._started

    def send_message(self, message: bytes) -> None:
        """Send one message, uncompressed."""
        self.send_framed(frame(message))

    def send_framed(self, data: bytes | memoryview) -> None:
        """Send message bytes that carry their prefix already (or go on after one that did)."""
        if self.done:
            return
        if not self._started:
            self._started = True
            self.connection.send_headers(self.stream_id, RESPONSE_HEADERS + self.initial)
        self.connection.send_data(self.stream_id, data)

    async def drained(self) -> None:
        """Wait until nothing of the response's body waits to be written, or the stream is gone."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connection.when_drained(self.stream_id, functools.partial(_resolve, written))
        await written

    def refuse(self, status: Status) -> None:
        """End the call because of what the client sent. Hooks are not called any more."""
        self.finish(status)

    def finish(self, status: Status, extra: Headers = (), body: bytes = b"") -> None:
        """End the call, after `body`, which is framed: a body gets trailers, else one header block says it all."""
        if self.done:
            return
        trailers = OK_TRAILERS + extra if status is OK else status_trailers(status, extra)
        self.done = True
        if self._started:
            if body:
                self.connection.send_data(self.stream_id, body)
            self.connection.send_trailers(self.stream_id, trailers)
        elif body:
            self._started = True
            self.connection.respond(self.stream_id, RESPONSE_HEADERS + self.initial, body, trailers)
        else:
            self.connection.send_headers(self.stream_id, RESPONSE_HEADERS + trailers, end_stream=True)
        if not self._half_closed:
            self.connection.end_early(self.stream_id)


def _resolve(future: asyncio.Future[None]) -> None:
    # The one who waited may have been cancelled meanwhile.
    if not future.done():
        future.set_result(None)
