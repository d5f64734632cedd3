"""Rows that need no load generator: start-up time and memory, against a bound and against Ray Serve; leaks."""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import h2load, proc
from benchmarks.methods import unary
from benchmarks.ray_serve import ray, serve
from benchmarks.result import Figures, Goal, Result
from benchmarks.servers import PATH, Contender, Server, swerve
from examples.support import environment

STARTUP = "start-up: from the command `swerve run` to the first answered call"
STARTUP_RAY = "start-up: `swerve run` to the first answered call, against `ray start` and `serve run`"
MEMORY_RAY = "memory of an idle instance with one replica, all of its processes, against Ray Serve"
MEMORY = "resident memory of an instance with one replica, idle after 10,000 calls"
LEAKS = "growth after 10,000 calls and many rounds of deploying and deleting an application"

CALLS = 10_000
RAY_ROUNDS = 3
# What an instance does only after its start has been done by then.
IDLE_S = 5.0
# Rounds before the first look: caches fill and allocators find their size.
WARM_UP_ROUNDS = 20
ROUND_TIMEOUT_S = 30.0
SETTLE_TIMEOUT_S = 60.0
INFRASTRUCTURE = ("agent", "controller", "proxy")


def startup(rounds: int) -> Result:
    """Start Swerve anew `rounds` times."""
    samples = [timed_start(swerve()) for _ in range(rounds)]
    return Result("startup", STARTUP, [Goal("seconds", at_most=2)], {"swerve": samples})


def startup_ray(rounds: int) -> Result:
    """Start Swerve and Ray Serve in turns; Ray's time includes that of `ray start`, as nothing serves without it."""
    goals = [Goal("seconds", at_most=0.2, over="ray")]
    if absent := ray().absent:
        return Result("startup-ray", STARTUP_RAY, goals, skipped=absent)
    at_once = Contender("ray", partial(serve, "serve_app:aio", {}, 0))
    samples: dict[str, list[Figures]] = {"swerve": [], "ray": []}
    for _ in range(min(rounds, RAY_ROUNDS)):
        for contender in (swerve(), at_once):
            samples[contender.name].append(timed_start(contender))
    return Result("startup-ray", STARTUP_RAY, goals, samples)


def timed_start(contender: Contender) -> Figures:
    began = time.perf_counter()
    with contender.serve() as server:
        unary().check(server.address)
        return {"seconds": time.perf_counter() - began}


def memory_ray() -> Result:
    """Both after one call. A page that processes share counts once (`pss`)."""
    goals = [Goal("pss_mb", at_most=0.2, over="ray")]
    if absent := ray().absent:
        return Result("memory-ray", MEMORY_RAY, goals, skipped=absent)
    figures = {contender.name: [idle_memory(contender)] for contender in (swerve(), ray())}
    return Result("memory-ray", MEMORY_RAY, goals, figures)


def idle_memory(contender: Contender) -> Figures:
    with contender.serve() as server:
        unary().check(server.address)
        time.sleep(IDLE_S)
        pids = server.pids()
        everything = [pid for found in pids.values() for pid in found]
        return {
            "pss_mb": proc.pss_mb(everything),
            "rss_mb": proc.rss_mb(everything),
            "processes": float(len(everything)),
            **{f"pss_mb.{role}": proc.pss_mb(found) for role, found in pids.items()},
        }


def memory() -> Result:
    with swerve().serve() as server:
        make_calls(server)
        pids = server.pids()
        infrastructure = [pid for role in INFRASTRUCTURE for pid in pids[role]]
        figures = {
            "rss_mb.together": proc.rss_mb(infrastructure),
            "pss_mb.together": proc.pss_mb(infrastructure),
            **{f"rss_mb.{role}": proc.rss_mb(pids[role]) for role in (*INFRASTRUCTURE, "replica")},
        }
    return Result("memory", MEMORY, [Goal("rss_mb.together", at_most=150)], {"swerve": [figures]})


def make_calls(server: Server) -> None:
    """Make `CALLS` calls, one by one or with h2load where it is installed."""
    method = unary()
    method.check(server.address)
    if h2load.installed():
        h2load.run(server.address, method.load(8, 8), CALLS)
    else:
        for _ in range(CALLS):
            method.check(server.address)


def leaks(rounds: int) -> Result:
    """Look at the processes before and after calls and `rounds` rounds; they may not have grown."""
    with swerve().serve() as server:
        make_calls(server)
        deploy_rounds(server, WARM_UP_ROUNDS)
        before = settled(server, None)
        make_calls(server)
        deploy_rounds(server, rounds)
        after = settled(server, before)
    grown: Figures = {
        "processes_grown": float(sum(after.processes.values()) - sum(before.processes.values())),
        "files_grown": float(sum(after.files.values()) - sum(before.files.values())),
        **{f"rss_mb_grown.{role}": after.rss_mb[role] - before.rss_mb[role] for role in before.rss_mb},
    }
    goals = [Goal("processes_grown", at_most=0), Goal("files_grown", at_most=0)]
    # A page more or less is the allocator's; a kilobyte lost in each of 200 rounds is not.
    goals += [Goal(f"rss_mb_grown.{role}", at_most=2) for role in before.rss_mb]
    return Result("leaks", f"{LEAKS} ({rounds} rounds)", goals, {"swerve": [grown]})


@dataclass(frozen=True, slots=True)
class Look:
    """An instance's processes at one moment, by role."""

    processes: Mapping[str, int]
    files: Mapping[str, int]
    rss_mb: Mapping[str, float]


def look(server: Server) -> Look:
    pids = server.pids()
    return Look(
        {role: len(found) for role, found in pids.items()},
        {role: proc.open_files(found) for role, found in pids.items()},
        {role: proc.rss_mb(found) for role, found in pids.items()},
    )


def settled(server: Server, before: Look | None) -> Look:
    """Look once only the application's own replica runs and no more files are open than `before`, or time runs out."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        now = look(server)
        quiet = now.processes.get("replica") == 1 and (before is None or now.files == before.files)
        if quiet or time.monotonic() > deadline:
            return now
        time.sleep(0.5)


def deploy_rounds(server: Server, rounds: int) -> None:
    """Deploy and delete an application `rounds` times, from a program of its own."""
    script = Path(__file__).parent / "workloads" / "deploy_rounds.py"
    command = [sys.executable, str(script), str(rounds)]
    variables = environment(PATH) | {"SWERVE_STATE_DIR": str(server.state_dir)}
    subprocess.run(command, env=variables, check=True, timeout=ROUND_TIMEOUT_S * rounds)
