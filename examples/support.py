"""What the examples, their tests and the benchmarks share: compiling a .proto, and `swerve run` for a `with` block."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from swerve.generated import serve_pb2, serve_pb2_grpc

# The command as installed beside this interpreter.
SWERVE = Path(sys.executable).with_name("swerve")

# A replica that imports a large framework takes several seconds on a busy machine.
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """A `swerve run` that answers at `address`; every process of it names `state_dir` in its command line."""

    address: str
    state_dir: Path
    pid: int


def compile_proto(proto: Path, out: Path) -> None:
    """Write `<name>_pb2.py` and `<name>_pb2_grpc.py` for `proto` into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    outputs = [f"--python_out={out}", f"--grpc_python_out={out}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{proto.parent}", *outputs, str(proto)], check=True)


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(path: Sequence[Path]) -> dict[str, str]:
    """This process's environment with the folders `path` first in `PYTHONPATH`."""
    inherited = os.environ.get("PYTHONPATH")
    folders = [str(folder) for folder in path] + ([inherited] if inherited else [])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}


@contextlib.contextmanager
def running(
    target: str, *, servicers: Sequence[str], path: Sequence[Path], options: Sequence[str] = ()
) -> Iterator[Running]:
    """Run `swerve run target` on a free port with a state folder of its own; stop it at the end of the block.

    Raises `RuntimeError` when it does not answer in `START_TIMEOUT_S` or does not stop in `STOP_TIMEOUT_S`; after an
    exception the command's output is printed as well.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="swerve-") as folder:
        state_dir, log = Path(folder) / "state", Path(folder) / "output.log"
        command = [str(SWERVE), "run", target, "--state-dir", str(state_dir), "--grpc-port", str(port)]
        for servicer in servicers:
            command += ["--grpc-servicer-functions", servicer]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *options], env=environment(path), stdout=output, stderr=subprocess.STDOUT
            )
        address = f"127.0.0.1:{port}"
        try:
            wait_until_listed(address, process)
            yield Running(address, state_dir, process.pid)
        except BaseException:
            sys.stderr.write(log.read_text(errors="replace"))
            raise
        finally:
            stop(process)


def wait_until_listed(address: str, process: subprocess.Popen[bytes], timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait until the proxy at `address` lists an application; `RuntimeError` if `process` ends or time runs out."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"`swerve run` ended with code {process.returncode} before it served")
        if applications(address):
            return
        time.sleep(0.02)
    raise RuntimeError(f"`swerve run` did not serve in {timeout_s:.0f} s")


def applications(address: str) -> Sequence[str]:
    """The names of the applications served at `address`, none while nothing answers there."""
    host, _, port = address.rpartition(":")
    # A gRPC channel waits a second after a refused connection: ask the kernel first.
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return ()
    with grpc.insecure_channel(address) as channel:
        try:
            reply = serve_pb2_grpc.RayServeAPIServiceStub(channel).ListApplications(
                serve_pb2.ListApplicationsRequest(), timeout=5
            )
        except grpc.RpcError:
            return ()
    return list(reply.application_names)


def stop(process: subprocess.Popen[bytes], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Interrupt `process` as Ctrl-C does and wait for it; kill it and raise `RuntimeError` when that takes too long."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise RuntimeError(f"the server (pid {process.pid}) did not stop in {timeout_s:.0f} s after SIGINT") from None
