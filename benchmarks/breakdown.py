"""Where the processor time of one unary call goes, by process and layer: `python -m benchmarks.breakdown [PAGE]`.

The proxy and the replica are sampled with py-spy under full load, C code included. A sample belongs to the layer of
its innermost frame that one of `LAYERS` knows; what the interpreter does for a layer is counted there too. The shares
are of the processor time for a call that was measured without sampling, so the layers add up to it. With a page given,
its part `breakdown` is replaced.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import h2load, page, report, servers
from benchmarks.measure import throughput
from benchmarks.methods import unary
from benchmarks.servers import Server

ROLES = ("proxy", "replica")
SECONDS = 5
SAMPLES_PER_S = 250
STOP_TIMEOUT_S = 60.0

WAITING = "waiting"
OTHER = "the rest"
ENGINE = "HTTP/2 engine"
# What a frame must contain, and the layer that it then is in; the first that fits counts.
LAYERS = (
    ("epoll", WAITING),
    ("swerve/engine/guard.py", WAITING),  # asleep but for an instant each half second
    ("swerve/wire/f", ENGINE),  # frames, frame_reader
    ("swerve/wire/header_block.py", "wire"),
    ("swerve/wire/h", ENGINE),  # hpack, huffman, header_rules, http2
    ("swerve/wire/outbox.py", ENGINE),
    ("_cmsgpack", "bundles' records (msgpack)"),
    ("uvloop/", "event loop (uvloop)"),
    ("(loop.c:", "event loop (uvloop)"),
    ("swerve/wire/", "wire"),
    ("swerve/net/", "net"),
    ("swerve/routing/", "routing"),
    ("swerve/caller/", "caller"),
    ("swerve/proxy/", "proxy"),
    ("swerve/replica/", "replica"),
    ("swerve/observe/", "observe"),
    ("swerve/", "replica"),
    ("_message.abi3.so", "user code and protobuf"),
    ("(handlers.py", "user code and protobuf"),
    ("(serve_app.py", "user code and protobuf"),
    ("asyncio", "asyncio"),
    ("logging/", "observe"),
)
SYSTEM_CALLS = frozenset({"write", "writev", "read", "readv", "send", "sendmsg", "recv", "recvmsg"})


def layer(stack: str) -> str:
    """The layer of one stack, as py-spy writes it: frames from the outermost to the innermost, between semicolons."""
    for frame in reversed(stack.split(";")):
        name, _, where = frame.partition(" ")
        if where == "(libc.so.6)" and name in SYSTEM_CALLS:
            return "system calls: write, read"
        for part, found in LAYERS:
            if part in frame:
                return found
    return OTHER


def shares(recording: str) -> dict[str, float]:
    """The part of each layer in the time in which the process ran, the largest first."""
    counts: Counter[str] = Counter()
    for line in recording.splitlines():
        stack, _, samples = line.rpartition(" ")
        counts[layer(stack)] += int(samples)
    del counts[WAITING]
    total = counts.total()
    return {name: samples / total for name, samples in counts.most_common()}


def record(server: Server, folder: Path) -> dict[str, dict[str, float]]:
    """Sample the processes of `ROLES` under full load."""
    load = unary().load(8, 8)
    pids = server.pids()
    recorders = {}
    for role in ROLES:
        command = ["py-spy", "record", "--native", "--format", "raw", "--duration", str(SECONDS)]
        command += ["--rate", str(SAMPLES_PER_S), "--pid", str(pids[role][0]), "--output", str(folder / role)]
        recorders[role] = subprocess.Popen(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    while any(recorder.poll() is None for recorder in recorders.values()):
        h2load.run(server.address, load, 5000)
    for recorder in recorders.values():
        recorder.wait(STOP_TIMEOUT_S)
    return {role: shares((folder / role).read_text()) for role in ROLES}


def rows() -> Iterator[tuple[str, str, float]]:
    """Process, layer and microseconds of a call."""
    with servers.swerve().serve() as server, TemporaryDirectory(prefix="breakdown-") as folder:
        unary().check(server.address)
        measured = throughput(unary(), 8, 8)(server, SECONDS)
        for role, parts in record(server, Path(folder)).items():
            whole = measured[f"cpu_us_per_call.{role}"]
            yield from ((role, name, share * whole) for name, share in parts.items())
            yield role, "together", whole


def main(pages: list[str]) -> None:
    servers.prepare()
    lines = ["| process | layer | µs a call |", "| --- | --- | --- |"]
    lines += [f"| {role} | {name} | {us:.1f} |" for role, name, us in rows()]
    report.say("\n".join(lines))
    for path in pages:
        page.replace(Path(path), "breakdown", "\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
