"""The handlers on a bare `grpc.aio` server, as its documentation writes one: `grpc_aio_server.py ADDRESS aio|plain`."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from bench_pb2 import Chunk, Reply, Request, StreamRequest
from bench_pb2_grpc import BenchServicer, add_BenchServicer_to_server
from handlers import chunk, greet

# The number in grpc's own examples.
THREADS = 10
# Without it a message may have 4 MB at most, and the largest row has 16.
OPTIONS = (("grpc.max_receive_message_length", -1),)


class Aio(BenchServicer):  # type: ignore[misc]  # the base class is generated, without types
    async def Unary(self, request: Request, context: Any) -> Reply:
        return greet(request)

    async def Stream(self, request: StreamRequest, context: Any) -> AsyncIterator[Chunk]:
        for _ in range(request.messages):
            yield chunk()

    async def Echo(self, request: Chunk, context: Any) -> Chunk:
        return request


class Plain(BenchServicer):  # type: ignore[misc]  # as above
    def Unary(self, request: Request, context: Any) -> Reply:
        return greet(request)


async def main(address: str, handler: str) -> None:
    server = grpc.aio.server(migration_thread_pool=ThreadPoolExecutor(THREADS), options=OPTIONS)
    add_BenchServicer_to_server({"aio": Aio, "plain": Plain}[handler](), server)
    server.add_insecure_port(address)
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    await stopped.wait()
    await server.stop(grace=1)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
