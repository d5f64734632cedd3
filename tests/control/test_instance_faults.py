"""Instances whose agent, controller, owner or state folder go, and starts that meet what is left of them."""

import contextlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from swerve import instances
from swerve.config import gRPCOptions
from swerve.control import instance
from swerve.engine import presence
from swerve.engine.layout import Layout
from swerve.engine.procfs import ProcessIdentity, identify
from swerve.exceptions import RayServeException
from swerve.generated import control_pb2 as pb
from tests.conftest import find_free_port, processes_of, wait_for

NO_PORT = pb.InstanceOptions()


def with_proxy(port):
    options = gRPCOptions(port=port, grpc_servicer_functions=["a.b"], host="127.0.0.1")
    return pb.InstanceOptions(
        grpc_options_json=options.model_dump_json(), grpc_methods=[pb.GrpcMethod(path="/a.B/C")], num_proxies=1
    )


def agent_pid(folder):
    return int(Layout(folder).lock.read_text())


def recorded(folder):
    """Identities of the processes that the agent has recorded, by id."""
    found = {}
    for path in (folder / "run").glob("*.json"):
        fields = json.loads(path.read_text())
        process_id = fields.pop("id")
        found[process_id] = ProcessIdentity(**fields)
    return found


def kill_agent_and_controller(folder):
    """Nobody is left to start the other again, but those that serve."""
    both = [recorded(folder)["controller"], identify(agent_pid(folder))]
    os.kill(both[0].pid, signal.SIGSTOP)
    for one in both:
        os.kill(one.pid, signal.SIGKILL)
    wait_for(lambda: not any(one.is_running() for one in both), what="the end of agent and controller")


@contextlib.contextmanager
def guards_asleep(folder):
    """What serves looks after nobody meanwhile, until there is an agent again."""
    guards = [identity for name, identity in recorded(folder).items() if name != "controller"]
    for guard in guards:
        os.kill(guard.pid, signal.SIGSTOP)

    def wake():
        wait_for(lambda: presence.agent_runs(Layout(folder)) or over.is_set(), 30, "a new agent")
        for guard in guards:
            if guard.is_running():
                os.kill(guard.pid, signal.SIGCONT)

    over = threading.Event()
    kill_agent_and_controller(folder)
    waking = threading.Thread(target=wake)
    waking.start()
    try:
        yield
    finally:
        over.set()
        waking.join()


def living(folder, kind):
    """Processes of this kind that are recorded and run."""
    return {name: one for name, one in recorded(folder).items() if name.startswith(kind) and one.is_running()}


@contextlib.contextmanager
def owner_of(folder, with_port=0):
    """A process that owns an instance there; killed at the end."""
    options = with_proxy(with_port) if with_port else NO_PORT
    script = f"""
        import os, signal
        from pathlib import Path
        from swerve.control import instance
        from swerve.generated import control_pb2 as pb
        options = pb.InstanceOptions.FromString({options.SerializeToString()!r})
        instance.start(Path({str(folder)!r}), options, owner_pid=os.getpid())
        print("started", flush=True)
        signal.pause()
    """
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    try:
        assert owner.stdout.readline() == b"started\n"
        yield owner
    finally:
        owner.kill()
        owner.wait(10)
        owner.stdout.close()


# ---------------------------------------------------------------------------------------------------------------------
# One part dies


def test_an_instance_is_there_all_the_time_while_its_agent_is_replaced(state_dir):
    instance.start(state_dir, NO_PORT, owner_pid=None)
    first = agent_pid(state_dir)
    os.kill(first, signal.SIGKILL)

    def replaced():
        assert instance.find(state_dir) is not None
        return agent_pid(state_dir) != first

    wait_for(replaced, what="a new agent")


def test_a_start_says_that_an_instance_runs_whose_agent_was_killed(state_dir):
    instance.start(state_dir, NO_PORT, owner_pid=None)
    os.kill(agent_pid(state_dir), signal.SIGKILL)
    with pytest.raises(instance.InstanceError, match="already running"):
        instance.start(state_dir, NO_PORT, owner_pid=None)


def test_a_start_whose_agent_is_killed_meanwhile_waits_for_its_successor(state_dir, monkeypatch):
    wait_ready = instance._wait_ready

    def killed_first(layout, agent, *rest):
        wait_for(lambda: "controller" in recorded(state_dir), what="a controller, which is not ready yet")
        agent.kill()
        agent.wait(10)
        return wait_ready(layout, agent, *rest)

    monkeypatch.setattr(instance, "_wait_ready", killed_first)
    instance.start(state_dir, NO_PORT, owner_pid=None)
    assert instances.required().status().agent_pid == agent_pid(state_dir)


def test_without_any_agent_everything_ends(state_dir):
    instance.start(state_dir, NO_PORT, owner_pid=None)
    # What an agent that is started again needs to know.
    Layout(state_dir).agent_record.unlink()
    os.kill(agent_pid(state_dir), signal.SIGKILL)
    wait_for(lambda: not processes_of(state_dir), what="the end of all processes")


def test_an_agent_goes_on_ending_what_its_predecessor_was_ending(state_dir):
    started = instance.start(state_dir, NO_PORT, owner_pid=None)
    layout = Layout(state_dir)
    layout.ending.touch()
    os.kill(agent_pid(state_dir), signal.SIGKILL)
    assert instance.wait_stopped(started, 20)
    wait_for(lambda: not processes_of(state_dir), what="the end of all processes")


# ---------------------------------------------------------------------------------------------------------------------
# Agent and controller die together


def test_a_proxy_brings_agent_and_controller_back(state_dir):
    instance.start(state_dir, with_proxy(find_free_port()), owner_pid=None)
    first, before = agent_pid(state_dir), living(state_dir, "proxy")
    kill_agent_and_controller(state_dir)
    # Whoever asks meanwhile waits.
    status = instances.required().status()
    assert status.agent_pid not in (0, first)
    assert living(state_dir, "proxy") == before
    assert [proxy.pid for proxy in status.proxies] == [proxy.pid for proxy in before.values()]


def test_who_brings_the_agent_back_gives_it_what_its_predecessor_was_started_with(state_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OF_THE_INSTANCE", "kept")
    instance.start(state_dir, with_proxy(find_free_port()), owner_pid=None)
    record = presence.read_agent_record(Layout(state_dir))
    assert record.environment["OF_THE_INSTANCE"] == "kept"
    changed = {**record.environment, "OF_THE_INSTANCE": "as recorded"}
    presence.write_agent_record(Layout(state_dir), presence.AgentRecord(None, changed, record.folder))
    kill_agent_and_controller(state_dir)
    revived = instances.required().status().agent_pid
    with open(f"/proc/{revived}/environ") as environment:
        assert "OF_THE_INSTANCE=as recorded" in environment.read().split("\0")
    assert os.readlink(f"/proc/{revived}/cwd") == str(tmp_path)


def test_an_instance_that_was_being_ended_is_not_revived(state_dir):
    instance.start(state_dir, with_proxy(find_free_port()), owner_pid=None)
    Layout(state_dir).ending.touch()
    kill_agent_and_controller(state_dir)
    wait_for(lambda: not processes_of(state_dir), 30, "the end of all processes")


def test_an_instance_whose_owner_died_with_agent_and_controller_ends(state_dir):
    with owner_of(state_dir, with_port=find_free_port()) as owner:
        controller = recorded(state_dir)["controller"]
        os.kill(controller.pid, signal.SIGSTOP)
        os.kill(agent_pid(state_dir), signal.SIGKILL)
        owner.kill()
        os.kill(controller.pid, signal.SIGKILL)
        owner.wait(10)
        wait_for(lambda: not processes_of(state_dir), 30, "the end of all processes")
        assert not Layout(state_dir).store.exists()


def test_processes_whose_state_folder_was_removed_end_without_agent_and_controller(state_dir, tmp_path):
    instance.start(state_dir, with_proxy(find_free_port()), owner_pid=None)
    with guards_asleep(state_dir):
        state_dir.rename(tmp_path / "gone")
    wait_for(lambda: not processes_of(state_dir), 30, "the end of all processes")


# ---------------------------------------------------------------------------------------------------------------------
# An instance that is ending


def test_a_start_waits_for_the_end_of_an_instance_whose_owner_has_died(state_dir):
    with owner_of(state_dir) as owner:
        first = agent_pid(state_dir)
        owner.kill()
        owner.wait(10)
        instance.start(state_dir, NO_PORT, owner_pid=None)
    assert agent_pid(state_dir) != first


def test_nobody_is_connected_to_an_instance_that_is_ending(state_dir):
    with owner_of(state_dir) as owner:
        assert instances.connected() is not None
        owner.kill()
        owner.wait(10)
        assert instances.connected() is None


def test_an_interrupted_start_leaves_nothing(state_dir):
    script = f"""
        import os, signal, time
        from pathlib import Path
        from swerve.control import instance
        from swerve.generated import control_pb2 as pb
        def interrupted(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        instance._wait_ready = interrupted
        instance.start(Path({str(state_dir)!r}), pb.InstanceOptions(), owner_pid=None)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=30, check=False
    )
    assert "KeyboardInterrupt" in ended.stderr
    assert not processes_of(state_dir)


def test_a_start_command_that_is_interrupted_when_all_is_ready_leaves_nothing(state_dir):
    script = """
        import os, signal
        from pathlib import Path
        from swerve import commands
        from swerve.config import gRPCOptions
        commands.say_where_it_serves = lambda connection: os.kill(os.getpid(), signal.SIGINT)
        commands.start(None, Path(), gRPCOptions(port=0), None, commands.proxy_location("Disabled"))
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=40, check=False
    )
    assert "KeyboardInterrupt" in ended.stderr
    assert not processes_of(state_dir)


def test_of_starts_at_the_same_moment_one_wins_and_the_others_say_that_it_runs(state_dir):
    script = f"""
        import sys, time
        from pathlib import Path
        from swerve.control import instance
        from swerve.generated import control_pb2 as pb
        time.sleep(max(0, float(sys.argv[1]) - time.time()))
        try:
            instance.start(Path({str(state_dir)!r}), pb.InstanceOptions(), owner_pid=None)
        except instance.InstanceError as error:
            print(error)
        else:
            print("won")
    """
    at = str(time.time() + 1.5)
    starts = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), at], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [start.communicate(timeout=50)[0].strip() for start in starts]
    assert said.count("won") == 1
    assert all("already running" in line for line in said if line != "won"), said
    assert instances.required().status().agent_pid == agent_pid(state_dir)


def test_a_start_waits_for_one_that_has_just_begun_and_takes_its_place_when_it_fails(state_dir):
    layout = Layout(state_dir)
    layout.make()
    lock = presence.take_lock(layout)
    threading.Timer(0.3, os.close, [lock]).start()
    instance.start(state_dir, NO_PORT, owner_pid=None)
    assert instance.find(state_dir) is not None


# ---------------------------------------------------------------------------------------------------------------------
# What a killed instance leaves


def test_a_start_adopts_several_proxies_that_hold_their_port(state_dir):
    options = with_proxy(find_free_port())
    options.num_proxies = 2
    instance.start(state_dir, options, owner_pid=None)
    before = {name for name in recorded(state_dir) if name.startswith("proxy")}
    with guards_asleep(state_dir):
        instance.start(state_dir, options, owner_pid=None)
    assert {name for name in recorded(state_dir) if name.startswith("proxy")} == before


def test_a_start_with_other_options_ends_the_old_proxies(state_dir):
    port = find_free_port()
    instance.start(state_dir, with_proxy(find_free_port()), owner_pid=None)
    proxies = [identity for name, identity in recorded(state_dir).items() if name.startswith("proxy")]
    with guards_asleep(state_dir):
        assert all(identity.is_running() for identity in proxies)
        instance.start(state_dir, with_proxy(port), owner_pid=None)
    assert not any(identity.is_running() for identity in proxies)
    (proxy,) = instances.required().status().proxies
    assert proxy.grpc_address == f"127.0.0.1:{port}"


def test_a_start_with_the_same_options_adopts_the_old_proxies(state_dir):
    options = with_proxy(find_free_port())
    instance.start(state_dir, options, owner_pid=None)
    before = {name for name in recorded(state_dir) if name.startswith("proxy")}
    with guards_asleep(state_dir):
        instance.start(state_dir, options, owner_pid=None)
    assert {name for name in recorded(state_dir) if name.startswith("proxy")} == before


def test_a_start_that_fails_costs_nothing_of_what_a_killed_instance_left(state_dir, monkeypatch):
    def fails(*arguments):
        raise OSError("no process")

    options = with_proxy(find_free_port())
    instance.start(state_dir, options, owner_pid=None)
    before = living(state_dir, "proxy")
    monkeypatch.setattr(instance, "start_agent", fails)
    with guards_asleep(state_dir), pytest.raises(OSError, match="no process"):
        instance.start(state_dir, options, owner_pid=None)
    assert instances.required().status().agent_pid
    assert living(state_dir, "proxy") == before


def test_a_process_that_has_the_pid_of_a_recorded_one_is_left_alone(state_dir):
    layout = Layout(state_dir)
    layout.make()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    record = {"id": "proxy-x", "pid": bystander.pid, "start_ticks": 1, "boot_id": "another"}
    layout.of_process("proxy-x", "json").write_text(json.dumps(record))
    instance.start(state_dir, NO_PORT, owner_pid=None)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait(10)


def test_a_log_line_of_no_trouble_is_no_reason(state_dir):
    layout = Layout(state_dir)
    layout.make()
    logs = instance._Logs(layout)
    layout.agent_log.write_text("ERROR something broke\nINFO 2026 agent 1 -- adopted all\n")
    assert logs.last_words() == "ERROR something broke"
    assert instance._Logs(layout).last_words() == ""


@pytest.mark.parametrize(
    "lines",
    [
        "WARNING 2026 agent 1 -- No file can be opened\n",
        "  | Traceback (most recent call last):\n    | No file can be opened\n    +--------------------\n",
    ],
)
def test_the_last_words_are_the_reason_alone(state_dir, lines):
    layout = Layout(state_dir)
    layout.make()
    logs = instance._Logs(layout)
    layout.output("controller").write_text(lines)
    assert logs.last_words() == "No file can be opened"


def test_an_instance_without_room_is_not_begun(state_dir, monkeypatch):
    monkeypatch.setattr(instance, "shortage", lambda folder: "The disk is full.")
    with pytest.raises(instance.InstanceError, match=r"^The disk is full\.$"):
        instance.start(state_dir, NO_PORT, owner_pid=None)
    assert not processes_of(state_dir)
    monkeypatch.undo()
    # The folder is not locked any more.
    instance.start(state_dir, NO_PORT, owner_pid=None)


# ---------------------------------------------------------------------------------------------------------------------
# The store


def damage(store):
    store.write_bytes(b"no database" * 1000)


@pytest.mark.parametrize("harm", [damage, Path.unlink], ids=["damaged", "removed"])
def test_a_store_that_is_lost_while_an_instance_serves_is_waited_for(state_dir, harm):
    instance.start(state_dir, with_proxy(find_free_port()), owner_pid=None)
    layout, before = Layout(state_dir), living(state_dir, "proxy")
    with contextlib.closing(sqlite3.connect(layout.store)) as source, sqlite3.connect(state_dir / "copy.db") as copy:
        source.backup(copy)
    os.kill(recorded(state_dir)["controller"].pid, signal.SIGSTOP)
    for suffix in ("-wal", "-shm"):
        layout.store.with_name(layout.store.name + suffix).unlink(missing_ok=True)
    harm(layout.store)
    os.kill(recorded(state_dir)["controller"].pid, signal.SIGKILL)
    wait_for(lambda: "what runs serves on" in layout.agent_log.read_text(), what="a controller that cannot start")
    assert "Put a copy of it back" in layout.output("controller").read_text()
    (state_dir / "copy.db").replace(layout.store)
    assert [proxy.pid for proxy in instances.required().status().proxies] == [proxy.pid for proxy in before.values()]


def test_a_start_with_a_damaged_store_says_so_and_leaves_nothing(state_dir):
    damage(Layout(state_dir).store)
    Layout(state_dir).mark.touch()
    with pytest.raises(instance.InstanceError, match="cannot be read"):
        instance.start(state_dir, NO_PORT, owner_pid=None)
    assert not processes_of(state_dir)


def test_an_instance_that_cannot_write_refuses_changes_and_can_be_shut_down(state_dir):
    started = instance.start(state_dir, NO_PORT, owner_pid=None)
    running = instances.required()
    # As a full disk for this process: no file may grow.
    resource.prlimit(running.status().controller_pid, resource.RLIMIT_FSIZE, (0, 0))
    change = pb.InstanceOptions(grpc_options_json=gRPCOptions(request_timeout_s=5).model_dump_json())
    with pytest.raises(RayServeException, match=r"^The store .* cannot be written: .*Nothing has changed"):
        running.call(lambda client: client.deploy(pb.DeployRequest(options=change)))
    assert running.status().options.grpc_options_json == ""
    instances.shut_down(running)
    assert instance.wait_stopped(started, 1)
    assert not Layout(state_dir).store.exists()


# ---------------------------------------------------------------------------------------------------------------------
# The state folder


def test_a_removed_state_folder_ends_its_instance(state_dir, tmp_path):
    started = instance.start(state_dir, with_proxy(find_free_port()), owner_pid=None)
    state_dir.rename(tmp_path / "gone")
    wait_for(lambda: not processes_of(state_dir), 30, "the end of all processes")
    assert instance.wait_stopped(started, 1)


def test_a_removed_state_folder_and_a_killed_agent_end_the_instance(state_dir, tmp_path):
    instance.start(state_dir, with_proxy(find_free_port()), owner_pid=None)
    agent = agent_pid(state_dir)
    state_dir.rename(tmp_path / "gone")
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: not processes_of(state_dir), 30, "the end of all processes")


def test_a_new_instance_in_a_removed_folders_place_keeps_its_files(state_dir, tmp_path):
    instance.start(state_dir, NO_PORT, owner_pid=None)
    old = agent_pid(state_dir)
    state_dir.rename(tmp_path / "gone")
    instance.start(state_dir, NO_PORT, owner_pid=None)
    wait_for(lambda: old not in processes_of(state_dir), what="the end of the old agent")
    assert instances.required().status().agent_pid == agent_pid(state_dir)
    assert (state_dir / "run" / "controller.json").exists()


def test_a_folder_of_others_is_refused_and_left_as_it_is(state_dir):
    (state_dir / "run").mkdir()
    kept = [state_dir / "run" / "mine.json", state_dir / "options.pb", state_dir / "state.db"]
    for path in kept:
        path.write_text("mine")
    state_dir.chmod(0o755)
    with pytest.raises(instance.InstanceError, match="files of others"):
        instance.start(state_dir, NO_PORT, owner_pid=os.getpid())
    assert [path.read_text() for path in kept] == ["mine"] * 3
    assert state_dir.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in state_dir.iterdir()) == ["options.pb", "run", "state.db"]


def test_a_folder_that_others_may_write_to_is_refused(state_dir):
    state_dir.chmod(0o777)
    with pytest.raises(instance.InstanceError, match="may write to it"):
        instance.start(state_dir, NO_PORT, owner_pid=None)
    assert state_dir.stat().st_mode & 0o777 == 0o777


def test_foreign_files_in_a_state_folder_survive_its_instance(state_dir):
    started = instance.start(state_dir, NO_PORT, owner_pid=None)
    (state_dir / "run" / "notes.txt").write_text("mine")
    os.kill(agent_pid(state_dir), signal.SIGTERM)
    assert instance.wait_stopped(started, 20)
    assert [path.name for path in (state_dir / "run").iterdir()] == ["notes.txt"]


def test_a_folder_of_an_older_release_is_still_a_state_folder(state_dir):
    (state_dir / "agent.lock").touch()
    (state_dir / "options.pb").touch()
    instance.start(state_dir, NO_PORT, owner_pid=None)
    assert Layout(state_dir).mark.exists()
