"""The controller's own metrics: how everything does, and what it counts of its deployments, under Ray Serve's names."""

from __future__ import annotations

from collections import Counter

from swerve.control.model import DeploymentKey, State
from swerve.control.view import status
from swerve.observe.metrics import CANARY, Histogram, Labels, counter_text, gauge_text, histogram_text, version_label
from swerve.statuses import ApplicationStatus, DeploymentStatus, ProxyStatus, ReplicaState

# Ray Serve's numbers; 0 is what it knows nothing of.
_APPLICATION = {
    ApplicationStatus.DEPLOY_FAILED: 1,
    ApplicationStatus.UNHEALTHY: 2,
    ApplicationStatus.NOT_STARTED: 3,
    ApplicationStatus.DELETING: 4,
    ApplicationStatus.DEPLOYING: 5,
    ApplicationStatus.RUNNING: 6,
}
_DEPLOYMENT = {
    DeploymentStatus.DEPLOY_FAILED: 1,
    DeploymentStatus.UNHEALTHY: 2,
    DeploymentStatus.UPDATING: 3,
    DeploymentStatus.UPSCALING: 4,
    DeploymentStatus.DOWNSCALING: 5,
    DeploymentStatus.HEALTHY: 6,
}
_PROXY = {ProxyStatus.STARTING: 1, ProxyStatus.HEALTHY: 2, ProxyStatus.UNHEALTHY: 3, ProxyStatus.DRAINING: 4}


class Counts:
    """What has happened since the controller started. `unanswered` are processes that gave no metrics, by kind."""

    def __init__(self) -> None:
        self.starts: Counter[DeploymentKey] = Counter()
        self.check_failures: Counter[DeploymentKey] = Counter()
        self.checks: dict[DeploymentKey, Histogram] = {}
        self.unanswered: Counter[str] = Counter({"proxy": 0, "replica": 0})

    def replica_started(self, key: DeploymentKey) -> None:
        """A replica was ordered."""
        self.starts[key] += 1

    def health_checked(self, key: DeploymentKey, seconds: float, *, healthy: bool) -> None:
        """A health check came back."""
        self.checks.setdefault(key, Histogram()).observe(seconds * 1000.0)
        self.check_failures[key] += not healthy

    def lines(self, state: State) -> list[str]:
        """The lines of Prometheus' text format, for the deployments that exist."""
        present = {key: labels for key in state.deployments if (labels := _labels(state, key))}
        lines = counter_text(
            "serve_deployment_replica_starts",
            "Replicas that were started.",
            {labels: self.starts[key] for key, labels in present.items()},
        )
        lines += counter_text(
            "serve_health_check_failures",
            "Health checks that failed.",
            {labels: self.check_failures[key] for key, labels in present.items()},
        )
        lines += histogram_text(
            "serve_health_check_latency_ms",
            "Time that health checks took.",
            {labels: self.checks[key] for key, labels in present.items() if key in self.checks},
        )
        lines += counter_text(
            "serve_metrics_unanswered",
            "Processes that a collection of metrics left out because they did not answer.",
            {(("kind", kind),): count for kind, count in self.unanswered.items()},
        )
        return lines


def state_lines(state: State) -> list[str]:
    """The state as lines of Prometheus' text format."""
    applications = {(("application", app.name),): app.status for app in status(state).applications}
    lines = gauge_text(
        "serve_application_status",
        "1 DEPLOY_FAILED, 2 UNHEALTHY, 3 NOT_STARTED, 4 DELETING, 5 DEPLOYING, 6 RUNNING.",
        {labels: _APPLICATION[ApplicationStatus(name)] for labels, name in applications.items()},
    )
    lines += gauge_text(
        "serve_deployment_status",
        "1 DEPLOY_FAILED, 2 UNHEALTHY, 3 UPDATING, 4 UPSCALING, 5 DOWNSCALING, 6 HEALTHY.",
        {
            labels: _DEPLOYMENT[deployment.status]
            for key, deployment in state.deployments.items()
            if (labels := _labels(state, key))
        },
    )
    lines += gauge_text(
        "serve_proxy_status",
        "1 STARTING, 2 HEALTHY, 3 UNHEALTHY, 4 DRAINING.",
        {(("proxy", proxy.id),): _PROXY[proxy.state] for proxy in state.proxies.values()},
    )
    lines += gauge_text(
        "serve_deployment_replica_healthy",
        "1 when the last health check of a replica that serves succeeded, else 0.",
        {
            (*labels, ("replica", replica.id)): float(replica.serves and not replica.strikes)
            for replica in state.replicas.values()
            if replica.state is not ReplicaState.STOPPING and (labels := _labels(state, replica.key))
        },
    )
    lines += gauge_text(
        "serve_autoscaling_target_replicas",
        "Replicas that an autoscaled deployment should have.",
        {
            labels: deployment.goal.num_replicas
            for key, deployment in state.deployments.items()
            if deployment.goal.target.scaling is not None and (labels := _labels(state, key))
        },
    )
    return lines


def _labels(state: State, key: DeploymentKey) -> Labels:
    """A deployment's labels; none for one of a release that drains, whose place another one has."""
    labels = (("application", key.app), ("deployment", key.name))
    if (key.app, key.release) in state.retired:
        return ()
    canary = state.canaries.get(key.app)
    is_canary = canary is not None and canary.application.release == key.release
    return (*labels, *version_label(CANARY)) if is_canary else labels
