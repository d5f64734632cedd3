"""One run of h2load, the HTTP/2 load generator of nghttp2, against one gRPC method.

h2load knows no gRPC: it counts an answer as a success by its HTTP status. `run` therefore checks, beside its counts,
that the answers carried exactly the bytes that a correct answer has; whether that answer has status OK is asked with
grpcio before.
"""

import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

MISSING = "h2load is not installed: install Debian's package `nghttp2-client` (it has /usr/bin/h2load)"
# A run takes a few seconds; one that takes this long hangs.
TIMEOUT_S = 300.0

COUNTS = re.compile(r"^requests: (\d+) total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed", re.MULTILINE)
RATE = re.compile(r"^finished in [^,]*, ([\d.]+) req/s", re.MULTILINE)
DATA = re.compile(r"^traffic: .*\((\d+)\) data", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Load:
    """Calls of `path`, each with the message `request`, in `connections` times `streams` at once.

    With `calls_per_s` they are sent at that rate, while as many as that at once suffice.
    """

    path: str
    request: bytes
    reply_bytes: int
    connections: int
    streams: int
    application: str = ""
    calls_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    calls_per_s: float
    p50_ms: float
    p99_ms: float


def installed() -> bool:
    return shutil.which("h2load") is not None


def frame(message: bytes) -> bytes:
    """`message` as gRPC sends it: not compressed, its length, itself."""
    return struct.pack(">BI", 0, len(message)) + message


def run(address: str, load: Load, calls: int) -> Outcome:
    """Make `calls` calls and wait for the answers; `RuntimeError` unless each is complete and correct in length."""
    with tempfile.TemporaryDirectory(prefix="h2load-") as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(frame(load.request))
        command = ["h2load", f"--requests={calls}", f"--clients={load.connections}", "--threads=1"]
        command += [f"--max-concurrent-streams={load.streams}", f"--data={body}", f"--log-file={log}"]
        command += ["--header=content-type: application/grpc", "--header=te: trailers"]
        if load.application:
            command.append(f"--header=application: {load.application}")
        if load.calls_per_s is not None:
            command.append(f"--rps={max(1, round(load.calls_per_s / load.connections))}")
        command.append(f"http://{address}{load.path}")
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S).stdout
        latencies = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    return Outcome(rate(output, load, calls), percentile_ms(latencies, 0.5), percentile_ms(latencies, 0.99))


def rate(output: str, load: Load, calls: int) -> float:
    """Calls per second from h2load's `output`, once it shows that every call was answered in full."""
    counts, per_s, data = COUNTS.search(output), RATE.search(output), DATA.search(output)
    if not (counts and per_s and data):
        raise RuntimeError(f"h2load printed what is not understood:\n{output}")
    if [int(counts[1]), int(counts[2]), int(data[1])] != [calls, calls, calls * load.reply_bytes]:
        raise RuntimeError(f"not all of {calls} calls were answered with {load.reply_bytes} bytes each:\n{output}")
    return float(per_s[1])


def percentile_ms(sorted_us: list[int], share: float) -> float:
    """The value under which `share` of `sorted_us` lies, in milliseconds."""
    return sorted_us[min(len(sorted_us) - 1, int(len(sorted_us) * share))] / 1000
