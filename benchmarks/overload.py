"""What a deployment still serves when more calls come than it can serve, whoever makes them: open-loop load.

h2load waits for answers and does not tell statuses apart, so the calls are made here, by this package's own client. The
deployment waits in its handler, as for a GPU: what it can serve depends on its slots, not on the machine.
"""

import asyncio
import time
from dataclasses import dataclass, field

import uvloop

from benchmarks import h2load
from benchmarks.measure import CpuMeter, Measure
from benchmarks.methods import unary
from benchmarks.result import Figures
from benchmarks.servers import Server
from swerve.net.client import Channel
from swerve.net.client_call import ClientCall, request_headers
from swerve.net.connection import Connection
from swerve.net.streams import Headers
from swerve.wire.status import Status, StatusCode

# `serve_app:Waiting` has so many slots and places in its queue.
IN_FLIGHT = 40
CONNECTIONS = 8
# Calls are sent in steps of this length, those that have become due meanwhile at once.
STEP_S = 0.002
# What is under way at the end is answered by then.
SETTLE_S = 5.0
# What a call may be answered with, and in which list its latency is kept.
SERVED, SHED = StatusCode.OK, StatusCode.RESOURCE_EXHAUSTED


@dataclass
class Load:
    """The calls of one turn: latencies in microseconds by status, and how many have no answer yet."""

    latencies: dict[StatusCode, list[int]] = field(default_factory=lambda: {SERVED: [], SHED: []})
    open: int = 0
    failure: str = ""


class Call(ClientCall):
    """A call that is timed."""

    __slots__ = ("_began", "_load")

    def __init__(self, load: Load) -> None:
        super().__init__()
        self._load = load
        self._began = time.perf_counter()

    def message_received(self, message: bytes) -> None:
        pass

    def ended(self, status: Status, trailers: Headers) -> None:
        load = self._load
        load.open -= 1
        if status.code in load.latencies:
            load.latencies[status.code].append(int((time.perf_counter() - self._began) * 1e6))
        else:
            load.failure = str(status)


async def _connect(server: Server) -> list[Connection]:
    return [await Channel(server.address).connect() for _ in range(CONNECTIONS)]


async def _send(server: Server, seconds: float, calls_per_s: float | None) -> Load:
    """Make calls for `seconds`: at a rate, or, without one, as many as keep `IN_FLIGHT` under way."""
    method = unary()
    headers, body = request_headers(method.path, "bench"), [h2load.frame(method.request)]
    connections = await _connect(server)
    load, made, began = Load(), 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        due = IN_FLIGHT - load.open if calls_per_s is None else int(elapsed * calls_per_s) - made
        for _ in range(due):
            Call(load).begin(connections[made % CONNECTIONS], headers, body)
            made += 1
            load.open += 1
        await asyncio.sleep(STEP_S)
    until = time.perf_counter() + SETTLE_S
    while load.open and time.perf_counter() < until:  # noqa: ASYNC110 (many calls end, each in its own way)
        await asyncio.sleep(STEP_S)
    for connection in connections:
        connection.close()
    if load.open or load.failure:
        raise RuntimeError(f"{load.open} calls had no answer; a wrong one: {load.failure or 'none'}")
    return load


def peak() -> Measure:
    """As much as the deployment can serve: all slots and the whole queue are full, and no more calls come."""

    def measure(server: Server, seconds: float) -> Figures:
        return _figures(server, seconds, None)

    return measure


def overloaded(times: float) -> Measure:
    """So many times what it has just served at its peak."""

    def measure(server: Server, seconds: float) -> Figures:
        most = _figures(server, seconds / 2, None)["served_per_s"]
        return {"sent_per_s": times * most, **_figures(server, seconds, times * most)}

    return measure


def _figures(server: Server, seconds: float, calls_per_s: float | None) -> Figures:
    with CpuMeter(server) as meter:
        load = uvloop.run(_send(server, seconds, calls_per_s))
    served, shed = sorted(load.latencies[SERVED]), sorted(load.latencies[SHED])
    return {
        "served_per_s": len(served) / seconds,
        "shed_per_s": len(shed) / seconds,
        "p50_ms": h2load.percentile_ms(served, 0.5),
        "p99_ms": h2load.percentile_ms(served, 0.99),
        **({"shed_p99_ms": h2load.percentile_ms(shed, 0.99)} if shed else {}),
        **meter.figures(len(served) + len(shed), "call"),
    }
