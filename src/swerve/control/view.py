"""The state as others see it: the view that proxies and handles route by, and the status for people and programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from swerve.control.canary import takes_calls
from swerve.control.converge import drain_time
from swerve.control.model import Application, Canary, Deployment, Ended, Replica, State
from swerve.generated import control_pb2 as pb
from swerve.statuses import ApplicationStatus, DeploymentStatus, DeploymentStatusTrigger, ProxyStatus


def view(state: State, address_of: Callable[[str], str], code_of: Callable[[str], bytes]) -> pb.View:
    """What to route by now, without a version. `code_of` gives the code of a digest."""
    applications = [
        pb.ApplicationView(
            name=app.name,
            route_prefix=app.route_prefix,
            ingress=app.ingress,
            release=app.release,
            canary=_canary_view(state, app.name),
        )
        for app in state.applications.values()
        if not app.deleting
    ]
    deployments = [
        _deployment_view(state, deployment, address_of, code_of) for deployment in state.deployments.values()
    ]
    return pb.View(
        options=state.options.in_force,
        applications=applications,
        deployments=deployments,
        draining=state.stopping,
        proxy_ids=[proxy.id for proxy in state.proxies.values() if proxy.state is ProxyStatus.HEALTHY],
        drain_s=drain_time(state),
    )


def _canary_view(state: State, app: str) -> pb.CanaryView | None:
    canary = state.canaries.get(app)
    if canary is None or not canary.active:
        return None
    options = json.loads(canary.options_json)
    return pb.CanaryView(
        release=canary.application.release,
        ingress=canary.application.ingress,
        weight=canary.weight,
        match=options["match"],
        sticky_key=options["sticky_key"] or "",
        ready=takes_calls(state, canary),
    )


def _deployment_view(
    state: State, deployment: Deployment, address_of: Callable[[str], str], code_of: Callable[[str], bytes]
) -> pb.DeploymentView:
    target = deployment.goal.target
    serving = [replica for replica in state.replicas_of(deployment.key) if replica.serves]
    router = target.config.get("request_router_config")
    backpressure = deployment.goal.target.config.get("backpressure_config") or {}
    application = state.applications.get(deployment.key.app)
    return pb.DeploymentView(
        app=deployment.key.app,
        name=deployment.key.name,
        replicas=[
            pb.ReplicaView(
                replica_id=replica.id,
                address=address_of(replica.id),
                max_ongoing_requests=replica.max_ongoing_requests,
                multiplexed_model_ids=replica.model_ids,
                routing_stats_json=replica.routing_stats_json,
            )
            for replica in serving
        ],
        max_queued_requests=deployment.goal.target.options.max_queued_requests,
        unavailable=deployment.failed and not serving and deployment.previous is None,
        backpressure_status_code=backpressure.get("status_code", 0),
        backpressure_retry_after_s=backpressure.get("retry_after_s"),
        autoscaled=deployment.goal.target.scaling is not None,
        request_router_json=json.dumps(router) if router else "",
        release=deployment.key.release,
        aside=application is not None and application.release != deployment.key.release,
        request_router=code_of(target.router_digest) if target.router_digest else b"",
        sys_path=target.import_dirs if target.router_digest else (),
    )


def status(state: State, ended: Mapping[str, tuple[Ended, Ended]] | None = None) -> pb.InstanceStatus:
    """How everything does, without what only the shell knows (process ids of controller and agent).

    `ended` are the calls of the canaries' windows, by application: the canary's, then the others.
    """
    counts = ended or {}
    return pb.InstanceStatus(
        proxies=[
            pb.ProxyStatus(
                proxy_id=proxy.id,
                status=proxy.state,
                pid=proxy.pid,
                message=proxy.message,
                grpc_address=proxy.grpc_address,
                http_address=proxy.http_address,
            )
            for proxy in state.proxies.values()
        ],
        applications=[
            _application_status(state, app, counts.get(app.name, (Ended(), Ended())))
            for app in state.applications.values()
        ],
        target_capacity=state.target_capacity,
        options=state.options.in_force,
        base_options=state.options.base,
        options_digest=state.options.digest,
    )


def _application_status(state: State, app: Application, ended: tuple[Ended, Ended]) -> pb.ApplicationStatus:
    summary, message = summarize(app, _deployments_of(state, app))
    canary = state.canaries.get(app.name)
    # What drains is shown where it was shown before it was retired.
    releases = {app.release, *(release for name, release in state.retired if name == app.name)}
    return pb.ApplicationStatus(
        name=app.name,
        route_prefix=app.route_prefix,
        status=summary,
        message=message,
        last_deployed_time_s=app.last_deployed_time_s,
        deployments=_deployment_statuses(state, app, releases),
        source=app.source,
        source_json=app.source_json,
        ingress=app.ingress,
        external_scaler_enabled=app.external_scaler_enabled,
        canary=None if canary is None else _canary_status(state, canary, *ended),
    )


def _deployments_of(state: State, app: Application) -> list[Deployment]:
    return [state.deployments[key] for name in app.deployments if (key := app.key(name)) in state.deployments]


def _canary_status(state: State, canary: Canary, ended: Ended, stable: Ended) -> pb.CanaryStatus:
    app = canary.application
    if not canary.active:
        ended, stable = canary.ended, canary.stable_ended
    summary, message = summarize(app, _deployments_of(state, app)) if canary.active else ("", "")
    return pb.CanaryStatus(
        phase=canary.phase,
        message=canary.message,
        weight=canary.weight,
        options_json=canary.options_json,
        status=summary,
        status_message=message,
        started_time_s=app.last_deployed_time_s,
        deployments=_deployment_statuses(state, app, {app.release}) if canary.active else [],
        canary=pb.SideCounts(calls=ended.calls, errors=ended.errors),
        stable=pb.SideCounts(calls=stable.calls, errors=stable.errors),
    )


def _deployment_statuses(state: State, app: Application, releases: Iterable[str]) -> list[pb.DeploymentStatus]:
    """One for each name, of the release `app` where that has it; with the replicas of all these `releases`."""
    found: dict[str, Deployment] = {}
    replicas: dict[str, list[Replica]] = {}
    for key, deployment in state.deployments.items():
        if key.app == app.name and key.release in releases:
            if key.name not in found or key.release == app.release:
                found[key.name] = deployment
            replicas.setdefault(key.name, []).extend(state.replicas_of(key))
    return [_deployment_status(deployment, replicas[name]) for name, deployment in found.items()]


def summarize(app: Application, deployments: Sequence[Deployment]) -> tuple[ApplicationStatus, str]:
    """An application's status and message: those of its worst deployment (Ray Serve's order and texts)."""
    if app.deleting:
        return ApplicationStatus.DELETING, ""
    failed = [item for item in deployments if item.status is DeploymentStatus.DEPLOY_FAILED]
    if failed:
        names = [item.key.name for item in failed]
        reasons = "\n".join(f"{item.key.name}: {item.message}" for item in failed)
        return ApplicationStatus.DEPLOY_FAILED, f"Failed to update the deployments {names}.\n{reasons}"
    unhealthy = [item.key.name for item in deployments if item.status is DeploymentStatus.UNHEALTHY]
    if unhealthy:
        return ApplicationStatus.UNHEALTHY, f"The deployments {unhealthy} are UNHEALTHY."
    if all(
        item.status is DeploymentStatus.HEALTHY or item.trigger is DeploymentStatusTrigger.AUTOSCALING
        for item in deployments
    ):
        return ApplicationStatus.RUNNING, ""
    return ApplicationStatus.DEPLOYING, ""


def _deployment_status(deployment: Deployment, replicas: Sequence[Replica]) -> pb.DeploymentStatus:
    return pb.DeploymentStatus(
        name=deployment.key.name,
        status=deployment.status,
        status_trigger=deployment.trigger,
        message=deployment.message,
        replicas=[_replica_status(replica) for replica in replicas],
        target_num_replicas=0 if deployment.deleting else (deployment.serving_goal or deployment.goal).num_replicas,
        config_json=deployment.goal.target.config_json,
    )


def _replica_status(replica: Replica) -> pb.ReplicaStatus:
    return pb.ReplicaStatus(replica_id=replica.id, state=replica.state, pid=replica.pid, start_time_s=replica.started_s)
