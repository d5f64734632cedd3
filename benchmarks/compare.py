"""Run the comparison: `python -m benchmarks.compare`, or some of it: `python -m benchmarks.compare unary memory`.

Everything stays on the loopback interface, every loop is bounded, and all servers are stopped at the end. The exit code
is 1 when a goal is not met.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import checks, loopback, plot, ray_serve, report, rows, servers
from benchmarks.result import Result


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.with_ray:
        ray_serve.install()
        loopback.isolate()
    servers.prepare()
    rows.allow_many_connections()
    work = everything(options)
    if options.list:
        for name, (title, _) in work.items():
            print(f"{name:18} {title}")
        return 0
    unknown = [name for name in options.rows if name not in work]
    if unknown:
        print(f"no such row: {', '.join(unknown)}; there are {', '.join(work)}", file=sys.stderr)
        return 2
    results = [attempt(name, *work[name]) for name in options.rows or work]
    written = report.write(results, options.json)
    report.say(f"written to {written} and {plot.draw(written)}; as a table: python -m benchmarks.table {written}")
    return 0 if all(result.passed for result in results) else 1


def attempt(name: str, title: str, run: Callable[[], Result]) -> Result:
    """Run a row and print it. One that breaks off does not take the others' figures with it."""
    try:
        result = run()
    except Exception as failure:
        traceback.print_exc()
        result = Result(name, title, failure=f"{type(failure).__name__}: {failure}")
    report.say(report.text(result) + "\n")
    return result


def everything(options: argparse.Namespace) -> dict[str, tuple[str, Callable[[], Result]]]:
    """What can be run: its name, its title, and how to run it."""
    in_turns = partial(rows.in_turns, rounds=options.rounds, seconds=options.seconds)
    return {row.name: (row.title, partial(in_turns, row)) for row in rows.rows()} | {
        "startup": (checks.STARTUP, partial(checks.startup, options.rounds)),
        "startup-ray": (checks.STARTUP_RAY, partial(checks.startup_ray, options.rounds)),
        "memory": (checks.MEMORY, checks.memory),
        "memory-ray": (checks.MEMORY_RAY, checks.memory_ray),
        "leaks": (checks.LEAKS, partial(checks.leaks, options.deploy_rounds)),
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to run, all by default; --list names them")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--with-ray", action="store_true", help=f"compare with Ray Serve {ray_serve.RAY} as well")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default 5)")
    parser.add_argument("--seconds", type=float, default=3, help="length of one turn (default 3)")
    parser.add_argument(
        "--deploy-rounds", type=int, default=200, help="deploy-and-delete rounds of `leaks` (default 200)"
    )
    parser.add_argument(
        "--json", type=Path, help="where to write the figures (default: a new file in benchmarks/results)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
