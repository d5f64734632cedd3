"""When a call goes to which replica: the admission of one deployment's calls at one caller.

A call waits here, not in a replica, and is bound to one when it has a free slot ("late binding"), so a waiting call can
still be cancelled, expire or be shed. All methods decide and return; the caller starts what they hand out and arms one
timer for `wake_at`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from swerve.routing.choose import for_model, shorter_of_two
from swerve.routing.drain import DrainRate
from swerve.routing.replicas import FreeList, Replica, ReplicaInfo

# After a refusal a replica gets no new call for this long, doubled each time up to the maximum (Ray Serve's
# initial_backoff_s, backoff_multiplier and max_backoff_s), or until one of this caller's calls there ends.
_INITIAL_BACKOFF_S = 0.025
_BACKOFF_MULTIPLIER = 2
_MAX_BACKOFF_S = 0.5
# How long a call waits for a busy replica that has its model (RAY_SERVE_MULTIPLEXED_MODEL_ID_MATCHING_TIMEOUT_S).
_MATCHING_WINDOW_S = 1.0


class RoutedCall(Protocol):
    """What the router looks at. Calls are compared by identity."""

    model_id: str


Call = TypeVar("Call", bound=RoutedCall)


class Shed(Exception):
    """The deployment's queue is full; the call was not taken. Those that wait will have left in `retry_after_s`."""

    def __init__(self, queued: int, limit: int, retry_after_s: float) -> None:
        super().__init__(queued, limit, retry_after_s)
        self.queued = queued
        self.limit = limit
        self.retry_after_s = retry_after_s


class Unavailable(Exception):
    """The deployment failed to deploy and nothing of it runs; the call was not taken."""


class Router(Generic[Call]):
    """One deployment's replicas and waiting calls, as one caller sees them.

    Invariant: a call without a model waits only while no replica has a free slot.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, rng: Callable[[], float] = random.random
    ) -> None:
        self.max_queued = -1
        self.unavailable = False
        self.replicas: dict[str, Replica] = {}
        # When `poll` should be called next; None when nothing waits for time to pass.
        self.wake_at: float | None = None
        self._free = FreeList()
        self._drain = DrainRate()
        self._clock = clock
        self._random = rng
        # Waiting calls in order, each with the time until which it insists on a replica that has its model. Calls that
        # a replica refused stand in front of the others.
        self._refused: dict[Call, float] = {}
        self._waiting: dict[Call, float] = {}

    @property
    def queued(self) -> int:
        return len(self._waiting) + len(self._refused)

    def submit(self, call: Call) -> Replica | None:
        """Take a new call: the replica that it goes to now, or None when it waits.

        Raises:
            Shed: `max_queued` calls are waiting already.
            Unavailable: nothing will ever serve it.
        """
        free = self._free.items
        if free and not call.model_id:
            return self._take(shorter_of_two(free, self._random) if len(free) > 1 else free[0])
        full = 0 <= self.max_queued <= self.queued
        if free:
            # A model is rather loaded once more than its call turned away.
            found = self._find_model(call, patient=not full)
            if found is not None:
                return self._take(found)
        elif self.unavailable:
            raise Unavailable
        if full:
            raise Shed(self.queued, self.max_queued, self.retry_after_s())
        if not self._waiting:
            self._drain.begin(self._clock())
        patience = self._clock() + _MATCHING_WINDOW_S if call.model_id else 0.0
        self._waiting[call] = patience
        if free:
            self._wake_by(patience)
        return None

    def retry_after_s(self) -> float:
        """Seconds after which a call that was not served should come again: by then, those that wait have left."""
        if self._free.items:
            return 0.0
        return self._drain.retry_after_s(max(1, self.queued), self._clock(), self._random())

    def take(self, replica: Replica) -> None:
        """A call goes to `replica` whatever its load, as a broadcast's do. `release` it when the call has ended."""
        self._take(replica)

    def withdraw(self, call: Call) -> bool:
        """Forget a waiting call (cancelled or expired). False when it was not waiting."""
        return self._waiting.pop(call, None) is not None or self._refused.pop(call, None) is not None

    def release(self, replica: Replica) -> Sequence[tuple[Call, Replica]]:
        """A call at `replica` ended. Returns the waiting calls that take a slot: several when the replica rested."""
        replica.ongoing -= 1
        rested = replica.blocked_until > 0.0
        if replica.backoff_s:
            replica.blocked_until = replica.backoff_s = 0.0
        if replica.slot < 0:
            if replica.ongoing >= replica.limit or self.replicas.get(replica.info.replica_id) is not replica:
                return ()
            self._free.add(replica)
        if self._waiting or self._refused:
            if rested:
                return list(self._assign())
            for assignment in self._assign():
                return (assignment,)
        return ()

    def refused(self, replica: Replica, call: Call) -> list[tuple[Call, Replica]]:
        """`replica` turned `call` away before it began: the call is next in line, and the replica rests a little."""
        replica.ongoing -= 1
        now = self._clock()
        replica.backoff_s = min(max(replica.backoff_s * _BACKOFF_MULTIPLIER, _INITIAL_BACKOFF_S), _MAX_BACKOFF_S)
        replica.blocked_until = now + replica.backoff_s
        self._free.remove(replica)
        self._refused[call] = now + _MATCHING_WINDOW_S if call.model_id else 0.0
        self._wake_by(replica.blocked_until)
        return list(self._assign())

    def lost(self, replica: Replica) -> None:
        """`replica` cannot be reached: no call goes there until the view lists it anew."""
        self._free.remove(replica)
        if self.replicas.get(replica.info.replica_id) is replica:
            del self.replicas[replica.info.replica_id]

    def poll(self) -> list[tuple[Call, Replica]]:
        """Hand out waiting calls: time has passed, or there are new replicas."""
        now = self._clock()
        self.wake_at = None
        for replica in self.replicas.values():
            if replica.blocked_until:
                if replica.blocked_until <= now:
                    replica.blocked_until = 0.0
                    if replica.ongoing < replica.limit:
                        self._free.add(replica)
                else:
                    self._wake_by(replica.blocked_until)
        assigned = list(self._assign())
        if self._free.items:
            for call, patience in (*self._refused.items(), *self._waiting.items()):
                if call.model_id and patience > now:
                    self._wake_by(patience)
        return assigned

    def update(self, infos: Sequence[ReplicaInfo]) -> list[Replica]:
        """The replicas that can be reached have changed. Returns those that are new; `poll` hands out calls to them.

        Calls at replicas that are gone go on until they end.
        """
        known = {info.replica_id: info for info in infos}
        for replica_id in [known_id for known_id in self.replicas if known_id not in known]:
            self.lost(self.replicas[replica_id])
        added: list[Replica] = []
        for replica_id, info in known.items():
            replica = self.replicas.get(replica_id) or Replica(info)
            if replica_id not in self.replicas:
                self.replicas[replica_id] = replica
                added.append(replica)
            replica.info = info
            replica.limit = info.max_ongoing_requests
            if replica.ongoing >= replica.limit:
                self._free.remove(replica)
            elif not replica.blocked_until:
                self._free.add(replica)
        return added

    def drop_waiting(self) -> list[Call]:
        """Take every waiting call out, as when the deployment is deleted."""
        calls = [*self._refused, *self._waiting]
        self._refused.clear()
        self._waiting.clear()
        return calls

    def _take(self, replica: Replica) -> Replica:
        replica.ongoing += 1
        if replica.ongoing >= replica.limit:
            self._free.remove(replica)
        return replica

    def _assign(self) -> Iterator[tuple[Call, Replica]]:
        """Bind waiting calls to free replicas, oldest first, as they are asked for."""
        free = self._free.items
        for line in (self._refused, self._waiting):
            while free and line:
                call = next(iter(line))
                if call.model_id:
                    # From here on some may be passed over, so the rest is walked instead of taken from the front.
                    yield from self._assign_some(line)
                    break
                del line[call]
                self._drain.count(1)
                yield call, self._take(shorter_of_two(free, self._random))

    def _assign_some(self, line: dict[Call, float]) -> Iterator[tuple[Call, Replica]]:
        for call, patience in list(line.items()):
            if not self._free.items:
                return
            if call.model_id:
                replica = self._find_model(call, patient=patience > self._clock())
            else:
                replica = shorter_of_two(self._free.items, self._random)
            if replica is None:
                self._wake_by(patience)
            else:
                del line[call]
                self._drain.count(1)
                yield call, self._take(replica)

    def _find_model(self, call: Call, *, patient: bool) -> Replica | None:
        everyone = tuple(self.replicas.values())
        return for_model(self._free.items, everyone, call.model_id, patient=patient, random=self._random)

    def _wake_by(self, when: float) -> None:
        if self.wake_at is None or when < self.wake_at:
            self.wake_at = when
