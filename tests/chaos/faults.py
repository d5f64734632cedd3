"""What goes wrong in a run: kills and changes, chosen by a seeded generator, each with the time until all was well."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.cluster import AGENT, CONTROLLER, PROXY, REPLICA, Cluster, kill, seconds_until

# How often each comes, compared with the others.
_WEIGHTS = {
    "replica": 6,
    "proxy": 3,
    "controller": 3,
    "agent": 3,
    "agent and controller": 2,
    "all but replicas": 1,
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
            "all but replicas": self._all_but_replicas,
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

    def _kill_all(self, *kinds: str) -> None:
        """Whoever was brought back meanwhile included."""
        while any(self._cluster.processes(kind) for kind in kinds):
            for kind in kinds:
                self._kill(kind)

    def _keeping_replicas(self, kinds: list[str], *, until_all_are_gone: bool = False) -> float:
        """Nobody's death but its own costs a replica its life."""
        seconds_until(self._cluster.is_whole, "an instance that is whole")
        before = {process for process in self._cluster.processes() if process.kind in (REPLICA, PROXY)}
        began = time.monotonic()
        if until_all_are_gone:
            self._kill_all(*kinds)
        else:
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
        """Both within less time than the one takes to bring the other back."""
        return self._keeping_replicas([AGENT, CONTROLLER], until_all_are_gone=True)

    def _all_but_replicas(self) -> float:
        """The last ones that serve bring everything back."""
        seconds_until(self._cluster.is_whole, "an instance that is whole")
        before = set(self._cluster.processes(REPLICA))
        self._kill_all(AGENT, CONTROLLER, PROXY)
        recovery = self._until_whole()
        assert set(self._cluster.processes(REPLICA)) == before, "replicas were replaced for the death of others"
        return recovery

    def _several(self) -> float:
        for kind in self._chance.sample([REPLICA, REPLICA, PROXY, CONTROLLER, AGENT], 3):
            self._kill(kind)
        return self._until_whole()

    def _until_whole(self) -> float:
        return seconds_until(self._cluster.is_whole, "an instance that is whole")

    # -- changes ------------------------------------------------------------------------------------------------------

    def _change(self, **changes: int) -> float:
        self._cluster.deploy(**changes)
        began = time.monotonic()
        for _ in range(_KILLS_DURING_CHANGE):
            time.sleep(self._chance.uniform(0.05, 0.8))
            self._kill(self._chance.choice([REPLICA, PROXY, CONTROLLER, AGENT]))
        self._until_whole()
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
