"""A world for the controller's decisions: processes that start, answer, fail and end as a test says."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from swerve.autoscaling_policy import default_autoscaling_policy
from swerve.config import CanaryOptions, DeploymentConfig
from swerve.control.autoscaler import Autoscaler
from swerve.control.events import (
    CheckHealth,
    CheckProxy,
    Command,
    Deploy,
    Event,
    Finish,
    HealthChecked,
    Kill,
    NewCanary,
    Phase,
    ProcessEnded,
    ProcessStarted,
    ProxyChecked,
    ProxyReported,
    Reconfigured,
    ReconfigureReplica,
    Recovered,
    ReplicaReported,
    Scale,
    StartCanary,
    StartProxy,
    StartReplica,
    StopProxy,
    StopReplica,
    TellWorldSize,
    Tick,
    Warn,
)
from swerve.control.model import Application, Canary, Deployment, DeploymentKey, Replica, State
from swerve.control.options import ServedOptions
from swerve.control.reconcile import next_wakeup, step
from swerve.control.store import Store
from swerve.control.target import DeploymentTarget
from swerve.generated import control_pb2 as pb
from swerve.statuses import ReplicaState


def target(code: str = "v1", **options: object) -> DeploymentTarget:
    return DeploymentTarget(
        code_digest=code, code_version=code, config_json=DeploymentConfig(**options).model_dump_json(), is_ingress=True
    )


def application(
    name: str = "app", route_prefix: str | None = "/", source: str = "imperative", **targets: DeploymentTarget
) -> tuple[Application, dict[str, DeploymentTarget]]:
    """An application whose first deployment is the ingress."""
    targets = targets or {"Model": target()}
    names = tuple(targets)
    return Application(name, route_prefix, names[0], names, source=source), targets


def new_canary(name: str = "app", options: dict[str, object] | None = None, **targets: DeploymentTarget) -> NewCanary:
    """A canary of an application, v2 of its ingress unless said otherwise."""
    checked = CanaryOptions.model_validate(options or {})
    made, made_targets = application(name, None, **(targets or {"Model": target("v2")}))
    return NewCanary(made, made_targets, checked.model_dump_json(), checked.weight)


def options_for(num_proxies: int, **fields: object) -> ServedOptions:
    """Options of an instance with so many proxies."""
    port = (
        {"grpc_options_json": '{"port": 9000}', "grpc_methods": [pb.GrpcMethod(path="/a.B/C")]} if num_proxies else {}
    )
    options = pb.InstanceOptions(num_proxies=num_proxies, **{**port, **fields})
    return ServedOptions(options, options, options)


@dataclass
class World:
    """The reconciler and what it believes to be outside.

    `broken` are code versions whose replicas fail to start, `slow` replicas or versions that never finish to.
    """

    state: State = field(default_factory=lambda: State("seed"))
    now: float = 100.0
    pending: list[Command] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    alive: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    versions: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    sick: set[str] = field(default_factory=set)
    world_sizes: dict[str, int] = field(default_factory=dict)
    finished: bool = False
    check: Callable[["World", list[Command]], None] = lambda world, commands: None

    def feed(self, event: Event) -> list[Command]:
        self.state, commands = step(self.state, event)
        for command in commands:
            if isinstance(command, StartReplica | StartProxy):
                assert command.id not in self.alive | self.ended, "an id is used twice"
                self.alive.add(command.id)
                if isinstance(command, StartReplica):
                    self.versions[command.id] = command.target.code_version
            elif isinstance(command, Finish):
                self.finished = True
            elif not isinstance(command, Warn):
                assert command.id in self.alive, f"{command} for what is gone"
            if isinstance(command, StartReplica | ReconfigureReplica | TellWorldSize):
                self.world_sizes[command.id] = command.world_size
        self.pending += commands
        self.commands += commands
        self.check(self, list(commands))
        return list(commands)

    def deploy(
        self,
        *applications: tuple[Application, dict[str, DeploymentTarget]],
        declarative: bool = False,
        capacity: float | None = None,
        canaries: tuple[NewCanary, ...] = (),
    ) -> None:
        entries = [{"name": made.name, "import_path": "m:v1", "canary": {}} for made, _ in applications]
        config = json.dumps({"applications": entries}) if declarative else ""
        self.feed(Deploy(self.now, applications, declarative, config, capacity, canaries))

    def start_canary(self, canary: NewCanary) -> None:
        self.feed(StartCanary(self.now, canary))

    def end(self, process_id: str, reason: str = "The process was ended by SIGKILL.") -> None:
        if process_id in self.alive:
            self.alive.remove(process_id)
            self.ended.add(process_id)
            self.feed(ProcessEnded(self.now, process_id, reason))

    def carry_out(self, command: Command) -> None:
        """Do what a command asks, as the processes would."""
        if isinstance(command, Finish | Warn) or command.id not in self.alive:
            return
        match command:
            case StartReplica():
                self.feed(ProcessStarted(self.now, command.id, 1000, 1.0))
                self.feed(ReplicaReported(self.now, command.id, Phase.INITIALIZING))
                if {command.id, self.versions[command.id]} & self.slow:
                    return
                if self.versions[command.id] in self.broken:
                    self.feed(ReplicaReported(self.now, command.id, Phase.FAILED, "Traceback: boom"))
                else:
                    self.feed(ReplicaReported(self.now, command.id, Phase.RUNNING))
            case StartProxy():
                self.feed(ProcessStarted(self.now, command.id, 1000, 1.0))
                self.feed(ProxyReported(self.now, command.id, grpc_address="127.0.0.1:9000"))
            case StopReplica() | StopProxy() | Kill():
                self.end(command.id, "The process ended with exit code 0.")
            case ReconfigureReplica():
                goal = command.target
                error = "Traceback: bad config" if goal.code_version + ":config" in self.broken else ""
                ongoing = goal.options.max_ongoing_requests
                self.feed(Reconfigured(self.now, command.id, goal.config_version, ongoing, error))
            case CheckHealth():
                self.feed(HealthChecked(self.now, command.id, command.id not in self.sick, "not well"))
            case CheckProxy():
                self.feed(ProxyChecked(self.now, command.id, command.id not in self.sick))

    def run(self) -> None:
        """Carry out all commands, and those that follow, at one moment."""
        while self.pending:
            self.carry_out(self.pending.pop(0))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, ticking when the state asks for it."""
        end = self.now + seconds
        while (due := next_wakeup(self.state, self.now)) is not None and due <= end:
            self.now = due
            self.feed(Tick(self.now))
            self.run()
        self.now = end

    def restart_controller(self, stored: State, num_proxies: int = 0) -> None:
        self.state = stored
        self.pending = [item for item in self.pending if isinstance(item, StartReplica | StartProxy)]
        # What was ordered but not started when the controller died never starts.
        for command in self.pending:
            self.alive.discard(command.id)
            self.ended.add(command.id)
        self.pending = []
        running = dict.fromkeys(self.alive, (1000, 1.0))
        self.feed(Recovered(self.now, running, options_for(num_proxies)))
        for replica in tuple(self.state.replicas.values()):
            if replica.state is ReplicaState.RECOVERING:
                self.feed(ReplicaReported(self.now, replica.id, Phase.RUNNING))

    # -- what tests ask -----------------------------------------------------------------------------------------------

    def deployment(self, name: str = "Model", app: str = "app") -> Deployment:
        return self.state.deployments[self.key(name, app)]

    def replicas(self, name: str = "Model", app: str = "app") -> list[Replica]:
        return list(self.state.replicas_of(self.key(name, app)))

    def key(self, name: str = "Model", app: str = "app") -> DeploymentKey:
        """Of the release that is the application."""
        known = self.state.applications.get(app)
        return DeploymentKey(app, name) if known is None else known.key(name)

    def canary(self, app: str = "app") -> Canary:
        return self.state.canaries[app]

    def canary_replicas(self, name: str = "Model", app: str = "app") -> list[Replica]:
        return list(self.state.replicas_of(self.canary(app).application.key(name)))

    def versions_alive(self, app: str = "app") -> list[str]:
        """Code versions of all replicas of an application, whatever their release, that have not ended."""
        return sorted(self.versions[item.id] for item in self.state.replicas.values() if item.key.app == app)

    def running_versions(self, name: str = "Model", app: str = "app") -> list[str]:
        """Code versions of the replicas that take calls."""
        return sorted(self.versions[item.id] for item in self.replicas(name, app) if item.serves)


@dataclass
class ScaledWorld(World):
    """A world whose autoscaled deployments follow the loads that a test says, by the default policy."""

    autoscaler: Autoscaler = field(default_factory=Autoscaler)

    def feed(self, event: Event) -> list[Command]:
        commands = super().feed(event)
        self.autoscaler.follow(self.state, self.now)
        return commands

    def running_each(self, ongoing: int, name: str = "Model", app: str = "app") -> None:
        """So many calls run in each replica."""
        for replica in self.replicas(name, app):
            self.autoscaler.replica_reported(self.state, replica.id, ongoing, {}, self.now)

    def waiting(
        self, queued: int, caller: tuple[str, str] = ("driver", "1"), name: str = "Model", app: str = "app"
    ) -> None:
        """So many calls wait in a caller."""
        self.autoscaler.caller_reported(*caller, {self.key(name, app): queued}, self.now)

    def decide(self) -> None:
        """What the controller does ten times a second."""
        for key in self.autoscaler.due(self.state):
            ctx = self.autoscaler.context(self.state, key, self.now, self.now)
            number = self.autoscaler.decide(key, ctx, *default_autoscaling_policy(ctx), self.now)
            if number is not None:
                self.feed(Scale(self.now, key, number, autoscaling=True))

    def live(self, seconds: float) -> None:
        """Let time pass as it does for a controller."""
        for _ in range(round(seconds * 10)):
            self.pass_time(0.1)
            self.decide()
            self.run()


def stored(state: State) -> State:
    """The state as a controller finds it that starts after this one."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "state.db")
        store.save(State("", serial=-1), state)
        loaded = store.load()
        store.close()
        return loaded


def is_gone(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
