"""What a handle's call is to its neighbours, and they to it: who makes it, what it needs, who waits for its outcome."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from swerve.caller.codec import Encoded, Lend
from swerve.caller.destination import Destination
from swerve.caller.target import Target
from swerve.context import RequestContext
from swerve.net.timers import TimerWheel
from swerve.routing.calls import RoutedCall
from swerve.routing.replicas import Replica


class Sink(Protocol):
    """Where a call's outcome goes. Called on the runtime's loop; must not wait."""

    def _on_message(self, message: bytes) -> None:
        """A reply, as `codec.decode_reply` reads it: the result, or one item of a stream."""

    def _on_finished(self, error: BaseException | None) -> None:
        """The call is over; nothing follows."""


class PendingCall(Protocol):
    """A call that a handle made."""

    @property
    def owes(self) -> bool: ...
    def pin(self, replica: Replica, reserved_by: Routed | None = None) -> None: ...
    def start(self) -> None: ...
    def submit(self, message: Encoded) -> None: ...
    def launch(self, message: Encoded) -> None: ...
    def fail(self, error: BaseException) -> None: ...
    def cancel_soon(self) -> None: ...
    def resume_soon(self) -> None: ...


class Caller(Protocol):
    """What handles call through: the process's runtime, or an application in local testing mode."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def lend(self) -> Lend | None:
        """Memory for arguments that are lent instead of sent; None where nothing is."""

    def post(self, function: Callable[[], None]) -> None:
        """Run `function` on the loop: now when this is its thread, else soon."""

    def call(
        self, destination: Destination, origin: RequestContext, sink: Sink, unread: deque[bytes] | None = None
    ) -> PendingCall:
        """A new call, made in the request `origin`, whose outcome goes to `sink`."""

    def reaches(self, destination: Destination) -> bool:
        """True when a call can be sent at once."""

    def take_everyone(self, destination: Destination) -> list[Replica] | None:
        """A slot of each replica, whatever its load. None while it is not known which these are."""


class Routed(RoutedCall, Protocol):
    """What waits in a router."""

    def fail(self, error: BaseException) -> None:
        """No replica will be chosen."""


class Home(Protocol):
    """What a call needs of its runtime."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def timers(self) -> TimerWheel: ...
    @property
    def queue_keys(self) -> Sequence[bytes]:
        """What some deployment's queue goes by (`wire.peer.call_field`): calls hand it on to those that they make."""

    def post(self, function: Callable[[], None]) -> None:
        """Run `function` on the loop: now when this is its thread, else soon."""

    def target(self, app: str, deployment: str) -> Target[Routed]: ...
