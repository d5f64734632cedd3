"""The life of a canary: event sequences against the controller's decisions."""

import json
from dataclasses import replace

import pytest
from control_support import World, application, new_canary, stored, target

from swerve.control.analysis import Analysis
from swerve.control.canary import CanaryNotFound, CanaryRefused, check_change
from swerve.control.deploy import Rejected
from swerve.control.events import (
    Delete,
    PromoteCanary,
    RollBackCanary,
    Scale,
    Shutdown,
    StartReplica,
    StopReplica,
    Warn,
    WeighCanary,
)
from swerve.control.model import Ended
from swerve.control.view import status, view
from swerve.statuses import CanaryPhase, ReplicaState


def deployed(**targets):
    world = World()
    world.deploy(application(**targets))
    world.run()
    return world


def with_canary(options=None, **targets):
    world = deployed()
    world.start_canary(new_canary(options=options, **targets))
    world.run()
    return world


def promote(world):
    event = PromoteCanary(world.now, "app")
    check_change(world.state, event)
    return world.feed(event)


def roll_back(world, reason="Because.", release=""):
    return world.feed(RollBackCanary(world.now, "app", reason, release))


def split_of(world):
    """What proxies are told of the application's canary."""
    (app,) = view(world.state, str, str.encode).applications
    return app.canary if app.HasField("canary") else None


def shown(world):
    (app,) = status(world.state).applications
    return app


# ---------------------------------------------------------------------------------------------------------------------
# Beginning


def test_a_canary_gets_calls_when_all_its_deployments_have_come_up():
    world = deployed()
    world.start_canary(new_canary(options={"weight": 25}, Model=target("v2"), Inner=target("i2")))
    assert (world.canary().phase, split_of(world).ready) == (CanaryPhase.STARTING, False)
    world.slow.add("i2")
    world.run()
    assert not split_of(world).ready
    world.slow.clear()
    (inner,) = world.canary_replicas("Inner")
    world.carry_out(next(item for item in world.commands if isinstance(item, StartReplica) and item.id == inner.id))
    split = split_of(world)
    assert (split.ready, split.weight, split.ingress) == (True, 25, "Model")
    assert world.running_versions() == ["v1"]
    assert shown(world).status == "RUNNING"


def test_what_the_canary_is_shows_beside_the_application():
    world = with_canary({"weight": 25, "match": {"a": "b"}, "sticky_key": "user"})
    app = shown(world)
    assert [len(item.replicas) for item in app.deployments] == [1]
    assert (app.canary.phase, app.canary.status, app.canary.weight) == ("RUNNING", "RUNNING", 25)
    assert [len(item.replicas) for item in app.canary.deployments] == [1]
    assert (dict(split_of(world).match), split_of(world).sticky_key) == ({"a": "b"}, "user")


@pytest.mark.parametrize("name", ["nobody", "app"])
def test_only_an_application_that_stays_has_a_canary(name):
    world = deployed()
    world.feed(Delete(world.now, ("app",)))
    with pytest.raises(Rejected, match=f"Application '{name}' does not exist"):
        world.start_canary(new_canary(name))


def test_a_canary_without_its_ingress_is_refused():
    world = deployed()
    new = new_canary()
    with pytest.raises(Rejected, match="is none of its deployments"):
        world.start_canary(replace(new, application=replace(new.application, ingress="Other")))


def test_the_same_code_again_changes_the_options_and_no_replica():
    world = with_canary({"weight": 10})
    before = world.canary_replicas()
    world.start_canary(new_canary(options={"weight": 60, "sticky_key": "user"}))
    world.run()
    assert world.canary_replicas() == before
    assert (split_of(world).weight, split_of(world).sticky_key) == (60, "user")


def test_other_code_replaces_the_canary_that_runs():
    world = with_canary()
    first = world.canary().application.release
    world.start_canary(new_canary(Model=target("v3")))
    assert not split_of(world).ready
    world.run()
    assert world.canary().application.release != first
    assert world.versions_alive() == ["v1", "v3"]
    assert not world.state.retired


# ---------------------------------------------------------------------------------------------------------------------
# Promotion and rolling back


def test_promotion_keeps_the_replicas_and_drains_the_others():
    world = with_canary()
    (kept,), (old,) = world.canary_replicas(), world.replicas()
    commands = promote(world)
    assert commands == [StopReplica(old.id, 20.0)]
    assert split_of(world) is None
    (app,) = view(world.state, str, str.encode).applications
    assert (app.name, app.route_prefix, app.release) == ("app", "/", kept.key.release)
    # The replica that drains shows where it showed before.
    (deployment,) = shown(world).deployments
    assert sorted(item.state for item in deployment.replicas) == ["RUNNING", "STOPPING"]
    world.run()
    assert [item.id for item in world.replicas()] == [kept.id]
    assert not world.state.retired
    assert not world.state.canaries


def test_the_ingress_of_what_is_retired_ends_before_what_it_calls():
    world = deployed(Model=target("v1"), Inner=target("i1"))
    world.start_canary(new_canary())
    world.run()
    (ingress,), (inner,) = world.replicas("Model"), world.replicas("Inner")
    assert [item.id for item in promote(world)] == [ingress.id]
    assert world.state.replicas[inner.id].serves
    world.run()
    assert world.versions_alive() == ["v2"]


def test_a_promoted_application_is_deployed_scaled_and_deleted_like_any_other():
    world = with_canary()
    promote(world)
    world.run()
    world.deploy(application(Model=target("v3", num_replicas=2)))
    world.run()
    world.pass_time(30)
    assert world.running_versions() == ["v3", "v3"]
    world.feed(Scale(world.now, world.key(), 3, autoscaling=False))
    world.run()
    assert len(world.replicas()) == 3
    world.feed(Delete(world.now, ("app",)))
    world.run()
    assert not world.state.applications
    assert not world.alive


def test_only_a_canary_with_a_replica_that_serves_can_be_promoted():
    world = deployed()
    world.slow.add("v2")
    world.start_canary(new_canary())
    world.run()
    with pytest.raises(CanaryRefused, match="no replica that serves"):
        promote(world)
    roll_back(world)
    with pytest.raises(CanaryRefused, match=r"was rolled back already\. Because\."):
        promote(world)


def test_rolling_back_drains_the_canary_and_says_why():
    world = with_canary()
    (beside,) = world.canary_replicas()
    assert StopReplica(beside.id, 20.0) in roll_back(world)
    assert split_of(world) is None
    world.run()
    assert world.versions_alive() == ["v1"]
    assert (shown(world).canary.phase, shown(world).canary.message) == ("ROLLED_BACK", "Because.")
    assert not shown(world).canary.deployments
    assert [item.message for item in world.commands if isinstance(item, Warn)] == [
        "The canary of application 'app' is rolled back. Because."
    ]


def test_the_counts_that_led_to_a_verdict_stay_when_the_controller_goes():
    world = with_canary()
    analysis = Analysis()
    analysis.follow(world.state)
    analysis.ended("app", world.canary().application.release, Ended(20, 5), world.now)
    analysis.ended("app", "", Ended(80, 1), world.now)
    roll_back(world)
    world.restart_controller(stored(analysis.concluded(world.state, world.now)))
    canary = shown(world).canary
    assert (canary.canary.calls, canary.canary.errors) == (20, 5)
    assert (canary.stable.calls, canary.stable.errors) == (80, 1)


def test_what_was_decided_of_a_canary_does_not_meet_its_successor():
    world = with_canary()
    first = world.canary().application.release
    world.start_canary(new_canary(Model=target("v3")))
    roll_back(world, release=first)
    assert world.canary().active


def test_changes_need_a_canary():
    world = deployed()
    for event in (WeighCanary(0, "app", 5), PromoteCanary(0, "app"), RollBackCanary(0, "app", "x")):
        with pytest.raises(CanaryNotFound, match="has no canary"):
            check_change(world.state, event)
        with pytest.raises(CanaryNotFound, match="does not exist"):
            check_change(world.state, replace(event, app="other"))


# ---------------------------------------------------------------------------------------------------------------------
# Replicas that fail


def test_a_canary_that_cannot_start_is_rolled_back():
    world = deployed()
    world.broken.add("v2")
    world.start_canary(new_canary())
    world.run()
    world.pass_time(60)
    assert world.canary().phase is CanaryPhase.ROLLED_BACK
    assert world.canary().message.startswith("It failed to deploy.\nModel: The deployment failed to start 3 times")
    assert world.versions_alive() == ["v1"]
    assert shown(world).status == "RUNNING"


def test_calls_go_past_a_canary_whose_replicas_have_died():
    world = with_canary()
    (beside,) = world.canary_replicas()
    world.pass_time(20)
    world.end(beside.id)
    assert not split_of(world).ready
    world.run()
    assert split_of(world).ready
    assert shown(world).canary.status == "RUNNING"


def test_calls_go_to_a_canary_that_was_scaled_to_none():
    scaled = {"min_replicas": 0, "max_replicas": 2}
    world = with_canary(None, Model=target("v2", autoscaling_config=scaled))
    assert not world.canary_replicas()
    assert split_of(world).ready
    # And wait there for the replica that they wake.
    world.feed(Scale(world.now, world.canary().application.key("Model"), 1, autoscaling=True))
    assert split_of(world).ready
    world.run()
    assert split_of(world).ready


# ---------------------------------------------------------------------------------------------------------------------
# Deploying and deleting meanwhile


def test_the_application_can_be_deployed_while_a_canary_runs():
    world = with_canary()
    beside = world.canary_replicas()
    world.deploy(application(Model=target("v9")))
    world.run()
    assert world.running_versions() == ["v9"]
    assert world.canary_replicas() == beside
    promote(world)
    world.run()
    assert world.versions_alive() == ["v2"]


def test_deleting_the_application_takes_the_canary_along():
    world = with_canary()
    world.feed(Delete(world.now, ("app",)))
    assert not world.state.canaries
    world.run()
    assert not world.alive
    assert not world.state.applications
    assert not world.state.retired


def test_an_application_deployed_again_while_it_is_deleted_has_no_canary():
    world = with_canary()
    promote(world)
    world.feed(Delete(world.now, ("app",)))
    world.deploy(application(Model=target("v5")))
    world.run()
    world.pass_time(60)
    assert world.versions_alive() == ["v5"]
    assert not world.state.canaries


def test_a_shutdown_ends_both_versions():
    world = with_canary()
    world.feed(Shutdown(world.now))
    world.run()
    assert world.finished
    assert not world.alive


def from_file(world, version="v1", canary=None):
    made, targets = application(source="declarative", Model=target(version))
    world.deploy((made, targets), declarative=True, canaries=() if canary is None else (canary,))
    world.run()


def test_a_file_starts_changes_and_withdraws_its_canary():
    world = World()
    from_file(world, canary=new_canary())
    assert world.canary().phase is CanaryPhase.RUNNING
    from_file(world, canary=new_canary(options={"weight": 70}))
    assert split_of(world).weight == 70
    from_file(world)
    assert not world.state.canaries
    assert world.versions_alive() == ["v1"]


def test_the_same_file_again_changes_nothing_of_what_became_of_its_canary():
    world = World()
    from_file(world, canary=new_canary())
    world.feed(WeighCanary(world.now, "app", 33))
    from_file(world, canary=new_canary())
    assert split_of(world).weight == 33
    roll_back(world)
    from_file(world, canary=new_canary())
    assert world.canary().phase is CanaryPhase.ROLLED_BACK
    from_file(world, canary=new_canary(Model=target("v3")))
    assert world.canary().phase is CanaryPhase.RUNNING


def test_another_target_capacity_counts_for_both_versions():
    world = World()
    two = new_canary(Model=target("v2", num_replicas=4))
    two = replace(two, application=replace(two.application, source="declarative"))
    made = application(source="declarative", Model=target("v1", num_replicas=2))
    world.deploy(made, declarative=True, canaries=(two,))
    world.run()
    assert world.versions_alive() == ["v1"] * 2 + ["v2"] * 4
    world.deploy(made, declarative=True, canaries=(two,), capacity=50)
    world.run()
    assert world.versions_alive() == ["v1"] + ["v2"] * 2
    assert split_of(world).ready


def test_a_file_without_a_canary_leaves_one_that_a_command_started():
    world = World()
    from_file(world)
    world.start_canary(new_canary())
    world.run()
    from_file(world)
    assert world.canary().phase is CanaryPhase.RUNNING


def test_the_kept_file_names_what_was_promoted():
    world = World()
    new = new_canary()
    source = {"name": "app", "import_path": "m:v2", "args": {"a": 1}}
    made = replace(new.application, source="declarative", source_json=json.dumps(source))
    from_file(world, canary=replace(new, application=made))
    promote(world)
    assert json.loads(world.state.config_json) == {"applications": [source]}
    assert world.state.applications["app"].source == "declarative"


def test_what_was_promoted_from_python_is_no_part_of_the_file():
    world = World()
    from_file(world)
    world.start_canary(new_canary())
    world.run()
    before = world.state.config_json
    promote(world)
    assert world.state.config_json == before
    assert world.state.applications["app"].source == "imperative"


# ---------------------------------------------------------------------------------------------------------------------
# The controller's end


@pytest.mark.parametrize(
    "step", [lambda world: None, promote, roll_back, lambda world: world.feed(WeighCanary(0, "app", 44))]
)
def test_a_controller_that_starts_anew_goes_on_where_the_last_one_was(step):
    world = with_canary()
    step(world)
    known = (world.state.applications, world.state.canaries, world.state.retired, world.state.deployments.keys())
    world.restart_controller(stored(world.state))
    after = (world.state.applications, world.state.canaries, world.state.retired, world.state.deployments.keys())
    assert after == known
    world.run()
    world.pass_time(30)
    assert not world.state.retired


def test_after_the_machine_has_started_anew_both_versions_do():
    world = with_canary()
    state = stored(world.state)
    world.pending.clear()
    world.alive.clear()
    world.restart_controller(state)
    assert not split_of(world).ready
    world.run()
    assert split_of(world).ready
    assert world.versions_alive() == ["v1", "v2"]


def test_a_replica_that_drains_is_not_taken_for_a_canary_s():
    world = with_canary()
    promote(world)
    owners = {item.id: world.state.owner(item.key) for item in world.state.replicas.values()}
    stopping = {item.id for item in world.state.replicas.values() if item.state is ReplicaState.STOPPING}
    assert {ident for ident, owner in owners.items() if owner.deleting} == stopping
