"""The rows that compare Swerve with a peer under the same load. To add one, add an entry to `rows`."""

import resource
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import grpc

from benchmarks import h2load, proc
from benchmarks.h2load import Load
from benchmarks.result import Figures, Goal, Result
from benchmarks.servers import Contender, Server, grpc_aio, swerve

TIMEOUT_S = 30.0
# Enough for the caches of both sides to be warm and for the rate to be known within some percent.
WARM_UP_CALLS = 2000
MAX_CALLS = 200_000
MESSAGES_PER_STREAM = 1000


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC with a request and the messages that answer it, as bytes."""

    path: str
    request: bytes
    replies: Sequence[bytes]

    def load(self, connections: int, streams: int) -> Load:
        size = sum(len(h2load.frame(reply)) for reply in self.replies)
        return Load(self.path, self.request, size, connections, streams)

    def check(self, address: str) -> None:
        """Make one call with grpcio; `RuntimeError` unless it ends OK with the right messages."""
        with grpc.insecure_channel(address) as channel:
            # A unary answer is on the wire a stream of one message.
            call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(self.path)
            got = list(call(self.request, timeout=TIMEOUT_S))
        if got != self.replies:
            raise RuntimeError(f"{self.path} at {address} answered {len(got)} messages that are not the expected ones")


@dataclass(frozen=True, slots=True)
class Row:
    """`measure` takes the running server and for how many seconds to load it."""

    name: str
    title: str
    contenders: Sequence[Contender]
    goals: Sequence[Goal]
    method: Method
    measure: Callable[[Server, Method, float], Figures]
    needs_h2load: bool = True


def unary() -> Method:
    from bench_pb2 import Request
    from handlers import greet

    request = Request(name="foo", origin="bar", num=30)
    return Method("/bench.Bench/Unary", request.SerializeToString(), [greet(request).SerializeToString()])


def stream() -> Method:
    from bench_pb2 import StreamRequest
    from handlers import chunk

    request = StreamRequest(messages=MESSAGES_PER_STREAM)
    return Method(
        "/bench.Bench/Stream", request.SerializeToString(), [chunk().SerializeToString()] * MESSAGES_PER_STREAM
    )


def rows() -> list[Row]:
    """Every row. Needs the compiled stubs (`servers.prepare`)."""
    aio = (swerve("aio"), grpc_aio("aio"))
    plain = (swerve("plain"), grpc_aio("plain"))
    return [
        Row(
            "unary",
            "unary, async def, max_ongoing_requests=200, 8 connections x 8 streams",
            aio,
            [Goal("calls_per_s", at_least=6)],
            unary(),
            throughput(8, 8),
        ),
        Row(
            "sequential",
            "unary, one call at a time on one connection (h2load)",
            aio,
            [Goal("p50_ms", at_most=1.3)],
            unary(),
            throughput(1, 1),
        ),
        Row(
            "sequential-grpcio",
            "unary, one call at a time on one connection (grpcio's synchronous client)",
            aio,
            [Goal("p50_ms", at_most=1.3)],
            unary(),
            sequential,
            needs_h2load=False,
        ),
        Row(
            "plain-def",
            "unary, plain def, default options, 8 x 8, against grpc.aio with a pool of 10 threads",
            plain,
            [Goal("calls_per_s", at_least=1)],
            unary(),
            throughput(8, 8),
        ),
        Row(
            "stream-1",
            f"server streaming, 100-byte messages, {MESSAGES_PER_STREAM} a call, one stream",
            aio,
            [Goal("messages_per_s", at_least=5)],
            stream(),
            throughput(1, 1),
        ),
        Row(
            "stream-64",
            f"server streaming, 100-byte messages, {MESSAGES_PER_STREAM} a call, 8 x 8 streams",
            aio,
            [Goal("messages_per_s", at_least=5)],
            stream(),
            throughput(8, 8),
        ),
    ]


def throughput(connections: int, streams: int) -> Callable[[Server, Method, float], Figures]:
    """A measurement by h2load with `connections` times `streams` calls in flight."""

    def measure(server: Server, method: Method, seconds: float) -> Figures:
        load = method.load(connections, streams)
        messages = len(method.replies)
        # The warm-up tells how many calls fill the time.
        warm_up = max(connections * streams, WARM_UP_CALLS // messages)
        expected = h2load.run(server.address, load, warm_up).calls_per_s
        calls = min(MAX_CALLS, max(warm_up, int(expected * seconds)))
        with CpuMeter(server) as meter:
            outcome = h2load.run(server.address, load, calls)
        figures = {"calls_per_s": outcome.calls_per_s, "p50_ms": outcome.p50_ms, "p99_ms": outcome.p99_ms}
        if messages > 1:
            figures = {"messages_per_s": outcome.calls_per_s * messages}
        return figures | meter.figures(calls * messages, "message" if messages > 1 else "call")

    return measure


def sequential(server: Server, method: Method, seconds: float) -> Figures:
    """A measurement by a plain loop over grpcio's synchronous client; the client's own time is in the latency."""
    latencies = []
    with grpc.insecure_channel(server.address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method.path)
        for _ in range(200):
            call(method.request, timeout=TIMEOUT_S)
        with CpuMeter(server) as meter:
            end = time.perf_counter() + seconds
            while (began := time.perf_counter()) < end:
                call(method.request, timeout=TIMEOUT_S)
                latencies.append(int((time.perf_counter() - began) * 1e6))
    latencies.sort()
    return {
        "calls_per_s": len(latencies) / seconds,
        "p50_ms": h2load.percentile_ms(latencies, 0.5),
        "p99_ms": h2load.percentile_ms(latencies, 0.99),
        **meter.figures(len(latencies), "call"),
    }


class CpuMeter:
    """Processor time, user and system, used inside the `with` block: by each role, the client and everyone else."""

    def __init__(self, server: Server) -> None:
        self._pids = server.pids()
        self._used: dict[str, float] = {}
        self._others = 0.0
        self._seconds = 0.0

    def _now(self) -> dict[str, float]:
        used = {role: proc.cpu_s(pids) for role, pids in self._pids.items()}
        # The client is this process, or h2load, a child of it that has ended when the block ends.
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return used | {"client": sum(usage.ru_utime + usage.ru_stime for usage in own)}

    def __enter__(self) -> "CpuMeter":
        self._seconds, self._others, self._used = time.monotonic(), proc.machine_cpu_s(), self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self._used = {role: used - self._used[role] for role, used in self._now().items()}
        self._others = proc.machine_cpu_s() - self._others - sum(self._used.values())
        self._seconds = time.monotonic() - self._seconds

    def figures(self, units: int, unit: str) -> dict[str, float]:
        """Microseconds for each of `units`, by role; and how many cores other processes kept busy: should be 0."""
        per_unit = {f"cpu_us_per_{unit}.{role}": used / units * 1e6 for role, used in self._used.items() if used > 0}
        return per_unit | {"cores_used_by_others": max(0.0, self._others / self._seconds)}


def in_turns(row: Row, rounds: int, seconds: float) -> Result:
    """Start each contender, load them one after the other `rounds` times, who is first alternating, and stop them."""
    if row.needs_h2load and not h2load.installed():
        return Result(row.name, row.title, skipped=h2load.MISSING)
    samples: dict[str, list[Figures]] = {contender.name: [] for contender in row.contenders}
    with ExitStack() as stack:
        servers = [(contender.name, stack.enter_context(contender.serve())) for contender in row.contenders]
        for _, server in servers:
            row.method.check(server.address)
        for turn in range(rounds):
            for name, server in servers if turn % 2 == 0 else reversed(servers):
                samples[name].append(row.measure(server, row.method, seconds))
    return Result(row.name, row.title, row.goals, samples)
