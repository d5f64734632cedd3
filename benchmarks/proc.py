"""What processes use, read from /proc: processor time, resident memory, file descriptors."""

import os
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MB = 1024 * 1024


def command_lines() -> dict[int, str]:
    """The command line of every process, its arguments parted by spaces."""
    found = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                found[int(folder.name)] = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue  # it has ended
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Processor time, user and system, that `pids` have used so far, in seconds; its grain is one tick (10 ms)."""
    ticks = 0
    for pid in pids:
        # The fields after the command's name, which is in brackets and may contain anything.
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def machine_cpu_s() -> float:
    """Processor time that the machine has spent on anything so far, over all cores, in seconds."""
    ticks = [int(field) for field in (PROC / "stat").read_text().split(maxsplit=9)[1:9]]
    idle, waiting_for_disk = ticks[3:5]
    return (sum(ticks) - idle - waiting_for_disk) / TICKS_PER_S


def rss_mb(pids: Iterable[int]) -> float:
    """Resident memory of `pids`, in MB. Pages that they share are counted in each."""
    return sum(memory_bytes(pid, "Rss") for pid in pids) / MB


def pss_mb(pids: Iterable[int]) -> float:
    """Resident memory of `pids`, in MB, where a page shared by n processes counts as 1/n in each."""
    return sum(memory_bytes(pid, "Pss") for pid in pids) / MB


def memory_bytes(pid: int, field: str) -> int:
    for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{pid}/smaps_rollup has no {field}")


def open_files(pids: Iterable[int]) -> int:
    """File descriptors that `pids` hold."""
    return sum(len(os.listdir(PROC / str(pid) / "fd")) for pid in pids)
