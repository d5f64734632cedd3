"""What the controller is told (events) and what it wants done (commands)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from swerve.control.model import Application, DeploymentKey
from swerve.control.options import ServedOptions
from swerve.control.target import DeploymentTarget
from swerve.generated import control_pb2 as pb


class Phase(Enum):
    """How far a replica says it is."""

    INITIALIZING = auto()
    RUNNING = auto()
    FAILED = auto()
    DRAINING = auto()


# ---------------------------------------------------------------------------------------------------------------------
# Events. Each carries `now`, in `time.monotonic()` seconds.


@dataclass(frozen=True, slots=True)
class NewCanary:
    """A canary as asked for: of the application of the same name. `weight` is that of its options, in percent."""

    application: Application
    targets: Mapping[str, DeploymentTarget]
    options_json: str
    weight: float


@dataclass(frozen=True, slots=True)
class Deploy:
    """Apply these applications, all or none; `declarative` also deletes the declarative ones that are not named, and
    withdraws the canaries that the file named before and does not now.

    With `options` those of the instance change together with them. `outdated` are ingress deployments with replicas
    that cannot learn the new services while they run.
    """

    now: float
    applications: tuple[tuple[Application, Mapping[str, DeploymentTarget]], ...]
    declarative: bool = False
    config_json: str = ""
    target_capacity: float | None = None
    canaries: tuple[NewCanary, ...] = ()
    options: pb.InstanceOptions | None = None
    base_options: pb.InstanceOptions | None = None
    outdated: frozenset[DeploymentKey] = frozenset()


@dataclass(frozen=True, slots=True)
class StartCanary:
    """Run a new version beside an application."""

    now: float
    canary: NewCanary


@dataclass(frozen=True, slots=True)
class WeighCanary:
    """Give a canary `weight` percent of the calls."""

    now: float
    app: str
    weight: float


@dataclass(frozen=True, slots=True)
class PromoteCanary:
    """Make a canary the application."""

    now: float
    app: str


@dataclass(frozen=True, slots=True)
class RollBackCanary:
    """End a canary. `release`: only if it is this one, "" for whichever runs."""

    now: float
    app: str
    reason: str
    release: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """Take applications away."""

    now: float
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """Run so many replicas: what an autoscaling policy decided, or what was asked for from outside."""

    now: float
    key: DeploymentKey
    num_replicas: int
    autoscaling: bool


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End the instance: drain, then stop everything."""

    now: float


@dataclass(frozen=True, slots=True)
class Recovered:
    """The controller has started; these processes run: pid and start time (of day) by id."""

    now: float
    running: Mapping[str, tuple[int, float]]
    options: ServedOptions


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    """A process that was asked for runs; `started_s` is in seconds since the epoch."""

    now: float
    id: str
    pid: int
    started_s: float


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """A process ended, or could not be started. `reason` says how, for people."""

    now: float
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReplicaReported:
    """A replica told its state."""

    now: float
    id: str
    phase: Phase
    message: str = ""
    model_ids: tuple[str, ...] = ()
    routing_stats_json: str = ""


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """A `Reconfigure` to `config_version` came back; `error` is "" on success."""

    now: float
    id: str
    config_version: str
    max_ongoing_requests: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class HealthChecked:
    """What a replica answered to `CheckHealth`, or that it did not answer in time."""

    now: float
    id: str
    healthy: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class ProxyReported:
    """A proxy listens, or says by `error` that it cannot where it should. `draining`: it stops, on its own account."""

    now: float
    id: str
    grpc_address: str = ""
    http_address: str = ""
    error: str = ""
    draining: bool = False


@dataclass(frozen=True, slots=True)
class ProxyChecked:
    """A CheckProxy is done: whether the proxy answered in time."""

    now: float
    id: str
    answered: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: `next_wakeup` of the state is due."""

    now: float


Event = (
    Deploy
    | StartCanary
    | WeighCanary
    | PromoteCanary
    | RollBackCanary
    | Delete
    | Scale
    | Shutdown
    | Recovered
    | ProcessStarted
    | ProcessEnded
    | ReplicaReported
    | Reconfigured
    | HealthChecked
    | ProxyReported
    | ProxyChecked
    | Tick
)


# ---------------------------------------------------------------------------------------------------------------------
# Commands. Those with an id, but StartReplica and StartProxy, concern a process whose start was ordered and whose end
# was not told.


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Start a process for a replica."""

    id: str
    key: DeploymentKey
    target: DeploymentTarget
    rank: int
    world_size: int


@dataclass(frozen=True, slots=True)
class StopReplica:
    """Ask a replica to drain and end; calls that run have `timeout_s`."""

    id: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ReconfigureReplica:
    """Give a running replica what it can take without a restart."""

    id: str
    target: DeploymentTarget
    rank: int
    world_size: int


@dataclass(frozen=True, slots=True)
class TellWorldSize:
    """Tell a replica how many there are; its configuration stays `target`'s."""

    id: str
    target: DeploymentTarget
    rank: int
    world_size: int


@dataclass(frozen=True, slots=True)
class TellOptions:
    """Tell a replica the options in force."""

    id: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Log `message`."""

    message: str


@dataclass(frozen=True, slots=True)
class CheckHealth:
    """Ask a replica how it does."""

    id: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class CheckProxy:
    """Ask a proxy whether it serves."""

    id: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class StartProxy:
    """Start a proxy; `shares_ports` when others may listen on the same ones."""

    id: str
    shares_ports: bool


@dataclass(frozen=True, slots=True)
class StopProxy:
    """Ask a proxy to let its calls finish and end."""

    id: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End a process at once."""

    id: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left: end the instance."""


Command = (
    StartReplica
    | StopReplica
    | ReconfigureReplica
    | TellWorldSize
    | TellOptions
    | Warn
    | CheckHealth
    | CheckProxy
    | StartProxy
    | StopProxy
    | Kill
    | Finish
)
