"""Ray Serve as a contender: an environment of its own below `benchmarks/build`, and `ray start` with `serve run`."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

import yaml

from benchmarks import proc
from benchmarks.servers import BUILD, PATH, SERVICER, Contender, Server
from examples.support import environment, free_port, wait_until_listed

RAY = "2.60.0"
VENV = BUILD / "ray"
READY = VENV / f".ready-{RAY}"
ABSENT = "needs Ray Serve: run with --with-ray, which installs it below benchmarks/build"

# Ray replaces 127.0.0.1 by the machine's outward address; this one it leaves alone.
NODE = "127.0.0.2"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
# The proxies, HAProxy's reloads among them, take some seconds after the first answer to settle.
SETTLE_S = 5.0

THROUGHPUT = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"}

# What a process of Ray's is, by its command line; the rest keeps the cluster together.
ROLES = {
    "ray::ProxyActor": "proxy",
    "ray::ServeReplica": "replica",
    "ray::ServeController": "controller",
    "ray::HAProxyManager": "haproxy",
    "bin/haproxy": "haproxy",
    "bin/serve run": "command",
}


def ray(target: str = "serve_app:aio") -> Contender:
    """Ray Serve as it comes."""
    return _contender("ray", target, {})


def ray_fastest(target: str = "serve_app:aio") -> Contender:
    """Ray Serve with its throughput flags and HAProxy."""
    return _contender("ray-haproxy", target, THROUGHPUT)


def _contender(name: str, target: str, variables: Mapping[str, str]) -> Contender:
    return Contender(name, partial(serve, target, variables), "" if READY.exists() else ABSENT)


def install() -> None:
    """Make the environment `VENV`, once. Its stubs' libraries are those that the stubs were compiled for."""
    if READY.exists():
        return
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    packages = [f"ray[serve-grpc]=={RAY}", "numpy", *(f"{name}=={version(name)}" for name in ("grpcio", "protobuf"))]
    subprocess.run([str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages], check=True)
    READY.touch()


@contextlib.contextmanager
def serve(target: str, variables: Mapping[str, str], settle_s: float = SETTLE_S) -> Iterator[Server]:
    """A head node and `serve run` with `target`; all its processes are stopped at the end."""
    port, head = free_port(), f"{NODE}:{free_port()}"
    # Ray keeps unix sockets in the folder: its name must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(configuration(target, port)))
        log = (folder / "output.log").open("w+b")
        env = surroundings(folder, variables)
        started: list[subprocess.Popen[bytes]] = []
        try:
            command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--temp-dir", name]
            command += ["--node-ip-address", NODE, "--port", head.rpartition(":")[2]]
            started.append(_start(command, env, log.fileno()))
            _wait_for_head(started[0], Path(log.name))
            started.append(_start(["serve", "run", "--address", head, str(config)], env, log.fileno()))
            wait_until_listed(f"127.0.0.1:{port}", started[1], START_TIMEOUT_S)
            time.sleep(settle_s)
            yield Server(f"127.0.0.1:{port}", partial(pids, [process.pid for process in started]), rests=False)
        except BaseException:
            sys.stderr.write(Path(log.name).read_text(errors="replace")[-5000:])
            raise
        finally:
            log.close()
            for process in reversed(started):
                _stop(process)


def configuration(target: str, port: int) -> dict[str, object]:
    application = {"name": "app", "route_prefix": "/", "import_path": target}
    return {
        "http_options": {"host": "127.0.0.1", "port": free_port()},
        "grpc_options": {"port": port, "grpc_servicer_functions": [SERVICER]},
        "applications": [application],
    }


def surroundings(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of Ray's processes: its own commands first, and HAProxy's files in `folder`."""
    haproxy = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": folder / "haproxy" / "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": folder / "haproxy" / "admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder / "haproxy",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": folder / "haproxy" / "server-state",
    }
    return {
        **environment(PATH),
        "PATH": os.pathsep.join([str(VENV / "bin"), os.environ["PATH"]]),
        "SERVE": "ray.serve",
        "RAY_USAGE_STATS_ENABLED": "0",
        **{name: str(path) for name, path in haproxy.items()},
        **variables,
    }


def pids(sessions: list[int]) -> dict[str, list[int]]:
    """The processes of `sessions` by role. Ray's leave their process group, but not their session."""
    found: dict[str, list[int]] = {}
    for pid, command in proc.command_lines().items():
        if command and proc.session(pid) in sessions:
            role = next((role for part, role in ROLES.items() if part in command), "cluster")
            found.setdefault(role, []).append(pid)
    return found


def _start(command: list[str], env: dict[str, str], log: int) -> subprocess.Popen[bytes]:
    command[0] = str(VENV / "bin" / command[0])
    return subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def _wait_for_head(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while "Ray runtime started" not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"`ray start` did not start a node in {START_TIMEOUT_S:.0f} s")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends `process` and all of its session: what is left over after it is killed, as `ray stop` would."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    for pid in proc.command_lines():
        if proc.session(pid) == process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait(STOP_TIMEOUT_S)
