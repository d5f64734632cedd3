"""Random events against the controller's decisions: what must always hold, and where it comes to rest."""

from contextlib import suppress
from dataclasses import replace

from control_support import ScaledWorld, application, new_canary, options_for, stored, target
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from swerve.control import autoscale, canary, rollout, scale
from swerve.control.deploy import Rejected
from swerve.control.events import (
    Delete,
    Deploy,
    HealthChecked,
    Phase,
    PromoteCanary,
    ProxyChecked,
    ProxyReported,
    Recovered,
    ReplicaReported,
    RollBackCanary,
    Scale,
    StartProxy,
    StartReplica,
    StopReplica,
    WeighCanary,
)
from swerve.control.view import status, view
from swerve.generated import control_pb2 as pb
from swerve.statuses import CanaryPhase, DeploymentStatus, ProxyStatus, ReplicaState

APPS = ("a", "b")
VERSIONS = ("v1", "v2", "v3")
NUM_PROXIES = 2


class CheckedWorld(ScaledWorld):
    """A world in which each step is compared with the one before."""

    def feed(self, event):
        before = self.state
        commands = super().feed(event)
        stopped = {command.id for command in commands if isinstance(command, StopReplica)}
        for key, deployment in self.state.deployments.items():
            if (goal := deployment.serving_goal) is None or before.stopping:
                continue
            replaced = [
                item
                for item in before.replicas_of(key)
                if item.id in stopped
                and rollout.is_ready(item)
                and item.version != goal.target.version
                and item.id != getattr(event, "id", "")
            ]
            owner = self.state.owner(key)
            if replaced and not deployment.deleting and not owner.deleting:
                left = sum(rollout.is_ready(item) for item in self.state.replicas_of(key))
                assert left >= rollout.fewest_ready(goal), f"an update stopped {len(replaced)} and left {left} ready"
        for command in commands:
            if isinstance(command, StartReplica):
                assert not self.state.stopping
                owner = self.state.owner(command.key)
                # What the ingress calls must outlive it.
                assert not (owner.deleting and command.key.name == owner.ingress), "started, though deleted"
                assert self.now >= self.state.deployments[command.key].start_not_before, "the back-off was not kept"
        return commands


class Reconciler(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = CheckedWorld()
        self.num_proxies = NUM_PROXIES
        self.world.feed(Recovered(self.world.now, {}, options_for(NUM_PROXIES)))

    @rule(
        app=st.sampled_from(APPS),
        version=st.sampled_from(VERSIONS),
        number=st.integers(1, 4),
        surge=st.sampled_from([0, 50]),
        user_config=st.sampled_from([None, 1]),
        cpus=st.sampled_from([0, 1]),
        period=st.sampled_from([2.0, 10.0]),
        two=st.booleans(),
        prefix=st.sampled_from(["/a", "/b"]),
    )
    def deploy(self, app, version, number, surge, user_config, cpus, period, two, prefix):
        """With options of each class: some restart replicas, some are told to them, some only the controller reads."""
        main = target(
            version,
            num_replicas=number,
            max_surge_percent=surge,
            user_config=user_config,
            ray_actor_options={"num_cpus": cpus},
            health_check_period_s=period,
        )
        targets = {"Main": main, "Other": target("other")} if two else {"Main": main}
        with suppress(Rejected):
            made, targets = application(app, prefix, **targets)
            self.world.deploy((replace(made, external_scaler_enabled=True), targets))

    @rule(
        app=st.sampled_from(APPS),
        version=st.sampled_from(VERSIONS),
        low=st.integers(0, 2),
        more=st.integers(1, 3),
        initial=st.booleans(),
        capacity=st.sampled_from([None, 0, 50]),
        beside=st.sampled_from([None, *VERSIONS]),
    )
    def deploy_elastic(self, app, version, low, more, initial, capacity, beside):
        config = {
            "min_replicas": low,
            "max_replicas": low + more,
            "initial_replicas": low + 1 if initial else None,
            "look_back_period_s": 1,
            "upscale_delay_s": 0.5,
            "downscale_delay_s": 2,
        }
        main = target(version, autoscaling_config=config)
        with suppress(Rejected):
            made = application(app, f"/{app}", "declarative", Main=main)
            canaries = () if beside is None else (new_canary(app, Main=target(beside)),)
            self.world.deploy(made, declarative=True, capacity=capacity, canaries=canaries)

    @rule(app=st.sampled_from(APPS), number=st.integers(0, 5))
    def is_scaled(self, app, number):
        key = self.world.key("Main", app)
        with suppress(scale.ScaleRefused):
            scale.check(self.world.state, key)
            self.world.feed(Scale(self.world.now, key, number, autoscaling=False))

    @rule(
        app=st.sampled_from(APPS),
        version=st.sampled_from(VERSIONS),
        number=st.integers(1, 2),
        two=st.booleans(),
        weight=st.sampled_from([0, 50]),
    )
    def starts_canary(self, app, version, number, two, weight):
        main = target(version, num_replicas=number)
        targets = {"Main": main, "Inner": target("inner")} if two else {"Main": main}
        with suppress(Rejected):
            self.world.start_canary(new_canary(app, {"weight": weight}, **targets))

    @rule(app=st.sampled_from(APPS), change=st.sampled_from(["weigh", "promote", "roll back"]))
    def changes_canary(self, app, change):
        now = self.world.now
        event = {
            "weigh": WeighCanary(now, app, 70.0),
            "promote": PromoteCanary(now, app),
            "roll back": RollBackCanary(now, app, canary.BY_COMMAND),
        }[change]
        with suppress(canary.CanaryRefused):
            canary.check_change(self.world.state, event)
            kept = {item.id for item in self.world.canary_replicas("Main", app) if item.state is ReplicaState.RUNNING}
            self.world.feed(event)
            if change == "promote":
                assert kept <= {item.id for item in self.world.replicas("Main", app) if item.serves}

    @rule(app=st.sampled_from(APPS), ongoing=st.integers(0, 9), waiting=st.integers(0, 9))
    def has_load(self, app, ongoing, waiting):
        self.world.running_each(ongoing, "Main", app)
        self.world.waiting(waiting, ("driver", app), "Main", app)

    @rule(seconds=st.sampled_from([0.3, 2.0]))
    def lives(self, seconds):
        self.world.live(seconds)

    @rule(app=st.sampled_from(APPS))
    def delete(self, app):
        self.world.feed(Delete(self.world.now, (app,)))

    @rule(version=st.sampled_from([*VERSIONS, *(f"{version}:config" for version in VERSIONS)]), broken=st.booleans())
    def breaks(self, version, broken):
        """The constructor of a version fails from now on, or its `reconfigure` does, or neither."""
        (self.world.broken.add if broken else self.world.broken.discard)(version)

    @rule(version=st.sampled_from(VERSIONS), slow=st.booleans())
    def slows(self, version, slow):
        """The constructor of a version never returns from now on, or does again."""
        (self.world.slow.add if slow else self.world.slow.discard)(version)

    @rule(data=st.data(), sick=st.booleans())
    def falls_ill(self, data, sick):
        """A replica fails its health checks from now on, or all are well again."""
        if not sick:
            self.world.sick.clear()
        elif self.world.state.replicas:
            self.world.sick.add(data.draw(st.sampled_from(sorted(self.world.state.replicas))))

    @rule(data=st.data())
    def cannot_be_started(self, data):
        """The system gives no process."""
        ordered = [item for item in self.world.pending if isinstance(item, StartReplica | StartProxy)]
        if ordered:
            command = data.draw(st.sampled_from(ordered))
            self.world.pending.remove(command)
            self.world.end(command.id, "The process cannot be started: no memory")

    @rule(data=st.data(), count=st.integers(1, 6))
    def carries_out(self, data, count):
        for _ in range(min(count, len(self.world.pending))):
            index = data.draw(st.integers(0, len(self.world.pending) - 1))
            self.world.carry_out(self.world.pending.pop(index))

    @rule(data=st.data())
    def process_dies(self, data):
        if self.world.alive:
            self.world.end(data.draw(st.sampled_from(sorted(self.world.alive))))

    @rule(data=st.data(), phase=st.sampled_from(Phase))
    def strange_report(self, data, phase):
        ids = sorted(self.world.alive | self.world.ended)
        if ids:
            chosen = data.draw(st.sampled_from(ids))
            self.world.feed(ReplicaReported(self.world.now, chosen, phase, "strange"))
            self.world.feed(HealthChecked(self.world.now, chosen, False))
            self.world.feed(ProxyChecked(self.world.now, chosen, False))

    @rule(seconds=st.sampled_from([0.1, 1.0, 15.0, 60.0]))
    def time_passes(self, seconds):
        pending, self.world.pending = self.world.pending, []
        self.world.pass_time(seconds)
        self.world.pending = pending + self.world.pending

    @rule(app=st.sampled_from(APPS), number=st.integers(0, 3), method=st.sampled_from("AB"), outdated=st.booleans())
    def options_change(self, app, number, method, outdated):
        paths = [pb.GrpcMethod(path=f"/{method}/M")] if number else []
        options = options_for(number, grpc_methods=paths).in_force
        keys = frozenset(key for key in self.world.state.deployments if outdated and key.app == app)
        self.world.feed(Deploy(self.world.now, (), options=options, outdated=keys))
        self.num_proxies = number

    @rule(data=st.data())
    def a_proxy_is_told_to_stop(self, data):
        serving = sorted(id for id, proxy in self.world.state.proxies.items() if proxy.state is ProxyStatus.HEALTHY)
        if serving:
            self.world.feed(ProxyReported(self.world.now, data.draw(st.sampled_from(serving)), draining=True))

    @rule()
    def controller_restarts(self):
        self.world.restart_controller(stored(self.world.state), self.num_proxies)

    @invariant()
    def what_is_known_is_alive_and_what_is_alive_is_known(self):
        state = self.world.state
        assert state.replicas.keys() | state.proxies.keys() == self.world.alive

    @invariant()
    def every_replica_has_one_owner(self):
        state = self.world.state
        for replica in state.replicas.values():
            assert replica.key in state.deployments
        for key in state.deployments:
            assert key.app in state.applications
            assert state.owner(key) is not None

    @invariant()
    def what_calls_are_sent_to_is_there(self):
        state = self.world.state
        seen = view(state, str, str.encode)
        published = {(item.app, item.name, item.release): item for item in seen.deployments}
        for app in seen.applications:
            assert not published[app.name, app.ingress, app.release].aside
            if app.canary.ready:
                beside = published[app.name, app.canary.ingress, app.canary.release]
                assert beside.aside
                assert beside.replicas or not state.owner(self.world.canary(app.name).application.key("")).deleting
        assert len(published) == len(seen.deployments)
        assert {app.name for app in status(state).applications} == set(state.applications)

    @invariant()
    def what_is_decided_is_within_the_bounds(self):
        world = self.world
        for key in world.autoscaler.due(world.state):
            config = world.state.deployments[key].goal.target.scaling
            limits = autoscale.bounds(config, world.state.capacity_of(key.app))
            ctx = world.autoscaler.context(world.state, key, world.now, world.now)
            assert (ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas) == (limits.low, limits.high)
            assert ctx.total_num_requests >= ctx.total_queued_requests - 1e-9

    @invariant()
    def ranks_are_unique_and_starts_are_bounded(self):
        for key, deployment in self.world.state.deployments.items():
            active = [item for item in self.world.state.replicas_of(key) if item.state is not ReplicaState.STOPPING]
            assert len({item.rank for item in active}) == len(active)
            starting = [item for item in active if item.state is ReplicaState.STARTING]
            goals = [goal for goal in (deployment.goal, deployment.previous) if goal is not None]
            assert len(starting) <= max(goal.num_replicas + rollout.surge_size(goal) for goal in goals)

    @invariant()
    def what_is_wrong_is_said(self):
        for deployment in self.world.state.deployments.values():
            if deployment.status in (DeploymentStatus.UNHEALTHY, DeploymentStatus.DEPLOY_FAILED):
                assert deployment.message

    def teardown(self):
        """When nothing is disturbed any more, everything becomes what was asked for."""
        self.world.broken, self.world.slow, self.world.sick = set(), set(), set()
        self.world.run()
        for replica in tuple(self.world.state.replicas.values()):
            if replica.state is ReplicaState.STARTING:
                self.world.feed(ReplicaReported(self.world.now, replica.id, Phase.RUNNING))
        self.world.run()
        self.world.pass_time(600)
        # Nobody calls any more.
        for app in APPS:
            self.world.running_each(0, "Main", app)
            self.world.waiting(0, ("driver", app), "Main", app)
        self.world.live(20)
        state = self.world.state
        assert len(state.proxies) == self.num_proxies
        for application_ in state.applications.values():
            assert not application_.deleting
        assert not state.retired
        for canary_ in state.canaries.values():
            assert canary_.phase is not CanaryPhase.STARTING
        for key, deployment in state.deployments.items():
            goal = deployment.serving_goal
            if goal is not None:
                replicas = state.replicas_of(key)
                assert rollout.is_reached(goal, replicas), deployment
                assert {self.world.world_sizes[item.id] for item in replicas} <= {goal.num_replicas}
                config = deployment.goal.target.scaling
                if config is not None and not deployment.failed:
                    assert goal.num_replicas == autoscale.bounds(config, state.capacity_of(key.app)).low
        for deployment in state.deployments.values():
            assert not deployment.deleting or any(
                other.failed for other in state.deployments.values() if other.key.app == deployment.key.app
            )


Reconciler.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestReconciler = Reconciler.TestCase
