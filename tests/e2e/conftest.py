"""One instance with all applications for the tests that can share it, and one with other gRPC options."""

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.conftest import SOURCES, find_free_port, processes_of, wait_for

HERE = Path(__file__).parent
# The applications are imported by their own names, here and in replicas.
sys.path.insert(0, str(HERE))

from e2e_support import Client  # noqa: E402 (the path is set above)

SERVICERS = ("lab_pb2_grpc.add_LabServicer_to_server", "probe_pb2_grpc.add_ProbeServicer_to_server")


@dataclass(frozen=True)
class World:
    """A running instance and a channel to it."""

    port: int
    state_dir: Path
    client: Client

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `swerve` for this instance."""
        protos = Path(importlib.import_module("probe_pb2").__file__ or "").parent
        return command(*arguments, state_dir=self.state_dir, proto_dir=protos)

    def program(self, code: str) -> subprocess.Popen[str]:
        """A program that is connected to this instance. The caller waits for its end."""
        protos = Path(importlib.import_module("probe_pb2").__file__ or "").parent
        pipe = subprocess.PIPE
        where = environment(self.state_dir, protos)
        return subprocess.Popen([sys.executable, "-c", code], env=where, stdin=pipe, stdout=pipe, text=True)

    @contextlib.contextmanager
    def in_background(self, *arguments: str) -> Iterator[None]:
        """Run `swerve` for this instance while the block runs, and wait for its end."""
        protos = Path(importlib.import_module("probe_pb2").__file__ or "").parent
        process = subprocess.Popen(
            [sys.executable, "-m", "swerve.cli", *arguments],
            env=environment(self.state_dir, protos),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            assert process.wait(50) == 0

    def deploy(self, config: str) -> None:
        """Apply a config file and wait until its applications run."""
        path = self.state_dir / "test.yaml"
        path.write_text(config)
        self.command("deploy", str(path))
        wait_for(lambda: "RUNNING" in self.command("status").stdout, 30, "a running application")

    def new_client(self, app: str | None = "lab") -> Client:
        """A client with a connection of its own; the caller closes its channel."""
        return connect(self.port, app)


def connect(port: int, app: str | None = "lab") -> Client:
    channel = grpc.insecure_channel(
        f"localhost:{port}",
        options=[
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ],
    )
    pb = importlib.import_module("probe_pb2")
    lab = importlib.import_module("lab_pb2_grpc").LabStub(channel)
    probe = importlib.import_module("probe_pb2_grpc").ProbeStub(channel)
    return Client(channel, pb, lab, probe, app)


def remove(state_dir: Path) -> None:
    wait_for(lambda: not processes_of(state_dir), 30, f"the end of the processes of {state_dir}")
    shutil.rmtree(state_dir)


@pytest.fixture(scope="package")
def world(proto_dir: Path) -> Iterator[World]:
    """The instance of most tests, made in Python; this process's handles use it."""
    import swerve as serve
    from swerve.config import gRPCOptions

    apps = importlib.import_module("e2e_lab")
    state_dir = Path(tempfile.mkdtemp(prefix="swerve-"))
    port = find_free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWERVE_STATE_DIR", str(state_dir))
        grpc_options = gRPCOptions(port=port, grpc_servicer_functions=list(SERVICERS))
        serve.start(grpc_options=grpc_options, http_options={"port": 0})
        try:
            names = ("lab", "narrow", "pool", "models", "func", "kinds")
            serve.run_many([serve.RunTarget(getattr(apps, name), name, f"/{name}") for name in names])
            client = connect(port)
            yield World(port, state_dir, client)
            client.channel.close()
        finally:
            serve.shutdown()
            remove(state_dir)


@pytest.fixture(scope="package")
def client(world: World) -> Client:
    """A client of the lab application."""
    return world.client


TUNED = """
http_options:
  port: 0
grpc_options:
  port: {port}
  grpc_servicer_functions: {servicers}
  request_timeout_s: 1.5
  strict_application: true
  keep_status_on_exception: true
  max_message_size: 100000
  num_proxies: 2
  handshake_timeout_s: 0.5
  max_connections_per_client: 20
applications:
  - name: lab
    route_prefix: /lab
    import_path: e2e_lab:lab
    deployments:
      - name: Lab
        max_ongoing_requests: 4
"""


def environment(state_dir: Path, proto_dir: Path) -> dict[str, str]:
    path = os.pathsep.join((str(SOURCES), str(proto_dir), str(HERE)))
    return {**os.environ, "PYTHONPATH": path, "SWERVE_STATE_DIR": str(state_dir), "NO_COLOR": "1"}


def command(*arguments: str, state_dir: Path, proto_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "swerve.cli", *arguments],
        env=environment(state_dir, proto_dir),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )


@pytest.fixture(scope="package")
def tuned(proto_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An instance from a config file: two proxies, a short timeout, small messages, a strict `application`."""
    state_dir = Path(tempfile.mkdtemp(prefix="swerve-"))
    port = find_free_port()
    config = tmp_path_factory.mktemp("tuned") / "config.yaml"
    config.write_text(TUNED.format(port=port, servicers=list(SERVICERS)))
    log = config.with_name("run.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "swerve.cli", "run", str(config)],
            env=environment(state_dir, proto_dir),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    client = connect(port)
    try:
        wait_for(lambda: process.poll() is not None or _answers(client), 40, "the first answer")
        assert process.poll() is None, log.read_text()
        yield World(port, state_dir, client)
    finally:
        client.channel.close()
        if process.poll() is None:
            process.send_signal(2)
        process.wait(40)
        remove(state_dir)


def _answers(client: Client) -> bool:
    try:
        client.ask("__call__", "probe", timeout=1)
    except grpc.RpcError:
        return False
    return True


@pytest.fixture
def bare(proto_dir: Path) -> Iterator[World]:
    """An instance of the test's own, without applications, made by `swerve start`."""
    state_dir = Path(tempfile.mkdtemp(prefix="swerve-"))
    port = find_free_port()
    servicers = [word for servicer in SERVICERS for word in ("--grpc-servicer-functions", servicer)]
    where = {"state_dir": state_dir, "proto_dir": proto_dir}
    command("start", "--grpc-port", str(port), "--http-port", "0", *servicers, **where)
    client = connect(port)
    try:
        yield World(port, state_dir, client)
    finally:
        client.channel.close()
        with contextlib.suppress(subprocess.CalledProcessError):
            # The test may have done it.
            command("shutdown", "-y", **where)
        remove(state_dir)
