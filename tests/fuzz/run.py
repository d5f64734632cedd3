"""Runs the fuzz targets for a bounded time: `python -m tests.fuzz.run [SECONDS] [TARGET...]`, in all 60 seconds.

The seeds of `corpus` are where it begins. What it finds on its way is kept in build/fuzz, for the next run to go on
from, and so are inputs that fail: put one into `corpus`, and `test_corpus.py` replays it from then on.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
WORK = Path("build") / "fuzz"
# An input that takes longer than this many seconds, which a busy machine makes long, or more memory than this many MiB,
# is a fault too.
_TIMEOUT_S = 60
_MEMORY_MIB = 1024
_MAX_INPUT = 16 * 1024
# What libFuzzer may take to start and to finish its last input.
_SLACK_S = 120


def run(name: str, seconds: int) -> bool:
    """Fuzz one target, and say what was done. False when an input failed."""
    found, failures = WORK / name / "found", WORK / name / "failures"
    for folder in (found, failures):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(failures.iterdir())
    command = [
        *(sys.executable, "-m", "tests.fuzz.fuzz_target", name),
        f"-max_total_time={seconds}",
        f"-timeout={_TIMEOUT_S}",
        f"-rss_limit_mb={_MEMORY_MIB}",
        f"-max_len={_MAX_INPUT}",
        f"-artifact_prefix={failures}/",
        "-print_final_stats=1",
        *(f"-dict={words}" for words in Path(__file__).parent.glob(f"{name}.dict")),
        *(str(found), str(CORPUS / name)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds + _SLACK_S)
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    edges = re.findall(r"cov: (\d+)", done.stderr)
    print(
        f"{name}: {runs[1] if runs else '?'} inputs in {seconds} s, {edges[-1] if edges else '?'} edges covered, "
        f"{len(list(found.iterdir()))} inputs kept in {found}"
    )
    if done.returncode == 0:
        return True
    said = [line for line in done.stderr.splitlines() if not line.startswith("INFO: Instrumenting")]
    print(done.stdout, *said[-40:], sep="\n", file=sys.stderr)
    for path in sorted(set(failures.iterdir()) - before):
        print(f"{name}: FAILED on {path}", file=sys.stderr)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=int, nargs="?", default=60, help="for all targets together")
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; all by default")
    given = parser.parse_args()
    unknown = set(given.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    names = given.targets or list(TARGETS)
    each = max(1, given.seconds // len(names))
    passed = [run(name, each) for name in names]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
