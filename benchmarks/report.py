"""Prints results as text and writes them as JSON."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.result import Goal, Result

RESULTS = Path(__file__).parent / "results"


def spread(values: Sequence[float]) -> str:
    """The median, and the least and the greatest value where there are several."""
    if len(values) == 1:
        return number(values[0])
    return f"{number(median(values))} ({number(min(values))} .. {number(max(values))})"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def text(result: Result) -> str:
    """The row as lines: one a figure and side, then one a goal."""
    lines = [result.title]
    if result.skipped or result.failure:
        return "\n".join([*lines, f"  skipped: {result.skipped}" if result.skipped else f"  FAILED: {result.failure}"])
    for side, samples in result.rounds.items():
        figures = dict.fromkeys(figure for sample in samples for figure in sample)
        lines += [f"  {side:18} {figure:28} {spread(result.values(side, figure))}" for figure in figures]
    lines += [f"  {side:18} skipped: {why}" for side, why in result.absent.items()]
    for goal in result.judged:
        verdict = "met" if result.met(goal) else "NOT MET"
        compared = f" of {result.side(goal)}" + (f", over {goal.over}" if goal.over else "")
        lines.append(f"  {goal.figure}{compared}: {spread(result.compared(goal))}, goal {goal}: {verdict}")
    return "\n".join(lines)


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "processor": processor(),
            "system": platform.platform(),
            "python": platform.python_version(),
            **{package: version(package) for package in ("swerve", "grpcio", "ngh2", "uvloop")},
        },
        "rows": [
            {
                "name": result.name,
                "title": result.title,
                "skipped": result.skipped,
                "failure": result.failure,
                "absent": dict(result.absent),
                "rounds": {name: [dict(sample) for sample in samples] for name, samples in result.rounds.items()},
                "goals": [goal_as_json(result, goal) for goal in result.judged],
            }
            for result in results
        ],
    }


def goal_as_json(result: Result, goal: Goal) -> dict[str, Any]:
    values = result.compared(goal)
    return {
        "figure": goal.figure,
        "side": result.side(goal),
        "over": goal.over,
        "at_least": goal.at_least,
        "at_most": goal.at_most,
        "values": values,
        "median": median(values),
        "met": result.met(goal),
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def write(results: Sequence[Result], path: Path | None) -> Path:
    """Write `results` as JSON to `path`, by default a new file in `benchmarks/results`; return where."""
    path = path or RESULTS / f"compare-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(results), indent=1) + "\n")
    return path


def say(line: str = "") -> None:
    """Print at once, also into a pipe: a row takes a while."""
    print(line, file=sys.stdout, flush=True)
