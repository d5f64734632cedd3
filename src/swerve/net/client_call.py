"""The client's side of one gRPC call: a request out, messages and a status in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from swerve.net.connection import Connection
from swerve.net.streams import CONNECTION_LOST, Headers
from swerve.wire import metadata
from swerve.wire.frames import ErrorCode
from swerve.wire.message import MAX_MESSAGE_SIZE, MessageReader
from swerve.wire.status import OK, RpcError, Status, StatusCode, code_for_http_status, decode_code, decode_message

# How nearly every call inside an instance ends.
_OK_TRAILERS = ((b"grpc-status", b"0"),)

# RST_STREAM codes of a server that answers without a status ("HTTP2 error codes" in the gRPC protocol description).
_CODE_FOR_RESET = {
    CONNECTION_LOST: StatusCode.UNAVAILABLE,
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
}


def request_headers(path: str, authority: str, extra: Iterable[tuple[bytes, bytes]] = ()) -> Headers:
    """The headers of a gRPC request."""
    return (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *extra,
    )


def status_of(headers: Headers) -> Status:
    """The status that a trailer block (or a response of headers alone) carries."""
    if headers == _OK_TRAILERS:
        return OK
    code = metadata.get(headers, b"grpc-status")
    if code is None:
        http_status = metadata.get(headers, b":status") or b"?"
        if http_status == b"200":
            return Status(StatusCode.UNKNOWN, "The response ended without a grpc-status.")
        text = http_status.decode("latin-1")
        number = int(text) if text.isdigit() else 0
        return Status(code_for_http_status(number), f"The response has HTTP status {text} and no grpc-status.")
    return Status(decode_code(code), decode_message(metadata.get(headers, b"grpc-message") or b""))


class CallerSide(Protocol):
    """Where a call is under way: a `Connection`, or a bundle stream of one."""

    def reset(self, stream_id: int, error_code: int = ErrorCode.CANCEL) -> None: ...
    def acknowledge(self, stream_id: int, amount: int) -> None: ...
    def unsent(self, stream_id: int) -> int: ...


class BundleStream(CallerSide, Protocol):
    """Where calls share messages, see `net/bundles.py`."""

    def call(self, headers: Headers, body: bytes, call: ClientCall) -> int: ...


class ClientCall:
    """A call as its client sees it. Subclasses implement the hooks; none of them may wait.

    `ended` is the last hook, and comes once. `refused` is True then when the server is known not to have begun the call
    (RST_STREAM with REFUSED_STREAM, RFC 9113, section 8.7): it may be made again elsewhere.
    """

    __slots__ = ("_reader", "_status", "_trailers", "connection", "done", "refused", "stream_id")

    def __init__(self, max_message_size: int = MAX_MESSAGE_SIZE) -> None:
        self.connection: CallerSide | None = None
        self.stream_id = 0
        self.done = False
        self.refused = False
        self._reader = MessageReader(max_message_size)
        self._status: Status | None = None
        self._trailers: Headers = ()

    # --- hooks -----------------------------------------------------------------------------------------------------

    def message_received(self, message: bytes) -> None:
        raise NotImplementedError

    def ended(self, status: Status, trailers: Headers) -> None:
        raise NotImplementedError

    # --- sending ---------------------------------------------------------------------------------------------------

    def begin(self, connection: Connection, headers: Headers, body: Iterable[bytes | memoryview]) -> None:
        """Send the whole request: `body` is its framed message in pieces.

        Raises:
            Http2Error: the connection takes no new call; nothing was sent and no hook is called.
        """
        self.stream_id = connection.open_stream(headers, self)
        self.connection = connection
        self.refused = False
        for part in body:
            connection.send_data(self.stream_id, part)
        connection.end_stream(self.stream_id)

    def begin_in_bundle(self, bundles: BundleStream, headers: Headers, body: bytes) -> None:
        """Send the whole request, which is small, together with others."""
        self.stream_id = bundles.call(headers, body, self)
        self.connection = bundles
        self.refused = False

    def cancel(self) -> None:
        """Abandon the call; `ended` is called with CANCELLED before this returns."""
        if self.done:
            return
        if self.connection is not None:
            self.connection.reset(self.stream_id, ErrorCode.CANCEL)
        self._end(Status(StatusCode.CANCELLED, "The call was cancelled."))

    # --- stream events ---------------------------------------------------------------------------------------------

    def on_headers(self, headers: Headers, end_stream: bool) -> None:
        # A response without a body, or none that is gRPC's, has its status here.
        if end_stream or headers[0][1] != b"200":
            self._status = status_of(headers)
            self._trailers = headers

    def on_data(self, data: bytes, end_stream: bool) -> None:
        try:
            self._receive(data)
        finally:
            self.consume(len(data))

    def _receive(self, data: bytes) -> None:
        if not self.done:
            try:
                messages = self._reader.feed(data)
            except RpcError as error:
                assert self.connection is not None
                self.connection.reset(self.stream_id, ErrorCode.CANCEL)
                messages = []
                self._end(error.status)
            for message in messages:
                if self.done:
                    break  # a hook cancelled the call
                self.message_received(message)

    def consume(self, amount: int) -> None:
        """Give credit for received bytes. Overridden where a reader sets the pace."""
        assert self.connection is not None
        self.connection.acknowledge(self.stream_id, amount)

    def on_trailers(self, headers: Headers) -> None:
        self._status = status_of(headers)
        self._trailers = headers

    def on_closed(self, error_code: int) -> None:
        if self.done:
            return
        self.refused = error_code == ErrorCode.REFUSED_STREAM
        status = self._status
        if status is None:
            code = _CODE_FOR_RESET.get(error_code, StatusCode.INTERNAL)
            if error_code == CONNECTION_LOST:
                status = Status(code, "The connection was lost before the call ended.")
            else:
                status = Status(code, f"The stream was reset with HTTP/2 error code {error_code}.")
        self._end(status)

    # --- the answer from a bundle ----------------------------------------------------------------------------------

    def on_answer(self, headers: Headers | None, body: bytes | None, trailers: Headers | None) -> None:
        if body is not None:
            self._receive(body)
            if trailers is None:
                self.consume(len(body))
        if trailers is not None:
            self._status = status_of(trailers) if trailers else OK
            self._trailers = trailers
            self.on_closed(ErrorCode.NO_ERROR)

    def on_reset(self, error_code: int) -> None:
        self.on_closed(error_code)

    def _end(self, status: Status) -> None:
        self.done = True
        self.ended(status, self._trailers)
