"""Taking a slot of a replica before there is a call for it (`DeploymentHandle.choose_replica`)."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field, fields
from typing import Any

from swerve.caller import waiting
from swerve.caller.destination import Arguments, Destination, describe
from swerve.caller.seams import Home, Routed
from swerve.caller.target import Target
from swerve.context import RequestContext
from swerve.routing.calls import CallDescription, Shed
from swerve.routing.replicas import Replica
from swerve.routing.sessions import SESSION_FIELD


@dataclass(frozen=True, slots=True)
class ReplicaSelection:
    """The replica that `choose_replica` reserved a slot of. Fields that only a cluster has are None or empty."""

    replica_id: str
    address: str
    node_ip: str = "127.0.0.1"
    port: int | None = None
    node_id: str = ""
    availability_zone: str | None = None
    _reservation: Any = field(default=None, repr=False, compare=False)

    @property
    def replica_metadata(self) -> dict[str, Any]:
        return {}

    def to_dict(self) -> dict[str, Any]:
        """The public fields as a dict."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "_reservation"}
        return {**values, "replica_metadata": self.replica_metadata}


class Reservation:
    """A place in a router's queue, then a slot of the replica that it chose, until a call uses it or it is released.

    Made and awaited on any thread or loop; all else happens on the runtime's.
    """

    def __init__(self, home: Home, destination: Destination, origin: RequestContext, arguments: Arguments) -> None:
        self.destination = destination
        self.model_id = destination.model_id
        self._arguments = arguments
        self._home = home
        self._origin = origin
        self._deadline = origin.deadline
        self._target: Target[Routed] | None = None
        self._replica: Replica | None = None
        self._selection: ReplicaSelection | None = None
        self._error: BaseException | None = None
        self._over = False
        self._waiters: waiting.Waiters = []
        home.post(self._start)

    def __await__(self) -> Generator[Any, None, ReplicaSelection]:
        yield from waiting.on_loop(self._waiters, self._decided)
        if self._selection is None:
            assert self._error is not None
            raise self._error
        return self._selection

    def take(self) -> Replica | None:
        """The replica, for the one call that may use its slot; None after that and after the release."""
        replica, self._replica = self._replica, None
        return replica

    def field(self, name: bytes) -> str:
        return self.destination.session_id if name == SESSION_FIELD else self._origin.metadata_field(name)

    def describe(self) -> CallDescription:
        return describe(self.destination, self._origin, lambda: self._arguments)

    def release_soon(self) -> None:
        """Give the slot, or the place in the queue, back if no call took it. From any thread."""
        self._home.post(self._release)

    def send(self, replica: Replica) -> None:
        self._replica = replica
        self._selection = ReplicaSelection(replica.info.replica_id, replica.info.address, _reservation=self)
        self._decide()

    def fail(self, error: BaseException) -> None:
        if not self._decided():
            self._error = error
            if self._target is not None:
                self._target.router.withdraw(self)
            self._decide()

    def shed(self, why: Shed) -> None:
        assert self._target is not None
        self.fail(self._target.shed_error(why))

    def unavailable(self) -> None:
        assert self._target is not None
        self.fail(self._target.unavailable_error())

    def expire(self) -> None:
        self.fail(TimeoutError("The request reached its deadline before a replica had a free slot."))

    def _start(self) -> None:
        if self._over:
            return
        if self._deadline is not None:
            if self._deadline <= time.monotonic():
                self.expire()
                return
            self._home.timers.add(self._deadline, self)
        target = self._target = self._home.target(self.destination.app, self.destination.deployment)
        target.submit(self)

    def _decide(self) -> None:
        if self._deadline is not None:
            self._home.timers.remove(self._deadline, self)
        waiting.wake(self._waiters)

    def _decided(self) -> bool:
        return self._selection is not None or self._error is not None

    def _release(self) -> None:
        self._over = True
        self.fail(RuntimeError("The reservation was released."))
        replica = self.take()
        if replica is not None and self._target is not None:
            self._target.release(replica, self)
