"""What the controller needs of an engine: start and end processes, hear of their ends, list those that run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

# What the controller and the agent tell each other are lines of at most this many bytes.
MAX_LINE = 4 << 20


class EngineError(Exception):
    """The engine could not do what was asked; the message says why."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to start.

    `payload` reaches it as a private file whose path is the last argument of its command line. `env` is laid over the
    engine's own environment.
    """

    id: str
    module: str
    payload: bytes
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A process that runs. `started_s` is in seconds since the epoch."""

    id: str
    pid: int
    started_s: float


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """A process that ended. `code` is negative for a signal, None when nobody was there to see it."""

    id: str
    code: int | None


class Engine(Protocol):
    """Starts and ends processes. Ids are never used again, so commands may be repeated."""

    async def open(self, on_exit: Callable[[ProcessExit], None], on_lost: Callable[[EngineError], None]) -> None:
        """Connect; from now on `on_exit` is called once for each process that ends.

        `on_lost` is called when the engine cannot go on; it has ended all processes then.
        """
        ...

    async def start(self, spec: ProcessSpec) -> RunningProcess:
        """Start a process, or return the one that has this id already.

        Raises:
            EngineError: it cannot be started.
        """
        ...

    async def stop(self, process_id: str) -> None:
        """Ask a process to end (SIGTERM). One that is gone is no error."""
        ...

    async def kill(self, process_id: str) -> None:
        """End a process and all that it started (SIGKILL). One that is gone is no error."""
        ...

    async def list(self) -> tuple[RunningProcess, ...]:
        """The replica and proxy processes that run."""
        ...

    async def ending(self, within_s: float) -> None:
        """Say that the instance ends: what still runs when the controller exits, or after `within_s`, is ended."""
        ...

    async def close(self) -> None:
        """Disconnect; what runs goes on running."""
        ...
