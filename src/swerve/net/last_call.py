"""How a server asks its client to go (RFC 9113, section 6.8): first it says that it will, and only when requests that
crossed that notice have arrived, which one was the last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swerve.wire.http2 import Http2

# What the ping says that asks whether the peer has heard the notice.
_OPAQUE_DATA = b"swerve-l"
# A peer that does not answer in a second has had many round trips of time (the RFC asks for one).
_TIMEOUT_S = 1.0


class LastCall:
    """The notice, given when this is made. `finish` is called when it was answered, or should have been."""

    __slots__ = ("_finish", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, http2: Http2, finish: Callable[[], None]) -> None:
        self._loop = loop
        self._finish: Callable[[], None] | None = finish
        http2.announce_shutdown()
        http2.ping(_OPAQUE_DATA)
        self._timer = loop.call_later(_TIMEOUT_S, finish)

    def ping_acknowledged(self, opaque_data: bytes) -> None:
        """A ping was answered: perhaps ours."""
        if opaque_data == _OPAQUE_DATA and self._finish is not None:
            self._loop.call_soon(self._finish)

    def cancel(self) -> None:
        """Wait for the answer no more, and let go of who waited."""
        self._timer.cancel()
        self._finish = None
