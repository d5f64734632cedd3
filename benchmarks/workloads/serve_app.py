"""The handlers as deployments, the same for Swerve and for Ray Serve: `SERVE` names the module, `swerve` by default."""

import asyncio
import importlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from bench_pb2 import Chunk, Reply, Request, StallRequest, StreamRequest
from handlers import chunk, chunk_for, greet

serve: Any = importlib.import_module(os.environ.get("SERVE", "swerve"))


@serve.deployment(max_ongoing_requests=200)
class Aio:
    async def Unary(self, request: Request) -> Reply:
        return greet(request)

    async def Stream(self, request: StreamRequest) -> AsyncIterator[Chunk]:
        if not request.size:
            for _ in range(request.messages):
                yield chunk()
        else:
            large = chunk_for(request)
            for _ in range(request.messages):
                yield large

    async def Echo(self, request: Chunk) -> Chunk:
        return request

    async def Stall(self, request: StallRequest) -> Chunk:
        time.sleep(request.seconds)  # noqa: ASYNC251 (to block the loop is what it is for)
        return Chunk()


@serve.deployment(max_ongoing_requests=20, max_queued_requests=20)
class Waiting:
    """Its time goes by in waiting, as for a GPU: it serves 2,000 calls a second at most, on any machine."""

    async def Unary(self, request: Request) -> Reply:
        await asyncio.sleep(0.01)
        return greet(request)


@serve.deployment
class Plain:
    """A plain `def` with the default options: five calls at a time, each in a thread."""

    def Unary(self, request: Request) -> Reply:
        return greet(request)


def replicas(arguments: Mapping[str, str]) -> Any:
    """`Aio` in as many replicas as the argument `count` says."""
    return Aio.options(num_replicas=int(arguments["count"])).bind()


aio = Aio.bind()
waiting = Waiting.bind()
plain = Plain.bind()
plain_200 = Plain.options(max_ongoing_requests=200).bind()
