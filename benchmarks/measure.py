"""How a running server is measured: each function takes the server and for how many seconds, and gives figures."""

import resource
import time
from collections.abc import Callable

import grpc

from benchmarks import h2load, proc
from benchmarks.methods import TIMEOUT_S, Method
from benchmarks.result import Figures
from benchmarks.servers import Server

Measure = Callable[[Server, float], Figures]

# Enough for the caches of both sides to be warm and for the rate to be known within some percent.
WARM_UP_CALLS = 2000
MAX_CALLS = 200_000
# Connections that are opened at once: few enough for every server's backlog, so that no client has to try again.
WAVE = 100
# A load in real time needs a margin: calls that have not been answered when the rest has been.
HANDLE_MARGIN_S = 30.0
MB = 1 << 20


def throughput(method: Method, connections: int, streams: int, warm_up: int = WARM_UP_CALLS) -> Measure:
    """As many calls as the server can do, `connections` times `streams` in flight."""

    def measure(server: Server, seconds: float) -> Figures:
        calls = calls_for(server, method, connections, streams, seconds, warm_up)
        return loaded(server, method.load(connections, streams), calls, len(method.replies))

    return measure


def loaded(server: Server, load: h2load.Load, calls: int, messages: int = 1) -> Figures:
    """What so many calls take, each answered with so many messages."""
    with CpuMeter(server) as meter:
        outcome = h2load.run(server.address, load, calls)
    if messages > 1:
        return {"messages_per_s": outcome.calls_per_s * messages, **meter.figures(calls * messages, "message")}
    return latency(outcome) | meter.figures(calls, "call")


def many_calls(method: Method, connections: int, streams: int) -> Measure:
    """`MAX_CALLS` calls, however long they take: to open the connections counts little among them."""

    def measure(server: Server, seconds: float) -> Figures:
        return loaded(server, method.load(connections, streams), MAX_CALLS)

    return measure


def opening(method: Method) -> Measure:
    """Connections that are opened, make one call each, and are closed: `WAVE` at once, again and again."""

    def measure(server: Server, seconds: float) -> Figures:
        load, spent, opened = method.load(WAVE, 1), 0.0, 0
        with CpuMeter(server) as meter:
            while spent < seconds:
                spent += WAVE / h2load.run(server.address, load, WAVE).calls_per_s
                opened += WAVE
        return {"connections_per_s": opened / spent, **meter.figures(opened, "connection")}

    return measure


def half_of_peak(method: Method, connections: int, streams: int) -> Measure:
    """Calls at half of the rate that the server has just shown to be its greatest."""

    def measure(server: Server, seconds: float) -> Figures:
        calls = calls_for(server, method, connections, streams, seconds / 2, WARM_UP_CALLS)
        peak = h2load.run(server.address, method.load(connections, streams), calls).calls_per_s
        return {"peak_calls_per_s": peak, **paced(method, connections, streams, peak / 2)(server, seconds)}

    return measure


def paced(method: Method, connections: int, streams: int, calls_per_s: float) -> Measure:
    """Calls at a rate that the server can well do."""

    def measure(server: Server, seconds: float) -> Figures:
        load, calls = method.load(connections, streams, calls_per_s), max(connections, int(calls_per_s * seconds))
        return loaded(server, load, calls)

    return measure


def echo_rate(method: Method, connections: int) -> Measure:
    """Large messages there and back, one at a time on each connection, with the most memory that it took."""

    def measure(server: Server, seconds: float) -> Figures:
        calls = calls_for(server, method, connections, 1, seconds, 2 * connections)
        roles = {role: pids for role, pids in server.pids().items() if role in ("proxy", "replica", "server")}
        for pids in roles.values():
            proc.forget_peak_rss(pids)
        with CpuMeter(server) as meter:
            outcome = h2load.run(server.address, method.load(connections, 1), calls)
        megabytes = len(method.request) / MB
        memory = {f"peak_rss_mb.{role}": proc.peak_rss_mb(pids) for role, pids in roles.items()}
        rate = {"mb_per_s": outcome.calls_per_s * megabytes, "p50_ms": outcome.p50_ms}
        return rate | memory | meter.figures(calls, "call")

    return measure


def calls_for(server: Server, method: Method, connections: int, streams: int, seconds: float, warm_up: int) -> int:
    """How many calls fill `seconds`, by a warm-up of `warm_up` messages."""
    calls = max(connections * streams, warm_up // len(method.replies))
    rate = h2load.run(server.address, method.load(connections, streams), calls).calls_per_s
    return min(MAX_CALLS, max(connections * streams, int(rate * seconds)))


def latency(outcome: h2load.Outcome) -> dict[str, float]:
    return {"calls_per_s": outcome.calls_per_s, "p50_ms": outcome.p50_ms, "p99_ms": outcome.p99_ms}


def sequential(method: Method) -> Measure:
    """A plain loop over grpcio's synchronous client; the client's own time is in the latency."""

    def measure(server: Server, seconds: float) -> Figures:
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

    return measure


def handle_calls(in_flight: int, array_bytes: int = 0) -> Measure:
    """Calls from one replica to another, timed in the calling one: `in_flight` at once, then one by one."""

    def measure(server: Server, seconds: float) -> Figures:
        from bench_pb2 import HandleReply, HandleRequest

        def run(seconds: float, in_flight: int) -> HandleReply:
            request = HandleRequest(seconds=seconds, in_flight=in_flight, array_bytes=array_bytes)
            reply = call(request.SerializeToString(), timeout=seconds + HANDLE_MARGIN_S)
            return HandleReply.FromString(reply)

        with grpc.insecure_channel(server.address) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/bench.Bench/CallHandle")
            run(0.3, in_flight)
            with CpuMeter(server) as meter:
                many = run(seconds, in_flight)
            one = run(seconds / 2, 1)
        figures = {"calls_per_s": many.calls / many.seconds, "p50_ms": one.p50_ms, "p99_ms": one.p99_ms}
        return figures | meter.figures(many.calls, "call")

    return measure


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
        """Microseconds for each of `units`, of the server and by role; and the cores that others kept busy."""
        per_unit = {role: used / units * 1e6 for role, used in self._used.items() if used > 0}
        server = sum(us for role, us in per_unit.items() if role != "client")
        by_role = {f"cpu_us_per_{unit}.{role}": us for role, us in per_unit.items()}
        others = max(0.0, self._others / self._seconds)
        return {f"cpu_us_per_{unit}": server, **by_role, "cores_used_by_others": others}
