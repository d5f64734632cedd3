"""A whole run: an instance, its clients, faults without end, and the verdict."""

import platform
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from tests.chaos.accounts import read_journal, violations
from tests.chaos.cluster import Cluster, kill, memory_kib, open_files, seconds_until
from tests.chaos.faults import Fault, Faults, Kill
from tests.chaos.load import Load, Outcome
from tests.conftest import find_free_port, processes_of, wait_for

CLIENTS = 24
_WARM_UP_S = 3.0
_SOCKETS = shutil.ignore_patterns("*.sock", "*.begun")
# What a process may hold more at the end than one of its kind did at the start: allocators keep some.
_MEMORY_SLACK_KIB = 48 * 1024
_FILES_SLACK = 4


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an idle instance consists of: processes by kind, files in `run` by suffix, the most descriptors and KiB of
    memory that a process of a kind has."""

    processes: dict[str, int]
    run_files: dict[str, int]
    open_files: dict[str, int]
    memory_kib: dict[str, int]


@dataclass
class Result:
    """What a run saw. `violations` is what must not have happened."""

    seed: int
    seconds: float
    machine: str
    outcomes: list[Outcome]
    faults: list[Fault]
    kills: list[Kill]
    before: Snapshot
    after: Snapshot
    violations: list[str] = field(default_factory=list)


def run(
    seconds: float, seed: int, probe: SimpleNamespace, say: Callable[[str], None], keep: Path | None = None
) -> Result:
    """Chaos for about `seconds`. Nothing is left afterwards but, if something went wrong, a copy of the state folder in
    `keep`. The same seed chooses the same faults; what they meet depends on the machine's timing.

    Raises:
        AssertionError: something did not come back, or something was left.
    """
    # Short, because the sockets in it must fit 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="swerve-"))
    journal = Path(tempfile.mkdtemp(prefix="swerve-journal-"))
    cluster = Cluster(folder, find_free_port(), probe, journal)
    try:
        result = _run(cluster, seconds, seed, say)
        result.violations += violations(result.outcomes, read_journal(journal), result.kills)
        result.violations += leaks(result.before, result.after)
        cluster.shutdown()
        wait_for(lambda: not processes_of(folder), 30, "the end of all processes")
        left = [path.name for path in (folder / "run").iterdir()]
        if left:
            result.violations.append(f"left in the state folder: {left}")
        if result.violations and keep is not None:
            shutil.copytree(folder, keep, ignore=_SOCKETS, dirs_exist_ok=True)
        return result
    except BaseException:
        if keep is not None:
            shutil.copytree(folder, keep, ignore=_SOCKETS, dirs_exist_ok=True)
        raise
    finally:
        for pid in processes_of(folder):
            kill(pid)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(journal, ignore_errors=True)


def _run(cluster: Cluster, seconds: float, seed: int, say: Callable[[str], None]) -> Result:
    cluster.start()
    cluster.deploy()
    seconds_until(cluster.is_whole, "the application")
    warm_up = Load(cluster.address, cluster.probe, CLIENTS, seed, "w")
    warm_up.start()
    time.sleep(_WARM_UP_S)
    warm_up.stop()
    before = snapshot(cluster)
    load = Load(cluster.address, cluster.probe, CLIENTS, seed, "c")
    faults = Faults(cluster, random.Random(seed), say)
    began = time.monotonic()
    load.start()
    try:
        faults.run(seconds)
    finally:
        load.stop()
    took = time.monotonic() - began
    seconds_until(cluster.is_whole, "an instance that is whole")
    machine = f"{platform.machine()}, Python {platform.python_version()}, Linux {platform.release()}"
    outcomes = warm_up.outcomes + load.outcomes
    return Result(seed, took, machine, outcomes, faults.faults, faults.kills, before, snapshot(cluster))


def snapshot(cluster: Cluster) -> Snapshot:
    """What there is when connections that clients left have been closed."""
    time.sleep(1.0)
    processes: dict[str, int] = {}
    files: dict[str, int] = {}
    memory: dict[str, int] = {}
    for process in cluster.processes():
        kind = process.kind
        processes[kind] = processes.get(kind, 0) + 1
        files[kind] = max(files.get(kind, 0), open_files(process.pid))
        memory[kind] = max(memory.get(kind, 0), memory_kib(process.pid))
    suffixes: dict[str, int] = {}
    for path in (cluster.folder / "run").iterdir():
        suffixes[path.suffix] = suffixes.get(path.suffix, 0) + 1
    return Snapshot(processes, suffixes, files, memory)


def leaks(before: Snapshot, after: Snapshot) -> list[str]:
    """What there is more of at the end."""
    found = []
    if after.processes != before.processes:
        found.append(f"processes: {before.processes} before, {after.processes} after")
    if after.run_files != before.run_files:
        found.append(f"files in run: {before.run_files} before, {after.run_files} after")
    for kind, number in after.open_files.items():
        if number > before.open_files.get(kind, 0) + _FILES_SLACK:
            found.append(f"descriptors of a {kind}: {before.open_files.get(kind)} before, {number} after")
    for kind, amount in after.memory_kib.items():
        if amount > before.memory_kib.get(kind, 0) + _MEMORY_SLACK_KIB:
            found.append(f"memory of a {kind}: {before.memory_kib.get(kind)} KiB before, {amount} KiB after")
    return found
