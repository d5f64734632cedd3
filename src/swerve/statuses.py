"""The names of what applications, deployments, replicas and proxies go through: Ray Serve's, but those of canaries."""

from __future__ import annotations

from enum import StrEnum


class ApplicationStatus(StrEnum):
    """How an application does (Ray Serve's names)."""

    NOT_STARTED = "NOT_STARTED"
    DEPLOYING = "DEPLOYING"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    RUNNING = "RUNNING"
    UNHEALTHY = "UNHEALTHY"
    DELETING = "DELETING"


class DeploymentStatus(StrEnum):
    """How a deployment does (Ray Serve's names)."""

    UPDATING = "UPDATING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    UPSCALING = "UPSCALING"
    DOWNSCALING = "DOWNSCALING"


class DeploymentStatusTrigger(StrEnum):
    """Why a deployment has its status (Ray Serve's names)."""

    UNSPECIFIED = "UNSPECIFIED"
    CONFIG_UPDATE_STARTED = "CONFIG_UPDATE_STARTED"
    CONFIG_UPDATE_COMPLETED = "CONFIG_UPDATE_COMPLETED"
    UPSCALE_COMPLETED = "UPSCALE_COMPLETED"
    DOWNSCALE_COMPLETED = "DOWNSCALE_COMPLETED"
    AUTOSCALING = "AUTOSCALING"
    REPLICA_STARTUP_FAILED = "REPLICA_STARTUP_FAILED"
    DEPLOYMENT_ACTOR_FAILED = "DEPLOYMENT_ACTOR_FAILED"
    HEALTH_CHECK_FAILED = "HEALTH_CHECK_FAILED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    DELETING = "DELETING"


class CanaryPhase(StrEnum):
    """Where a canary is in its life. One that was promoted is the application."""

    # Its replicas start; it gets no calls yet.
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    # By somebody or by itself; its message says why.
    ROLLED_BACK = "ROLLED_BACK"


class ReplicaState(StrEnum):
    """Where a replica is in its life (Ray Serve's names). One that has ended is not in the state any more."""

    STARTING = "STARTING"
    # Serves, and takes a new configuration meanwhile.
    UPDATING = "UPDATING"
    # The controller has restarted and not heard of the replica yet. One that served before is taken to serve still.
    RECOVERING = "RECOVERING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    # Kept for readers of the enum; replicas do not move between nodes of one machine.
    PENDING_MIGRATION = "PENDING_MIGRATION"


class ProxyStatus(StrEnum):
    """Where a proxy is in its life (Ray Serve's names)."""

    STARTING = "STARTING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"
    DRAINED = "DRAINED"
