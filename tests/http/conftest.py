"""One instance with all applications that the HTTP tests share."""

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conftest import find_free_port, processes_of, wait_for


@dataclass(frozen=True)
class Web:
    """A running instance with HTTP."""

    port: int
    state_dir: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self, part: str) -> str:
        """The log of the processes with `part` in their names."""
        return "".join(path.read_text() for path in (self.state_dir / "logs").glob(f"*{part}*.log"))


@pytest.fixture(scope="package")
def web() -> Iterator[Web]:
    """The instance; `/name` leads to each application of the lab."""
    import swerve as serve

    apps = importlib.import_module("http_lab").APPS
    state_dir = Path(tempfile.mkdtemp(prefix="swerve-"))
    port = find_free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWERVE_STATE_DIR", str(state_dir))
        serve.start(http_options={"port": port})
        try:
            serve.run_many([serve.RunTarget(app, name, f"/{name}") for name, app in apps.items()])
            yield Web(port, state_dir)
        finally:
            serve.shutdown()
            wait_for(lambda: not processes_of(state_dir), 30, f"the end of the processes of {state_dir}")
            shutil.rmtree(state_dir)


@pytest.fixture
def client(web: Web) -> Iterator[httpx.Client]:
    """A client of the instance."""
    with httpx.Client(base_url=web.url, timeout=20) as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that does not exist yet; handlers that are told its path wait until it does."""
    return tmp_path / "gate"
