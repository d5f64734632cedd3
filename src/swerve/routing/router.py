"""When a call goes to which replica: the admission of one deployment's calls at one caller.

A call waits here, not in a replica, and is bound to one when it has a free slot ("late binding"), so a waiting call can
still be cancelled, expire or be shed. All methods decide and return; the caller starts what they hand out, and sees to
the rest when there is `attention` to pay.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from swerve.routing.calls import Affinity, RoutedCall, Shed, Unavailable
from swerve.routing.choose import Pick, for_model, shorter_of_two
from swerve.routing.drain import DrainRate
from swerve.routing.lines import FairLine, Fifo, Line
from swerve.routing.options import RouterOptions
from swerve.routing.replicas import FreeList, Replica, ReplicaInfo
from swerve.routing.together import Together

# How long a call waits for a busy replica that has its model (RAY_SERVE_MULTIPLEXED_MODEL_ID_MATCHING_TIMEOUT_S).
_MATCHING_WINDOW_S = 1.0

Call = TypeVar("Call", bound=RoutedCall)


class Router(Generic[Call]):
    """One deployment's replicas and waiting calls, as one caller sees them.

    Invariant: a call without affinity to some replica waits only while no replica has a free slot.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, rng: Callable[[], float] = random.random
    ) -> None:
        self.max_queued = -1
        self.unavailable = False
        self.replicas: dict[str, Replica] = {}
        # How many calls wait.
        self.queued = 0
        # When `poll` should be called next; None when nothing waits for time to pass.
        self.wake_at: float | None = None
        # Calls that gave way to others in the full queue, for the caller to end.
        self.pushed_out: list[tuple[Call, Shed]] = []
        # The calls of this turn of the event loop, for the caller to say when it is over.
        self.together = Together()
        # Whether `wake_at`, `pushed_out` or the affinity's own wishes may have changed; the caller clears it.
        self.attention = False
        self._options = RouterOptions()
        self._pick: Pick = shorter_of_two
        self._affinity: Affinity | None = None
        self._free = FreeList()
        self._drain = DrainRate()
        self._clock = clock
        self._random = rng
        # Calls that a replica refused stand in front of the others.
        self._refused: Line[Call] = Fifo()
        self._waiting: Line[Call] = Fifo()
        # The time until which a waiting call insists on a replica that has its model.
        self._patience: dict[Call, float] = {}

    def configure(self, options: RouterOptions, affinity: Affinity | None = None) -> None:
        """Go by `options` from now on; `affinity` is the caller's own, in place of a built-in choice. Calls that wait
        go on waiting."""
        self._affinity = affinity or options.affinity()
        if self._affinity is not None:
            self._affinity.replicas_changed(self.replicas)
        if options == self._options:
            return
        self._pick = options.pick()
        if options.queue != self._options.queue:
            line: Line[Call] = Fifo() if options.queue is None else FairLine(options.queue)
            for call in self._waiting:
                line.add(call)
            self._waiting = line
        self._options = options

    def submit(self, call: Call) -> Replica | None:
        """Take a new call: the replica that it goes to now, or None when it waits.

        Raises:
            Shed: `max_queued` calls are waiting already, and none gives way.
            Unavailable: nothing will ever serve it.
        """
        free = self._free.items
        if free and self._affinity is None and not call.model_id:
            replica = self._choose(free) if len(free) > 1 else free[0]
            # Written out: most calls come this way.
            replica.ongoing += 1
            if replica.ongoing >= replica.limit:
                self._free.remove(replica)
            return replica
        affinity = self._affinity
        undecided = 0 if affinity is None else affinity.undecided
        full = 0 <= self.max_queued <= self.queued - undecided
        if free:
            # Better a replica that has not its model or its session than turned away.
            reach = None if affinity is None else affinity.reach
            found = self._find(call, patient=not full) if reach is None or self.queued < reach else None
            if found is not None:
                return self._take(found)
            self._wake_for_affinity()
        elif self.unavailable:
            raise Unavailable
        if full:
            self._make_room(call)
        self._wait(call)
        return None

    def retry_after_s(self) -> float:
        """Seconds after which a call that was not served should come again: by then, those that wait have left."""
        return 0.0 if self._free.items else self.drain_time_s()

    def drain_time_s(self) -> float:
        """Seconds until the calls that wait now will have left, also where others would be served at once."""
        if not self.queued:
            self._drain.begin(self._clock())
        return self._drain.retry_after_s(max(1, self.queued), self._clock(), self._random())

    def take(self, replica: Replica) -> None:
        """A call goes to `replica` whatever its load, as a broadcast's do. `release` it when the call has ended."""
        self._take(replica)

    def withdraw(self, call: Call) -> bool:
        """Forget a waiting call (cancelled or expired). False when it was not waiting."""
        if not (self._waiting.withdraw(call) or self._refused.withdraw(call)):
            return False
        self._left(call)
        if self._affinity is not None:
            self._affinity.forget(call)
        return True

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
        if self.queued:
            line = self._refused or self._waiting
            call = line.first()
            if rested or call.model_id or self._affinity is not None:
                return list(self._assign())
            return (self._bind(call, line),)
        return ()

    def refused(self, replica: Replica, call: Call) -> list[tuple[Call, Replica]]:
        """`replica` turned `call` away before it began: the call is next in line, and the replica rests a little."""
        replica.ongoing -= 1
        options = self._options
        backoff = max(replica.backoff_s * options.backoff_multiplier, options.initial_backoff_s)
        replica.backoff_s = min(backoff, options.max_backoff_s)
        replica.blocked_until = self._clock() + replica.backoff_s
        self._free.remove(replica)
        self._wake_by(replica.blocked_until)
        self._wait(call, refused=True)
        return list(self._assign())

    def adopt(self, call: Call) -> list[tuple[Call, Replica]]:
        """Take a call that waited for another deployment: it is next in line, and not turned away."""
        self._wait(call, refused=True)
        return list(self._assign())

    def lost(self, replica: Replica) -> None:
        """`replica` cannot be reached: no call goes there until the view lists it anew."""
        self._free.remove(replica)
        if self.replicas.get(replica.info.replica_id) is replica:
            del self.replicas[replica.info.replica_id]
            if self._affinity is not None:
                self._affinity.replicas_changed(self.replicas)

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
            for patience in self._patience.values():
                if patience > now:
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
        if self._affinity is not None:
            self._affinity.replicas_changed(self.replicas)
        return added

    def drop_waiting(self) -> list[Call]:
        """Take every waiting call out, as when the deployment is deleted."""
        calls = [*self._refused, *self._waiting]
        for call in calls:
            self.withdraw(call)
        return calls

    # --- calls that wait ---------------------------------------------------------------------------------------------

    def _wait(self, call: Call, *, refused: bool = False) -> None:
        if not self.queued:
            self._drain.begin(self._clock())
        self.queued += 1
        (self._refused if refused else self._waiting).add(call)
        if call.model_id and not self._affinity_decides_models:
            patience = self._patience[call] = self._clock() + _MATCHING_WINDOW_S
            if self._free.items:
                self._wake_by(patience)

    def _left(self, call: Call) -> None:
        """`call` waits no more."""
        self.queued -= 1
        self._patience.pop(call, None)

    def _make_room(self, call: Call) -> None:
        """Let a waiting call give way to `call`.

        Raises:
            Shed: none does.
        """
        victim = self._waiting.make_room(call)
        if self._affinity is not None:
            self._affinity.forget(victim or call)
        if victim is None:
            # A frame that kept the exception, which keeps the frame, would keep the call until cycles are looked for.
            raise self._shed()
        self.pushed_out.append((victim, self._shed()))
        self._left(victim)
        self.attention = True

    def _shed(self) -> Shed:
        """What a call is told that finds no room."""
        return Shed(self.queued, self.max_queued, self.retry_after_s())

    def _choose(self, free: Sequence[Replica]) -> Replica:
        """Any of the free replicas, for a new call that all of them will do for. Those that have waited do not come
        together, and their caller is told of no turn."""
        picked = self._pick(free, self._random)
        return self.together.choose(picked) if self._pick is shorter_of_two else picked

    def _take(self, replica: Replica) -> Replica:
        replica.ongoing += 1
        if replica.ongoing >= replica.limit:
            self._free.remove(replica)
        return replica

    def _assign(self) -> Iterator[tuple[Call, Replica]]:
        """Bind waiting calls to free replicas, the first in line first, as they are asked for."""
        free = self._free.items
        for line in (self._refused, self._waiting):
            while free and line:
                call = line.first()
                if call.model_id or self._affinity is not None:
                    # From here on some may be passed over, so the rest is walked instead of taken from the front.
                    yield from self._assign_some(line)
                    break
                yield self._bind(call, line)

    def _bind(self, call: Call, line: Line[Call]) -> tuple[Call, Replica]:
        """Send `call`, the first of `line`, to any of the free replicas."""
        line.take(call)
        self._left(call)
        self._drain.count(1)
        free = self._free.items
        return call, self._take(self._pick(free, self._random) if len(free) > 1 else free[0])

    def _assign_some(self, line: Line[Call]) -> Iterator[tuple[Call, Replica]]:
        now = self._clock()
        reach = len(line) if self._affinity is None or self._affinity.reach is None else self._affinity.reach
        passed = 0
        # As many again, in place of those that find a replica.
        for call in list(itertools.islice(line, 2 * reach)):
            if not self._free.items:
                return
            if passed >= reach:
                break
            patience = self._patience.get(call)
            replica = self._find(call, patient=patience is None or patience > now)
            if replica is None:
                passed += 1
                if patience is not None:
                    self._wake_by(patience)
                continue
            line.take(call)
            self._left(call)
            self._drain.count(1)
            yield call, self._take(replica)
        self._wake_for_affinity()

    def _find(self, call: Call, *, patient: bool) -> Replica | None:
        """A replica with a free slot for `call`; None when it had better wait for another one."""
        free = self._free.items
        if call.model_id and not self._affinity_decides_models:
            everyone = tuple(self.replicas.values())
            return for_model(free, everyone, call.model_id, patient=patient, random=self._random, pick=self._pick)
        if self._affinity is not None:
            # It may have something to ask or to tell.
            self.attention = True
            return self._affinity.find(call, free, self._random, patient=patient)
        return self._pick(free, self._random)

    @property
    def _affinity_decides_models(self) -> bool:
        return self._affinity is not None and self._affinity.decides_models

    def _wake_for_affinity(self) -> None:
        wake_at = None if self._affinity is None else self._affinity.wake_at()
        if wake_at is not None:
            self._wake_by(wake_at)

    def _wake_by(self, when: float) -> None:
        if self.wake_at is None or when < self.wake_at:
            self.wake_at = when
            self.attention = True
