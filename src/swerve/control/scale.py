"""Changing how many replicas a deployment has, and what its status says meanwhile. The texts are Ray Serve's."""

from __future__ import annotations

from dataclasses import replace

from swerve.control import autoscale
from swerve.control.draft import Draft
from swerve.control.events import Scale
from swerve.control.model import Deployment, DeploymentKey, Replica, State
from swerve.exceptions import does_not_exist
from swerve.statuses import DeploymentStatus, DeploymentStatusTrigger, ReplicaState

_SCALING = (DeploymentStatus.UPSCALING, DeploymentStatus.DOWNSCALING)
_DISABLED = (
    "Cannot update replicas for deployment '{deployment}' in application '{app}'. The external scaling API can only be "
    "used when 'external_scaler_enabled' is set to true in the application configuration. Current value: "
    "external_scaler_enabled=false. To use this API, redeploy your application with 'external_scaler_enabled: true' in "
    "the config."
)


class ScaleRefused(Exception):
    """The number of replicas cannot be set from outside; the message says why."""


class ScaleNotFound(ScaleRefused):
    """Nothing has this name."""


def check(state: State, key: DeploymentKey) -> None:
    """Refuse to set the number of a deployment's replicas from outside where that is not provided for.

    Raises:
        ScaleNotFound: there is no such deployment.
        ScaleRefused: it is being deleted, or its application does not allow it.
    """
    application = state.applications.get(key.app)
    if application is None:
        raise ScaleNotFound(does_not_exist(f"Application '{key.app}'", state.staying_applications))
    deployment = state.deployments.get(key)
    if deployment is None:
        what = f"Deployment '{key.name}' of application '{key.app}'"
        raise ScaleNotFound(does_not_exist(what, application.deployments))
    if not application.external_scaler_enabled:
        raise ScaleRefused(_DISABLED.format(deployment=key.name, app=key.app))
    if deployment.deleting or state.stopping:
        raise ScaleRefused("Deployment is deleted")


def apply(draft: Draft, event: Scale) -> None:
    """Make the number the new goal. Nothing happens when the deployment is not there to be scaled any more."""
    deployment = draft.deployments.get(event.key)
    if deployment is None or deployment.deleting or draft.state.stopping:
        return
    goal = deployment.serving_goal
    if goal is None or goal.num_replicas == event.num_replicas:
        return
    limits = None
    if event.autoscaling:
        if deployment.goal.target.scaling is None:
            return
        limits = autoscale.bounds(deployment.goal.target.scaling, draft.state.capacity_of(event.key.app))
    running = _running(deployment, draft.replicas_of(event.key))
    # Until a deployment has what it must have, it is not said to be scaled.
    if limits is None or limits.clamp(running) == running:
        deployment = transition(deployment, goal.num_replicas, event.num_replicas, autoscaling=event.autoscaling)
    previous = deployment.previous
    draft.deployments[event.key] = replace(
        deployment,
        goal=replace(deployment.goal, num_replicas=event.num_replicas),
        # If the update fails that is under way, as many of the old ones are wanted.
        previous=None if previous is None else replace(previous, num_replicas=event.num_replicas),
    )


def transition(deployment: Deployment, old: int, new: int, *, autoscaling: bool) -> Deployment:
    """`deployment` with the status of one whose number of replicas changes."""
    status, trigger = deployment.status, deployment.trigger
    manually = trigger is DeploymentStatusTrigger.CONFIG_UPDATE_STARTED
    if status is DeploymentStatus.UPDATING:
        follows = autoscaling
    elif status in _SCALING:
        follows = not (autoscaling and manually)
    else:
        follows = status is DeploymentStatus.HEALTHY
    if not follows:
        return deployment
    up = new > old
    return replace(
        deployment,
        status=DeploymentStatus.UPSCALING if up else DeploymentStatus.DOWNSCALING,
        trigger=DeploymentStatusTrigger.AUTOSCALING if autoscaling else DeploymentStatusTrigger.CONFIG_UPDATE_STARTED,
        message=f"{'Upscaling' if up else 'Downscaling'} from {old} to {new} replicas.",
    )


def _running(deployment: Deployment, replicas: list[Replica]) -> int:
    version = deployment.goal.target.version
    return sum(replica.state is ReplicaState.RUNNING and replica.version == version for replica in replicas)
