"""What routing knows of a call, and the seam for choices that look at one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


class RoutedCall(Protocol):
    """What the router looks at. Calls are compared by identity."""

    model_id: str

    def field(self, name: bytes) -> str:
        """The last value of this field of the call's metadata, "" if it has none."""

    def shed(self, why: Shed) -> None:
        """End: the queue is full, and the call gives way to another."""


class Affinity(Protocol):
    """A choice that looks at the call, and may let it wait for one replica while others are free."""

    # Whether it also chooses for calls that name a model.
    decides_models: bool
    # So many waiting calls, in their order, are looked at when a slot falls free; None: all.
    reach: int | None

    def find(self, call: Any, free: Sequence[Replica], random: Callable[[], float], *, patient: bool) -> Replica | None:
        """The replica for `call`, None when it is to wait. Not `patient`: it cannot wait, because the queue is full."""

    def forget(self, call: Any) -> None:
        """`call` waits no more."""

    def replicas_changed(self, replicas: Mapping[str, Replica]) -> None:
        """The replicas that can be reached now, by id."""

    def wake_at(self) -> float | None:
        """When waiting calls should be looked at again, though nothing else happened; None: never."""
