"""What survives the controller, whenever it is killed."""

import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from control_support import World, application, target

from swerve.control.events import Delete
from swerve.control.model import DeploymentKey, Goal, State
from swerve.control.store import Store, StoreError
from swerve.statuses import DeploymentStatus


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


def test_goals_failures_and_replicas_survive(path):
    world = World()
    world.deploy(application(Model=target("v1", num_replicas=2)), declarative=True, capacity=80)
    world.run()
    world.broken = {"v2"}
    world.deploy(application(Model=target("v2", num_replicas=2, user_config={"a": 1})))
    world.run()
    world.pass_time(100)
    store = Store(path)
    store.save(store.load(), world.state)
    store.close()

    loaded = Store(path).load()
    assert loaded.applications == world.state.applications
    assert loaded.config_json == world.state.config_json
    assert loaded.target_capacity == 80
    assert loaded.serial == world.state.serial
    assert loaded.seed == world.state.seed
    deployment = loaded.deployments[DeploymentKey("app", "Model")]
    assert deployment.status is DeploymentStatus.DEPLOY_FAILED
    assert deployment.previous == Goal(target("v1", num_replicas=2), 2)
    assert deployment.goal == world.deployment().goal
    assert deployment.message == world.deployment().message
    assert loaded.replicas.keys() == world.state.replicas.keys()
    assert {(item.serves, item.version, item.rank) for item in loaded.replicas.values()} == {
        (item.serves, item.version, item.rank) for item in world.state.replicas.values()
    }


def test_only_what_changed_is_written(path):
    world = World()
    world.deploy(application())
    world.run()
    store = Store(path)
    store.save(store.load(), world.state)
    before = store._db.total_changes
    (replica,) = world.replicas()
    checked = replace(world.state, replicas={replica.id: replace(replica, strikes=1, check_at=5.0)})
    store.save(world.state, checked)
    assert store._db.total_changes == before


def test_policies_are_kept_while_something_is_scaled_by_them(path):
    world = World()
    store = Store(path)
    empty = store.load()
    app, targets = application(Model=replace(target("v1"), policy_digest="own"))
    world.deploy((replace(app, policy_digest="whole"), targets))
    store.save(empty, world.state, {"v1": b"code", "own": b"its own", "whole": b"for all"})
    before = world.state
    world.deploy(application(Model=target("v1")))
    world.run()
    store.save(before, world.state)
    assert store.code("v1") == b"code"
    for digest in ("own", "whole"):
        with pytest.raises(KeyError):
            store.code(digest)


def test_code_is_kept_while_a_goal_needs_it(path):
    world = World()
    store = Store(path)
    empty = store.load()
    world.deploy(application(Model=target("v1")))
    store.save(empty, world.state, {"v1": b"code one"})
    assert store.code("v1") == b"code one"
    world.run()
    first = world.state
    world.deploy(application(Model=target("v2")))
    store.save(first, world.state, {"v2": b"code two"})
    assert store.code("v1") == b"code one"
    second = world.state
    world.run()
    store.save(second, world.state)
    assert store.code("v2") == b"code two"
    with pytest.raises(KeyError):
        store.code("v1")


def test_a_failed_write_changes_nothing(path):
    world = World()
    store = Store(path)
    empty = store.load()
    world.deploy(application())
    store._db.execute("CREATE TRIGGER full BEFORE INSERT ON code BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(StoreError):
        store.save(empty, world.state, {"v1": b"code"})
    assert not store.load().applications


def test_a_kill_at_any_moment_leaves_a_whole_state(path):
    """The writer flips between two states that must never mix; it is killed at arbitrary moments."""
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from control_support import World, application, target
from swerve.control.store import Store
store = Store(Path({str(path)!r}))
before = store.load()
worlds = []
for version in ("one", "two"):
    world = World()
    world.deploy(application("a", "/a", Model=target(version)), application("b", "/b", Model=target(version)))
    worlds.append(world.state)
print("ready", flush=True)
while True:
    for state in worlds:
        store.save(before, state, {{"one": b"1" * 9000, "two": b"2" * 9000}})
        before = state
"""
    for delay_lines in range(4):
        writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        try:
            writer.wait(0.02 * (delay_lines + 1))
        except subprocess.TimeoutExpired:
            writer.send_signal(signal.SIGKILL)
        assert writer.wait(10) == -signal.SIGKILL
        writer.stdout.close()
        store = Store(path)
        state = store.load()
        versions = {deployment.goal.target.code_version for deployment in state.deployments.values()}
        assert len(versions) <= 1
        for version in versions:
            assert store.code(version)
        store.close()


def written(path):
    """A store with one application, all of it in the file."""
    world = World()
    world.deploy(application())
    store = Store(path)
    store.save(store.load(), world.state, {"v1": b"x" * 20_000})
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_machine_that_stopped_amid_a_write_leaves_the_state_before(path, tmp_path, share):
    """Of what was written last, only a part has reached the disk."""
    written(path)
    store = Store(path)
    state = store.load()
    world = World(state)
    world.deploy(application("second", "/second"))
    store.save(state, world.state, {"v2": b"y" * 20_000})
    torn = tmp_path / "torn.db"
    torn.write_bytes(path.read_bytes())
    wal = path.with_name("state.db-wal").read_bytes()
    torn.with_name("torn.db-wal").write_bytes(wal[: int(len(wal) * share)])
    store.close()
    assert list(Store(torn).load().applications) == ["app"]


def test_a_store_that_is_full_refuses_a_change_as_a_whole_and_takes_it_later(path):
    world = World()
    world.deploy(application(name="small"))
    store = Store(path)
    store.save(State(""), world.state, {"v1": b"code"})
    before = world.state
    world.deploy(application(name="large", route_prefix="/large", Model=target("v2")))
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    for _ in range(2):
        with pytest.raises(StoreError, match="database or disk is full"):
            store.save(before, world.state, {"v2": b"x" * 100_000})
        assert list(store.load().applications) == ["small"]
    store._db.execute("PRAGMA max_page_count = 1000")
    store.save(before, world.state, {"v2": b"x" * 100_000})
    assert sorted(store.load().applications) == ["large", "small"]
    store.close()


def test_a_damaged_file_says_what_to_do(path):
    written(path)
    damaged = bytearray(path.read_bytes())
    for page in range(4096, len(damaged), 4096):
        damaged[page : page + 200] = b"\xff" * 200
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"state\.db cannot be read: .* Put a copy of it back"):
        Store(path).load()


@pytest.mark.parametrize("value", ["no json", "{}", "[]"])
def test_a_record_that_nobody_can_have_written_says_what_to_do(path, value):
    written(path)
    db = sqlite3.connect(path)
    with db:
        db.execute("UPDATE records SET value = ? WHERE kind = 'deployment'", (value,))
    db.close()
    with pytest.raises(StoreError, match=r"Put a copy of it back"):
        Store(path).load()


def test_a_store_of_another_release_is_refused(path):
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match=r"format 99.*Move it .* away"):
        Store(path)


def test_a_file_that_is_no_store_is_refused(path):
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        Store(path)


def test_clearing_forgets_everything_but_the_format(path):
    world = World()
    world.deploy(application())
    store = Store(path)
    store.save(store.load(), world.state, {"v1": b"code"})
    store.clear()
    assert not store.load().applications
    with pytest.raises(KeyError):
        store.code("v1")


def test_what_has_ended_is_not_found_again(path):
    world = World()
    store = Store(path)
    before = store.load()
    world.deploy(application())
    world.run()
    store.save(before, world.state)
    before = world.state
    world.feed(Delete(world.now, ("app",)))
    world.run()
    store.save(before, world.state)
    loaded = store.load()
    assert not loaded.applications
    assert not loaded.deployments
    assert not loaded.replicas


@pytest.mark.parametrize("value", ["no json", "[]", '["AAAA", "AAAA", "AAAA"]'])
def test_options_that_nobody_can_have_written_say_what_to_do(path, value):
    written(path)
    db = sqlite3.connect(path)
    with db:
        db.execute("REPLACE INTO records VALUES ('meta', 'options', ?)", (value,))
    db.close()
    with pytest.raises(StoreError, match=r"Put a copy of it back"):
        Store(path).load()
