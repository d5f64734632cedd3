"""The number of replicas as it follows loads, policies, capacity and people, as sequences of events."""

import asyncio
import logging
import sys
from dataclasses import replace

import cloudpickle
import pytest
from control_support import ScaledWorld, application, options_for, target

from swerve.autoscaling_policy import DeploymentID
from swerve.control import scale
from swerve.control.deploy import Rejected
from swerve.control.events import Phase, Recovered, ReplicaReported, Scale, StartReplica, StopReplica
from swerve.control.model import DeploymentKey
from swerve.control.scaling import ScalingLoop
from swerve.control.view import status, view
from swerve.deployment_code import pickled_extra
from swerve.statuses import ApplicationStatus, DeploymentStatus, DeploymentStatusTrigger

KEY = DeploymentKey("app", "Model")
QUICK = {
    "min_replicas": 0,
    "max_replicas": 10,
    "target_ongoing_requests": 2,
    "look_back_period_s": 1,
    "upscale_delay_s": 0,
    "downscale_delay_s": 5,
}


def elastic(code="v1", **options):
    """A target with these autoscaling options over QUICK."""
    return target(code, autoscaling_config={**QUICK, **options})


def deployed(**options):
    world = ScaledWorld()
    world.deploy(application(Model=elastic(**options)))
    world.run()
    return world


def says(world):
    deployment = world.deployment()
    return deployment.status, deployment.trigger


def app_status(world):
    return status(world.state).applications[0].status


def test_without_a_minimum_an_application_runs_with_no_replicas():
    world = deployed()
    world.live(5)
    assert not world.replicas()
    assert app_status(world) == ApplicationStatus.RUNNING
    assert says(world) == (DeploymentStatus.HEALTHY, DeploymentStatusTrigger.CONFIG_UPDATE_COMPLETED)
    (shown,) = view(world.state, str, str.encode).deployments
    assert shown.autoscaled
    assert not shown.unavailable


def test_a_waiting_call_starts_replicas_and_silence_ends_them():
    world = deployed()
    world.waiting(5)
    world.pass_time(0.1)
    world.decide()
    assert [type(command) for command in world.pending] == [StartReplica]
    assert says(world) == (DeploymentStatus.UPSCALING, DeploymentStatusTrigger.AUTOSCALING)
    assert world.deployment().message == "Upscaling from 0 to 1 replicas."
    assert app_status(world) == ApplicationStatus.RUNNING
    world.run()
    assert says(world) == (DeploymentStatus.HEALTHY, DeploymentStatusTrigger.UPSCALE_COMPLETED)
    world.live(2)
    assert len(world.replicas()) == 3
    world.waiting(0)
    world.running_each(0)
    # The mean of the last second falls at once, and then the delay begins.
    world.live(5)
    assert len(world.replicas()) == 3
    world.live(1)
    assert len(world.replicas()) == 1
    world.live(5.5)
    assert not world.replicas()
    assert says(world) == (DeploymentStatus.HEALTHY, DeploymentStatusTrigger.DOWNSCALE_COMPLETED)


def test_while_it_downscales_the_status_says_so_and_the_application_runs():
    world = deployed(min_replicas=1, initial_replicas=4)
    world.pass_time(10)
    world.decide()
    world.pass_time(5)
    world.decide()
    assert says(world) == (DeploymentStatus.DOWNSCALING, DeploymentStatusTrigger.AUTOSCALING)
    assert app_status(world) == ApplicationStatus.RUNNING
    stops = [command for command in world.pending if isinstance(command, StopReplica)]
    assert len(stops) == 3
    assert len(world.running_versions()) == 1


def test_what_runs_counts_as_what_waits_does():
    world = deployed(min_replicas=1)
    world.running_each(6)
    world.waiting(2)
    world.live(1)
    # The first replica's 6 and the 2 that wait; new replicas report for themselves.
    assert len(world.replicas()) == 4


def test_it_begins_with_the_initial_replicas_and_never_leaves_the_bounds():
    assert len(deployed(min_replicas=1, initial_replicas=4).replicas()) == 4
    assert len(deployed(min_replicas=2).replicas()) == 2
    world = deployed(min_replicas=2, max_replicas=3, downscale_delay_s=0)
    world.waiting(1000)
    world.live(3)
    assert len(world.replicas()) == 3
    world.waiting(0)
    world.live(5)
    assert len(world.replicas()) == 2


def test_deploying_the_same_again_keeps_the_number_and_another_configuration_begins_anew():
    world = deployed(initial_replicas=2)
    world.waiting(12)
    world.live(3)
    assert len(world.replicas()) == 6
    world.deploy(application(Model=elastic(initial_replicas=2)))
    world.run()
    assert len(world.replicas()) == 6
    world.deploy(application(Model=elastic(initial_replicas=3)))
    world.run()
    assert len(world.replicas()) == 3


def test_new_code_keeps_the_number_if_none_to_begin_with_is_named():
    world = deployed()
    world.waiting(12)
    world.live(3)
    world.deploy(application(Model=elastic("v2", max_replicas=5)))
    world.run()
    assert world.running_versions() == ["v2"] * 5


def test_from_a_fixed_number_it_goes_on():
    world = ScaledWorld()
    world.deploy(application(Model=target(num_replicas=4)))
    world.run()
    world.deploy(application(Model=elastic()))
    world.run()
    assert len(world.replicas()) == 4


def test_target_capacity_scales_fixed_numbers_and_bounds_of_what_a_file_deployed():
    world = ScaledWorld()
    world.deploy(application("mine", "/mine", Model=target(num_replicas=4)))
    targets = {"Model": target(num_replicas=4), "Elastic": elastic(min_replicas=3)}
    for capacity, fixed, least in ((50, 2, 2), (100, 4, 3), (None, 4, 3), (0, 0, 0), (10, 1, 1)):
        app = application("app", "/", "declarative", **targets)
        world.deploy(app, declarative=True, capacity=capacity)
        world.run()
        world.live(6)
        assert len(world.replicas("Model")) == fixed
        assert len(world.replicas("Elastic")) == least
        assert len(world.replicas("Model", "mine")) == 4
        assert status(world.state).HasField("target_capacity") == (capacity is not None)
    assert status(world.state).target_capacity == 10


def test_nothing_is_decided_while_a_replica_has_not_been_heard_of():
    world = deployed(min_replicas=1, downscale_delay_s=0)
    world.running_each(9)
    world.live(2)
    replicas = world.replicas()
    assert len(replicas) > 1
    world.autoscaler = type(world.autoscaler)()
    world.feed(Recovered(world.now, dict.fromkeys(world.alive, (1000, 1.0)), options_for(0)))
    world.live(5)
    assert {item.id for item in world.replicas()} == {item.id for item in replicas}
    for replica in replicas:
        world.feed(ReplicaReported(world.now, replica.id, Phase.RUNNING))
    world.live(3)
    assert len(world.replicas()) == 1


def test_until_the_least_number_runs_it_is_updating():
    world = ScaledWorld()
    world.deploy(application(Model=elastic(min_replicas=2, upscaling_factor=5)))
    world.waiting(20)
    world.decide()
    assert world.deployment().goal.num_replicas == 5
    assert says(world) == (DeploymentStatus.UPDATING, DeploymentStatusTrigger.CONFIG_UPDATE_STARTED)
    assert app_status(world) == ApplicationStatus.DEPLOYING


def test_a_failed_update_stays_failed_while_the_old_replicas_follow_the_load():
    world = deployed(min_replicas=1)
    world.broken = {"v2"}
    world.deploy(application(Model=elastic("v2", min_replicas=1)))
    world.run()
    world.pass_time(60)
    assert world.deployment().failed
    world.waiting(8)
    world.live(2)
    assert world.running_versions() == ["v1"] * 4
    assert app_status(world) == ApplicationStatus.DEPLOY_FAILED
    assert status(world.state).applications[0].deployments[0].target_num_replicas == 4


def test_a_call_that_comes_while_the_last_replica_drains_does_not_wait_for_it():
    world = deployed(downscale_delay_s=0)
    world.waiting(1)
    world.live(0.5)
    world.waiting(0)
    world.pass_time(2)
    world.decide()
    (stop,) = [command for command in world.pending if isinstance(command, StopReplica)]
    world.pending.clear()
    world.waiting(1)
    world.pass_time(0.1)
    world.decide()
    assert [type(command) for command in world.pending] == [StartReplica]
    assert stop.id in world.alive


def test_callers_whose_process_ended_wait_for_nothing():
    world = ScaledWorld()
    world.feed(Recovered(world.now, {}, options_for(1)))
    world.deploy(application(Model=elastic()))
    world.run()
    (proxy,) = world.state.proxies
    world.waiting(3, ("proxy", proxy))
    world.end(proxy)
    world.live(3)
    ctx = world.autoscaler.context(world.state, KEY, world.now, world.now)
    assert ctx.total_queued_requests == 0


def test_code_that_cannot_start_from_none_is_unhealthy_and_tried_on():
    world = deployed()
    world.broken = {"v1"}
    for _ in range(20):
        world.waiting(1)
        world.live(1)
    assert says(world) == (DeploymentStatus.UNHEALTHY, DeploymentStatusTrigger.REPLICA_STARTUP_FAILED)
    assert "Traceback: boom" in world.deployment().message
    assert app_status(world) == ApplicationStatus.UNHEALTHY
    world.broken = set()
    for _ in range(12):
        world.waiting(1)
        world.live(1)
    assert world.deployment().status is DeploymentStatus.HEALTHY


def test_a_deleted_deployment_is_scaled_no_more():
    world = deployed()
    world.deploy(application(Other=target()))
    world.feed(Scale(world.now, KEY, 3, autoscaling=True))
    world.feed(Scale(world.now, DeploymentKey("app", "Never"), 3, autoscaling=True))
    world.run()
    assert set(world.state.deployments) == {DeploymentKey("app", "Other")}
    assert not world.autoscaler.active


# ---------------------------------------------------------------------------------------------------------------------
# From outside


def open_app(**targets):
    app, targets = application(**targets)
    return replace(app, external_scaler_enabled=True), targets


def scaled_to(world, number):
    scale.check(world.state, KEY)
    world.feed(Scale(world.now, KEY, number, autoscaling=False))


def test_the_number_set_from_outside_holds_until_something_else_changes():
    world = ScaledWorld()
    world.deploy(open_app(Model=target()))
    world.run()
    scaled_to(world, 3)
    assert says(world) == (DeploymentStatus.UPSCALING, DeploymentStatusTrigger.CONFIG_UPDATE_STARTED)
    assert app_status(world) == ApplicationStatus.DEPLOYING
    world.run()
    assert says(world) == (DeploymentStatus.HEALTHY, DeploymentStatusTrigger.UPSCALE_COMPLETED)
    world.deploy(open_app(Model=target()))
    world.run()
    assert len(world.replicas()) == 3
    scaled_to(world, 0)
    world.run()
    assert not world.replicas()
    world.deploy(open_app(Model=target("v2")))
    world.run()
    assert world.running_versions() == ["v2"]


def test_scaling_from_outside_is_refused_where_it_is_not_provided_for():
    world = deployed()
    with pytest.raises(scale.ScaleRefused, match="external_scaler_enabled=false"):
        scale.check(world.state, KEY)
    with pytest.raises(scale.ScaleNotFound, match="Deployment 'Modle'"):
        scale.check(world.state, DeploymentKey("app", "Modle"))
    with pytest.raises(scale.ScaleNotFound, match=r"Application 'none' does not exist. Available: 'app'."):
        scale.check(world.state, DeploymentKey("none", "Model"))
    world.deploy(open_app(Model=target()))
    with pytest.raises(scale.ScaleNotFound, match=r"'Never' of application 'app' does not exist. Available: 'Model'."):
        scale.check(world.state, DeploymentKey("app", "Never"))
    with pytest.raises(Rejected, match='have autoscaling configured: "Model"'):
        world.deploy(open_app(Model=elastic()))


# ---------------------------------------------------------------------------------------------------------------------
# Users' policies

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def fails(ctx):
    raise RuntimeError("the policy is wrong")


def says_nothing(ctx):
    return 3


class Counts:
    """Wishes for one more each time it is asked, by its own count and by what it remembered."""

    def __init__(self, first):
        self.asked = first

    def __call__(self, ctx):
        assert ctx.config.max_replicas == 10
        assert ctx.policy_state.get("asked", self.asked) == self.asked
        self.asked += 1
        return self.asked, {"asked": self.asked}


def both(contexts):
    assert set(contexts) == {DeploymentID("A", "app"), DeploymentID("B", "app")}
    return {DeploymentID("A", "app"): 2, DeploymentID("B", "app"): 4}, {}


def so_many(ctx, number=1):
    return number, {}


def live_with(policy, kwargs, until, whole=False):
    """A world, its controller's scaling loop, and a policy of the user's; until a condition holds."""
    code = pickled_extra(policy, kwargs, "policy", "it")
    targets = {name: elastic(min_replicas=1, downscale_delay_s=60) for name in ("A", "B")}
    app, targets = application(**targets)
    if whole:
        app = replace(app, policy_digest="digest")
    else:
        targets["A"] = replace(targets["A"], policy_digest="digest")
    world = ScaledWorld()
    world.deploy((app, targets))
    world.run()

    def apply(event):
        world.feed(event)
        world.run()

    async def scenario():
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            loops = ScalingLoop(world.autoscaler, lambda: world.state, lambda digest: code, apply, tasks)
            loops.wake()
            end = loop.time() + 20
            while not until(world) and loop.time() < end:  # noqa: ASYNC110 (the policy's thread is the event)
                await asyncio.sleep(0.01)
        # Only the timer is left, which goes with the loop.

    asyncio.run(scenario())
    assert until(world)
    return world


def test_a_class_is_one_object_and_finds_what_it_remembered():
    world = live_with(Counts, {"first": 1}, lambda world: len(world.replicas("A")) == 10)
    assert len(world.replicas("B")) == 1


def test_a_function_is_called_with_its_kwargs():
    live_with(so_many, {"number": 3}, lambda world: len(world.replicas("A")) == 3)


def test_a_policy_of_an_application_decides_for_all_of_it():
    live_with(both, {}, lambda world: [len(world.replicas(name)) for name in "AB"] == [2, 4], whole=True)


@pytest.mark.parametrize(("policy", "message"), [(fails, "the policy is wrong"), (says_nothing, "must return")])
def test_a_policy_that_fails_changes_nothing_and_is_told_of_once(policy, message, caplog):
    # The other deployment is scaled all the same, and by then the policy was asked several times.
    def until(world):
        world.waiting(40, name="B")
        return len(world.replicas("B")) == 10

    with caplog.at_level(logging.ERROR, "swerve.control"):
        world = live_with(policy, {}, until)
    assert len(world.replicas("A")) == 1
    told = [record for record in caplog.records if "autoscaling policy of app:A" in record.getMessage()]
    assert len(told) == 1
    assert message in str(told[0].exc_info[1])
