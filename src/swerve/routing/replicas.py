"""The replicas of one deployment as one caller (a proxy, or a process with handles) knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """What the view says of a replica."""

    replica_id: str
    address: str
    max_ongoing_requests: int
    model_ids: frozenset[str] = frozenset()
    # JSON of what the user's `record_routing_stats` returned last.
    routing_stats_json: str = ""


class SharedMessages(Protocol):
    """The way to a replica on which small calls share messages."""

    @property
    def pace_s(self) -> float:
        """Seconds by which a call delays those behind it at the replica; infinite while that is not known."""


class Replica:
    """A replica and the calls that this caller has running there. The count is exact for this caller alone.

    `link` belongs to the caller: how it reaches the replica. `shared` is the part of it for small calls, if it has one.
    """

    __slots__ = ("backoff_s", "blocked_until", "info", "limit", "link", "ongoing", "shared", "slot", "turn")

    def __init__(self, info: ReplicaInfo) -> None:
        self.info = info
        self.limit = info.max_ongoing_requests
        self.ongoing = 0
        # Index in FreeList, -1 when absent.
        self.slot = -1
        # After a refusal: no new call before this time.
        self.blocked_until = 0.0
        self.backoff_s = 0.0
        # When it had its last call, of a round robin.
        self.turn = 0
        self.link: Any = None
        self.shared: SharedMessages | None = None

    def __repr__(self) -> str:
        return f"Replica({self.info.replica_id}, {self.ongoing}/{self.limit})"


class FreeList:
    """The replicas that have a free slot; all operations take constant time."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[Replica] = []

    def add(self, replica: Replica) -> None:
        if replica.slot < 0:
            replica.slot = len(self.items)
            self.items.append(replica)

    def remove(self, replica: Replica) -> None:
        slot = replica.slot
        if slot < 0:
            return
        last = self.items.pop()
        if last is not replica:
            self.items[slot] = last
            last.slot = slot
        replica.slot = -1


def with_model(replicas: Sequence[Replica], model_id: str) -> list[Replica]:
    """The replicas that have loaded this model."""
    return [replica for replica in replicas if model_id in replica.info.model_ids]
