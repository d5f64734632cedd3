"""Writing a request router of one's own (Ray Serve's module of the same name), and the names of those built in.

A deployment's `request_router_config` names a class; every proxy and every process with handles runs one instance of it
for the deployment, in a thread of its own. The classes that are built in are recognised by name and need no thread;
they can be inherited from as well.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from swerve.deployment_id import DeploymentID
from swerve.routing.sessions import FALLBACK_REPLICAS, VIRTUAL_NODES, HashRing

__all__ = [
    "ConsistentHashRouter",
    "DeploymentID",
    "FIFOMixin",
    "LeastLoadedRequestRouter",
    "LocalityMixin",
    "MultiplexMixin",
    "PendingRequest",
    "PowerOfTwoChoicesRequestRouter",
    "ReplicaID",
    "ReplicaResult",
    "RequestMetadata",
    "RequestRouter",
    "RequestRoutingContext",
    "RoundRobinRouter",
    "RunningReplica",
]


@dataclass(frozen=True)
class ReplicaID:
    """Names a replica."""

    unique_id: str
    deployment_id: DeploymentID

    def to_full_id_str(self) -> str:
        return f"{self.deployment_id.app_name}#{self.deployment_id.name}#{self.unique_id}"

    def __str__(self) -> str:
        return (
            f"Replica(id='{self.unique_id}', deployment='{self.deployment_id.name}', "
            f"app='{self.deployment_id.app_name}')"
        )


class RunningReplica:
    """A replica that calls can go to, as its caller knows it. What it says is always current.

    Attributes:
        replica_id: its ReplicaID.
        max_ongoing_requests: how many calls it runs at a time.
        multiplexed_model_ids: the models that it has.
        routing_stats: what its `record_routing_stats` returned last, {} if nothing yet.
        node_id, availability_zone: where it runs; on one machine "" and None.
    """

    node_id = ""
    availability_zone: str | None = None
    is_cross_language = False

    def __init__(self, replica_id: ReplicaID, ongoing: Callable[[], int], has_slot: Callable[[], bool]) -> None:
        self.replica_id = replica_id
        self.max_ongoing_requests = 0
        self.multiplexed_model_ids: set[str] = set()
        self.routing_stats: dict[str, Any] = {}
        self._ongoing = ongoing
        self._has_slot = has_slot

    @property
    def actor_id(self) -> str:
        return self.replica_id.unique_id

    @property
    def num_ongoing_requests(self) -> int:
        """Swerve's own: the calls that this process has running there."""
        return self._ongoing()

    @property
    def has_slot(self) -> bool:
        """Swerve's own: whether it would get a call now."""
        return self._has_slot()

    async def get_queue_len(self, *, deadline_s: float | None = None) -> int:
        """`num_ongoing_requests`. Nobody is asked: the count is exact for this process."""
        return self._ongoing()

    def __repr__(self) -> str:
        return f"RunningReplica({self.replica_id})"


@dataclass(frozen=True)
class RequestMetadata:
    """What is known of a call. `call_method` is the method of a handle call, the RPC's path, or an HTTP method."""

    request_id: str
    internal_request_id: str
    call_method: str = "__call__"
    route: str = ""
    app_name: str = ""
    multiplexed_model_id: str = ""
    session_id: str = ""
    is_streaming: bool = False


@dataclass
class RequestRoutingContext:
    """Marks that Ray Serve's routers leave at a call between attempts. Swerve reads none of them."""

    multiplexed_start_matching_time: float | None = None
    tried_fewest_multiplexed_models: bool = False
    tried_first_multiplexed_models: bool = False
    tried_same_node: bool = False
    tried_same_az: bool = False
    should_backoff: bool = False


def _no_arguments() -> tuple[Sequence[Any], dict[str, Any]]:
    return (), {}


@dataclass
class PendingRequest:
    """A call that waits for a replica.

    `args` and `kwargs` are those of a handle call, made from the pickle when they are looked at. A gRPC call has its
    request message, serialized, as its only argument if that has come completely; HTTP requests have none.
    """

    metadata: RequestMetadata
    created_at: float = field(default_factory=time.time)
    routing_context: RequestRoutingContext = field(default_factory=RequestRoutingContext)
    _arguments: Callable[[], tuple[Sequence[Any], dict[str, Any]]] = field(default=_no_arguments, repr=False)

    @property
    def args(self) -> list[Any]:
        return list(self._arguments()[0])

    @property
    def kwargs(self) -> dict[str, Any]:
        return self._arguments()[1]


class ReplicaResult:
    """Stands for a call's result in the signature of `on_request_routed`, which gets None."""


class RequestRouter:
    """Base of request routers. Override `choose_replicas`, and what else is of interest.

    All methods run on the event loop of a thread that belongs to this router. One that raises, or takes longer than a
    second to choose, does not hold up the call: it goes where power of two choices sends it.
    """

    def __init__(self, deployment_id: DeploymentID, handle_source: str = "", *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._deployment_id = deployment_id
        self._handle_source = handle_source
        self._replicas: dict[ReplicaID, RunningReplica] = {}
        self._replica_id_set: set[ReplicaID] = set()

    @property
    def deployment_id(self) -> DeploymentID:
        return self._deployment_id

    @property
    def app_name(self) -> str:
        return self._deployment_id.app_name

    @property
    def curr_replicas(self) -> dict[ReplicaID, RunningReplica]:
        """The replicas that can be reached now."""
        return self._replicas

    def initialize_state(self, **kwargs: Any) -> None:
        """Called once, with `request_router_kwargs`."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """The replicas that can be reached, their models or their stats have changed."""
        self._replicas = {replica.replica_id: replica for replica in replicas}
        self._replica_id_set = set(self._replicas)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Sequence[Sequence[RunningReplica]]:
        """The replicas that the call may go to, in ranks. It goes to the least loaded one of the first rank that has a
        free slot. If none has, the call is asked about again when one has, or after a pause.

        Args:
            candidate_replicas: all that can be reached, busy ones too.
            pending_request: the call.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement choose_replicas.")

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult | None
    ) -> None:
        """A call is on its way to the replica that was chosen."""

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """A call that was routed has ended, however."""

    def select_available_replicas(self, candidates: list[RunningReplica] | None = None) -> list[RunningReplica]:
        """Those of `candidates`, by default of all, that have a free slot."""
        chosen: Iterable[RunningReplica] = self._replicas.values() if candidates is None else candidates
        return [replica for replica in chosen if replica.has_slot]


class FIFOMixin:
    """Calls are asked about in the order of their arrival, or of the deployment's `queue`; so they are without this."""


class LocalityMixin:
    """Prefers replicas nearby. On one machine all are on the same node."""

    _replica_id_set: set[ReplicaID]

    def rank_replicas_via_locality(self, replicas: list[RunningReplica]) -> list[list[RunningReplica]]:
        """Replicas of the same node, of the same availability zone, and others."""
        return [list(replicas), [], []]

    def apply_locality_routing(self, pending_request: PendingRequest | None = None) -> set[ReplicaID]:
        """The replicas of the nearest place that has any."""
        return self._replica_id_set


class MultiplexMixin:
    """Prefers replicas that have the model that a call names."""

    _replicas: dict[ReplicaID, RunningReplica]

    def rank_replicas_via_multiplex(
        self, replicas: list[RunningReplica], multiplexed_model_id: str
    ) -> list[list[RunningReplica]]:
        """Replicas that have the model, those of the others with the fewest models, and the rest."""
        holders = [replica for replica in replicas if multiplexed_model_id in replica.multiplexed_model_ids]
        others = [replica for replica in replicas if multiplexed_model_id not in replica.multiplexed_model_ids]
        fewest = min((len(replica.multiplexed_model_ids) for replica in others), default=0)
        return [
            holders,
            [replica for replica in others if len(replica.multiplexed_model_ids) == fewest],
            [replica for replica in others if len(replica.multiplexed_model_ids) > fewest],
        ]

    def apply_multiplex_routing(self, pending_request: PendingRequest | None = None) -> set[ReplicaID]:
        """The replicas of the best rank that is not empty; all for a call that names no model."""
        replicas = list(self._replicas.values())
        model_id = pending_request.metadata.multiplexed_model_id if pending_request is not None else ""
        ranks = self.rank_replicas_via_multiplex(replicas, model_id) if model_id else [replicas]
        return {replica.replica_id for replica in next((rank for rank in ranks if rank), [])}


class _BuiltIn(FIFOMixin, LocalityMixin, MultiplexMixin, RequestRouter):
    """Ranks by the model that a call names; `order` arranges each rank."""

    def order(self, replicas: list[RunningReplica]) -> list[list[RunningReplica]]:
        raise NotImplementedError

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Sequence[Sequence[RunningReplica]]:
        model_id = pending_request.metadata.multiplexed_model_id if pending_request is not None else ""
        ranks = [candidate_replicas]
        if model_id:
            ranks = self.rank_replicas_via_multiplex(candidate_replicas, model_id)
        return list(itertools.chain.from_iterable(self.order(rank) for rank in ranks if rank))


class PowerOfTwoChoicesRequestRouter(_BuiltIn):
    """The default: the less loaded of two replicas with a free slot, picked at random."""

    def order(self, replicas: list[RunningReplica]) -> list[list[RunningReplica]]:
        free = self.select_available_replicas(replicas)
        return [random.sample(free, min(2, len(free))), replicas]


class LeastLoadedRequestRouter(_BuiltIn):
    """Swerve's own: the replica with the fewest calls running, of all."""

    def order(self, replicas: list[RunningReplica]) -> list[list[RunningReplica]]:
        return [replicas]


class RoundRobinRouter(_BuiltIn):
    """Each replica in its turn; one that is busy then is passed over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turn = random.randrange(1 << 30)

    def order(self, replicas: list[RunningReplica]) -> list[list[RunningReplica]]:
        self._turn += 1
        start = self._turn % len(replicas)
        return [[replica] for replica in (*replicas[start:], *replicas[:start])]


class ConsistentHashRouter(_BuiltIn):
    """A session's calls go to one replica, or to one of `fallback_replicas` others while it is busy. Few sessions move
    when replicas come or go. Calls without a session go anywhere."""

    def initialize_state(
        self, virtual_nodes: int = VIRTUAL_NODES, fallback_replicas: int = FALLBACK_REPLICAS, **kwargs: Any
    ) -> None:
        self._virtual_nodes = virtual_nodes
        self._fallback_replicas = fallback_replicas
        self._ring = HashRing(())

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        known = self._replica_id_set
        super().update_replicas(replicas)
        if self._replica_id_set != known:
            self._ring = HashRing([one.unique_id for one in self._replica_id_set], self._virtual_nodes)

    def order(self, replicas: list[RunningReplica]) -> list[list[RunningReplica]]:
        return [replicas]

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Sequence[Sequence[RunningReplica]]:
        session = pending_request.metadata.session_id if pending_request is not None else ""
        if not session:
            return await super().choose_replicas(candidate_replicas, pending_request)
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        names = itertools.islice(self._ring.walk(session), 1 + self._fallback_replicas)
        return [[by_id[name]] for name in names if name in by_id]
