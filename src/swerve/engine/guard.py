"""The last guard of an instance, in each proxy and replica: whoever is left brings the agent back.

Agent and controller start each other again. When both were killed, nobody is left to do so but those that serve.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from pathlib import Path

from swerve.engine.launch import revive_agent
from swerve.engine.layout import Layout
from swerve.engine.presence import NoInstance, agent_runs, end_processes
from swerve.engine.procfs import identify

logger = logging.getLogger("swerve.engine")

_LOOK_S = 0.5
# An agent that is missed in so many looks has nobody to bring it back: a controller has it back within half a second.
# Proxies come first, because what a replica's user code has set for its process (CPU affinity, limits) a new agent
# would inherit.
PROXY_LOOKS = 2
REPLICA_LOOKS = 6
# What did not help is tried again ever more slowly.
_LONGEST_S = 5.0


def start_guard(spec_file: Path, looks: int) -> None:
    """Guard the instance that started this process with `spec_file`: after `looks` looks, half a second apart, at which
    no agent runs, start one. In a thread, which a blocked event loop does not hold up.

    Raises:
        OSError: the state folder is gone already.
    """
    layout = Layout(spec_file.absolute().parent.parent)
    threading.Thread(target=_Guard(layout, looks).run, name="guard", daemon=True).start()


class _Guard:
    """Sees that an agent runs in the folder that this process was started in."""

    def __init__(self, layout: Layout, looks: int) -> None:
        self._layout = layout
        self._looks = looks
        self._lock_file = os.stat(layout.lock)
        self._revived: subprocess.Popen[bytes] | None = None
        self._pause_s = _LOOK_S

    def run(self) -> None:
        missed = 0
        while True:
            time.sleep(self._pause_s)
            if self._revived is not None:
                self._revived.poll()  # so that it does not stay a zombie
            if self._has_folder() and agent_runs(self._layout):
                missed, self._pause_s = 0, _LOOK_S
                continue
            missed += 1
            if missed >= self._looks:
                self._act()

    def _has_folder(self) -> bool:
        """Whether the state folder is still the one that this process belongs to."""
        try:
            return os.path.samestat(os.stat(self._layout.lock), self._lock_file)
        except OSError:
            return False

    def _act(self) -> None:
        # Until an agent is seen: one that cannot start, or dies at once, is not to cost what serves its processor.
        self._pause_s = min(self._pause_s * 2, _LONGEST_S)
        try:
            if not self._has_folder():
                raise NoInstance(f"The state folder {self._layout.root} was removed.")
            self._revived = revive_agent(self._layout)
        except NoInstance as error:
            logger.error("%s Nobody else could end this process; it ends.", error)
            self._end()
        except OSError as error:
            logger.warning("no agent is seen, and none can be started: %s", error)
        else:
            if self._revived is not None:
                logger.warning("neither agent nor controller runs; the agent is started again")

    def _end(self) -> None:
        own = identify(os.getpid())
        if own is not None:
            end_processes((own,))
