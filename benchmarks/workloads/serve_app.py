"""The handlers as Swerve deployments: `swerve run swerve_app:aio` or `swerve_app:plain`."""

from collections.abc import AsyncIterator

from bench_pb2 import Chunk, Reply, Request, StreamRequest
from handlers import chunk, greet

import swerve as serve


@serve.deployment(max_ongoing_requests=200)
class Aio:
    async def Unary(self, request: Request) -> Reply:
        return greet(request)

    async def Stream(self, request: StreamRequest) -> AsyncIterator[Chunk]:
        for _ in range(request.messages):
            yield chunk()


@serve.deployment
class Plain:
    """A plain `def` with the default options: five calls at a time, each in a thread."""

    def Unary(self, request: Request) -> Reply:
        return greet(request)


aio = Aio.bind()
plain = Plain.bind()
