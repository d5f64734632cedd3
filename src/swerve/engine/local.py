"""The local engine: the agent's command socket, and a new agent when the old one has died."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from swerve.engine.base import MAX_LINE, EngineError, ProcessExit, ProcessSpec, RunningProcess
from swerve.engine.launch import revive_agent
from swerve.engine.layout import Layout
from swerve.engine.presence import NoInstance, end_processes
from swerve.engine.procfs import ProcessIdentity, identify

logger = logging.getLogger("swerve.engine")

# How long a command may take, the agent's own restart included.
_COMMAND_TIMEOUT_S = 10.0
_RECONNECT_S = 0.05
# The agent is started again when nobody has answered on its socket for this long.
_REVIVE_AFTER_S = 0.25


class LocalEngine:
    """Processes of this machine, run by the agent of the state folder."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._on_exit: Callable[[ProcessExit], None] = lambda exit_: None
        self._on_lost: Callable[[EngineError], None] = lambda error: None
        # What runs, for the day when no agent does.
        self._identities: dict[str, ProcessIdentity] = {}
        self._running: set[str] = set()
        self._starting: set[str] = set()
        self._seq = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._revived: subprocess.Popen[bytes] | None = None
        self._ending = False

    async def open(self, on_exit: Callable[[ProcessExit], None], on_lost: Callable[[EngineError], None]) -> None:
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._task = asyncio.get_running_loop().create_task(self._stay_connected())
        await self.list()

    async def start(self, spec: ProcessSpec) -> RunningProcess:
        path = self._layout.of_process(spec.id, "spec")
        path.touch(mode=0o600)
        path.write_bytes(spec.payload)
        argv = [sys.executable, "-m", spec.module, str(path)]
        # Before the answer: the exit of a process that ends at once may be read before the answer is seen here.
        self._running.add(spec.id)
        self._starting.add(spec.id)
        try:
            answer = await self._command(op="start", id=spec.id, argv=argv, env=dict(spec.env), cwd=spec.cwd)
        except EngineError:
            self._running.discard(spec.id)
            path.unlink(missing_ok=True)
            raise
        finally:
            self._starting.discard(spec.id)
        self._remember(spec.id, answer["pid"])
        return RunningProcess(spec.id, answer["pid"], answer["started_s"])

    async def stop(self, process_id: str) -> None:
        await self._command(op="signal", id=process_id, signal="SIGTERM")

    async def kill(self, process_id: str) -> None:
        await self._command(op="signal", id=process_id, signal="SIGKILL")

    async def list(self) -> tuple[RunningProcess, ...]:
        answer = await self._command(op="list")
        running = tuple(RunningProcess(**process) for process in answer["processes"])
        self._running.update(process.id for process in running)
        for process in running:
            self._remember(process.id, process.pid)
        return running

    def _remember(self, process_id: str, pid: int) -> None:
        identity = identify(pid)
        if identity is not None and process_id in self._running:
            self._identities[process_id] = identity

    async def ending(self, within_s: float) -> None:
        await self._command(op="ending", within_s=within_s)
        # Not before: an agent that has died must come back to hear it.
        self._ending = True

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._disconnected()

    async def _command(self, **command: Any) -> dict[str, Any]:
        """The agent's answer. Commands may be repeated, so one that a dying agent left open is sent to the next."""
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT_S):
                while True:
                    await self._connected.wait()
                    with contextlib.suppress(ConnectionError):
                        answer = await self._exchange(command)
                        break
        except TimeoutError as error:
            raise EngineError(f"The agent did not answer within {_COMMAND_TIMEOUT_S:g} s.") from error
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer

    async def _exchange(self, command: dict[str, Any]) -> dict[str, Any]:
        if self._writer is None:
            raise ConnectionError
        seq = next(self._seq)
        self._waiting[seq] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(json.dumps({"seq": seq, **command}).encode() + b"\n")
            return await self._waiting[seq]
        finally:
            del self._waiting[seq]

    # -- the connection -----------------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        path = str(self._layout.agent_socket)
        loop = asyncio.get_running_loop()
        tried_at = loop.time()
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(path, limit=MAX_LINE)
            except OSError:
                hopeless = not self._layout.run.is_dir()
                if not hopeless and loop.time() - tried_at > _REVIVE_AFTER_S and not self._ending:
                    hopeless = not await self._revive()
                    tried_at = loop.time()
                if hopeless:
                    await self._give_up()
                    return
                await asyncio.sleep(_RECONNECT_S)
                continue
            self._connected.set()
            # A second task compares what runs with what ran: exits that no agent saw.
            check = loop.create_task(self._compare())
            try:
                await self._read(reader)
            finally:
                check.cancel()
                self._disconnected()
            tried_at = loop.time()

    async def _give_up(self) -> None:
        """End what runs and forget it: nobody could any more."""
        error = EngineError("The agent has ended and cannot be started again; the instance ends.")
        logger.error(str(error))
        await asyncio.to_thread(end_processes, tuple(self._identities.values()))
        with contextlib.suppress(OSError):
            self._layout.remove_run_files()
        self._on_lost(error)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                message = json.loads(line)
                if "exit" in message:
                    self._exited(ProcessExit(**message["exit"]))
                elif (waiter := self._waiting.get(message["seq"])) is not None and not waiter.done():
                    waiter.set_result(message)

    async def _compare(self) -> None:
        before = self._running - self._starting
        with contextlib.suppress(EngineError):
            now = {process.id for process in await self.list()}
            for process_id in before - now:
                self._exited(ProcessExit(process_id, None))

    def _exited(self, exit_: ProcessExit) -> None:
        if exit_.id in self._running:
            self._running.discard(exit_.id)
            self._identities.pop(exit_.id, None)
            self._on_exit(exit_)

    def _disconnected(self) -> None:
        self._connected.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(ConnectionError())

    async def _revive(self) -> bool:
        """Have an agent again, which adopts this process and all others. False: there is nothing it could continue."""
        if self._revived is not None and self._revived.poll() is None:
            return True
        try:
            self._revived = await asyncio.to_thread(revive_agent, self._layout)
        except NoInstance:
            return False
        except OSError as error:
            logger.warning("the agent does not answer and cannot be started again: %s", error)
            return True
        if self._revived is not None:
            logger.warning("the agent does not answer and is started again")
        return True
