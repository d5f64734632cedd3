"""Changing what runs: by update class, in batches, and back when the new replicas fail."""

from control_support import World, application, stored, target
from hypothesis import given
from hypothesis import strategies as st

from swerve.control import rollout
from swerve.control.events import ReconfigureReplica, StartReplica, StopReplica, TellWorldSize
from swerve.control.model import DeploymentKey, Goal, Replica
from swerve.control.view import status
from swerve.statuses import DeploymentStatus, DeploymentStatusTrigger, ReplicaState


def application_status(world):
    return status(world.state).applications[0].status


def deployed(**options):
    world = World()
    world.deploy(application(Model=target("v1", **options)))
    world.run()
    world.commands.clear()
    return world


def kinds(world):
    return {type(command) for command in world.commands}


def test_what_only_the_controller_reads_changes_nothing_in_the_replicas():
    world = deployed(num_replicas=2)
    world.deploy(
        application(
            Model=target(
                num_replicas=2,
                max_queued_requests=3,
                rolling_update_percentage=0.5,
                max_surge_percent=10,
                graceful_shutdown_timeout_s=3,
                health_check_period_s=3,
                health_check_timeout_s=3,
                max_constructor_retry_count=3,
            )
        )
    )
    assert world.commands == []
    assert world.deployment().status is DeploymentStatus.HEALTHY


def test_a_new_user_config_reaches_the_same_replicas_in_batches():
    world = deployed(num_replicas=4, rolling_update_percentage=0.5)
    before = {replica.id for replica in world.replicas()}
    world.deploy(application(Model=target(num_replicas=4, rolling_update_percentage=0.5, user_config={"a": 1})))
    assert [type(command) for command in world.pending] == [ReconfigureReplica, ReconfigureReplica]
    assert len(world.running_versions()) == 4
    world.run()
    assert kinds(world) == {ReconfigureReplica}
    assert {replica.id for replica in world.replicas()} == before
    assert world.deployment().status is DeploymentStatus.HEALTHY


def test_new_options_of_a_process_restart_it():
    world = deployed()
    world.deploy(application(Model=target(ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": {"A": "1"}}})))
    world.run()
    assert kinds(world) == {StopReplica, StartReplica}


def test_new_code_rolls_by_the_percentage_stopping_first():
    world = deployed(num_replicas=4, rolling_update_percentage=0.5)
    world.deploy(application(Model=target("v2", num_replicas=4, rolling_update_percentage=0.5)))
    assert [type(command) for command in world.pending] == [StopReplica, StopReplica]
    assert world.running_versions() == ["v1", "v1"]
    world.run()
    assert world.running_versions() == ["v2"] * 4


def test_the_successor_waits_until_the_place_is_free():
    world = deployed()
    world.deploy(application(Model=target("v2")))
    assert kinds(world) == {StopReplica}
    world.run()
    assert kinds(world) == {StopReplica, StartReplica}


def test_with_surge_new_replicas_serve_before_old_ones_stop():
    world = deployed(num_replicas=2, max_surge_percent=50)
    world.deploy(application(Model=target("v2", num_replicas=2, max_surge_percent=50)))
    assert [type(command) for command in world.pending] == [StartReplica]
    while world.pending:
        assert len(world.running_versions()) >= 2
        world.carry_out(world.pending.pop(0))
    assert world.running_versions() == ["v2", "v2"]


def test_scaling_up_and_down_says_so():
    world = deployed(num_replicas=1)
    world.deploy(application(Model=target(num_replicas=3)))
    assert world.deployment().status is DeploymentStatus.UPSCALING
    world.run()
    assert world.deployment().trigger is DeploymentStatusTrigger.UPSCALE_COMPLETED
    world.deploy(application(Model=target(num_replicas=1)))
    world.run()
    assert world.deployment().trigger is DeploymentStatusTrigger.DOWNSCALE_COMPLETED
    assert [replica.rank for replica in world.replicas()] == [0]


def test_a_rollout_whose_new_replicas_fail_stops_and_the_old_ones_serve():
    world = deployed(num_replicas=4)
    world.broken = {"v2"}
    world.deploy(application(Model=target("v2", num_replicas=4)))
    world.run()
    world.pass_time(300)
    assert world.running_versions() == ["v1"] * 4
    assert world.deployment().status is DeploymentStatus.DEPLOY_FAILED
    assert world.deployment().message.startswith("The rolling update was stopped")
    assert "Traceback: boom" in world.deployment().message


def test_new_replicas_that_fail_their_health_checks_stop_a_rollout_too():
    world = deployed(num_replicas=2)
    world.deploy(application(Model=target("v2", num_replicas=2)))
    # The first is replaced; of the second one the successor is still to start.
    for _ in range(3):
        world.carry_out(world.pending.pop(0))
    assert world.running_versions() == ["v2"]
    (late,) = world.pending
    assert isinstance(late, StartReplica)
    world.slow = {late.id}
    for _ in range(6):
        world.sick = {item.id for item in world.replicas() if world.versions[item.id] == "v2"}
        world.pass_time(45)
    assert world.deployment().status is DeploymentStatus.DEPLOY_FAILED
    assert world.deployment().message.startswith("The rolling update was stopped")
    assert world.running_versions() == ["v1", "v1"]


def test_new_replicas_that_start_and_soon_die_do_not_take_the_place_of_all_old_ones():
    world = deployed(num_replicas=4)
    world.deploy(application(Model=target("v2", num_replicas=4)))
    for _ in range(2):
        world.carry_out(world.pending.pop(0))
    fewest = 4
    for _ in range(20):
        for replica in world.replicas():
            if replica.serves and world.versions[replica.id] == "v2":
                world.end(replica.id, "The process ended with exit code 7.")
        world.run()
        fewest = min(fewest, world.running_versions().count("v1"))
        world.pass_time(5)
    # One had made room before the first failure, and one on the strength of the first that served.
    assert fewest == 2
    assert world.deployment().status is DeploymentStatus.DEPLOY_FAILED
    assert world.deployment().message.startswith("The rolling update was stopped")
    assert world.running_versions() == ["v1"] * 4


def test_after_a_failure_an_update_goes_on_as_new_replicas_prove_themselves():
    world = deployed(num_replicas=3)
    world.deploy(application(Model=target("v2", num_replicas=3)))
    for _ in range(2):
        world.carry_out(world.pending.pop(0))
    world.end(next(item.id for item in world.replicas() if world.versions[item.id] == "v2"))
    world.run()
    world.pass_time(1)
    assert world.running_versions() == ["v1", "v2", "v2"]
    world.pass_time(15)
    assert world.running_versions() == ["v2"] * 3
    assert world.deployment().status is DeploymentStatus.HEALTHY


def test_after_a_failed_update_the_application_has_failed_and_stays_so_until_a_new_deploy():
    world = deployed(num_replicas=2)
    world.broken = {"v2"}
    world.deploy(application(Model=target("v2", num_replicas=2)))
    world.run()
    world.pass_time(60)
    assert application_status(world) == "DEPLOY_FAILED"
    world.restart_controller(stored(world.state))
    world.run()
    world.pass_time(60)
    assert world.running_versions() == ["v1", "v1"]
    (app,) = status(world.state).applications
    assert app.status == "DEPLOY_FAILED"
    assert app.message.startswith("Failed to update the deployments ['Model'].")
    world.deploy(application(Model=target("v3", num_replicas=2)))
    assert application_status(world) == "DEPLOYING"
    world.run()
    assert application_status(world) == "RUNNING"


def test_replicas_that_run_are_told_how_many_there_are():
    world = deployed(num_replicas=2)
    before = {replica.id for replica in world.replicas()}
    world.deploy(application(Model=target(num_replicas=3)))
    told = [command for command in world.commands if isinstance(command, TellWorldSize)]
    assert {command.id for command in told} == before
    assert {command.world_size for command in told} == {3}
    world.run()
    assert world.world_sizes == dict.fromkeys(world.alive, 3)
    world.commands.clear()
    world.pass_time(5)
    assert not any(isinstance(command, TellWorldSize) for command in world.commands)


def test_after_a_stopped_rollout_a_dead_old_replica_is_replaced_by_its_own_kind():
    world = deployed(num_replicas=2)
    world.broken = {"v2"}
    world.deploy(application(Model=target("v2", num_replicas=2)))
    world.run()
    world.pass_time(300)
    world.end(world.replicas()[0].id)
    world.pass_time(60)
    world.run()
    assert world.running_versions() == ["v1", "v1"]


def test_a_new_config_that_replicas_refuse_is_taken_back():
    world = deployed(num_replicas=2)
    world.broken = {"v1:config"}
    old = world.deployment().goal.target
    world.deploy(application(Model=target(num_replicas=2, user_config={"bad": True})))
    world.carry_out(world.pending.pop(0))
    world.broken = {"v1"}
    world.run()
    world.pass_time(300)
    assert world.deployment().status is DeploymentStatus.DEPLOY_FAILED
    world.broken = set()
    world.pass_time(300)
    assert {replica.config_version for replica in world.replicas()} == {old.config_version}


def test_a_third_version_replaces_a_rollout_under_way():
    world = deployed(num_replicas=3)
    world.deploy(application(Model=target("v2", num_replicas=3)))
    world.carry_out(world.pending.pop(0))
    world.deploy(application(Model=target("v3", num_replicas=3)))
    world.run()
    assert world.running_versions() == ["v3"] * 3


def replicas():
    goal_version, goal_config = target().version, target().config_version
    one = st.builds(
        Replica,
        id=st.uuids().map(str),
        key=st.just(DeploymentKey("a", "d")),
        version=st.sampled_from([goal_version, "old"]),
        config_version=st.sampled_from([goal_config, "old"]),
        rank=st.integers(0, 9),
        max_ongoing_requests=st.just(5),
        state=st.sampled_from(ReplicaState),
        serves=st.booleans(),
        holds_place=st.booleans(),
    )
    return st.lists(one.filter(_consistent), max_size=8, unique_by=lambda item: item.id)


def _consistent(replica):
    stopping = replica.state is ReplicaState.STOPPING
    if replica.serves != (replica.state in (ReplicaState.RUNNING, ReplicaState.UPDATING)):
        return replica.state is ReplicaState.RECOVERING
    return stopping or not replica.holds_place


@given(replicas(), st.integers(0, 6), st.sampled_from([0, 20, 100]), st.sampled_from([0.2, 0.5, 1.0]))
def test_no_plan_leaves_fewer_ready_replicas_than_allowed_or_starts_more_than_there_is_room_for(
    running, number, surge, percentage
):
    options = target(max_surge_percent=surge, rolling_update_percentage=percentage)
    goal = Goal(options, number)
    plan = rollout.plan(goal, running)
    ready = {item.id for item in running if rollout.is_ready(item)}
    allowed = min(len(ready), rollout.fewest_ready(goal))
    # A replica too many of the right version may go as well: what stays of that version is enough.
    assert len(ready - set(plan.stop)) >= min(allowed, number)
    outdated = {item.id for item in running if item.version != goal.target.version}
    if ready & outdated & set(plan.stop):
        assert len(ready - set(plan.stop) - set(plan.reconfigure)) >= rollout.fewest_ready(goal)
    active = [item for item in running if item.state is not ReplicaState.STOPPING]
    held = sum(item.holds_place for item in running)
    if plan.start:
        assert len(active) + held + plan.start <= number + rollout.surge_size(goal)
    assert not set(plan.stop) & set(plan.reconfigure)
    assert len(set(plan.stop)) == len(plan.stop)
