"""Replicas that die, fall ill or crash again and again; proxies that die; a controller that comes back."""

from itertools import pairwise

import pytest
from control_support import World, application, options_for, stored, target

from swerve.control.draft import BACKOFF_LAST_S, JITTER
from swerve.control.events import (
    CheckHealth,
    Kill,
    ProxyReported,
    Recovered,
    StartProxy,
    StartReplica,
    StopReplica,
    Tick,
)
from swerve.control.reconcile import next_wakeup
from swerve.statuses import DeploymentStatus, DeploymentStatusTrigger, ProxyStatus, ReplicaState


@pytest.fixture
def world():
    world = World()
    world.deploy(application(Model=target(num_replicas=2, health_check_period_s=10, health_check_timeout_s=3)))
    world.run()
    world.commands.clear()
    return world


def test_checks_come_every_period_give_or_take_the_jitter(world):
    times = []
    world.check = lambda world, commands: times.extend(
        world.now for command in commands if isinstance(command, CheckHealth) and command.id == first
    )
    first = world.replicas()[0].id
    begin = world.now
    world.pass_time(200)
    gaps = [later - earlier for earlier, later in pairwise([begin, *times])]
    assert len(set(gaps)) > 1
    assert all(10 * (1 - JITTER) <= gap <= 10 * (1 + JITTER) for gap in gaps)
    assert {command.timeout_s for command in world.commands} == {3}


def test_two_strikes_and_a_success_change_nothing(world):
    sick = world.replicas()[0].id
    world.sick = {sick}
    world.pass_time(25)
    world.sick = set()
    world.pass_time(100)
    assert {type(command) for command in world.commands} == {CheckHealth}


def test_three_strikes_replace_the_replica_gracefully(world):
    sick = world.replicas()[0].id
    world.sick = {sick}
    world.pass_time(40)
    assert StopReplica(sick, 20) in world.commands
    assert world.deployment().status is DeploymentStatus.HEALTHY
    assert sick not in {replica.id for replica in world.replicas()}
    assert len(world.replicas()) == 2


def test_a_sick_replica_makes_the_deployment_unhealthy_until_it_is_replaced(world):
    sick = world.replicas()[0].id
    world.sick = {sick}
    for _ in range(3):
        while not any(isinstance(command, CheckHealth) and command.id == sick for command in world.pending):
            world.pending.clear()
            world.now = next_wakeup(world.state, world.now)
            world.feed(Tick(world.now))
        for command in tuple(world.pending):
            world.pending.remove(command)
            world.carry_out(command)
    assert world.deployment().status is DeploymentStatus.UNHEALTHY
    assert world.deployment().trigger is DeploymentStatusTrigger.HEALTH_CHECK_FAILED
    assert world.deployment().message.startswith("A replica's health check failed.")
    assert "not well" in world.deployment().message
    world.run()
    assert world.deployment().status is DeploymentStatus.HEALTHY
    # What happened can still be read.
    assert world.deployment().trigger is DeploymentStatusTrigger.HEALTH_CHECK_FAILED
    assert "was replaced" in world.deployment().message
    assert "not well" in world.deployment().message


def test_a_deployment_that_lost_a_replica_says_how(world):
    world.end(world.replicas()[0].id, "The process ended with exit code 7.")
    assert world.deployment().status is DeploymentStatus.UNHEALTHY
    assert world.deployment().message.endswith("The process ended with exit code 7.")
    world.pass_time(1)
    assert world.deployment().status is DeploymentStatus.HEALTHY
    assert world.deployment().message.endswith("The process ended with exit code 7.")


def test_what_was_wrong_is_still_said_when_the_controller_was_restarted_meanwhile(world):
    world.end(world.replicas()[0].id, "The process ended with exit code 7.")
    world.restart_controller(stored(world.state))
    world.run()
    assert world.deployment().status is DeploymentStatus.HEALTHY
    message = "A replica ended or failed its health checks, and was replaced. The last replica that ended or failed:\n"
    assert world.deployment().message == f"{message}The process ended with exit code 7."


def test_what_was_wrong_once_is_not_said_of_the_next_loss(world):
    world.end(world.replicas()[0].id, "The process ended with exit code 7.")
    world.pass_time(1)
    world.end(world.replicas()[0].id, "The process ended with exit code 8.")
    world.pass_time(1)
    assert "code 7" not in world.deployment().message


def test_a_deployment_whose_replicas_crash_again_and_again_says_how_while_they_run(world):
    for _ in range(8):
        for replica in world.replicas():
            world.end(replica.id, "The process ended with exit code 7.")
        world.pass_time(9)
    world.pass_time(9)
    assert world.deployment().status is DeploymentStatus.HEALTHY
    assert "in a row" in world.deployment().message
    assert world.deployment().message.endswith("The process ended with exit code 7.")


def test_a_dead_replica_that_had_proven_itself_is_replaced_at_once(world):
    world.pass_time(11)
    world.commands.clear()
    world.end(world.replicas()[0].id)
    assert [type(command) for command in world.commands] == [StartReplica]


def test_replicas_that_die_young_are_replaced_ever_more_slowly_and_never_given_up(world):
    world.pass_time(11)
    delays = []
    for _ in range(9):
        youngest = [replica for replica in world.replicas() if replica.state is ReplicaState.RUNNING][-1]
        died = world.now
        world.end(youngest.id)
        while not world.pending:
            world.now = next_wakeup(world.state, world.now)
            world.feed(Tick(world.now))
            world.pending = [command for command in world.pending if isinstance(command, StartReplica)]
        delays.append(world.now - died)
        world.run()
    assert delays[0] == 0
    assert 0 < delays[1] < 1
    assert delays[-1] == pytest.approx(BACKOFF_LAST_S)
    assert all(later >= min(2 * earlier, BACKOFF_LAST_S) * 0.99 for earlier, later in pairwise(delays))
    assert world.deployment().status is DeploymentStatus.HEALTHY


def test_a_dead_proxy_is_replaced_at_once_and_one_that_cannot_listen_with_patience():
    world = World()
    world.feed(Recovered(world.now, {}, options_for(1)))
    world.run()
    (first,) = world.state.proxies.values()
    assert first.state is ProxyStatus.HEALTHY
    assert first.grpc_address == "127.0.0.1:9000"
    world.end(first.id)
    assert [type(command) for command in world.pending] == [StartProxy]
    (second,) = world.state.proxies
    world.pending.clear()
    world.feed(ProxyReported(world.now, second, error="port 9000 is in use"))
    assert world.state.proxies[second].message == "port 9000 is in use"
    world.end(second)
    assert world.pending == []
    world.pass_time(1)
    assert len(world.state.proxies) == 1


def test_a_proxy_that_never_listens_is_killed_and_replaced():
    world = World()
    world.feed(Recovered(world.now, {}, options_for(1)))
    (proxy,) = world.state.proxies
    world.pending.clear()
    world.pass_time(31)
    assert Kill(proxy) in world.commands
    assert [item.state for item in world.state.proxies.values()] == [ProxyStatus.HEALTHY]


def test_a_restarted_controller_adopts_what_runs_and_ends_what_nobody_knows(world):
    before = {replica.id for replica in world.replicas()}
    world.alive.add("stranger")
    world.commands.clear()
    world.restart_controller(world.state)
    assert world.commands == [Kill("stranger")]
    assert {replica.id for replica in world.replicas()} == before
    assert {replica.state for replica in world.replicas()} == {ReplicaState.RUNNING}
    assert world.deployment().status is DeploymentStatus.HEALTHY


def test_replicas_serve_while_the_restarted_controller_has_not_heard_of_them(world):
    running = dict.fromkeys(world.alive, (1, 1.0))
    world.feed(Recovered(world.now, running, options_for(0)))
    assert {replica.state for replica in world.replicas()} == {ReplicaState.RECOVERING}
    assert len(world.running_versions()) == 2
    assert world.deployment().status is DeploymentStatus.HEALTHY


def test_what_died_while_the_controller_was_away_is_replaced(world):
    dead = world.replicas()[0].id
    world.alive.remove(dead)
    world.commands.clear()
    world.restart_controller(world.state)
    world.run()
    assert [type(command) for command in world.commands] == [StartReplica]
    assert len(world.running_versions()) == 2
