"""The controller's state as immutable values: what should run, what runs, and the status names of Ray Serve.

Times named `now` and `..._at` are `time.monotonic()` seconds that came with an event; `..._s` of day are seconds since
the epoch and are only shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from swerve.control.options import ServedOptions
from swerve.control.target import DeploymentTarget
from swerve.statuses import CanaryPhase, DeploymentStatus, DeploymentStatusTrigger, ProxyStatus, ReplicaState

# The source of an application that came from a configuration file.
DECLARATIVE = "declarative"


@dataclass(frozen=True, slots=True)
class DeploymentKey:
    """Names a deployment within the instance. Releases of one application run side by side (`Application.release`)."""

    app: str
    name: str
    release: str = ""


@dataclass(frozen=True, slots=True)
class Application:
    """One release of an application as deployed. `deployments` are names.

    `release` tells it from the others of its name, for as long as it lives: that of an application which had no canary
    is "", a canary's is an id of its own, which it keeps when it is promoted.
    """

    name: str
    route_prefix: str | None
    ingress: str
    deployments: tuple[str, ...]
    source: str = "imperative"
    source_json: str = ""
    docs_path: str = ""
    last_deployed_time_s: float = 0.0
    deleting: bool = False
    # Whether the number of replicas is set from outside.
    external_scaler_enabled: bool = False
    # Finds the code of a policy that decides for all its deployments in the store, "" if each has its own.
    policy_digest: str = ""
    release: str = ""

    def key(self, deployment: str) -> DeploymentKey:
        """The key of one of its deployments."""
        return DeploymentKey(self.name, deployment, self.release)


@dataclass(frozen=True, slots=True)
class Ended:
    """Calls that have ended, and how many of them with an error of the server's (`wire.status`, HTTP 5xx and 408)."""

    calls: int = 0
    errors: int = 0

    @property
    def error_percent(self) -> float:
        return 100.0 * self.errors / self.calls if self.calls else 0.0

    def plus(self, other: Ended) -> Ended:
        return Ended(self.calls + other.calls, self.errors + other.errors)


NO_CALLS = Ended()


@dataclass(frozen=True, slots=True)
class Canary:
    """A new release of an application, beside the present one.

    `application` is what the application will be when the canary is promoted. `options_json` is a complete
    `swerve.config.CanaryOptions` as given; `weight`, in percent, may have been changed since. `content` is the same
    for canaries of the same code and configuration.
    """

    application: Application
    options_json: str
    weight: float
    content: str
    # The configuration file names it.
    declared: bool = False
    phase: CanaryPhase = CanaryPhase.STARTING
    # Why it was rolled back, and the calls of its window and of the other side's by then.
    message: str = ""
    ended: Ended = NO_CALLS
    stable_ended: Ended = NO_CALLS

    @property
    def active(self) -> bool:
        """Whether it has replicas, or will."""
        return self.phase is not CanaryPhase.ROLLED_BACK


@dataclass(frozen=True, slots=True)
class Goal:
    """What should run: so many replicas of this target."""

    target: DeploymentTarget
    num_replicas: int


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment's goal and how far it is.

    `previous` is the last goal that was reached completely, kept until `goal` is: when the new replicas fail, the old
    ones are what should run. `failures` counts replicas that failed one after the other.
    """

    key: DeploymentKey
    goal: Goal
    previous: Goal | None = None
    status: DeploymentStatus = DeploymentStatus.UPDATING
    trigger: DeploymentStatusTrigger = DeploymentStatusTrigger.CONFIG_UPDATE_STARTED
    message: str = ""
    # What was wrong while it was UNHEALTHY: told until it is healthy, and then with the news that it is.
    trouble: str = ""
    reached: bool = False
    deleting: bool = False
    failures: int = 0
    start_not_before: float = 0.0
    # When it was said last that replicas take long to start.
    slow_start_told_at: float | None = None

    @property
    def failed(self) -> bool:
        return self.status is DeploymentStatus.DEPLOY_FAILED

    @property
    def serving_goal(self) -> Goal | None:
        """What should run now; None: what runs may stay, nothing is started."""
        return self.previous if self.failed else self.goal

    def with_failure(self, message: str, *, terminal: bool) -> Deployment:
        """After a failed start; a terminal one begins the count anew for the previous goal."""
        return replace(
            self,
            status=DeploymentStatus.DEPLOY_FAILED if terminal else self.status,
            trigger=DeploymentStatusTrigger.REPLICA_STARTUP_FAILED,
            message=message,
            failures=0 if terminal else self.failures,
            start_not_before=0.0 if terminal else self.start_not_before,
        )


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica whose process was ordered and has not ended.

    `version` and `config_version` are those it runs. `pid` is 0 until its process has started. `serves` says that it
    takes calls. `holds_place` says that its successor waits until it has ended (an update stops, then starts).
    """

    id: str
    key: DeploymentKey
    version: str
    config_version: str
    rank: int
    max_ongoing_requests: int
    state: ReplicaState = ReplicaState.STARTING
    serves: bool = False
    holds_place: bool = False
    pid: int = 0
    started_s: float = 0.0
    # Since when it is STARTING.
    starting_since: float = 0.0
    # How many replicas there are, and the version of the options, as it was told last; 0 if that is not known.
    world_size: int = 0
    options_version: int = 0
    model_ids: tuple[str, ...] = ()
    routing_stats_json: str = ""
    # When a replica that runs counts as stable, so that its deployment's failures are forgiven. None: it has.
    stable_at: float | None = None
    check_at: float | None = None
    checking: bool = False
    strikes: int = 0
    kill_at: float | None = None


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy whose process was ordered and has not ended. Addresses are "host:port" as bound, "" before."""

    id: str
    state: ProxyStatus = ProxyStatus.STARTING
    pid: int = 0
    grpc_address: str = ""
    http_address: str = ""
    message: str = ""
    kill_at: float | None = None
    # When its event loop is asked next, None while it is being asked, and how often in a row it has not answered.
    check_at: float | None = None
    strikes: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """All that the controller knows. `seed` and `serial` make the ids of what it starts."""

    seed: str
    serial: int = 0
    options: ServedOptions = field(default_factory=ServedOptions)
    num_proxies: int = 0
    applications: Mapping[str, Application] = field(default_factory=dict)
    # By the name of their application.
    canaries: Mapping[str, Canary] = field(default_factory=dict)
    # Releases that drain while another one is the application, by name and release.
    retired: Mapping[tuple[str, str], Application] = field(default_factory=dict)
    deployments: Mapping[DeploymentKey, Deployment] = field(default_factory=dict)
    replicas: Mapping[str, Replica] = field(default_factory=dict)
    proxies: Mapping[str, Proxy] = field(default_factory=dict)
    # The last applied configuration file as JSON, "" if none was, and its target_capacity in percent.
    config_json: str = ""
    target_capacity: float | None = None
    stopping: bool = False
    finished: bool = False
    proxy_failures: int = 0
    proxy_not_before: float = 0.0
    proxy_message: str = ""

    @property
    def staying_applications(self) -> list[str]:
        """The names of the applications that are not being deleted."""
        return [app.name for app in self.applications.values() if not app.deleting]

    def capacity_of(self, app: str) -> float | None:
        """Percent of its replicas that an application gets, None for all; only a configuration file says so."""
        return self.target_capacity if self.applications[app].source == DECLARATIVE else None

    def owner(self, key: DeploymentKey) -> Application | None:
        """The release that a deployment belongs to."""
        return owner(key, self.applications, self.canaries, self.retired)

    def replicas_of(self, key: DeploymentKey) -> tuple[Replica, ...]:
        """The deployment's replicas in the order they were ordered."""
        return tuple(replica for replica in self.replicas.values() if replica.key == key)


def owner(
    key: DeploymentKey,
    applications: Mapping[str, Application],
    canaries: Mapping[str, Canary],
    retired: Mapping[tuple[str, str], Application],
) -> Application | None:
    """The release that a deployment belongs to; None: none knows it any more."""
    application = applications.get(key.app)
    if application is not None and application.release == key.release:
        return application
    canary = canaries.get(key.app)
    if canary is not None and canary.active and canary.application.release == key.release:
        return canary.application
    return retired.get((key.app, key.release))
