"""What calls suffer while others misuse the same proxy: slow readers, slow writers and a replica that stalls.

All of it goes through one proxy. Slow readers and writers use the replica that also serves the calls that are measured;
the stalled replica belongs to a second application, because calls to the stalled one itself have to wait.
"""

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks import proc, servers
from benchmarks.measure import paced
from benchmarks.methods import unary
from benchmarks.result import Figures
from benchmarks.servers import Contender, Server
from benchmarks.slow import SlowReader, SlowWriter

CALLED, STALLED = "called", "stalled"
CALLS_PER_S = 2000.0
EACH = 4
MB = 1 << 20
STEP_S = 0.02
# The stalled replica must stay so for the whole turn and its end must not last into the next one's start for long.
STALL_MARGIN_S = 1.0


def contender() -> Contender:
    """Swerve with two applications, one replica each."""
    return Contender("swerve", _serve)


@contextlib.contextmanager
def _serve() -> Iterator[Server]:
    applications = [
        {"name": name, "route_prefix": f"/{name}", "import_path": "serve_app:aio"} for name in (CALLED, STALLED)
    ]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump({"applications": applications}))
        with servers.swerve(str(config)).serve() as server:
            yield server


def quiet(server: Server, seconds: float) -> Figures:
    """The calls alone."""
    return _measure(server, seconds)


def disturbed(server: Server, seconds: float) -> Figures:
    """The calls beside `EACH` slow readers and writers, and a replica that stalls with large requests on their way."""
    with disturbances(server, seconds + STALL_MARGIN_S):
        return _measure(server, seconds)


def _measure(server: Server, seconds: float) -> Figures:
    proxies = server.pids()["proxy"]
    before = proc.rss_mb(proxies)
    proc.forget_peak_rss(proxies)
    figures = paced(unary(CALLED), 8, 8, CALLS_PER_S)(server, seconds)
    peak = proc.peak_rss_mb(proxies)
    return {**figures, "peak_rss_mb.proxy": peak, "rss_mb_before.proxy": before}


@contextlib.contextmanager
def disturbances(server: Server, stall_s: float) -> Iterator[None]:
    """Keep them up for the block, in a thread of their own; raises what went wrong in it."""
    from bench_pb2 import StallRequest, StreamRequest

    endless = StreamRequest(messages=1_000_000, size=MB).SerializeToString()
    stall = StallRequest(seconds=stall_s).SerializeToString()
    clients: list[SlowReader | SlowWriter] = []
    stop = threading.Event()
    failures: list[BaseException] = []

    def keep_going() -> None:
        try:
            while not stop.wait(STEP_S):
                for client in clients:
                    client.step()
        except BaseException as failure:
            failures.append(failure)

    with contextlib.ExitStack() as stack:
        waiting = SlowReader(server.address, "/bench.Bench/Stall", stall, STALLED)
        clients += [SlowReader(server.address, "/bench.Bench/Stream", endless, CALLED) for _ in range(EACH)]
        clients += [SlowWriter(server.address, "/bench.Bench/Echo", 64 * MB, 16 << 10, CALLED) for _ in range(EACH)]
        # These write as fast as they are let.
        clients += [SlowWriter(server.address, "/bench.Bench/Echo", 64 * MB, MB, STALLED) for _ in range(EACH)]
        for client in (waiting, *clients):
            stack.callback(client.close)
        thread = threading.Thread(target=keep_going)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
    if failures:
        raise failures[0]
