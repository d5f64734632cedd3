"""The status that `serve.status()` and the commands show. Its names are Ray Serve's (`ray.serve.schema`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swerve.config import CanaryOptions
from swerve.statuses import (
    ApplicationStatus,
    CanaryPhase,
    DeploymentStatus,
    DeploymentStatusTrigger,
    ProxyStatus,
    ReplicaState,
)

if TYPE_CHECKING:
    from swerve.generated import control_pb2


@dataclass(frozen=True, slots=True)
class DeploymentStatusOverview:
    """How a deployment does: `replica_states` counts its replicas, `message` says what is wrong."""

    status: DeploymentStatus
    status_trigger: DeploymentStatusTrigger
    replica_states: dict[ReplicaState, int] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True, slots=True)
class CallCounts:
    """Calls that have ended within the window of a canary's `rollback` (60 s without one)."""

    calls: int = 0
    errors: int = 0
    error_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class CanaryStatusOverview:
    """A version beside an application (Swerve's own). `status` is that of an application, None when it is rolled back.

    `message` says why it was rolled back, `weight` is in percent, `started_time_s` in seconds since the epoch.
    """

    phase: CanaryPhase
    message: str = ""
    weight: float = 0.0
    match: dict[str, str] = field(default_factory=dict)
    sticky_key: str | None = None
    status: ApplicationStatus | None = None
    status_message: str = ""
    started_time_s: float = 0.0
    deployments: dict[str, DeploymentStatusOverview] = field(default_factory=dict)
    canary_calls: CallCounts = CallCounts()
    stable_calls: CallCounts = CallCounts()


@dataclass(frozen=True, slots=True)
class ApplicationStatusOverview:
    """How an application does; its deployments by name."""

    status: ApplicationStatus
    message: str = ""
    # Seconds since the epoch.
    last_deployed_time_s: float = 0.0
    deployments: dict[str, DeploymentStatusOverview] = field(default_factory=dict)
    canary: CanaryStatusOverview | None = None


@dataclass(frozen=True, slots=True)
class ServeStatus:
    """The state of the instance: proxies by id, applications by name."""

    proxies: dict[str, ProxyStatus] = field(default_factory=dict)
    applications: dict[str, ApplicationStatusOverview] = field(default_factory=dict)
    target_capacity: float | None = None

    @classmethod
    def from_proto(cls, status: control_pb2.InstanceStatus) -> ServeStatus:
        """What the controller answered."""
        return cls(
            proxies={proxy.proxy_id: ProxyStatus(proxy.status) for proxy in status.proxies},
            applications={app.name: _application_overview(app) for app in status.applications},
            target_capacity=status.target_capacity if status.HasField("target_capacity") else None,
        )


def _application_overview(app: control_pb2.ApplicationStatus) -> ApplicationStatusOverview:
    return ApplicationStatusOverview(
        status=ApplicationStatus(app.status),
        message=app.message,
        last_deployed_time_s=app.last_deployed_time_s,
        deployments=_deployment_overviews(app.deployments),
        canary=_canary_overview(app.canary) if app.HasField("canary") else None,
    )


def _deployment_overviews(deployments: Iterable[control_pb2.DeploymentStatus]) -> dict[str, DeploymentStatusOverview]:
    return {
        deployment.name: DeploymentStatusOverview(
            status=DeploymentStatus(deployment.status),
            status_trigger=DeploymentStatusTrigger(deployment.status_trigger),
            replica_states=dict(Counter(ReplicaState(replica.state) for replica in deployment.replicas)),
            message=deployment.message,
        )
        for deployment in deployments
    }


def _canary_overview(canary: control_pb2.CanaryStatus) -> CanaryStatusOverview:
    options = CanaryOptions.model_validate_json(canary.options_json)
    return CanaryStatusOverview(
        phase=CanaryPhase(canary.phase),
        message=canary.message,
        weight=canary.weight,
        match=options.match,
        sticky_key=options.sticky_key,
        status=ApplicationStatus(canary.status) if canary.status else None,
        status_message=canary.status_message,
        started_time_s=canary.started_time_s,
        deployments=_deployment_overviews(canary.deployments),
        canary_calls=_call_counts(canary.canary),
        stable_calls=_call_counts(canary.stable),
    )


def _call_counts(side: control_pb2.SideCounts) -> CallCounts:
    percent = round(100.0 * side.errors / side.calls, 2) if side.calls else 0.0
    return CallCounts(side.calls, side.errors, percent)
