"""What tests of several rooms need: compiled test protos, state folders, instances, the commands."""

import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import trustme

PROTOS = Path(__file__).parent / "protos"
# The commands run the code that is tested, whatever is installed.
SOURCES = Path(__file__).parents[1] / "src"


def wait_for(condition: Callable[[], object], timeout_s: float = 20, what: str = "the condition") -> object:
    """The first true value of `condition`, asked again and again."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout_s} s")
        time.sleep(0.02)


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def free_port() -> int:
    return find_free_port()


@contextlib.contextmanager
def compiled_protos() -> Iterator[Path]:
    """A folder with the compiled test protos; on `sys.path` while the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="swerve-protos-"))
    files = [str(path.relative_to(PROTOS)) for path in sorted(PROTOS.rglob("*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"--python_out={folder}"]
    subprocess.run([*command, f"--grpc_python_out={folder}", *files], check=True, timeout=60)
    sys.path.insert(0, str(folder))
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def proto_dir() -> Iterator[Path]:
    """A folder with the compiled test protos; on `sys.path` while tests run."""
    with compiled_protos() as folder:
        yield folder


@pytest.fixture(scope="session")
def probe(proto_dir: Path) -> SimpleNamespace:
    """`probe.pb` and `probe.rpc`: the modules made from probe.proto; `probe.add`: its servicer function's path."""
    pb: ModuleType = importlib.import_module("probe_pb2")
    rpc: ModuleType = importlib.import_module("probe_pb2_grpc")
    return SimpleNamespace(pb=pb, rpc=rpc, add="probe_pb2_grpc.add_ProbeServicer_to_server")


# ---------------------------------------------------------------------------------------------------------------------
# Certificates


class Authority:
    """A certificate authority with its files in `folder`, for `localhost` and for clients."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.ca_certs = str(folder / "ca.pem")
        self.ca.cert_pem.write_to_path(self.ca_certs)

    @property
    def ca_pem(self) -> bytes:
        return self.ca.cert_pem.bytes()

    def issue(self, name: str, *identities: str, **options: str) -> tuple[str, str]:
        """The paths of a new key and its certificate for `identities`; those of the same `name` are replaced."""
        certificate = self.ca.issue_cert(*(identities or ("localhost", "127.0.0.1")), **options)
        key, chain = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        certificate.private_key_pem.write_to_path(str(key))
        certificate.cert_chain_pems[0].write_to_path(str(chain))
        return str(key), str(chain)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Instances


def processes_of(state_dir: Path) -> list[int]:
    """Processes that name the state folder in their command line, other than test runners."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if any(word.startswith(str(state_dir).encode()) for word in words):
                    found.append(int(entry.name))
    return found


@pytest.fixture
def state_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder that this process and the commands it runs use. At the end no process of it may be left."""
    # Short, because the sockets in it must fit 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="swerve-"))
    monkeypatch.setenv("SWERVE_STATE_DIR", str(folder))
    yield folder
    from swerve import instances

    # A test may have pointed elsewhere meanwhile.
    monkeypatch.setenv("SWERVE_STATE_DIR", str(folder))
    with contextlib.suppress(Exception):
        running = instances.connected()
        if running is not None:
            instances.shut_down(running)
    instances.disconnect()
    try:
        wait_for(lambda: not processes_of(folder), 20, f"the end of the processes of {folder}")
    finally:
        for pid in processes_of(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Served:
    """An instance that serves the test protos' Probe service."""

    port: int

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"


@pytest.fixture
def instance(state_dir: Path, probe: SimpleNamespace, free_port: int) -> Served:
    """A running instance; `serve.run` in the test uses it."""
    import swerve as serve
    from swerve.config import gRPCOptions

    serve.start(grpc_options=gRPCOptions(port=free_port, grpc_servicer_functions=[probe.add]))
    return Served(free_port)


# ---------------------------------------------------------------------------------------------------------------------
# Commands


@dataclass(frozen=True)
class Commands:
    """Runs `swerve` as a user does, in `cwd`."""

    cwd: Path
    import_dirs: tuple[Path, ...]

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join(str(folder) for folder in (SOURCES, *self.import_dirs))
        return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "NO_COLOR": "1"}

    def __call__(self, *arguments: str, timeout_s: float = 45) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "swerve.cli", *arguments]
        return subprocess.run(
            command,
            cwd=self.cwd,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    @contextlib.contextmanager
    def foreground(self, *arguments: str, module: str = "swerve.cli") -> Iterator[subprocess.Popen[str]]:
        """The command while it runs; it is interrupted at the end unless it has ended."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.cwd,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise


@pytest.fixture
def swerve_command(tmp_path: Path, state_dir: Path, proto_dir: Path) -> Commands:
    """The `swerve` command in an empty folder, with the test protos importable and the test's own state folder."""
    return Commands(tmp_path, (proto_dir,))
