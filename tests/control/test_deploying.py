"""Deploying, failing, deleting and shutting down, as sequences of events."""

import json

import pytest
from control_support import World, application, options_for, target

from swerve.control.deploy import Rejected
from swerve.control.events import (
    Delete,
    Kill,
    Phase,
    Recovered,
    ReplicaReported,
    Shutdown,
    StartReplica,
    StopProxy,
    StopReplica,
    Warn,
)
from swerve.control.model import DeploymentKey, State
from swerve.control.view import status
from swerve.statuses import ApplicationStatus, DeploymentStatus, DeploymentStatusTrigger


@pytest.fixture
def world():
    return World()


def app_status(world, name="app"):
    for app in status(world.state).applications:
        if app.name == name:
            return app.status
    return None


def test_a_deployed_application_is_deploying_then_running(world):
    world.deploy(application(Model=target(num_replicas=2)))
    assert app_status(world) == ApplicationStatus.DEPLOYING
    assert [type(command) for command in world.pending] == [StartReplica, StartReplica]
    assert sorted(command.rank for command in world.pending) == [0, 1]
    world.run()
    assert app_status(world) == ApplicationStatus.RUNNING
    deployment = world.deployment()
    assert deployment.status is DeploymentStatus.HEALTHY
    assert deployment.trigger is DeploymentStatusTrigger.CONFIG_UPDATE_COMPLETED


def test_a_constructor_that_fails_is_tried_again_and_then_given_up(world):
    world.broken = {"v1"}
    world.deploy(application(Model=target()))
    world.run()
    assert world.deployment().message == (
        "A replica failed to start with exception. Retrying 2 more time(s). Error:\nTraceback: boom"
    )
    assert world.deployment().status is DeploymentStatus.UPDATING
    world.pass_time(60)
    assert world.deployment().status is DeploymentStatus.DEPLOY_FAILED
    assert world.deployment().trigger is DeploymentStatusTrigger.REPLICA_STARTUP_FAILED
    assert world.deployment().message == (
        "The deployment failed to start 3 times in a row. This may be due to a problem with its constructor or initial "
        "health check failing. See controller logs for details. Error:\nTraceback: boom"
    )
    assert sum(isinstance(command, StartReplica) for command in world.commands) == 3
    assert not world.alive


def test_replicas_that_take_long_to_start_are_told_of_again_and_again(world):
    world.slow = {"v1"}
    world.deploy(application(Model=target(num_replicas=2)))
    world.run()
    world.pass_time(29)
    assert not any(isinstance(command, Warn) for command in world.commands)
    world.pass_time(2)
    message = (
        "Deployment 'Model' in application 'app' has 2 replicas that have taken more than 30s to initialize.\n"
        "This may be caused by a slow __init__ or reconfigure method."
    )
    assert [command for command in world.commands if isinstance(command, Warn)] == [Warn(message)]
    assert world.deployment().message == message
    world.pass_time(60)
    assert sum(isinstance(command, Warn) for command in world.commands) == 3
    for replica in world.replicas():
        world.feed(ReplicaReported(world.now, replica.id, Phase.RUNNING))
    assert world.deployment().message == ""
    world.pass_time(60)
    assert sum(isinstance(command, Warn) for command in world.commands) == 3


def test_max_constructor_retry_count_bounds_the_tries(world):
    world.broken = {"v1"}
    world.deploy(application(Model=target(num_replicas=4, max_constructor_retry_count=5)))
    world.run()
    world.pass_time(60)
    assert "failed to start 5 times in a row" in world.deployment().message


def test_a_failed_application_names_its_deployment_and_others_serve_on(world):
    world.broken = {"bad"}
    world.deploy(application("good", "/good"), application("bad", "/bad", Model=target("bad")))
    world.run()
    world.pass_time(60)
    assert app_status(world, "good") == ApplicationStatus.RUNNING
    bad = next(app for app in status(world.state).applications if app.name == "bad")
    assert bad.status == ApplicationStatus.DEPLOY_FAILED
    assert bad.message.startswith("Failed to update the deployments ['Model'].")
    assert "Traceback: boom" in bad.message


def test_deploying_again_after_a_failure_tries_again(world):
    world.broken = {"v1"}
    world.deploy(application())
    world.run()
    world.pass_time(60)
    world.broken = set()
    world.deploy(application())
    world.run()
    assert app_status(world) == ApplicationStatus.RUNNING


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            [application("new", "/")],
            'Prefix / is being used by application "app". Failed to deploy application "new".',
        ),
        (
            [application("new", "/a"), application("new", "/b")],
            'Found multiple configs for application "new". Please remove all duplicates.',
        ),
        (
            [application("new", "/a"), application("other", "/a")],
            'Found duplicate applications for route prefix "/a". '
            "Please ensure each application's route_prefix is unique.",
        ),
        ([application("", "/a")], "Application names must be nonempty."),
    ],
)
def test_a_contradictory_request_is_refused_as_a_whole(world, request_, message):
    world.deploy(application())
    world.run()
    before = world.state
    with pytest.raises(Rejected) as error:
        world.deploy(application("fine", "/fine"), *request_)
    assert str(error.value) == message
    assert world.state is before


def test_an_application_that_leaves_frees_its_prefix_for_one_that_comes(world):
    world.deploy(application("old", "/", "declarative"), declarative=True)
    world.run()
    world.deploy(application("new", "/", "declarative"), declarative=True)
    world.run()
    assert set(world.state.applications) == {"new"}


def test_a_new_file_removes_what_came_from_the_last_one_and_nothing_else(world):
    world.deploy(application("mine", "/mine"))
    world.deploy(application("a", "/a", "declarative"), application("b", "/b", "declarative"), declarative=True)
    world.run()
    world.deploy(application("b", "/b", "declarative"), declarative=True)
    world.run()
    assert set(world.state.applications) == {"mine", "b"}
    assert [entry["name"] for entry in json.loads(world.state.config_json)["applications"]] == ["b"]


def test_deleting_drains_and_then_forgets(world):
    world.deploy(application(Model=target(graceful_shutdown_timeout_s=7)))
    world.run()
    (replica,) = world.replicas()
    world.feed(Delete(world.now, ("app",)))
    assert world.pending == [StopReplica(replica.id, 7)]
    assert app_status(world) == ApplicationStatus.DELETING
    world.run()
    assert not world.state.applications
    assert not world.state.deployments


def test_an_application_ends_with_its_ingress_then_what_that_calls(world):
    world.deploy(application(Ingress=target(), Model=target("m")))
    world.run()
    world.feed(Delete(world.now, ("app",)))
    assert world.running_versions("Model") == ["m"]
    (stop,) = world.pending
    world.carry_out(stop)
    assert world.running_versions("Model") == []
    world.run()
    assert not world.state.applications


def test_a_replica_that_does_not_end_is_killed_after_its_grace(world):
    world.deploy(application(Model=target(graceful_shutdown_timeout_s=7)))
    world.run()
    (replica,) = world.replicas()
    world.feed(Delete(world.now, ("app",)))
    world.pending.clear()
    world.pass_time(8.9)
    assert Kill(replica.id) not in world.commands
    world.pass_time(0.2)
    assert Kill(replica.id) in world.commands
    assert not world.state.applications


def test_deploying_while_the_old_one_drains_starts_the_new_one_at_once(world):
    world.deploy(application())
    world.run()
    world.feed(Delete(world.now, ("app",)))
    world.pending.clear()
    world.deploy(application(Model=target("v2")))
    world.run()
    assert world.running_versions() == ["v2"]
    assert app_status(world) == ApplicationStatus.RUNNING


def test_a_deployment_that_left_the_application_serves_until_its_callers_are_updated(world):
    world.deploy(application(Ingress=target("i1"), Model=target("m")))
    world.run()
    world.deploy(application(Ingress=target("i2")))
    assert world.running_versions("Model") == ["m"]
    world.run()
    assert DeploymentKey("app", "Model") not in world.state.deployments
    assert world.running_versions("Ingress") == ["i2"]


def test_shutdown_drains_the_proxies_before_the_replicas(world):
    world.feed(Recovered(world.now, {}, options_for(1)))
    world.deploy(application())
    world.run()
    world.feed(Shutdown(world.now))
    assert [type(command) for command in world.pending] == [StopProxy]
    assert world.running_versions() == ["v1"]
    world.run()
    assert world.finished
    assert not world.alive


def test_nothing_is_deployed_while_shutting_down(world):
    world.feed(Recovered(world.now, {}, options_for(1)))
    world.feed(Shutdown(world.now))
    with pytest.raises(Rejected, match="shutting down"):
        world.deploy(application())


def test_a_late_report_of_a_replica_that_is_gone_is_ignored(world):
    world.deploy(application())
    world.run()
    (replica,) = world.replicas()
    world.feed(Delete(world.now, ("app",)))
    world.run()
    assert world.feed(ReplicaReported(world.now, replica.id, Phase.RUNNING)) == []
    assert world.state == State("seed", serial=1)
