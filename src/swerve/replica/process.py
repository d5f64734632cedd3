"""The replica process: `python -m swerve.replica.process <spec file>`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import uvloop

from swerve.caller.runtime import CallerRuntime, set_runtime
from swerve.context import RequestIdFilter
from swerve.engine.guard import REPLICA_LOOKS, start_guard
from swerve.generated import control_pb2
from swerve.net.allocator import keep_freed_memory
from swerve.net.listener import ListenOptions, listen
from swerve.net.server import method_acceptor
from swerve.observe.access import AccessLog
from swerve.observe.collector import settle
from swerve.observe.logs import configure
from swerve.replica.observer import ReplicaObserver
from swerve.replica.replica import Replica
from swerve.replica.service import replica_methods
from swerve.wire.limits import PRIVATE_LIMITS

# The private socket has few peers, all of them ours: the slots bound the calls, these the bytes.
_LIMITS = replace(PRIVATE_LIMITS, stream_window=4 << 20)
_CLOSE_GRACE_S = 1.0
# Free memory that stays with the process: what a call with a request and a response of 16 MiB takes, four times.
# Received, parsed, serialized and being sent, a message is there up to four times.
_KEPT_MEMORY = 256 << 20


async def serve_replica(spec: control_pb2.ReplicaSpec) -> None:
    """Run the replica that `spec` describes until it is told to stop."""
    loop = asyncio.get_running_loop()
    logging_config = json.loads(spec.logging_config_json or "{}")
    name = f"replica_{spec.app}_{spec.deployment}_{spec.replica_id}".replace("/", "_")
    component = f"{spec.app}_{spec.deployment}"
    handler = configure(component, spec.replica_id, Path(spec.log_dir), name, logging_config)
    handler.addFilter(RequestIdFilter())
    enabled = logging_config.get("enable_access_log", True)
    access_log = AccessLog(handler, component, spec.replica_id, loop) if enabled else None
    observer = ReplicaObserver(spec.app, spec.deployment, spec.replica_id, access_log)
    replica = Replica(spec, loop, observer)
    set_runtime(CallerRuntime.in_replica(spec.controller_address, spec.replica_id, spec.app, spec.release))
    replica.private = method_acceptor(replica_methods(replica, observer))
    listener = listen(spec.address, replica.accept, ListenOptions(limits=_LIMITS, notes_begun=True))
    replica.connections = listener.connections
    grace_s = float(json.loads(spec.config_json)["graceful_shutdown_timeout_s"])
    stopping: set[asyncio.Task[None]] = set()

    def terminate() -> None:
        stopping.add(loop.create_task(replica.stop(grace_s)))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, terminate)
    starting = loop.create_task(_start(replica))
    try:
        await replica.stopped.wait()
    finally:
        starting.cancel()
        await listener.close(_CLOSE_GRACE_S)
        if access_log is not None:
            access_log.flush()


async def _start(replica: Replica) -> None:
    await replica.start()
    settle()


def main() -> None:
    """Read the specification and serve. Its sys.path comes first, so that user code imports as it did when built."""
    spec_file = Path(sys.argv[1])
    spec = control_pb2.ReplicaSpec.FromString(spec_file.read_bytes())
    start_guard(spec_file, REPLICA_LOOKS)
    sys.path[:0] = [entry for entry in spec.sys_path if entry not in sys.path]
    keep_freed_memory(_KEPT_MEMORY)
    uvloop.run(serve_replica(spec))


if __name__ == "__main__":
    main()
