"""Instances on this machine, from outside: find one, start one, wait for its end. Synchronous."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from swerve.control.options import resume
from swerve.control.ports import PortError, check_distinct, check_ports
from swerve.control.room import shortage
from swerve.control.store import Store, StoreError
from swerve.engine import presence
from swerve.engine.launch import start_agent
from swerve.engine.layout import MAX_SOCKET_PATH, Layout
from swerve.exceptions import RayServeException
from swerve.generated import control_pb2 as pb

_POLL_S = 0.005
# How long a failed start has to end what it had begun.
_END_TIMEOUT_S = 10.0
# What Python draws around the tracebacks of a group of exceptions.
_FRAME = " +-|"
# How long a start waits for the end of an instance that is ending.
_ENDING_S = 30.0


# The agents that this process has started, to be ended or waited for.
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
    return _instance(layout) if presence.runs(layout) else None


def wait_if_ending(state_dir: Path, timeout_s: float = _ENDING_S) -> None:
    """If the instance of this folder is ending, wait until it has ended, for `timeout_s` seconds at most."""
    layout = Layout(state_dir.absolute())
    deadline = time.monotonic() + timeout_s
    while presence.runs(layout) and presence.is_ending(layout) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def start(state_dir: Path, options: pb.InstanceOptions, *, owner_pid: int | None, timeout_s: float = 30.0) -> Instance:
    """Start an instance and wait until its controller and proxies are ready.

    With `owner_pid` the instance starts with nothing deployed and ends, forgetting all, when that process does.
    Without, it brings back what was deployed when an instance of this folder last ran.

    Raises:
        InstanceError: an instance runs there already, a port is in use, the folder cannot be used, the machine has no
            room for it, or it took longer than `timeout_s` seconds.
    """
    layout = Layout(state_dir.absolute())
    wait_if_ending(layout.root)
    lock = _lock(layout)
    try:
        if lack := shortage(layout.root):
            raise InstanceError(lack)
        _prepare(layout, options, forget=owner_pid is not None)
        if not presence.recorded(layout):
            _require_free_ports(_resumed(layout, options))
        logs = _Logs(layout)
        # It holds the lock from its first moment: of several starts at once, one wins and the others see its instance.
        with _uninterrupted():
            agent = _agents[layout.root] = start_agent(layout, lock, "--owner-pid", str(owner_pid or 0))
    finally:
        os.close(lock)
    try:
        error = _wait_ready(layout, agent, logs, time.monotonic() + timeout_s)
    except BaseException:
        # Interrupted: what was started is in a session of its own and would stay.
        end_started(layout.root)
        raise
    if error is None:
        return _instance(layout)
    end_started(layout.root)
    raise InstanceError(error)


def end_started(state_dir: Path) -> None:
    """End the instance that this process has started there, if it has; what is deployed is kept for the next start."""
    agent = _agents.pop(state_dir.absolute(), None)
    if agent is not None:
        _end(agent)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let a Ctrl-C wait until the block has ended: what it starts must be remembered, to be ended."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread is interrupted
        return
    came: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if came:
            signal.raise_signal(signal.SIGINT)


def wait_stopped(instance: Instance, timeout_s: float) -> bool:
    """Wait until the instance has ended, all its processes included. False: it still runs after `timeout_s` seconds."""
    layout = Layout(instance.state_dir)
    deadline = time.monotonic() + timeout_s
    while presence.runs(layout):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    if (agent := _agents.pop(layout.root, None)) is not None:
        agent.wait()
    return True


def _instance(layout: Layout) -> Instance:
    return Instance(layout.root, layout.controller_address)


def _lock(layout: Layout) -> int:
    """Make the folder and lock it, so that nobody else starts or ends anything there."""
    if excess := layout.socket_path_excess():
        raise InstanceError(
            f"The state folder's path is {excess} bytes too long: {layout.root}. Its sockets' paths may have "
            f"{MAX_SOCKET_PATH} bytes. Choose another folder with --state-dir or SWERVE_STATE_DIR."
        )
    deadline = time.monotonic() + _ENDING_S
    try:
        layout.make()
        while (lock := presence.take_lock(layout)) is None:
            if not presence.is_ending(layout) or time.monotonic() >= deadline:
                raise InstanceError(_already_running(layout))
            time.sleep(_POLL_S)
    except OSError as error:
        raise InstanceError(_unusable(layout, error)) from error
    return lock


def _unusable(layout: Layout, error: OSError) -> str:
    what = f"The state folder {layout.root} cannot be used"
    if error.strerror is None:
        # One of `Layout`'s own, which says what to do.
        return f"{what}: {error}."
    return f"{what}: {error.strerror}. Choose another folder with --state-dir or SWERVE_STATE_DIR."


def _prepare(layout: Layout, options: pb.InstanceOptions, *, forget: bool) -> None:
    """Make the locked folder ready for a new instance."""
    if any(name == presence.CONTROLLER for name, _ in presence.recorded(layout)):
        # It is starting another agent in place of one that was killed.
        raise InstanceError(_already_running(layout))
    part = layout.options.with_suffix(".part")
    try:
        left = presence.recorded(layout)
        if not left or forget or not _continues(layout, options):
            presence.end_processes(process for _, process in left)
            # The agent's record among them: until the new one writes it, there is nothing to connect to.
            layout.remove_run_files()
        layout.ready.unlink(missing_ok=True)
        if forget:
            layout.remove_store()
        part.write_bytes(options.SerializeToString())
        part.chmod(0o600)
        part.rename(layout.options)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise InstanceError(_unusable(layout, error)) from error


def _continues(layout: Layout, options: pb.InstanceOptions) -> bool:
    """Whether what a killed instance has left, if anything, is as this start wants it."""
    try:
        without_owner = presence.read_agent_record(layout).owner is None
        return without_owner and pb.InstanceOptions.FromString(layout.options.read_bytes()) == options
    except (OSError, presence.NoInstance, DecodeError):
        return False


def _resumed(layout: Layout, options: pb.InstanceOptions) -> pb.InstanceOptions:
    """What the instance will serve, if that can be told: what was deployed may be newer than what a start asks for."""
    if not layout.store.exists():
        return options
    try:
        with contextlib.closing(Store(layout.store)) as store:
            return resume(store.load().options, options).in_force
    except StoreError:
        # The controller says so, with what to do.
        return options


def _require_free_ports(options: pb.InstanceOptions) -> None:
    """A single proxy binds its ports alone, and says when it cannot. Of several, all would share a taken one."""
    try:
        if options.num_proxies > 1:
            check_ports(options, pb.InstanceOptions())
        else:
            check_distinct(options)
    except PortError as error:
        raise InstanceError(str(error)) from error


def _already_running(layout: Layout) -> str:
    pid = layout.lock.read_text().strip() if layout.lock.exists() else ""
    if presence.is_ending(layout):
        return f"The instance in {layout.root} (pid {pid}) is shutting down; try again when it has ended."
    return (
        f"An instance is already running (state folder {layout.root}, pid {pid}). Use it, end it with "
        "`swerve shutdown`, or choose another folder with --state-dir."
    )


def _wait_ready(layout: Layout, agent: subprocess.Popen[bytes], logs: _Logs, deadline: float) -> str | None:
    """None when the instance serves, else what went wrong."""
    while True:
        with contextlib.suppress(OSError, ValueError):
            error: str | None = json.loads(layout.ready.read_text())["error"]
            return error
        # One that was killed has a successor.
        if agent.poll() is not None and not presence.runs(layout):
            return f"The instance ended while it started (see {layout.logs}). {_why(layout, logs)}"
        if time.monotonic() >= deadline:
            return f"The instance was not ready in time; see {layout.logs}. {_why(layout, logs)}"
        time.sleep(_POLL_S)


def _why(layout: Layout, logs: _Logs) -> str:
    # On a disk that has become full nothing can be logged.
    return shortage(layout.root) or logs.last_words()


class _Logs:
    """What agent and controller say from now on."""

    def __init__(self, layout: Layout) -> None:
        paths = (layout.output("controller"), layout.agent_log)
        self._begins = {path: path.stat().st_size if path.exists() else 0 for path in paths}

    def last_words(self) -> str:
        """The last line that may tell why something failed, "" if there is none."""
        for path, begin in self._begins.items():
            with contextlib.suppress(OSError):
                lines = path.read_bytes()[begin:].decode(errors="replace").splitlines()
                told = [line for line in lines if line.strip(_FRAME) and not line.startswith(("INFO ", "DEBUG "))]
                if told:
                    line = told[-1].strip(_FRAME)
                    # Without the head of a log's line.
                    return line.partition(" -- ")[2] or line
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
