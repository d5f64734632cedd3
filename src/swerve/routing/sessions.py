"""Session affinity by consistent hashing: a session's calls go to one replica, and few sessions move when replicas come
or go. Every caller computes the same ring, so they agree without talking.

Source: Ray Serve's `ConsistentHashRouter`, its options and their defaults.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from swerve.routing.calls import RoutedCall
from swerve.routing.choose import shorter_of_two
from swerve.routing.replicas import Replica

SESSION_FIELD = b"session_id"

# More points make the shares of replicas more even, and the ring slower to build.
VIRTUAL_NODES = 100
# How many other replicas may take a session's call while its own is busy.
FALLBACK_REPLICAS = 2


class HashRing:
    """Names on a circle, each at `virtual_nodes` points."""

    __slots__ = ("_count", "_names", "_points")

    def __init__(self, names: Collection[str], virtual_nodes: int = VIRTUAL_NODES) -> None:
        points = sorted((_hash(f"{name}:{index}"), name) for name in names for index in range(virtual_nodes))
        self._points = [point for point, _ in points]
        self._names = [name for _, name in points]
        self._count = len(names)

    def walk(self, key: str) -> Iterator[str]:
        """Each name once, in the order in which they come clockwise from the key's point."""
        start = bisect_right(self._points, _hash(key))
        seen: set[str] = set()
        for index in range(start, start + len(self._names)):
            name = self._names[index % len(self._names)]
            if name not in seen:
                seen.add(name)
                yield name
                if len(seen) == self._count:
                    return


class SessionAffinity:
    """Satisfies `Affinity`. A call that names no session may go anywhere."""

    decides_models = False
    reach = None
    undecided = 0

    def __init__(self, virtual_nodes: int = VIRTUAL_NODES, fallback_replicas: int = FALLBACK_REPLICAS) -> None:
        self._virtual_nodes = virtual_nodes
        self._candidates = 1 + fallback_replicas
        self._replicas: Mapping[str, Replica] = {}
        self._ring: HashRing | None = None

    def replicas_changed(self, replicas: Mapping[str, Replica]) -> None:
        # The ring is made when it is needed: at a start, replicas connect one after the other.
        self._replicas = dict(replicas)
        self._ring = None

    def find(
        self, call: RoutedCall, free: Sequence[Replica], random: Callable[[], float], *, patient: bool
    ) -> Replica | None:
        session = call.field(SESSION_FIELD)
        if not session:
            return shorter_of_two(free, random)
        if self._ring is None:
            self._ring = HashRing(self._replicas.keys(), self._virtual_nodes)
        for place, name in enumerate(self._ring.walk(session)):
            if patient and place >= self._candidates:
                return None
            if self._replicas[name].slot >= 0:
                return self._replicas[name]
        return None

    def forget(self, call: RoutedCall) -> None:
        pass

    def wake_at(self) -> float | None:
        return None


def _hash(text: str) -> int:
    # Not `hash`, which differs between processes.
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
