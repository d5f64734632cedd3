"""The controller's process: `python -m swerve.control.process --state-dir D`, started by the agent."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from pathlib import Path

from google.protobuf.message import DecodeError

from swerve.control.controller import Controller
from swerve.control.model import State
from swerve.control.service import methods
from swerve.control.store import Store, StoreError
from swerve.engine.agent import EXIT_CANNOT_START
from swerve.engine.layout import Layout
from swerve.engine.local import LocalEngine
from swerve.generated import control_pb2 as pb
from swerve.net.server import serve
from swerve.observe import logs

logger = logging.getLogger("swerve.control")

# What the last answers may take to leave when everything has ended.
_CLOSE_GRACE_S = 0.2


async def _run(layout: Layout, options: pb.InstanceOptions, store: Store, state: State) -> None:
    engine = LocalEngine(layout)
    try:
        async with asyncio.TaskGroup() as tasks:
            controller = Controller(layout, options, store, state, engine, tasks)
            await controller.recover()
            server = serve(layout.controller_address, methods(controller))
            await controller.until_finished()
            await server.close(_CLOSE_GRACE_S)
    finally:
        await engine.close()


def main() -> int:
    """The controller, from start to end; the exit code."""
    parser = argparse.ArgumentParser(prog="swerve.control.process", description="The controller of a Swerve instance.")
    parser.add_argument("--state-dir", type=Path, required=True)
    layout = Layout(parser.parse_args().state_dir.absolute())
    try:
        options = pb.InstanceOptions.FromString(layout.options.read_bytes())
        # A controller before this one has served: what that stored, and what runs, is not to be given up.
        store = Store(layout.store, must_exist=layout.ready.exists())
        state = store.load()
    except (OSError, DecodeError, StoreError) as error:
        print(error, file=sys.stderr)
        return EXIT_CANNOT_START
    config = json.loads(options.logging_config_json or "{}")
    handler = logs.configure("controller", str(os.getpid()), layout.logs, "controller", config)
    # What asyncio reports is a fault of ours that nothing else would tell.
    logging.getLogger("asyncio").addHandler(handler)
    try:
        asyncio.run(_run(layout, options, store, state))
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
