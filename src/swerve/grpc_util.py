"""What a handler can know and say about its gRPC call: `RayServegRPCContext`, and `gRPCInputStream` for its messages.

The names and methods are those of `ray.serve.grpc_util`. Beyond them: `abort`, `time_remaining` and
`send_initial_metadata`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

from swerve.exceptions import gRPCStatusError
from swerve.wire import metadata as wire_metadata
from swerve.wire.metadata import Headers, Metadata
from swerve.wire.peer import auth_context_of, identity_key, peer_address
from swerve.wire.status import StatusCode

T = TypeVar("T")


def status_code(code: Any) -> StatusCode:
    """A `grpc.StatusCode`, or a number, as our `StatusCode`.

    Raises:
        TypeError: `code` is neither.
        ValueError: it is a number that is no gRPC code.
    """
    value = getattr(code, "value", code)
    number = value[0] if isinstance(value, tuple) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"A status code must be a grpc.StatusCode or its number, got {code!r}.")
    return StatusCode(number)


def abort(code: Any, details: str) -> NoReturn:
    """End a call with a status other than OK, by raising.

    Raises:
        gRPCStatusError: always.
        ValueError: `code` is OK or no status code.
        TypeError: `details` is no str.
    """
    if status_code(code) == StatusCode.OK:
        raise ValueError("abort needs a status other than OK.")
    if not isinstance(details, str):
        raise TypeError(f"Details must be a str, got {details!r}.")
    raise gRPCStatusError(None, code, details)


class GrpcRequest:
    """What is known of a call before it is answered, for handlers and interceptors."""

    def __init__(
        self,
        headers: Headers,
        *,
        request_id: str = "",
        # What `wire.peer` makes of the client's address and auth context.
        peer: str = "",
        deadline: float | None = None,
    ) -> None:
        self._headers = headers
        self._request_id = request_id
        self._peer = peer
        self._deadline = deadline

    def auth_context(self) -> dict[str, list[bytes]]:
        """What TLS and interceptors say about the client, by grpcio's names; no client can add to it."""
        return auth_context_of(self._peer)

    def peer(self) -> str:
        """The client's address, as grpcio writes it: "ipv4:127.0.0.1:50000"."""
        return peer_address(self._peer)

    def peer_identities(self) -> list[bytes] | None:
        """The alternative names in the client's certificate, its common name if there are none; None without one."""
        context = self.auth_context()
        key = identity_key(context)
        return None if key is None else context[key]

    def peer_identity_key(self) -> str | None:
        """The property of `auth_context` that `peer_identities` gives; None without a client's certificate."""
        return identity_key(self.auth_context())

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        """The request's metadata; values of keys that end in "-bin" are bytes."""
        return [pair for pair in wire_metadata.decode(self._headers) if not pair[0].startswith("swerve-")]

    def request_id(self) -> str:
        """The request id: the client's, or the generated one."""
        return self._request_id

    def time_remaining(self) -> float | None:
        """Seconds until the call's deadline (never below 0), None when it has none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


class RayServegRPCContext(GrpcRequest):
    """The gRPC side of one call, passed to handlers that have a parameter named `grpc_context`.

    Picklable: a copy keeps all values, and loses what needs the running call (`send_initial_metadata`).
    """

    # Sends the response's headers; set by the call for as long as it runs.
    _send_initial: Callable[[Headers], None] | None = None
    _code: Any = None
    _details = ""
    _compression: Any = None
    _trailing: Metadata = ()
    _encoded_trailing: Headers = ()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_send_initial": None}

    # --- the request -----------------------------------------------------------------------------------------------

    def application(self) -> str | None:
        return self._last("application")

    def multiplexed_model_id(self) -> str | None:
        return self._last("multiplexed_model_id")

    def traceparent(self) -> str | None:
        return self._last("traceparent")

    def tracestate(self) -> str | None:
        return self._last("tracestate")

    def _last(self, key: str) -> str | None:
        value = wire_metadata.get(self._headers, key.encode())
        return None if value is None else value.decode("latin-1")

    # --- the response ----------------------------------------------------------------------------------------------

    def code(self) -> Any:
        """The status code that was set, as it was set; None before."""
        return self._code

    def details(self) -> str:
        """The details that were set; "" before."""
        return self._details

    def trailing_metadata(self) -> list[tuple[str, str | bytes]]:
        """The trailing metadata so far, the request id first."""
        return [("request_id", self._request_id), *self._trailing]

    def set_code(self, code: Any) -> None:
        """End the call with this `grpc.StatusCode` (or its number).

        Raises:
            TypeError, ValueError: it is no status code.
        """
        status_code(code)
        self._code = code

    def set_details(self, details: str) -> None:
        """The text that goes with the status. At most 4096 characters of it are sent.

        Raises:
            TypeError: it is no str.
        """
        if not isinstance(details, str):
            raise TypeError(f"Details must be a str, got {details!r}.")
        self._details = details

    def set_compression(self, compression: Any) -> None:
        """Compress the responses from here on by this `grpc.Compression`, if the client accepts it."""
        self._compression = compression

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Replace the trailing metadata; the request id is always added.

        Raises:
            ValueError, TypeError: a key or value that gRPC cannot carry.
        """
        pairs = [(key, value) for key, value in trailing_metadata if key != "request_id"]
        self._encoded_trailing = wire_metadata.encode(pairs)
        self._trailing = pairs

    def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Send the response's headers now, with this metadata. Only the first call has an effect on the wire.

        Raises:
            ValueError, TypeError: a key or value that gRPC cannot carry.
            RuntimeError: this context is a copy, outside its call.
        """
        encoded = wire_metadata.encode(initial_metadata)
        if self._send_initial is None:
            raise RuntimeError(
                "Initial metadata can only be sent by the handler of the call, not from a copied context."
            )
        self._send_initial(encoded)

    def abort(self, code: Any, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """End the call now with a status other than OK, by raising.

        Raises:
            gRPCStatusError: always; the handler should let it pass.
            ValueError: `code` is OK or no status code.
            TypeError: `details` is no str.
        """
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        abort(code, details)


class gRPCInputStream(Generic[T]):
    """The messages of a client-streaming call: `async for message in stream`.

    Messages that were not read yet hold back the client by HTTP/2's flow control. A client that cancels or goes away
    cancels the handler's task, so an upload that broke off never looks like one that ended.
    """

    def __init__(self, credit: Callable[[int], None] = lambda amount: None) -> None:
        self._messages: deque[tuple[T, int]] = deque()
        self._credit = credit
        self._ended = False
        self._cancelled = False
        # Set for a moment when there is something new, for all who wait.
        self._news = asyncio.Event()

    def __aiter__(self) -> gRPCInputStream[T]:
        return self

    async def __anext__(self) -> T:
        while not self._messages:
            if self._ended or self._cancelled:
                raise StopAsyncIteration
            await self._news.wait()
        if self._cancelled:
            raise StopAsyncIteration
        message, size = self._messages.popleft()
        self._credit(size)
        return message

    def is_cancelled(self) -> bool:
        """Whether the client cancelled the call, or `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Read no more."""
        self._cancelled = True
        self._wake()

    @property
    def is_exhausted(self) -> bool:
        """Whether the client has sent its last message and it has been read."""
        return self._ended and not self._messages

    def _push(self, message: T, size: int) -> None:
        self._messages.append((message, size))
        self._wake()

    def _withhold(self, size: int) -> bool:
        """Give credit for `size` more bytes only with the last message that waits. False when none waits."""
        if not self._messages:
            return False
        message, owed = self._messages[-1]
        self._messages[-1] = message, owed + size
        return True

    def _end(self) -> None:
        self._ended = True
        self._wake()

    def _discard(self) -> None:
        """The call is over: give credit for what was never read."""
        while self._messages:
            self._credit(self._messages.popleft()[1])

    def _wake(self) -> None:
        self._news.set()
        self._news.clear()
