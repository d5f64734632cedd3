"""From the state after an event to the next commands: the same decisions whatever the event was."""

from __future__ import annotations

from dataclasses import replace

from swerve.control import canary, rollout
from swerve.control.draft import EXIT_GRACE_S, UNHEALTHY, Draft
from swerve.control.events import Finish
from swerve.control.model import Application, Deployment, State
from swerve.statuses import DeploymentStatus, DeploymentStatusTrigger, ProxyStatus, ReplicaState

# A proxy that has not listened after this long is killed and started again.
PROXY_START_TIMEOUT_S = 30.0
# Ray Serve's default of graceful_shutdown_timeout_s: what calls have when no deployment says.
PROXY_DRAIN_S = 20.0

REPLACED = "A replica ended or failed its health checks, and was replaced."
_COMPLETED = {
    DeploymentStatus.UPDATING: DeploymentStatusTrigger.CONFIG_UPDATE_COMPLETED,
    DeploymentStatus.UPSCALING: DeploymentStatusTrigger.UPSCALE_COMPLETED,
    DeploymentStatus.DOWNSCALING: DeploymentStatusTrigger.DOWNSCALE_COMPLETED,
}


def converge(draft: Draft) -> None:
    """Order what the state wants now."""
    draft.run_timers()
    canary.roll_back_failed(draft)
    _converge_proxies(draft)
    for deployment in tuple(draft.deployments.values()):
        if _must_stop(draft, deployment):
            for replica in draft.replicas_of(deployment.key):
                draft.stop_replica(replica)
        else:
            _converge_deployment(draft, deployment)
    canary.begin_to_serve(draft)
    _forget_what_is_gone(draft)
    if draft.state.stopping and not (draft.replicas or draft.proxies or draft.state.finished):
        draft.state = replace(draft.state, finished=True)
        draft.commands.append(Finish())


# ---------------------------------------------------------------------------------------------------------------------
# Deployments


def _must_stop(draft: Draft, deployment: Deployment) -> bool:
    """Whether nothing may call this deployment any more, so that its replicas drain and end.

    The instance drains its proxies first. An application ends with its ingress: what that calls must outlive it. A
    deployment that an update removed serves the old replicas of the others until those are gone.
    """
    application = draft.owner(deployment.key)
    if draft.state.stopping:
        return not draft.proxies and _is_ingress_or_last(draft, application, deployment)
    if application is None or application.deleting:
        return _is_ingress_or_last(draft, application, deployment)
    if deployment.deleting:
        kept = (draft.deployments[application.key(name)] for name in application.deployments)
        return all(other.reached for other in kept)
    return False


def _is_ingress_or_last(draft: Draft, application: Application | None, deployment: Deployment) -> bool:
    if application is None or deployment.key.name == application.ingress:
        return True
    return not draft.replicas_of(application.key(application.ingress))


def _converge_deployment(draft: Draft, deployment: Deployment) -> None:
    key = deployment.key
    # Nothing new starts while the instance ends.
    goal = None if draft.state.stopping else deployment.serving_goal
    if goal is not None:
        wary = deployment.failures > 0 and draft.is_rolling_update(key)
        plan = rollout.plan(goal, draft.replicas_of(key), wary=wary)
        for replica_id in plan.stop:
            replica = draft.replicas[replica_id]
            # One too many has no successor that would have to wait for its end.
            draft.stop_replica(replica, holds_place=replica.version != goal.target.version)
        for replica_id in plan.reconfigure:
            draft.reconfigure_replica(draft.replicas[replica_id], goal)
        if draft.now >= deployment.start_not_before:
            for _ in range(plan.start):
                draft.start_replica(key, goal)
        draft.tell_world_size(key, goal)
        draft.tell_options(key, goal)
    draft.deployments[key] = _with_status(draft, deployment)


def _with_status(draft: Draft, deployment: Deployment) -> Deployment:
    if deployment.failed or deployment.deleting or draft.state.stopping:
        return deployment
    replicas = draft.replicas_of(deployment.key)
    if rollout.is_reached(deployment.goal, replicas):
        # Downscaling lasts until those that are too many have finished their calls (as in Ray Serve).
        draining = any(replica.state is ReplicaState.STOPPING for replica in replicas)
        return deployment if draining and deployment.status is DeploymentStatus.DOWNSCALING else _reached(deployment)
    recovering = any(replica.state is ReplicaState.RECOVERING for replica in replicas)
    if deployment.status is DeploymentStatus.HEALTHY and not recovering:
        return replace(
            deployment,
            status=DeploymentStatus.UNHEALTHY,
            trigger=DeploymentStatusTrigger.HEALTH_CHECK_FAILED,
            message=UNHEALTHY,
        )
    return deployment


def _reached(deployment: Deployment) -> Deployment:
    if deployment.status is DeploymentStatus.HEALTHY:
        return deployment
    if deployment.status is DeploymentStatus.UNHEALTHY:
        message = f"{REPLACED} {deployment.trouble}".rstrip()
        return replace(
            deployment, previous=None, reached=True, status=DeploymentStatus.HEALTHY, message=message, trouble=""
        )
    return replace(
        deployment,
        previous=None,
        reached=True,
        status=DeploymentStatus.HEALTHY,
        trigger=_COMPLETED.get(deployment.status, DeploymentStatusTrigger.UNSPECIFIED),
        message="",
        trouble="",
    )


def _forget_what_is_gone(draft: Draft) -> None:
    used = {replica.key for replica in draft.replicas.values()}
    for deployment in tuple(draft.deployments.values()):
        if deployment.key not in used and deployment.deleting and _must_stop(draft, deployment):
            del draft.deployments[deployment.key]
    releases = {(key.app, key.release) for key in draft.deployments}
    for retired in draft.retired.keys() - releases:
        del draft.retired[retired]
    apps = {app for app, _ in releases}
    for application in tuple(draft.applications.values()):
        if application.deleting and application.name not in apps:
            del draft.applications[application.name]


# ---------------------------------------------------------------------------------------------------------------------
# Proxies


def _converge_proxies(draft: Draft) -> None:
    """A proxy that drains has its successor at once: the two share the ports for a while."""
    staying = [proxy for proxy in draft.proxies.values() if proxy.state is not ProxyStatus.DRAINING]
    wanted = 0 if draft.state.stopping else draft.state.num_proxies
    # The newest go first: they may not serve yet.
    for proxy in staying[wanted:]:
        draft.stop_proxy(proxy, drain_time(draft.state) + EXIT_GRACE_S)
    if draft.now >= draft.state.proxy_not_before:
        for _ in range(wanted - len(staying)):
            draft.start_proxy(PROXY_START_TIMEOUT_S)


def shutdown_time(state: State) -> float:
    """Within how many seconds a shutdown ends: the proxies drain, then each application's ingress, then its others."""
    return 3 * (drain_time(state) + EXIT_GRACE_S) + EXIT_GRACE_S


def drain_time(state: State) -> float:
    """How long calls may take to finish: what the most patient deployment gives its own."""
    patience = (item.goal.target.options.graceful_shutdown_timeout_s for item in state.deployments.values())
    return max(patience, default=PROXY_DRAIN_S)
