"""What a connection's streams are to it, and it to them: the seams of `net/connection.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from swerve.wire.frames import ErrorCode

if TYPE_CHECKING:
    from swerve.net.connection import Connection

logger = logging.getLogger("swerve.net")

Headers = tuple[tuple[bytes, bytes], ...]

# `on_closed` carries this instead of an HTTP/2 error code when the connection went away under the stream.
CONNECTION_LOST = -1
# And this when this side closed the connection to a peer that was there, for a limit or because the process ends.
HUNG_UP = -2


class StreamHandler(Protocol):
    """What a stream's events call. None of these may wait."""

    def on_headers(self, headers: Headers, end_stream: bool) -> None:
        """The response's headers (client role only)."""

    def on_data(self, data: bytes, end_stream: bool) -> None:
        """Part of the body. The handler owes the connection an `acknowledge` of its length, also when this raises: the
        stream is reset then, and `on_closed` follows."""

    def on_trailers(self, headers: Headers) -> None:
        """The trailers; nothing follows them."""

    def on_closed(self, error_code: int) -> None:
        """The stream is over, both ways. Called once, and last. 0 is a regular end."""


class CreditSource(Protocol):
    """Where forwarded bytes came from: a connection, or its bundle stream. An id is a stream's or a call's number."""

    def give_credit(self, stream_id: int, amount: int) -> None:
        """`amount` bytes have been passed on."""

    def send_credit(self) -> None:
        """See that what was given gets written."""


class Bundles(Protocol):
    """A stream of the connection on which small calls share messages, see `net/bundles.py`."""

    @property
    def idle(self) -> bool:
        """Whether a connection that drains need not wait for it."""


# Takes (connection, stream id, headers, end_stream) of a request and returns its handler, or None when it already
# answered or reset the stream.
Acceptor = Callable[["Connection", int, Headers, bool], StreamHandler | None]


def end_all(calls: Iterable[tuple[Callable[[int], None], bool]], error_code: int = CONNECTION_LOST) -> None:
    """End the calls of a lost connection, each by its function, which gets the error code. One that certainly never
    began (the second value) ends as if it had been refused: it may be made elsewhere."""
    for end, never_began in calls:
        try:
            end(ErrorCode.REFUSED_STREAM if never_began else error_code)
        except Exception:
            # One call's failure must not leave the others without an end.
            logger.exception("Ending a call of a lost connection failed")
