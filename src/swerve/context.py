"""What code that runs inside a call can know: the request context, and the replica it runs in.

Both are context variables or process-wide values, as in Ray Serve (`ray.serve.context`).
"""

from __future__ import annotations

import contextvars
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swerve.exceptions import RayServeException
from swerve.wire.peer import call_field

if TYPE_CHECKING:
    from swerve.grpc_util import RayServegRPCContext


@dataclass(slots=True)
class RequestContext:
    """One call, as user code and the handles it uses see it.

    `deadline` is a `time.monotonic()` value, None when the call has none. Handle calls made inside the call inherit
    `request_id`, `route`, `app_name` and `deadline`; `multiplexed_model_id` and `session_id` are per call
    (Ray Serve: each downstream call sets them with `options()`).
    """

    request_id: str = ""
    route: str = ""
    app_name: str = ""
    multiplexed_model_id: str = ""
    session_id: str = ""
    deadline: float | None = None
    # The metadata that came with the call, as it stood on the wire.
    headers: tuple[tuple[bytes, bytes], ...] = ()
    grpc_context: RayServegRPCContext | None = None
    # True once the call has been cancelled or has expired: a thread that goes on makes no new calls.
    cancelled: bool = False
    _children: dict[int, Any] | None = field(default=None, repr=False)

    @property
    def children(self) -> dict[int, Any]:
        """Cancel functions of the unfinished handle calls that this call made; all run when it is cancelled."""
        # Most calls make none.
        if self._children is None:
            self._children = {}
        return self._children

    def for_many(self, deadline: float | None) -> RequestContext:
        """The context for work that this call begins and others share: the end of one is not the end of the rest."""
        return RequestContext(
            request_id=self.request_id,
            route=self.route,
            app_name=self.app_name,
            multiplexed_model_id=self.multiplexed_model_id,
            deadline=deadline,
        )

    def metadata_field(self, name: bytes) -> str:
        """What the call's metadata, or its client's auth context, has by this name (`wire.peer.call_field`)."""
        return call_field(self.headers, name)


_request_context: contextvars.ContextVar[RequestContext | None] = contextvars.ContextVar(
    "swerve_request_context", default=None
)


class RequestIdFilter(logging.Filter):
    """Gives each log record that is made inside a call the call's request id."""

    def filter(self, record: logging.LogRecord) -> bool:
        context = _request_context.get()
        if context is not None and not hasattr(record, "request_id"):
            record.request_id = context.request_id
        return True


def _get_serve_request_context() -> RequestContext:
    """The current call's context; an empty one outside a call (Ray Serve's accessor of the same name)."""
    return _request_context.get() or RequestContext()


@dataclass(frozen=True, slots=True)
class ReplicaRank:
    """The number of a replica among those of its deployment, that of its machine among theirs, and the replica's among
    those of its machine (Ray Serve's). Each begins at 0."""

    rank: int = 0
    node_rank: int = 0
    local_rank: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaContext:
    """The replica that the calling code runs in."""

    app_name: str
    deployment: str
    replica_tag: str
    servable_object: Any
    _deployment_config: Any
    rank: ReplicaRank = ReplicaRank()
    world_size: int = 1
    code_version: str = ""

    @property
    def replica_id(self) -> str:
        return self.replica_tag


_replica_context: ReplicaContext | None = None


def set_replica_context(context: ReplicaContext | None) -> None:
    """Say which replica this process is; None when it is none any more."""
    global _replica_context
    _replica_context = context


def current_replica_context() -> ReplicaContext | None:
    """The replica that this process is, or None."""
    return _replica_context


def get_replica_context() -> ReplicaContext:
    """The context of the replica that this code runs in.

    Raises:
        RayServeException: outside a replica.
    """
    if _replica_context is None:
        raise RayServeException("`serve.get_replica_context()` may only be called from within a Ray Serve deployment.")
    return _replica_context


def _get_internal_replica_context() -> ReplicaContext | None:
    """Ray Serve's accessor of the same name: None outside a replica."""
    return _replica_context
