"""The contenders as real processes: Swerve as shipped, and those of one process. Ray Serve is in `ray_serve`."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from benchmarks import proc
from examples.support import compile_proto, environment, free_port, running, stop

HERE = Path(__file__).parent
BUILD = HERE / "build"
WORKLOADS = HERE / "workloads"
PATH = (WORKLOADS, BUILD)
SERVICER = "bench_pb2_grpc.add_BenchServicer_to_server"
START_TIMEOUT_S = 30.0

# What a process of Swerve's is, by the module that its command line names, and the command in the foreground.
ROLES = {
    "swerve.engine.agent": "agent",
    "swerve.control.process": "controller",
    "swerve.proxy.process": "proxy",
    "swerve.replica.process": "replica",
    "swerve run": "command",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running contender. `pids` names its processes of this moment by their role. One that never `rests` works
    while nobody calls it."""

    address: str
    pids: Callable[[], Mapping[str, list[int]]]
    state_dir: Path | None = None
    rests: bool = True


@dataclass(frozen=True, slots=True)
class Contender:
    """Something to measure. `absent` says why it cannot be started here, where that is so."""

    name: str
    serve: Callable[[], AbstractContextManager[Server]]
    absent: str = ""


def swerve(target: str = "serve_app:aio", *arguments: str) -> Contender:
    """Swerve with one proxy and the application `target` of benchmarks/workloads, in one replica."""
    return Contender("swerve", partial(_swerve, target, arguments))


def grpc_aio(handler: str = "aio") -> Contender:
    """A bare grpc.aio server with the servicer `handler` of workloads/grpc_aio_server.py."""
    return Contender("grpc.aio", partial(_workload, "grpc_aio_server.py", handler))


def engine() -> Contender:
    """The handler straight on the HTTP/2 engine, see workloads/engine_server.py."""
    return Contender("engine", partial(_workload, "engine_server.py"))


def prepare() -> None:
    """Compile the stubs into `benchmarks/build` and make them importable here."""
    compile_proto(HERE / "bench.proto", BUILD)
    sys.path[:0] = map(str, PATH)


@contextlib.contextmanager
def _swerve(target: str, arguments: Sequence[str]) -> Iterator[Server]:
    with running(target, servicers=[SERVICER], path=PATH, options=arguments) as instance:
        yield Server(instance.address, partial(pids_of_instance, instance.state_dir), instance.state_dir)


def pids_of_instance(state_dir: Path) -> dict[str, list[int]]:
    """The processes of the instance in `state_dir` by role. Each of them has the folder in its command line."""
    found: dict[str, list[int]] = {}
    for pid, command in proc.command_lines().items():
        role = next((role for module, role in ROLES.items() if module in command), None)
        if role and str(state_dir) in command:
            found.setdefault(role, []).append(pid)
    return found


@contextlib.contextmanager
def _workload(program: str, *arguments: str) -> Iterator[Server]:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, str(WORKLOADS / program), address, *arguments]
    process = subprocess.Popen(command, env=environment(PATH))
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(START_TIMEOUT_S)
        yield Server(address, lambda: {"server": [process.pid]})
    finally:
        stop(process)
