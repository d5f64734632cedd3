"""Starting an agent: the first one of an instance, and the successor of one that was killed. Standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from swerve.engine.layout import Layout
from swerve.engine.presence import NoInstance, read_agent_record, take_lock


def start_agent(
    layout: Layout,
    lock: int,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    folder: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start an agent in a session of its own, with its output in its log. It takes over the `lock` that is held here.

    `environment` and working `folder` are this process's own if none are given.

    Raises:
        OSError: it cannot be started.
    """
    argv = [
        sys.executable,
        "-m",
        "swerve.engine.agent",
        "--state-dir",
        str(layout.root),
        "--lock",
        str(lock),
        *arguments,
    ]
    with open(os.open(layout.agent_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        return subprocess.Popen(
            argv,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )


def revive_agent(layout: Layout) -> subprocess.Popen[bytes] | None:
    """Start an agent in place of one that has died, as that was started. None: another process has one, or starts it.

    Raises:
        NoInstance: there is nothing to continue.
        OSError: it cannot be started now.
    """
    try:
        lock = take_lock(layout)
    except FileNotFoundError as error:
        raise NoInstance(f"There is no state folder {layout.root}.") from error
    if lock is None:
        return None
    try:
        record = read_agent_record(layout)
        folder = record.folder if os.path.isdir(record.folder) else "/"
        return start_agent(layout, lock, environment=record.environment, folder=folder)
    finally:
        os.close(lock)
