"""An instance with gRPC and HTTP for the tests of canaries that can share it, and the calls of its clients."""

import contextlib
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest

from tests.conftest import find_free_port, processes_of, wait_for


@dataclass
class Load:
    """What the calls of some clients, one after the other each, have answered so far."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def calls(self) -> int:
        return sum(self.answers.values()) + sum(self.failures.values())

    def until(self, more: int) -> None:
        """Wait for so many more calls."""
        wanted = self.calls + more
        wait_for(lambda: self.calls >= wanted, 40, f"{more} more calls")


@dataclass(frozen=True)
class Shop:
    """A running instance."""

    grpc_port: int
    http_port: int
    state_dir: Path
    probe: SimpleNamespace

    @contextlib.contextmanager
    def stub(self) -> Iterator[Any]:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"localhost:{self.grpc_port}", options=options) as channel:
            yield self.probe.rpc.ProbeStub(channel)

    def ask(self, app: str, text: str = "", timeout: float = 20, **metadata: str) -> str:
        """What one call is answered."""
        with self.stub() as stub:
            return self.call(stub, app, text, timeout, **metadata)

    def call(self, stub: Any, app: str, text: str = "", timeout: float = 20, **metadata: str) -> str:
        fields = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        note = self.probe.pb.Note(text=text)
        return str(stub.Unary(note, timeout=timeout, metadata=(("application", app), *fields)).text)

    def url(self, app: str) -> str:
        return f"http://127.0.0.1:{self.http_port}/{app}"

    @contextlib.contextmanager
    def under_load(self, app: str, clients: int = 4, *, http: bool = False) -> Iterator[Load]:
        """Calls of an application while the block runs."""
        load, stop = Load(), threading.Event()

        def grpc_client() -> None:
            with self.stub() as stub:
                while not stop.is_set():
                    try:
                        load.answers[self.call(stub, app)] += 1
                    except grpc.RpcError as error:
                        load.failures[f"{error.code().name}: {error.details()}"] += 1

        def http_client() -> None:
            with httpx.Client(timeout=20) as client:
                while not stop.is_set():
                    answer = client.get(self.url(app))
                    book = load.answers if answer.status_code == 200 else load.failures
                    book[answer.text] += 1

        threads = [threading.Thread(target=http_client if http else grpc_client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)

    def log(self, part: str) -> str:
        """The logs of the processes with `part` in their names."""
        return "".join(path.read_text() for path in (self.state_dir / "logs").glob(f"*{part}*.log"))


@pytest.fixture(scope="package")
def shop(proto_dir: Path, probe: SimpleNamespace) -> Iterator[Shop]:
    """The instance; this process's API uses it."""
    import swerve as serve
    from swerve.config import gRPCOptions

    state_dir = Path(tempfile.mkdtemp(prefix="swerve-"))
    grpc_port, http_port = find_free_port(), find_free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWERVE_STATE_DIR", str(state_dir))
        options = gRPCOptions(port=grpc_port, grpc_servicer_functions=[probe.add])
        serve.start(grpc_options=options, http_options={"port": http_port})
        try:
            yield Shop(grpc_port, http_port, state_dir, probe)
        finally:
            serve.shutdown()
            wait_for(lambda: not processes_of(state_dir), 30, f"the end of the processes of {state_dir}")
            shutil.rmtree(state_dir)
