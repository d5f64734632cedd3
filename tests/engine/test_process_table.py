"""Processes of the agent: identity, records, groups and what is left of them."""

import os
import signal
import subprocess
import sys

import pytest

from swerve.engine import table
from swerve.engine.layout import Layout
from swerve.engine.procfs import ProcessIdentity, identify, started_at
from swerve.engine.table import ProcessTable
from tests.conftest import wait_for

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def layout(tmp_path):
    made = Layout(tmp_path)
    made.make()
    return made


@pytest.fixture
def processes(layout):
    made = ProcessTable(layout)
    yield made
    for child in made.all():
        made.signal(child.id, signal.SIGKILL)
        made.reap(child.id)


def test_a_process_is_known_by_its_pid_and_start():
    child = subprocess.Popen(SLEEP)
    identity = identify(child.pid)
    assert identity is not None
    assert identity.is_running()
    assert abs(started_at(identity) - started_at(identify(os.getpid()))) < 3600
    other = ProcessIdentity(identity.pid, identity.start_ticks - 1, identity.boot_id)
    assert not other.is_running()
    child.kill()
    # Ended but not waited for: gone all the same.
    wait_for(lambda: not identity.is_running(), what="the end of the process")
    child.wait()
    assert identify(child.pid) is None


def test_a_successor_adopts_what_runs_and_cleans_up_after_the_rest(layout, processes):
    running = processes.start("running", SLEEP, {}, None)
    ended = processes.start("ended", SLEEP, {}, None)
    layout.of_process("ended", "sock").touch()
    (layout.run / "torn.json").write_text('{"id": "to')
    ended.process.kill()
    ended.process.wait()

    successor = ProcessTable(layout)
    successor.adopt()
    assert [(child.id, child.identity.pid) for child in successor.all()] == [("running", running.identity.pid)]
    assert [path.name for path in layout.run.iterdir()] == ["running.json"]
    assert successor.get("running").started_s == running.started_s


def test_a_process_is_recorded_before_it_runs(layout, processes):
    record = layout.of_process("early", "json")
    code = f"print(open({str(record)!r}).read())"
    child = processes.start("early", [sys.executable, "-c", code], {}, None)
    child.process.wait()
    assert f'"pid": {child.identity.pid}' in layout.output("early").read_text()


def test_a_process_whose_agent_died_before_it_was_recorded_never_runs(layout, processes, monkeypatch):
    """Its successor may have looked for records already."""
    monkeypatch.setattr(table.os, "getppid", lambda: 1)
    child = processes.start("orphan", [sys.executable, "-c", "print('runs')"], {}, None)
    assert child.process.wait() == 1
    assert layout.output("orphan").read_text() == ""


def test_a_pid_that_another_process_has_now_is_not_adopted(layout, processes):
    child = processes.start("mine", SLEEP, {}, None)
    record = layout.of_process("mine", "json")
    record.write_text(record.read_text().replace(str(child.identity.start_ticks), "1"))
    successor = ProcessTable(layout)
    successor.adopt()
    assert successor.all() == ()


def test_what_a_process_started_ends_with_it(layout, processes, tmp_path):
    script = f"""
import subprocess, sys, time
child = subprocess.Popen({SLEEP!r})
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid) + "\\n")
time.sleep(600)
"""
    child = processes.start("parent", [sys.executable, "-c", script], {}, None)
    written = tmp_path / "pid"
    wait_for(lambda: written.exists() and written.read_text().endswith("\n"), what="the grandchild")
    grandchild = identify(int(written.read_text()))
    os.kill(child.identity.pid, 9)
    assert processes.reap("parent") == -9
    wait_for(lambda: not grandchild.is_running(), what="the end of the grandchild")


def test_output_goes_to_a_file_that_is_kept_only_if_something_is_in_it(layout, processes):
    for name, code in (("loud", "print('hello')"), ("quiet", "pass")):
        processes.start(name, [sys.executable, "-c", code], {}, None).process.wait()
        assert processes.reap(name) == 0
    assert layout.output("loud").read_text() == "hello\n"
    assert not layout.output("quiet").exists()


def test_the_oldest_files_of_ended_processes_go(layout, processes, monkeypatch):
    monkeypatch.setattr(table, "_KEPT_LOGS", 3)
    running = processes.start("running", SLEEP, {}, None)
    layout.agent_log.touch()
    (layout.logs / "replica_app_running.log").touch()
    for age, name in enumerate(("d", "c", "b", "a")):
        path = layout.output(name)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    processes.start("last", [sys.executable, "-c", "print(1)"], {}, None).process.wait()
    processes.reap("last")
    kept = {path.name for path in layout.logs.iterdir()}
    assert kept == {"agent.log", "running.out", "replica_app_running.log", "last.out", "d.out", "c.out"}
    assert running.identity.is_running()


def test_environment_and_folder_are_as_asked(layout, processes, tmp_path):
    show = "import os; print(os.environ['SHOWN'], os.getcwd(), os.getsid(0) == os.getpid())"
    processes.start("shows", [sys.executable, "-c", show], {"SHOWN": "yes"}, "/").process.wait()
    processes.reap("shows")
    assert layout.output("shows").read_text() == "yes / True\n"
