"""The rows that compare two or more sides under load. To add one, add an entry to `rows`."""

import os
import resource
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from benchmarks import h2load, others, overload, proc
from benchmarks.measure import (
    MAX_CALLS,
    Measure,
    echo_rate,
    half_of_peak,
    handle_calls,
    many_calls,
    opening,
    sequential,
    throughput,
)
from benchmarks.methods import MESSAGES_PER_STREAM, Method, echo, stream, unary
from benchmarks.ray_serve import ray, ray_fastest
from benchmarks.result import Figures, Goal, Result
from benchmarks.servers import Contender, Server, engine, grpc_aio, swerve

MB = 1 << 20
# Rounds of a row with Ray at most, to keep the run short.
RAY_ROUNDS = 3
# After its start a server has work left to do. One that rests uses less than this of a core.
RESTING_CORES = 0.1
REST_TIMEOUT_S = 30.0
REST_LOOK_S = 0.5
# How long servers that were stopped have for what has fallen due meanwhile.
CATCH_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Side:
    """What is measured of one contender. Sides of one row with the same contender share its server."""

    contender: Contender
    measure: Measure
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or self.contender.name


@dataclass(frozen=True, slots=True)
class Row:
    """`check` is called once at each server before it is measured. `alone`: of use without its absent sides."""

    name: str
    title: str
    sides: Sequence[Side]
    goals: Sequence[Goal]
    check: Method | None
    needs_h2load: bool = True
    max_rounds: int | None = None
    alone: bool = False


def rows() -> list[Row]:
    """Every row. Needs the compiled stubs (`servers.prepare`)."""
    return [*unary_rows(), *stream_rows(), *large_rows(), *handle_rows(), *scale_rows()]


def both(measure: Measure, peer: Contender, target: str = "serve_app:aio") -> list[Side]:
    return [Side(swerve(target), measure), Side(peer, measure)]


def unary_rows() -> list[Row]:
    full = throughput(unary(), 8, 8)
    one = throughput(unary(), 1, 1)
    return [
        Row(
            "unary",
            "unary, async def, max_ongoing_requests=200, 8 connections x 8 streams",
            both(full, grpc_aio()),
            [Goal("calls_per_s", at_least=10, over="grpc.aio")],
            unary(),
        ),
        Row(
            "engine",
            "unary, 8 x 8, the handler straight on the HTTP/2 engine: what one process can do at most",
            [Side(engine(), full), Side(grpc_aio(), full)],
            [Goal("calls_per_s", at_least=10, over="grpc.aio")],
            unary(),
        ),
        Row(
            "unary-ray",
            "unary, 8 x 8, against Ray Serve as it comes",
            both(full, ray()),
            [Goal("calls_per_s", at_least=100, over="ray")],
            unary(),
            max_rounds=RAY_ROUNDS,
        ),
        Row(
            "unary-ray-haproxy",
            "unary, 8 x 8, against Ray Serve with HAProxy and its throughput flags",
            both(full, ray_fastest()),
            [Goal("calls_per_s", at_least=12, over="ray-haproxy")],
            unary(),
            max_rounds=RAY_ROUNDS,
        ),
        Row(
            "sequential",
            "unary, one call at a time on one connection (h2load)",
            both(one, grpc_aio()),
            [Goal("p50_ms", at_most=1, over="grpc.aio")],
            unary(),
        ),
        Row(
            "sequential-grpcio",
            "unary, one call at a time on one connection (grpcio's synchronous client)",
            both(sequential(unary()), grpc_aio()),
            [Goal("p50_ms", at_most=1, over="grpc.aio")],
            unary(),
            needs_h2load=False,
        ),
        Row(
            "half-of-peak",
            "unary, 8 x 8 at half of the server's own greatest rate",
            both(half_of_peak(unary(), 8, 8), grpc_aio()),
            [Goal("p99_ms", at_most=1, over="grpc.aio")],
            unary(),
        ),
        Row(
            "plain-def",
            "unary, plain def, max_ongoing_requests=200, 8 x 8, against grpc.aio with a pool of 10 threads",
            both(full, grpc_aio("plain"), "serve_app:plain_200"),
            [Goal("calls_per_s", at_least=4, over="grpc.aio")],
            unary(),
        ),
        Row(
            "plain-def-default",
            "unary, plain def, default options (5 at a time), 8 x 8, against grpc.aio with a pool of 10 threads",
            both(full, grpc_aio("plain"), "serve_app:plain"),
            [Goal("calls_per_s", at_least=1, over="grpc.aio")],
            unary(),
        ),
    ]


def stream_rows() -> list[Row]:
    messages = f"server streaming, 100-byte messages, {MESSAGES_PER_STREAM} a call"
    goals = [Goal("messages_per_s", at_least=8, over="grpc.aio")]
    return [
        Row("stream-1", f"{messages}, one stream", both(throughput(stream(), 1, 1), grpc_aio()), goals, stream()),
        Row("stream-64", f"{messages}, 8 x 8", both(throughput(stream(), 8, 8), grpc_aio()), goals, stream()),
    ]


def large_rows() -> list[Row]:
    # A proxy that kept whole messages would hold connections x size, there and back, on top of its own 40 MB.
    return [
        Row(
            f"echo-{size}mb",
            f"unary echo of {size} MB, {connections} connections, one call at a time on each",
            both(echo_rate(echo(size * MB), connections), grpc_aio()),
            [Goal("mb_per_s", at_least=1, over="grpc.aio"), Goal("peak_rss_mb.proxy", at_most=100)],
            echo(size * MB),
        )
        for size, connections in ((1, 8), (16, 4))
    ]


def handle_rows() -> list[Row]:
    small, array = handle_calls(64), handle_calls(4, 4 * MB)
    target = "handle_app:front"
    return [
        Row(
            "handle",
            "handle call, replica to replica, a number: calls/s with 64 in flight, latency one at a time",
            both(small, ray(target), target),
            [Goal("calls_per_s", at_least=30, over="ray"), Goal("p50_ms", at_most=0.1, over="ray")],
            None,
            needs_h2load=False,
            max_rounds=RAY_ROUNDS,
            alone=True,
        ),
        Row(
            "handle-array",
            "handle call, replica to replica, a 4 MB numpy array: calls/s with 4 in flight, latency one at a time",
            both(array, ray(target), target),
            [Goal("calls_per_s", at_least=2, over="ray")],
            None,
            needs_h2load=False,
            max_rounds=RAY_ROUNDS,
            alone=True,
        ),
    ]


def scale_rows() -> list[Row]:
    server = swerve()
    counts = {count: swerve("serve_app:replicas", f"count={count}") for count in (1, 8, 64)}
    two = others.contender()
    waiting = swerve("serve_app:waiting")
    return [
        Row(
            "connections",
            f"unary, 10 in flight on each of 1,000 connections, against 10 connections, {MAX_CALLS:,} calls each",
            [
                Side(server, many_calls(unary(), 1000, 10), "1,000 connections"),
                Side(server, many_calls(unary(), 10, 10), "10 connections"),
            ],
            [Goal("calls_per_s", at_least=0.7, over="10 connections")],
            unary(),
        ),
        Row(
            "opening",
            "connections that are opened, make one unary call, and are closed: 100 at once",
            both(opening(unary()), grpc_aio()),
            [Goal("connections_per_s", at_least=1, over="grpc.aio")],
            unary(),
        ),
        replicas("replicas", "one call at a time", throughput(unary(), 1, 1), counts),
        # Each of 64 replicas has a few hundred calls before, so that its pace is known.
        replicas("replicas-full", "8 x 8", throughput(unary(), 8, 8, 20_000), counts),
        Row(
            "others",
            f"unary at {others.CALLS_PER_S:,.0f} calls/s beside slow readers, slow writers and a stalled replica",
            [Side(two, others.disturbed, "disturbed"), Side(two, others.quiet, "quiet")],
            [
                Goal("p50_ms", at_most=1.2, over="quiet"),
                Goal("p99_ms", at_most=1.5, over="quiet"),
                Goal("peak_rss_mb.proxy", at_most=100),
            ],
            unary(others.CALLED),
        ),
        Row(
            "overload",
            "unary, five times as many calls as the deployment can serve, against as many as it can",
            [
                Side(waiting, overload.overloaded(5), "overloaded"),
                Side(waiting, overload.peak(), "peak"),
            ],
            [
                Goal("served_per_s", at_least=0.9, over="peak"),
                # A full queue of 20 and the call itself take 20 ms; a queue without a bound would be seconds long.
                Goal("p99_ms", at_most=100),
            ],
            unary(),
            needs_h2load=False,
        ),
    ]


def replicas(name: str, load: str, measure: Measure, counts: Mapping[int, Contender]) -> Row:
    """One at a time shows what choosing costs; 8 x 8 also how many calls share a packet to a replica."""
    labels = {count: f"{count} replica{'s' if count > 1 else ''}" for count in counts}
    first, *more = labels.values()
    return Row(
        name,
        f"unary, {load}, the proxy's processor time by the number of replicas",
        [Side(contender, measure, labels[count]) for count, contender in counts.items()],
        [Goal("cpu_us_per_call.proxy", at_most=1.15, over=first, side=label) for label in more],
        unary(),
    )


def in_turns(row: Row, rounds: int, seconds: float) -> Result:
    """Start the contenders, measure the sides in turns `rounds` times, who is first alternating, and stop them."""
    absent = {side.label: side.contender.absent for side in row.sides if side.contender.absent}
    if row.needs_h2load and not h2load.installed():
        return Result(row.name, row.title, row.goals, skipped=h2load.MISSING)
    if absent and not row.alone:
        return Result(row.name, row.title, row.goals, skipped="; ".join(absent.values()))
    sides = [side for side in row.sides if side.label not in absent]
    samples: dict[str, list[Figures]] = {side.label: [] for side in sides}
    with ExitStack() as stack:
        servers: dict[Contender, Server] = {}
        for side in sides:
            if side.contender not in servers:
                servers[side.contender] = server = stack.enter_context(side.contender.serve())
                if row.check:
                    row.check.check(server.address)
        let_rest(list(servers.values()))
        for turn in range(min(rounds, row.max_rounds or rounds)):
            for side in sides if turn % 2 == 0 else reversed(sides):
                with stopped([server for one, server in servers.items() if one != side.contender and not server.rests]):
                    samples[side.label].append(side.measure(servers[side.contender], seconds))
    return Result(row.name, row.title, row.goals, samples, absent=absent)


def let_rest(servers: Sequence[Server]) -> None:
    """Wait until the servers have nothing left to do after their start, or `REST_TIMEOUT_S`."""
    deadline = time.monotonic() + REST_TIMEOUT_S
    while time.monotonic() < deadline:
        pids = [pid for server in servers for found in server.pids().values() for pid in found]
        before = proc.cpu_s(pids)
        time.sleep(REST_LOOK_S)
        if proc.cpu_s(pids) - before < RESTING_CORES * REST_LOOK_S:
            return


@contextmanager
def stopped(servers: Sequence[Server]) -> Iterator[None]:
    """Keep `servers` from working while another one is measured."""
    pids = [pid for server in servers for found in server.pids().values() for pid in found]
    _signal_all(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal_all(pids, signal.SIGCONT)
        if pids:
            time.sleep(CATCH_UP_S)


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def allow_many_connections(wanted: int = 4096) -> None:
    """Raise this process's limit of open files, which its children inherit, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
