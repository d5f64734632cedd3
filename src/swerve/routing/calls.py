"""What routing knows of a call, and the seam for choices that look at one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from swerve.routing.replicas import Replica


class Shed(Exception):
    """The deployment's queue is full; the call was not taken. Those that wait will have left in `retry_after_s`."""

    def __init__(self, queued: int, limit: int, retry_after_s: float) -> None:
        super().__init__(queued, limit, retry_after_s)
        self.queued = queued
        self.limit = limit
        self.retry_after_s = retry_after_s


class Unavailable(Exception):
    """The deployment failed to deploy and nothing of it runs; the call was not taken."""


@dataclass(frozen=True, slots=True)
class CallDescription:
    """A call as a user's request router sees it; `arguments` are made when they are asked for, on any thread."""

    request_id: str
    method: str
    app: str
    arguments: Callable[[], tuple[Sequence[Any], dict[str, Any]]]
    route: str = ""
    is_streaming: bool = False


class RoutedCall(Protocol):
    """What a router looks at, and what becomes of it. Calls are compared by identity."""

    model_id: str

    def field(self, name: bytes) -> str:
        """What the call's metadata, or its client's auth context, has by this name (`wire.peer.call_field`)."""

    def send(self, replica: Replica) -> None:
        """Go to `replica`, whose slot the router has taken for this call."""

    def shed(self, why: Shed) -> None:
        """End: the queue is full, and the call gives way to another."""

    def unavailable(self) -> None:
        """End: nothing will ever serve the call."""

    def describe(self) -> CallDescription:
        """What a user's request router may look at."""


class Affinity(Protocol):
    """A choice that looks at the call, and may let it wait for one replica while others are free."""

    # Whether it also chooses for calls that name a model.
    decides_models: bool

    @property
    def reach(self) -> int | None:
        """So many waiting calls, the first in line, are looked at; None: all."""

    @property
    def undecided(self) -> int:
        """How many waiting calls may have a free replica, which is not decided yet."""

    def find(self, call: Any, free: Sequence[Replica], random: Callable[[], float], *, patient: bool) -> Replica | None:
        """The replica for `call`, None when it is to wait. Not `patient`: it cannot wait, because the queue is full."""

    def forget(self, call: Any) -> None:
        """`call` waits no more, and has got no replica."""

    def replicas_changed(self, replicas: Mapping[str, Replica]) -> None:
        """The replicas that can be reached now, by id."""

    def wake_at(self) -> float | None:
        """When waiting calls should be looked at again, though nothing else happened; None: never."""
