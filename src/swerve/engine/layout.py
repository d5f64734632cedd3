"""Where the parts of an instance keep their files: the state folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

# sockaddr_un.sun_path holds 108 bytes with the final NUL (unix(7)).
MAX_SOCKET_PATH = 107
# The longest name that a socket in `run/` has.
_LONGEST_SOCKET = "proxy-abcdefgh.sock"
# Unpacked archives; building an application may make it before there is an instance.
_PACKAGES = "packages"
_MARK = "This is a state folder of Swerve.\n"
# What is ours in `run/`, by the end of the name.
_RUN_SUFFIXES = (".json", ".spec", ".sock", ".begun", ".ready", ".new", ".part", ".record", ".ending")
# Files in `run` begin with the id of their process. These are of no replica and of no proxy.
_OTHERS = ("agent", "controller", "instance")


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths in the state folder `root`, which is absolute."""

    root: Path

    @property
    def mark(self) -> Path:
        """There in every folder that is Swerve's."""
        return self.root / ".swerve"

    @property
    def lock(self) -> Path:
        return self.root / "agent.lock"

    @property
    def options(self) -> Path:
        return self.root / "options.pb"

    @property
    def store(self) -> Path:
        return self.root / "state.db"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def agent_socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def agent_record(self) -> Path:
        """There while an instance runs: what the successor of its agent has to know (`presence.AgentRecord`)."""
        return self.run / "agent.record"

    @property
    def ending(self) -> Path:
        """There while an instance ends."""
        return self.run / "agent.ending"

    @property
    def controller_socket(self) -> Path:
        return self.run / "controller.sock"

    @property
    def ready(self) -> Path:
        """Written by the controller when the instance serves, or cannot: JSON {"error": message or null}."""
        return self.run / "instance.ready"

    @property
    def agent_log(self) -> Path:
        return self.logs / "agent.log"

    def output(self, process_id: str) -> Path:
        """What a process writes to its standard output and error."""
        return self.logs / f"{process_id}.out"

    def of_process(self, process_id: str, suffix: str) -> Path:
        """A file of one process: "json" (the agent's record), "spec", "sock", "begun", "ready"."""
        return self.run / f"{process_id}.{suffix}"

    def socket_path_excess(self) -> int:
        """By how many bytes the longest socket path is too long, 0 if it fits."""
        return max(0, len(str(self.run / _LONGEST_SOCKET).encode()) - MAX_SOCKET_PATH)

    def make(self) -> None:
        """Make the folders, private to the user.

        Raises:
            OSError: they cannot be made, or the folder is there and is not Swerve's or not the user's alone.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            self._require_ours()
        self.mark.write_text(_MARK)
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self.run.mkdir(mode=0o700, exist_ok=True)

    def _require_ours(self) -> None:
        # In this order: another start may be making the folder, and makes the mark first.
        has_files = any(path.name != _PACKAGES for path in self.root.iterdir())
        marked = self.mark.exists() or (self.lock.exists() and self.options.exists())
        if has_files and not marked:
            raise PermissionError(
                "it has files of others in it. Choose a new or an empty folder with --state-dir or SWERVE_STATE_DIR"
            )
        status = self.root.stat()
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(
                "other users own it or may write to it. Take their right away (`chmod go-w`), or choose another folder "
                "with --state-dir or SWERVE_STATE_DIR"
            )

    def address_of(self, process_id: str) -> str:
        """Where a replica or a proxy serves its private service."""
        return f"unix:{self.of_process(process_id, 'sock')}"

    @property
    def controller_address(self) -> str:
        return f"unix:{self.controller_socket}"

    def remove_run_files(self) -> None:
        """Leave nothing of an instance that has ended but its logs and its store."""
        for path in self.run.iterdir():
            if path.name.endswith(_RUN_SUFFIXES):
                path.unlink(missing_ok=True)

    def remove_files_of_others(self, living: Collection[str]) -> None:
        """Leave no file of a replica or proxy that is not among the living, but the records, which are the agent's."""
        kept = {*living, *_OTHERS}
        for path in self.run.iterdir():
            if path.name.partition(".")[0] not in kept and path.suffix != ".json":
                path.unlink(missing_ok=True)

    def remove_store(self) -> None:
        """Forget what was deployed."""
        for suffix in ("", "-wal", "-shm"):
            self.store.with_name(self.store.name + suffix).unlink(missing_ok=True)
