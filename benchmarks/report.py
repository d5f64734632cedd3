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

from benchmarks.result import Result

RESULTS = Path(__file__).parent / "results"


def spread(values: Sequence[float]) -> str:
    """The median, and the least and the greatest value where there are several."""
    if len(values) == 1:
        return number(values[0])
    return f"{number(median(values))} ({number(min(values))} .. {number(max(values))})"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def text(result: Result) -> str:
    """The row as lines: one a figure and contender, then one a goal."""
    lines = [result.title]
    if result.skipped:
        return "\n".join([*lines, f"  skipped: {result.skipped}"])
    for contender, samples in result.rounds.items():
        figures = dict.fromkeys(figure for sample in samples for figure in sample)
        lines += [f"  {contender:10} {figure:24} {spread(result.values(contender, figure))}" for figure in figures]
    for goal in result.goals:
        verdict = "met" if result.met(goal) else "NOT MET"
        compared = "ratio of " if goal.ratio else ""
        lines.append(f"  {compared}{goal.figure}: {spread(result.compared(goal))}, goal {goal}: {verdict}")
    return "\n".join(lines)


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            **{package: version(package) for package in ("swerve", "grpcio", "ngh2", "uvloop")},
        },
        "rows": [
            {
                "name": result.name,
                "title": result.title,
                "skipped": result.skipped,
                "rounds": {name: [dict(sample) for sample in samples] for name, samples in result.rounds.items()},
                "goals": [
                    {
                        "figure": goal.figure,
                        "goal": str(goal),
                        "values": result.compared(goal),
                        "median": median(result.compared(goal)),
                        "met": result.met(goal),
                    }
                    for goal in (() if result.skipped else result.goals)
                ],
            }
            for result in results
        ],
    }


def write(results: Sequence[Result], path: Path | None) -> Path:
    """Write `results` as JSON to `path`, by default a new file in `benchmarks/results`; return where."""
    path = path or RESULTS / f"compare-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(results), indent=1) + "\n")
    return path


def say(line: str = "") -> None:
    """Print at once, also into a pipe: a row takes a while."""
    print(line, file=sys.stdout, flush=True)
