"""One deployment that calls another through a handle; for Swerve and for Ray Serve, as serve_app.py."""

import asyncio
import importlib
import os
import time
from typing import Any

import numpy
from bench_pb2 import HandleReply, HandleRequest

serve: Any = importlib.import_module(os.environ.get("SERVE", "swerve"))


@serve.deployment(max_ongoing_requests=200)
class Back:
    async def number(self, number: int) -> int:
        return number

    async def size(self, array: numpy.ndarray[Any, Any]) -> int:
        return array.nbytes


@serve.deployment(max_ongoing_requests=200)
class Front:
    """Calls `Back` as fast as it answers, and says how fast that was."""

    def __init__(self, back: Any) -> None:
        self._back = back

    async def CallHandle(self, request: HandleRequest) -> HandleReply:
        latencies: list[float] = []
        argument: Any
        method, argument, expected = self._back.number, 7, 7
        if request.array_bytes:
            method, expected = self._back.size, request.array_bytes
            argument = numpy.ones(expected, dtype=numpy.uint8)
        began = time.perf_counter()
        end = began + request.seconds

        async def one_after_the_other() -> None:
            sent = time.perf_counter()
            while sent < end:
                if await method.remote(argument) != expected:
                    raise RuntimeError("a handle call got a wrong answer")
                now = time.perf_counter()
                latencies.append(now - sent)
                sent = now

        await asyncio.gather(*[one_after_the_other() for _ in range(request.in_flight)])
        elapsed = time.perf_counter() - began
        latencies.sort()
        p50, p99 = (latencies[int(len(latencies) * share)] * 1000 for share in (0.5, 0.99))
        return HandleReply(calls=len(latencies), seconds=elapsed, p50_ms=p50, p99_ms=p99)


front = Front.bind(Back.bind())
