"""The agent's processes: started or adopted, watched by pidfd, recorded so that the agent's successor finds them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from swerve.engine.layout import Layout
from swerve.engine.presence import CONTROLLER
from swerve.engine.procfs import ProcessIdentity, identify, started_at

logger = logging.getLogger("swerve.engine")

# So many files of processes that have ended are kept; the oldest goes first.
_KEPT_LOGS = 100


@dataclass(slots=True)
class Child:
    """A process that runs. `process` is None for an adopted one, which is no child of ours."""

    id: str
    identity: ProcessIdentity
    started_s: float
    pidfd: int
    process: subprocess.Popen[bytes] | None


class ProcessTable:
    """All processes of an instance but the agent, by id."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._children: dict[str, Child] = {}
        # Whether the files in the state folder are another instance's, or gone.
        self.files_are_lost = False

    def __len__(self) -> int:
        return len(self._children)

    def get(self, process_id: str) -> Child | None:
        return self._children.get(process_id)

    def all(self) -> tuple[Child, ...]:
        return tuple(self._children.values())

    def start(self, process_id: str, argv: Sequence[str], env: Mapping[str, str], cwd: str | None) -> Child:
        """Start a process in a session of its own; its output goes to a file.

        Raises:
            OSError: it cannot be started.
            subprocess.SubprocessError: it cannot be recorded.
        """
        record = self._layout.of_process(process_id, "json")
        agent = os.getpid()

        def introduce() -> None:
            """Runs in the new process, which records itself before it becomes what it is to be: however soon the agent
            is killed, its successor finds all that run."""
            part = record.with_suffix(".part")
            part.write_text(json.dumps({"id": process_id, **asdict(_required(os.getpid()))}))
            part.rename(record)
            if os.getppid() != agent:
                os._exit(1)  # its successor may have looked before the record was there

        with self._layout.output(process_id).open("ab") as output:
            process = subprocess.Popen(
                argv,
                env={**os.environ, **env},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=introduce,
            )
        # Ours to wait for, so its pid cannot mean another process yet, even if it has ended already.
        pidfd = os.pidfd_open(process.pid)
        identity = identify(process.pid) or ProcessIdentity(process.pid, 0, "")
        child = Child(process_id, identity, started_at(identity), pidfd, process)
        self._children[process_id] = child
        return child

    def adopt(self) -> None:
        """Take over the processes that an earlier agent started and that still run; clean up after the others."""
        for record in sorted(self._layout.run.glob("*.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                fields = json.loads(record.read_text())
                process_id = str(fields.pop("id"))
                identity = ProcessIdentity(**fields)
                pidfd = os.pidfd_open(identity.pid)
                # Asked after the pidfd is open: from here on it is this process and no other.
                if identity.is_running():
                    self._children[process_id] = Child(process_id, identity, started_at(identity), pidfd, None)
                    logger.info("adopted %s (pid %d)", process_id, identity.pid)
                    continue
                os.close(pidfd)
            self._remove_files(record.stem)

    def signal(self, process_id: str, number: signal.Signals) -> None:
        """Signal a process; SIGKILL ends what it started as well. One that is gone is no error."""
        child = self._children.get(process_id)
        if child is None:
            return
        if number == signal.SIGKILL:
            _kill_group(child.identity.pid)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.pidfd, number)

    def reap(self, process_id: str) -> int | None:
        """Forget a process that has ended, and clean up after it. Its exit code, None for an adopted one."""
        child = self._children.pop(process_id)
        # Before it is waited for, while its pid still names its group and no other.
        _kill_group(child.identity.pid)
        code = child.process.wait() if child.process is not None else None
        os.close(child.pidfd)
        self._remove_files(process_id)
        self._prune_logs(process_id)
        return code

    def _remove_files(self, process_id: str) -> None:
        if self.files_are_lost:
            return
        for suffix in ("json", "spec", "sock", "begun"):
            self._layout.of_process(process_id, suffix).unlink(missing_ok=True)

    def _prune_logs(self, process_id: str) -> None:
        if self.files_are_lost or not self._layout.logs.is_dir():
            return
        output = self._layout.output(process_id)
        with contextlib.suppress(OSError):
            if output.stat().st_size == 0:
                output.unlink()
        alive = ("agent", CONTROLLER, *self._children)
        # A process may keep logs of its own there; each has its id in the name.
        files = [path for path in self._layout.logs.iterdir() if path.is_file()]
        ended = [path for path in files if not any(name in path.name for name in alive)]
        for path in sorted(ended, key=_modified)[: max(0, len(ended) - _KEPT_LOGS)]:
            path.unlink(missing_ok=True)


def _required(pid: int) -> ProcessIdentity:
    identity = identify(pid)
    assert identity is not None
    return identity


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
