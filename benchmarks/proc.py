"""What processes use, read from /proc: processor time, resident memory, file descriptors."""

import contextlib
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
    """Processor time, user and system, that `pids` have used so far, in seconds; its grain is one tick (10 ms).

    One that has ended counts nothing: Ray ends workers that it does not need.
    """
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = stat(pid)
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name, which is in brackets and may contain anything."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def session(pid: int) -> int | None:
    """The session of `pid`, or None when it has ended."""
    try:
        return int(stat(pid)[3])
    except OSError:
        return None


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


def forget_peak_rss(pids: Iterable[int]) -> None:
    """Let `peak_rss_mb` count from now on."""
    for pid in pids:
        (PROC / str(pid) / "clear_refs").write_text("5")


def peak_rss_mb(pids: Iterable[int]) -> float:
    """The most that one of `pids` has had resident since `forget_peak_rss`, in MB."""
    return max(_status_kb(pid, "VmHWM") for pid in pids) * 1024 / MB


def _status_kb(pid: int, field: str) -> int:
    lines = (PROC / str(pid) / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def open_files(pids: Iterable[int]) -> int:
    """File descriptors that `pids` hold."""
    return sum(len(os.listdir(PROC / str(pid) / "fd")) for pid in pids)
