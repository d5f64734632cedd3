"""The local engine against a real agent."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from swerve.control import instance
from swerve.engine.base import EngineError, ProcessSpec
from swerve.engine.launch import revive_agent
from swerve.engine.layout import Layout
from swerve.engine.local import LocalEngine
from swerve.engine.presence import NoInstance
from swerve.engine.procfs import identify
from swerve.generated import control_pb2 as pb
from tests.conftest import processes_of, wait_for

MODULES = {
    "sleeper": "import time; time.sleep(600)",
    "reader": "import sys; print(open(sys.argv[1]).read(), flush=True); sys.exit(7)",
    "stubborn": "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
}


@pytest.fixture
def layout():
    """The folder of a running instance."""
    root = Path(tempfile.mkdtemp(prefix="swerve-"))
    instance.start(root, pb.InstanceOptions(), owner_pid=None)
    made = Layout(root)
    yield made
    if (running := instance.find(root)) is not None:
        os.kill(int(made.lock.read_text()), signal.SIGTERM)
        assert instance.wait_stopped(running, 20)
    try:
        wait_for(lambda: not processes_of(root), what="the end of all processes")
    finally:
        for pid in processes_of(root):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(root)


@pytest.fixture
def modules(tmp_path):
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    return str(tmp_path)


def run(layout, scenario):
    """Run `scenario(engine, exits)`, where exits is a queue of what ended."""

    async def main():
        engine = LocalEngine(layout)
        exits = asyncio.Queue()
        await engine.open(exits.put_nowait, exits.put_nowait)
        try:
            async with asyncio.timeout(30):
                return await scenario(engine, exits)
        finally:
            await engine.close()

    return asyncio.run(main())


def test_a_process_starts_with_its_payload_and_its_end_is_told(layout, modules):
    async def scenario(engine, exits):
        await engine.start(ProcessSpec("one", "reader", b"the payload", cwd=modules))
        return await exits.get()

    ended = run(layout, scenario)
    assert (ended.id, ended.code) == ("one", 7)
    assert layout.output("one").read_text() == "the payload\n"
    assert not layout.of_process("one", "spec").exists()


def test_starting_an_id_twice_starts_one_process(layout, modules):
    async def scenario(engine, exits):
        spec = ProcessSpec("one", "sleeper", b"", cwd=modules)
        first, second = await engine.start(spec), await engine.start(spec)
        assert first == second
        assert layout.of_process("one", "spec").stat().st_mode & 0o077 == 0
        assert await engine.list() == (first,)
        await engine.kill("one")
        return await exits.get()

    assert run(layout, scenario).code == -signal.SIGKILL


def test_a_process_that_cannot_start_is_an_error_and_leaves_nothing(layout):
    async def scenario(engine, exits):
        with pytest.raises(EngineError, match="/nowhere"):
            await engine.start(ProcessSpec("one", "sleeper", b"", cwd="/nowhere"))
        return await engine.list()

    assert run(layout, scenario) == ()
    assert not layout.of_process("one", "spec").exists()


def test_signalling_what_is_gone_is_no_error(layout):
    async def scenario(engine, exits):
        await engine.stop("nobody")
        await engine.kill("nobody")

    run(layout, scenario)


def test_exits_that_happen_while_no_agent_runs_are_told(layout, modules):
    async def scenario(engine, exits):
        lives = await engine.start(ProcessSpec("lives", "sleeper", b"", cwd=modules))
        dies = await engine.start(ProcessSpec("dies", "sleeper", b"", cwd=modules))
        agent = int(layout.lock.read_text())
        os.kill(agent, signal.SIGKILL)
        os.kill(dies.pid, signal.SIGKILL)
        ended = await exits.get()
        assert await engine.list() == (lives,)
        assert int(layout.lock.read_text()) != agent
        return ended

    ended = run(layout, scenario)
    assert (ended.id, ended.code) == ("dies", None)


def test_nonsense_on_the_socket_is_answered_and_harms_nobody(layout):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(layout.agent_socket))
        lines = client.makefile("rb")
        for line in (b"nonsense", b"{}", b'{"seq": 5, "op": "fly"}', b'{"seq": 6, "op": "start"}', b"[1]"):
            client.sendall(line + b"\n")
            assert "error" in json.loads(lines.readline())
    assert instance.find(layout.root) is not None


def test_there_is_no_second_agent(layout):
    assert revive_agent(layout) is None


def test_no_agent_comes_when_the_instance_has_ended(layout):
    os.kill(int(layout.lock.read_text()), signal.SIGTERM)
    assert instance.wait_stopped(instance.Instance(layout.root, ""), 20)
    with pytest.raises(NoInstance):
        revive_agent(layout)


def test_asked_twice_the_agent_ends_everything_whatever_hangs(layout, modules):
    async def scenario(engine, exits):
        return await engine.start(ProcessSpec("one", "stubborn", b"", cwd=modules))

    stubborn = identify(run(layout, scenario).pid)
    record = json.loads(layout.of_process("controller", "json").read_text())
    os.kill(record["pid"], signal.SIGSTOP)
    agent = int(layout.lock.read_text())
    os.kill(agent, signal.SIGTERM)
    wait_for(lambda: "ending the instance" in layout.agent_log.read_text(), what="the first signal")
    os.kill(agent, signal.SIGTERM)
    assert instance.wait_stopped(instance.Instance(layout.root, ""), 20)
    assert not stubborn.is_running()
    assert list(layout.run.iterdir()) == []


def test_the_agent_needs_the_standard_library_only():
    code = "import swerve.engine.agent, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True).stdout
    # What site-packages' own start-up files load is not ours.
    bare = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True)
    ours = {name.split(".")[0] for name in set(loaded.split()) - set(bare.stdout.split())}
    assert ours - set(sys.stdlib_module_names) == {"swerve"}
    swerve = {name for name in loaded.split() if name.startswith("swerve.")}
    assert all(name.startswith("swerve.engine") for name in swerve)
    assert not ours & {"asyncio", "ssl", "typing_extensions"}


def resident(pid):
    """Bytes, of which part is shared between processes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_agent_and_controller_stay_small(layout):
    controller = json.loads(layout.of_process("controller", "json").read_text())["pid"]
    assert resident(int(layout.lock.read_text())) < 25e6
    assert resident(controller) < 50e6
