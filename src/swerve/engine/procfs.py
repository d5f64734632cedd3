"""Which process a pid means: a pid alone is used again by the system, a pid with its start time is not.

Source: proc(5), "/proc/pid/stat", fields (3) state and (22) starttime.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process on this machine, of this boot. `start_ticks` is the kernel's clock ticks since boot."""

    pid: int
    start_ticks: int
    boot_id: str

    def is_running(self) -> bool:
        """Whether the process still runs; one that ended and was not waited for yet does not."""
        return self == identify(self.pid)


def identify(pid: int) -> ProcessIdentity | None:
    """The process that has `pid` now, None if there is none or it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command's name may hold spaces and parentheses; the last ")" ends it.
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return ProcessIdentity(pid, int(fields[19]), boot_id())


def boot_id() -> str:
    """Changes at each boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started_at(process: ProcessIdentity) -> float:
    """When `process` began, in seconds since the epoch."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1]) + process.start_ticks / os.sysconf("SC_CLK_TCK")
    return 0.0
