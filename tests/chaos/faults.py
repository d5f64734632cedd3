"""What goes wrong in a run: kills and changes, chosen by a seeded generator, each with the time until all was well."""

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.cluster import AGENT, CONTROLLER, PROXY, REPLICA, AlreadyRuns, Cluster, kill, seconds_until

# How often each comes, compared with the others.
_WEIGHTS = {
    "replica": 6,
    "proxy": 3,
    "controller": 3,
    "agent": 3,
    "agent and controller": 1,
    "several at once": 2,
    "rolling update": 2,
    "reconfiguration": 1,
    "scale down and up": 2,
    "reboot": 1,
}
# Between two faults, in seconds.
_PAUSE_S = (0.1, 1.0)
# Kills that fall into an update or a change of scale.
_KILLS_DURING_CHANGE = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done. `recovery_s` is how long it took until what it hit was back; times are monotonic."""

    name: str
    began: float
    ended: float
    recovery_s: float


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that was killed, and when."""

    kind: str
    pid: int
    at: float


class Faults:
    """Does one fault after the other to `cluster`."""

    def __init__(self, cluster: Cluster, chance: random.Random, say: Callable[[str], None]) -> None:
        self.faults: list[Fault] = []
        self.kills: list[Kill] = []
        self._cluster = cluster
        self._chance = chance
        self._say = say
        self._actions: dict[str, Callable[[], float]] = {
            "replica": lambda: self._one(REPLICA),
            "proxy": lambda: self._one(PROXY),
            "controller": lambda: self._keeping_replicas([CONTROLLER]),
            "agent": lambda: self._keeping_replicas([AGENT]),
            "agent and controller": self._agent_and_controller,
            "several at once": self._several,
            "rolling update": lambda: self._change(version=self._cluster.wanted["version"] + 1),
            "reconfiguration": lambda: self._change(generation=self._cluster.wanted["generation"] + 1),
            "scale down and up": self._scale,
            "reboot": self._reboot,
        }

    def run(self, seconds: float) -> None:
        """At least one of each kind, in random order, then more until the time is over."""
        end = time.monotonic() + seconds
        names = list(_WEIGHTS)
        self._chance.shuffle(names)
        while time.monotonic() < end or names:
            name = names.pop() if names else self._chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
            began = time.monotonic()
            recovery = self._actions[name]()
            self.faults.append(Fault(name, began, time.monotonic(), recovery))
            self._say(f"{name}: well again after {recovery:.2f} s")
            time.sleep(self._chance.uniform(*_PAUSE_S))

    # -- kills --------------------------------------------------------------------------------------------------------

    def _kill(self, kind: str) -> None:
        """Kill a process of this kind, if there is one, and wait for its end."""
        processes = self._cluster.processes(kind)
        if processes:
            chosen = self._chance.choice(processes)
            self.kills.append(Kill(kind, chosen.pid, time.monotonic()))
            kill(chosen.pid)
            seconds_until(lambda: chosen not in self._cluster.processes(), f"the end of {chosen}")

    def _one(self, kind: str) -> float:
        """What was killed is replaced."""
        seconds_until(self._cluster.is_whole, "an instance that is whole")
        number = len(self._cluster.processes(kind))
        began = time.monotonic()
        self._kill(kind)
        seconds_until(lambda: len(self._cluster.processes(kind)) >= number, f"a new {kind}")
        ready = self._cluster.listens if kind == PROXY else self._cluster.is_whole
        seconds_until(ready, f"an instance that is whole after the kill of a {kind}")
        return time.monotonic() - began

    def _keeping_replicas(self, kinds: list[str]) -> float:
        """Nobody's death but its own costs a replica its life."""
        seconds_until(self._cluster.is_whole, "an instance that is whole")
        before = {process for process in self._cluster.processes() if process.kind in (REPLICA, PROXY)}
        began = time.monotonic()
        for kind in kinds:
            self._kill(kind)
        seconds_until(self._is_led, f"a new {' and '.join(kinds)}")
        recovery = time.monotonic() - began
        seconds_until(self._cluster.is_whole, "an instance that is whole")
        after = {process for process in self._cluster.processes() if process.kind in (REPLICA, PROXY)}
        assert after == before, f"the death of {kinds} changed the replicas: {before ^ after}"
        return recovery

    def _is_led(self) -> bool:
        kinds = {process.kind for process in self._cluster.processes()}
        return {AGENT, CONTROLLER} <= kinds and self._cluster.status() is not None

    def _agent_and_controller(self) -> float:
        """Nobody is left to bring them back but `swerve start`, which finds the replicas alive."""
        seconds_until(self._cluster.is_whole, "an instance that is whole")
        before = {process for process in self._cluster.processes() if process.kind in (REPLICA, PROXY)}
        began = time.monotonic()
        while self._cluster.processes(AGENT) or self._cluster.processes(CONTROLLER):
            self._kill(AGENT)
            self._kill(CONTROLLER)
        self._cluster.start()
        seconds_until(self._cluster.is_whole, "an instance that is whole")
        recovery = time.monotonic() - began
        after = {process for process in self._cluster.processes() if process.kind in (REPLICA, PROXY)}
        assert after == before, f"the death of agent and controller changed the replicas: {before ^ after}"
        return recovery

    def _several(self) -> float:
        for kind in self._chance.sample([REPLICA, REPLICA, PROXY, CONTROLLER, AGENT], 3):
            self._kill(kind)
        return self._until_whole_whatever_dies()

    def _until_whole_whatever_dies(self) -> float:
        """An instance whose agent and controller went together is started again by its user."""
        began = time.monotonic()
        while not self._cluster.is_whole():
            assert time.monotonic() - began < 60, f"the instance is not whole: {self._cluster.status()}"
            if not self._cluster.processes(AGENT) and not self._cluster.processes(CONTROLLER):
                # An agent that the controller had started before it died may be there first.
                with contextlib.suppress(AlreadyRuns):
                    self._cluster.start()
            time.sleep(0.02)
        return time.monotonic() - began

    # -- changes ------------------------------------------------------------------------------------------------------

    def _change(self, **changes: int) -> float:
        self._cluster.deploy(**changes)
        began = time.monotonic()
        for _ in range(_KILLS_DURING_CHANGE):
            time.sleep(self._chance.uniform(0.05, 0.8))
            self._kill(self._chance.choice([REPLICA, PROXY, CONTROLLER, AGENT]))
        self._until_whole_whatever_dies()
        return time.monotonic() - began

    def _scale(self) -> float:
        front, back = self._cluster.wanted["front"], self._cluster.wanted["back"]
        return self._change(front=1, back=1) + self._change(front=front, back=back)

    def _reboot(self) -> float:
        now = time.monotonic()
        self.kills += [Kill(process.kind, process.pid, now) for process in self._cluster.processes()]
        self._cluster.reboot()
        began = time.monotonic()
        self._cluster.start()
        seconds_until(self._cluster.is_whole, "what was deployed before the reboot")
        return time.monotonic() - began
