"""The instance under chaos, from outside: started and deployed by the commands, its processes found and killed."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from swerve.control.client import ControllerClient
from swerve.engine import presence
from swerve.engine.layout import Layout
from swerve.generated import control_pb2 as pb
from swerve.wire.status import RpcError
from tests.conftest import PROTOS, processes_of

ROOT = Path(__file__).parents[2]
REPLICA, PROXY, CONTROLLER, AGENT = "replica", "proxy", "controller", "agent"
# How long anything may take to come back before the run gives up.
PATIENCE_S = 60.0
_POLL_S = 0.01
_STATUS_TIMEOUT_S = 5.0

CONFIG = """
applications:
  - name: chaos
    route_prefix: /chaos
    import_path: tests.chaos.chaos_app:app
    runtime_env: {{env_vars: {{CHAOS_VERSION: "{version}"}}}}
    deployments:
      - {{name: Front, num_replicas: {front}, user_config: {{generation: {generation}}}}}
      - {{name: Back, num_replicas: {back}}}
"""


@dataclass(frozen=True, slots=True)
class Process:
    kind: str
    id: str
    pid: int


@dataclass
class Cluster:
    """One instance, which lives in `folder`. `wanted` is what was deployed last."""

    folder: Path
    port: int
    probe: SimpleNamespace
    journal: Path
    wanted: dict[str, int] = field(default_factory=lambda: {"version": 1, "front": 3, "back": 2, "generation": 1})

    @property
    def layout(self) -> Layout:
        return Layout(self.folder)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    # -- commands -----------------------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> str:
        """Run `swerve`; what it printed.

        Raises:
            AssertionError: it failed.
        """
        protos = str(Path(self.probe.pb.__file__).parent)
        path = os.pathsep.join((protos, str(ROOT), os.environ.get("PYTHONPATH", "")))
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "SWERVE_STATE_DIR": str(self.folder),
            "CHAOS_JOURNAL": str(self.journal),
            "NO_COLOR": "1",
        }
        ended = subprocess.run(
            [sys.executable, "-m", "swerve.cli", *arguments],
            env=environment,
            cwd=PROTOS,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert ended.returncode == 0, f"swerve {' '.join(arguments)}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def start(self) -> None:
        """As after a reboot: what was deployed comes back by itself."""
        self.command(
            "start", "--grpc-port", str(self.port), "--grpc-host", "127.0.0.1", "--http-port", "0",
            "--grpc-servicer-functions", self.probe.add,
        )  # fmt: skip

    def deploy(self, **changes: int) -> None:
        self.wanted.update(changes)
        path = self.journal / "config.yaml"
        path.write_text(CONFIG.format(**self.wanted))
        self.command("deploy", str(path))

    def shutdown(self) -> None:
        self.command("shutdown", "-y")

    # -- processes ----------------------------------------------------------------------------------------------------

    def processes(self, kind: str | None = None) -> list[Process]:
        """What runs, as the state folder tells: no controller is asked."""
        found = [Process(_kind_of(name), name, identity.pid) for name, identity in presence.recorded(self.layout)]
        if presence.agent_runs(self.layout):
            with contextlib.suppress(OSError, ValueError):
                found.append(Process(AGENT, AGENT, int(self.layout.lock.read_text())))
        return [process for process in found if kind in (None, process.kind)]

    def reboot(self) -> None:
        """End every process at once."""
        while pids := processes_of(self.folder):
            for pid in pids:
                kill(pid)
            time.sleep(_POLL_S)

    def status(self) -> pb.InstanceStatus | None:
        """None while no controller answers."""

        async def ask() -> pb.InstanceStatus:
            client = ControllerClient(self.layout.controller_address)
            try:
                async with asyncio.timeout(_STATUS_TIMEOUT_S):
                    return await client.status()
            finally:
                await client.close()

        try:
            return asyncio.run(ask())
        except (RpcError, TimeoutError):
            return None

    def is_whole(self) -> bool:
        """Whether everything that was deployed runs, nothing else does, and the controller has seen it so."""
        status = self.status()
        if status is None or not self.listens():
            return False
        deployments = {item.name: item for app in status.applications for item in app.deployments}
        if {name: len(item.replicas) for name, item in deployments.items()} != {
            "Front": self.wanted["front"],
            "Back": self.wanted["back"],
        }:
            return False
        replicas = [replica for item in deployments.values() for replica in item.replicas]
        told = {replica.pid for replica in replicas} | {proxy.pid for proxy in status.proxies}
        return (
            all(item.status == "HEALTHY" for item in deployments.values())
            and all(replica.state == "RUNNING" for replica in replicas)
            and told == {process.pid for process in self.processes() if process.kind in (REPLICA, PROXY)}
        )

    def listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _kind_of(process_id: str) -> str:
    if process_id == presence.CONTROLLER:
        return CONTROLLER
    return PROXY if process_id.startswith("proxy-") else REPLICA


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def seconds_until(condition: Callable[[], object], what: str) -> float:
    """How long it took to come true.

    Raises:
        AssertionError: it did not.
    """
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE_S, f"{what} did not come true within {PATIENCE_S:g} s"
        time.sleep(_POLL_S)
    return time.monotonic() - began


def memory_kib(pid: int) -> int:
    """Resident memory, 0 if the process has ended."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
    return 0


def open_files(pid: int) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0
