"""Instances on this machine, from outside: find one, start one, wait for its end. Synchronous."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from swerve.engine.agent import EXIT_LOCKED
from swerve.engine.layout import MAX_SOCKET_PATH, Layout
from swerve.engine.local import spawn_agent
from swerve.exceptions import RayServeException
from swerve.generated import control_pb2 as pb
from swerve.net.address import Address
from swerve.net.listener import bind_tcp

_POLL_S = 0.005
# How long a failed start has to end what it had begun.
_END_TIMEOUT_S = 10.0


# The agents that this process has started, so that their ends are waited for.
_agents: dict[Path, subprocess.Popen[bytes]] = {}


class InstanceError(RayServeException):
    """An instance could not be started; the message says why and what to do. Nothing was left running."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A running instance."""

    state_dir: Path
    controller_address: str


def find(state_dir: Path) -> Instance | None:
    """The instance of this state folder, None if none runs."""
    layout = Layout(state_dir.absolute())
    return _instance(layout) if _agent_runs(layout) else None


def start(state_dir: Path, options: pb.InstanceOptions, *, owner_pid: int | None, timeout_s: float = 30.0) -> Instance:
    """Start an instance and wait until its controller and proxies are ready.

    With `owner_pid` the instance starts with nothing deployed and ends, forgetting all, when that process does.
    Without, it brings back what was deployed when an instance of this folder last ran.

    Raises:
        InstanceError: an instance runs there already, a port is in use, the folder cannot be used, or it took longer
            than `timeout_s` seconds.
    """
    layout = Layout(state_dir.absolute())
    _prepare(layout, options, forget=owner_pid is not None)
    if options.num_proxies > 1:
        _require_free_ports(options)
    agent = spawn_agent(layout, "--owner-pid", str(owner_pid or 0))
    error = _wait_ready(layout, agent, time.monotonic() + timeout_s)
    if error is None:
        _agents[layout.root] = agent
        return _instance(layout)
    _end(agent)
    raise InstanceError(error)


def wait_stopped(instance: Instance, timeout_s: float) -> bool:
    """Wait until the instance has ended, all its processes included. False: it still runs after `timeout_s` seconds."""
    layout = Layout(instance.state_dir)
    deadline = time.monotonic() + timeout_s
    while _agent_runs(layout):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    if (agent := _agents.pop(layout.root, None)) is not None:
        agent.wait()
    return True


def _instance(layout: Layout) -> Instance:
    return Instance(layout.root, layout.controller_address)


def _agent_runs(layout: Layout) -> bool:
    """Whether an agent holds the lock."""
    try:
        lock = os.open(layout.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _prepare(layout: Layout, options: pb.InstanceOptions, *, forget: bool) -> None:
    if excess := layout.socket_path_excess():
        raise InstanceError(
            f"The state folder's path is {excess} bytes too long: {layout.root}. Its sockets' paths may have "
            f"{MAX_SOCKET_PATH} bytes. Choose another folder with --state-dir or SWERVE_STATE_DIR."
        )
    try:
        layout.make()
        if _agent_runs(layout):
            raise InstanceError(_already_running(layout))
        layout.ready.unlink(missing_ok=True)
        if forget:
            layout.remove_store()
        part = layout.options.with_suffix(".part")
        part.write_bytes(options.SerializeToString())
        part.chmod(0o600)
        part.rename(layout.options)
    except OSError as error:
        raise InstanceError(f"The state folder {layout.root} cannot be used: {error}.") from error


def _require_free_ports(options: pb.InstanceOptions) -> None:
    """Proxies that share a port cannot tell their siblings from another instance's proxies, so this is asked before."""
    wanted = []
    if options.grpc_methods:
        wanted.append(("gRPC", json.loads(options.grpc_options_json)))
    if options.http_options_json:
        wanted.append(("HTTP", json.loads(options.http_options_json)))
    for protocol, listening in wanted:
        host, port = listening.get("host") or "", int(listening.get("port") or 0)
        if port <= 0:
            continue
        try:
            for sock in bind_tcp(host, port, share=False):
                sock.close()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            where = Address(host=host or "*", port=port)
            raise InstanceError(f"The {protocol} port {where} cannot be bound: {reason}.") from error


def _already_running(layout: Layout) -> str:
    pid = layout.lock.read_text() if layout.lock.exists() else ""
    return (
        f"An instance is already running (state folder {layout.root}, pid {pid}). Use it, end it with "
        "`swerve shutdown`, or choose another folder with --state-dir."
    )


def _wait_ready(layout: Layout, agent: subprocess.Popen[bytes], deadline: float) -> str | None:
    """None when the instance serves, else what went wrong."""
    while True:
        with contextlib.suppress(OSError, ValueError):
            error: str | None = json.loads(layout.ready.read_text())["error"]
            return error
        if (code := agent.poll()) is not None:
            if code == EXIT_LOCKED:
                return _already_running(layout)
            return f"The instance ended while it started (see {layout.logs}). {_last_words(layout)}"
        if time.monotonic() >= deadline:
            return f"The instance was not ready in time; see {layout.logs}. {_last_words(layout)}"
        time.sleep(_POLL_S)


def _last_words(layout: Layout) -> str:
    for path in (layout.output("controller"), layout.agent_log):
        with contextlib.suppress(OSError):
            if text := path.read_text(errors="replace").strip():
                return text.splitlines()[-1]
    return ""


def _end(agent: subprocess.Popen[bytes]) -> None:
    """End a half-started instance: gracefully, then at once (the agent takes a second signal so)."""
    for timeout_s in (_END_TIMEOUT_S / 2, _END_TIMEOUT_S / 2):
        agent.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            agent.wait(timeout_s)
            return
    agent.kill()
    agent.wait()
