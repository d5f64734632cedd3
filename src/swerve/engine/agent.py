"""The local agent: starts and watches the processes of an instance, the controller among them, and outlives it.

    python -m swerve.engine.agent --state-dir D --lock FD [--owner-pid N]

It uses the standard library only and decides nothing about serving: it restarts the controller, carries out commands
that come over `run/agent.sock`, and tells of exits. One JSON object a line:

    {"seq": 1, "op": "start", "id": "...", "argv": [...], "env": {...}, "cwd": null}  ->  {"seq": 1, "pid": ..., ...}
    {"seq": 2, "op": "signal", "id": "...", "signal": "SIGTERM"}                      ->  {"seq": 2}
    {"seq": 3, "op": "list"}                                       ->  {"seq": 3, "processes": [{"id": ..., ...}]}
    {"seq": 4, "op": "ending", "within_s": 30}                                        ->  {"seq": 4}
    pushed to every connection:                                        {"exit": {"id": "...", "code": 0}}

It ends on SIGTERM, SIGINT, the end of its owner, the loss of its state folder, or the controller's exit after "ending".
Then everything is ended within a bounded time. An instance with an owner leaves no state behind. Who starts an agent
has the state folder's lock and hands it over (`swerve.engine.launch`). Without --owner-pid the agent continues an
instance whose agent has died, owner included; `--owner-pid 0` says that there is none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from swerve.engine import presence
from swerve.engine.base import MAX_LINE
from swerve.engine.layout import Layout
from swerve.engine.presence import CONTROLLER, AgentRecord
from swerve.engine.procfs import ProcessIdentity, identify
from swerve.engine.table import Child, ProcessTable

logger = logging.getLogger("swerve.engine")

# The controller exits with this when only an operator can help; its output says why. What runs is better left to serve.
EXIT_CANNOT_START = 78  # EX_CONFIG of sysexits.h

# How long the controller has to end the instance unless it asks for more: Ray Serve's shutdown tier (30 s).
_GRACEFUL_S = 30.0
# How long processes have between SIGTERM and SIGKILL once the controller is gone.
_TERMINATE_S = 3.0
_BACKOFF_FIRST_S = 0.1
_BACKOFF_LAST_S = 5.0
# A controller that ran this long counts as good: the next restart is immediate.
_BACKOFF_RESET_S = 10.0
# How often the agent looks whether its state folder is still there.
_FOLDER_CHECK_S = 1.0


class _Client:
    """A connection to the command socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.unsent = bytearray()


class Agent:
    """One instance's agent, which holds `lock`. `run` returns when everything has ended."""

    def __init__(self, layout: Layout, lock: int, owner: ProcessIdentity | None) -> None:
        self._layout = layout
        self._lock = lock
        self._owner = owner
        self._table = ProcessTable(layout)
        self._selector = selectors.DefaultSelector()
        self._clients: set[_Client] = set()
        self._timers: dict[str, tuple[float, Callable[[], None]]] = {}
        self._ending = False
        self._backoff_s = 0.0
        self._controller_started = 0.0

    def run(self) -> None:
        self._table.adopt()
        for child in self._table.all():
            self._watch(child)
        self._watch_signals()
        if self._owner is not None:
            self._watch_owner(self._owner)
        self._listen()
        self._after("folder", _FOLDER_CHECK_S, self._check_folder)
        if self._layout.ending.exists():
            self._after("ending", 0.0, partial(self._end, "the agent before this one was ending it"))
        elif self._table.get(CONTROLLER) is None:
            self._start_controller()
        while True:
            timeout = self._run_timers()
            if self._ending and len(self._table) == 0:
                break
            for key, mask in self._selector.select(timeout):
                key.data(mask)

    # -- the controller -----------------------------------------------------------------------------------------------

    def _start_controller(self) -> None:
        argv = [sys.executable, "-m", "swerve.control.process", "--state-dir", str(self._layout.root)]
        self._layout.controller_socket.unlink(missing_ok=True)
        self._controller_started = time.monotonic()
        try:
            self._watch(self._table.start(CONTROLLER, argv, {}, None))
        except (OSError, subprocess.SubprocessError) as error:
            logger.error("cannot start the controller: %s", error)
            self._restart_controller()

    def _restart_controller(self) -> None:
        if time.monotonic() - self._controller_started >= _BACKOFF_RESET_S:
            self._backoff_s = 0.0
        self._after("restart", self._backoff_s, self._start_controller)
        self._backoff_s = min(max(self._backoff_s * 2, _BACKOFF_FIRST_S), _BACKOFF_LAST_S)

    def _controller_exited(self, code: int | None) -> None:
        if self._ending:
            self._terminate()
        elif code == EXIT_CANNOT_START and len(self._table) == 0:
            logger.error("the controller cannot start, see %s", self._layout.output(CONTROLLER))
            self._begin_ending()
            self._terminate()
        elif code == EXIT_CANNOT_START:
            logger.error(
                "the controller cannot start, see %s; what runs serves on, and the controller is tried again in %g s",
                self._layout.output(CONTROLLER),
                _BACKOFF_LAST_S,
            )
            self._after("restart", _BACKOFF_LAST_S, self._start_controller)
        else:
            logger.warning("the controller ended with code %s and is restarted", code)
            self._restart_controller()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _end(self, reason: str) -> None:
        """Ask the controller for a graceful end; asked again, end at once."""
        controller = self._table.get(CONTROLLER)
        if self._ending or controller is None:
            self._begin_ending()
            self._terminate()
            return
        logger.info("ending the instance: %s", reason)
        self._ending_within(_GRACEFUL_S)
        self._table.signal(CONTROLLER, signal.SIGTERM)

    def _begin_ending(self) -> None:
        """From now on who looks for an instance knows that this one is no use any more."""
        self._ending = True
        with contextlib.suppress(OSError):
            if self.owns_folder():
                self._layout.ending.touch(mode=0o600)

    def _ending_within(self, seconds: float) -> None:
        self._begin_ending()
        self._timers.pop("restart", None)
        self._after("terminate", seconds, self._terminate)

    def _terminate(self) -> None:
        for child in self._table.all():
            self._table.signal(child.id, signal.SIGTERM)
        self._timers.clear()
        self._after("kill", _TERMINATE_S, self._kill)

    def _kill(self) -> None:
        for child in self._table.all():
            logger.warning("%s (pid %d) did not end in time and is killed", child.id, child.identity.pid)
            self._table.signal(child.id, signal.SIGKILL)
        self._after("kill", _TERMINATE_S, self._kill)

    def owns_folder(self) -> bool:
        """Whether the state folder is still the one that this agent has locked."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.stat(self._layout.lock), os.fstat(self._lock))
        return False

    def _check_folder(self) -> None:
        if self.owns_folder():
            self._after("folder", _FOLDER_CHECK_S, self._check_folder)
        elif not self._ending:
            logger.error("ending the instance: its state folder %s was removed", self._layout.root)
            self._table.files_are_lost = True
            self._begin_ending()
            # At once: it would remove files of the instance that may live there by now.
            self._table.signal(CONTROLLER, signal.SIGKILL)
            self._terminate()

    # -- what is watched ----------------------------------------------------------------------------------------------

    def _watch(self, child: Child) -> None:
        self._selector.register(child.pidfd, selectors.EVENT_READ, partial(self._exited, child.id))

    def _exited(self, process_id: str, _mask: int) -> None:
        child = self._table.get(process_id)
        if child is None:
            return
        self._selector.unregister(child.pidfd)
        code = self._table.reap(process_id)
        logger.info("%s (pid %d) ended with code %s", process_id, child.identity.pid, code)
        if process_id == CONTROLLER:
            self._controller_exited(code)
            return
        for client in tuple(self._clients):
            self._send(client, {"exit": {"id": process_id, "code": code}})

    def _watch_signals(self) -> None:
        ours, pythons = socket.socketpair()
        ours.setblocking(False)
        pythons.setblocking(False)
        self._wakeup = pythons
        signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            # The wake-up descriptor carries the signal; the handler only keeps the default action away.
            signal.signal(number, lambda _number, _frame: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._selector.register(ours, selectors.EVENT_READ, lambda _mask: self._signalled(ours.recv(64)))

    def _signalled(self, numbers: bytes) -> None:
        for number in numbers:
            self._end(signal.Signals(number).name)

    def _watch_owner(self, owner: ProcessIdentity) -> None:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(owner.pid)
            if owner.is_running():
                self._selector.register(pidfd, selectors.EVENT_READ, partial(self._owner_ended, pidfd))
                return
            os.close(pidfd)
        self._after("owner", 0.0, partial(self._end, "its owner has ended"))

    def _owner_ended(self, pidfd: int, _mask: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        self._end("its owner has ended")

    def _after(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._timers[name] = (time.monotonic() + seconds, action)

    def _run_timers(self) -> float | None:
        """Run what is due; seconds until the next timer, None if there is none."""
        while self._timers:
            name, (due, action) = min(self._timers.items(), key=lambda item: item[1][0])
            if due > time.monotonic():
                return due - time.monotonic()
            del self._timers[name]
            action()
        return None

    # -- the command socket -------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._layout.agent_socket.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._layout.agent_socket))
        self._layout.agent_socket.chmod(0o600)
        listener.listen()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, partial(self._accept, listener))

    def _accept(self, listener: socket.socket, _mask: int) -> None:
        sock, _ = listener.accept()
        sock.setblocking(False)
        client = _Client(sock)
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, partial(self._serve, client))

    def _serve(self, client: _Client, mask: int) -> None:
        if client not in self._clients:
            return  # dropped since the selector reported it
        try:
            if mask & selectors.EVENT_WRITE:
                self._flush(client)
            if mask & selectors.EVENT_READ:
                self._receive(client)
        except OSError:
            self._drop(client)

    def _receive(self, client: _Client) -> None:
        data = client.sock.recv(65536)
        client.received += data
        *lines, client.received = client.received.split(b"\n")
        for line in lines:
            self._send(client, self._answer(bytes(line)))
        if not data or len(client.received) > MAX_LINE:
            self._drop(client)

    def _send(self, client: _Client, message: dict[str, Any]) -> None:
        client.unsent += json.dumps(message).encode() + b"\n"
        try:
            self._flush(client)
        except OSError:
            self._drop(client)

    def _flush(self, client: _Client) -> None:
        with contextlib.suppress(BlockingIOError):
            while client.unsent:
                del client.unsent[: client.sock.send(client.unsent)]
        if len(client.unsent) > MAX_LINE:
            raise OSError("the reader lags")
        if client in self._clients:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)
            self._selector.modify(client.sock, events, partial(self._serve, client))

    def _drop(self, client: _Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._selector.unregister(client.sock)
            client.sock.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        seq: object = None
        try:
            command = json.loads(line)
            seq = command["seq"]
            return {"seq": seq, **self._carry_out(command)}
        except (ValueError, KeyError, TypeError, OSError, subprocess.SubprocessError) as error:
            return {"seq": seq, "error": str(error) or type(error).__name__}

    def _carry_out(self, command: dict[str, Any]) -> dict[str, Any]:
        match command["op"]:
            case "start":
                return self._start(command)
            case "signal":
                self._table.signal(command["id"], signal.Signals[command["signal"]])
                return {}
            case "list":
                running = [child for child in self._table.all() if child.id != CONTROLLER]
                return {"processes": [_described(child) for child in running]}
            case "ending":
                self._ending_within(float(command["within_s"]))
                return {}
        raise ValueError(f"no such operation: {command['op']}")

    def _start(self, command: dict[str, Any]) -> dict[str, Any]:
        child = self._table.get(command["id"])
        if child is None:
            child = self._table.start(command["id"], command["argv"], command["env"], command["cwd"])
            self._watch(child)
        return _described(child)


def _described(child: Child) -> dict[str, Any]:
    return {"id": child.id, "pid": child.identity.pid, "started_s": child.started_s}


def _begin(layout: Layout, owner_pid: int) -> ProcessIdentity | None:
    """A new instance's owner, None if it has none; recorded for the agent's successor."""
    owner = (identify(owner_pid) or ProcessIdentity(owner_pid, 0, "")) if owner_pid else None
    presence.write_agent_record(layout, AgentRecord(owner, dict(os.environ), _working_folder()))
    layout.ending.unlink(missing_ok=True)
    return owner


def _working_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def main() -> int:
    """The agent, from start to end; the exit code."""
    parser = argparse.ArgumentParser(prog="swerve.engine.agent", description="The local agent of a Swerve instance.")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--lock", type=int, required=True, help="a descriptor that holds the folder's lock")
    parser.add_argument("--owner-pid", type=int)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(asctime)s agent %(process)d -- %(message)s")
    layout = Layout(arguments.state_dir.absolute())
    lock: int = arguments.lock
    os.set_inheritable(lock, False)
    presence.sign_lock(lock)
    if arguments.owner_pid is None:
        owner = presence.read_agent_record(layout).owner
    else:
        owner = _begin(layout, arguments.owner_pid)
    agent = Agent(layout, lock, owner)
    agent.run()
    if agent.owns_folder():
        layout.remove_run_files()
        if owner is not None:
            layout.remove_store()
    return 0


if __name__ == "__main__":
    sys.exit(main())
