"""What of an instance lives, as its state folder tells, and the end of what it left behind. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from swerve.engine.layout import Layout
from swerve.engine.procfs import ProcessIdentity

CONTROLLER = "controller"

# How long processes have between SIGTERM and SIGKILL.
_TERMINATE_S = 3.0
_POLL_S = 0.02
_LOCK_TRIES = 10
_LOCK_RETRY_S = 0.01
# Of the largest pid that Linux gives (proc(5), /proc/sys/kernel/pid_max).
_PID_DIGITS = 7


class NoInstance(Exception):
    """There is none to be continued: it has ended, or its state folder was removed."""


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """What the successor of an agent has to know: the instance's owner, None if it has none, and the environment and
    the working folder that processes inherit."""

    owner: ProcessIdentity | None
    environment: Mapping[str, str]
    folder: str


def write_agent_record(layout: Layout, record: AgentRecord) -> None:
    """Replace the record at once, so that no reader finds half of one."""
    part = layout.agent_record.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(json.dumps(asdict(record)))
    part.rename(layout.agent_record)


def read_agent_record(layout: Layout) -> AgentRecord:
    """The record of the instance that runs, or whose agent has died.

    Raises:
        NoInstance: there is no record.
        OSError: it cannot be read.
    """
    try:
        fields = json.loads(layout.agent_record.read_text())
        owner = fields.pop("owner")
        return AgentRecord(None if owner is None else ProcessIdentity(**owner), **fields)
    except FileNotFoundError as error:
        raise NoInstance(f"There is no instance to continue in {layout.root}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"{layout.agent_record} is damaged: {error}") from error


def take_lock(layout: Layout) -> int | None:
    """A descriptor that holds the folder's lock, as do its copies in other processes; None if another process has it.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    lock = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # Who looks for an instance holds the lock for a moment.
    for _ in range(_LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        time.sleep(_LOCK_RETRY_S)
    os.close(lock)
    return None


def sign_lock(lock: int) -> None:
    """Write into the lock's file who holds it: this process."""
    # Of one width, so that it is replaced in one step, which needs no room on a full disk.
    os.pwrite(lock, f"{os.getpid():<{_PID_DIGITS}}\n".encode(), 0)


def agent_runs(layout: Layout) -> bool:
    """Whether an agent holds the lock, or a start that makes one."""
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


def runs(layout: Layout) -> bool:
    """Whether the instance lives: its agent does, or any other process of it, each of which has it started again."""
    # In this order: at a regular end the agent, which goes last, has removed the records of all others.
    return agent_runs(layout) or bool(recorded(layout))


def is_ending(layout: Layout) -> bool:
    """Whether an instance that runs is about to end, or only about to start: to be asked again."""
    if layout.ending.exists():
        return True
    try:
        owner = read_agent_record(layout).owner
    except NoInstance:
        # An agent's last act, before it lets the lock go, is to remove it; at its start it writes it anew.
        return True
    except OSError:
        return False
    return owner is not None and not owner.is_running()


def recorded(layout: Layout) -> list[tuple[str, ProcessIdentity]]:
    """The processes, but the agent, that are recorded in the state folder and that run."""
    found = []
    for record in sorted(layout.run.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            fields = json.loads(record.read_text())
            process_id = str(fields.pop("id"))
            identity = ProcessIdentity(**fields)
            if identity.is_running():
                found.append((process_id, identity))
    return found


def end_processes(processes: Iterable[ProcessIdentity]) -> None:
    """End these processes, and what they have started: SIGTERM, and 3 s later SIGKILL. Returns when they have ended."""
    left = list(processes)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            _signal(process, number)
        deadline = time.monotonic() + _TERMINATE_S
        while (left := [process for process in left if process.is_running()]) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _signal(process: ProcessIdentity, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(process.pid)
        try:
            # Asked after the pidfd is open: from here on it is this process and no other.
            if process.is_running():
                if number == signal.SIGKILL:
                    os.killpg(process.pid, number)
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
