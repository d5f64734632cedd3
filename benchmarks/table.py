"""The figures of a run as a Markdown table: `python -m benchmarks.table RESULTS.json ...`.

Several files are taken together; a row that is in more than one is taken from the last.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import page
from benchmarks.report import number, spread

HEAD = ("work", "figure", "Swerve", "against", "ratio (spread)", "goal", "", "CPU µs: Swerve", "peer")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [HEAD, ("---",) * len(HEAD)]
    for row in rows:
        lines += cells(row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A line for each goal of the row, or one that says why it has none."""
    if row["skipped"] or row["failure"]:
        why = f"skipped: {row['skipped']}" if row["skipped"] else "**failed**"
        yield (row["title"], why, *[""] * (len(HEAD) - 2))
        return
    for goal in row["goals"]:
        side, over, figure = goal["side"], goal["over"], goal["figure"]
        bound = f"≥ {goal['at_least']:g}" if goal["at_least"] is not None else f"≤ {goal['at_most']:g}"
        ours = medians(row, side)
        theirs = medians(row, over) if over else {}
        yield (
            row["title"],
            figure,
            number(ours[figure]) if side == "swerve" else f"{side}: {number(ours[figure])}",
            f"{over}: {number(theirs[figure])}" if over else "",
            spread(goal["values"]) + (" x" if over else ""),
            bound,
            "met" if goal["met"] else "**not met**",
            cpu(ours),
            cpu(theirs),
        )
    for side, why in row["absent"].items():
        ours = medians(row, next(iter(row["rounds"])))
        shown = [name for name in ("calls_per_s", "p50_ms") if name in ours]
        for name in shown:
            yield (row["title"], name, number(ours[name]), side, f"skipped: {why}", "", "", cpu(ours), "")


def medians(row: Mapping[str, Any], side: str) -> dict[str, float]:
    samples = row["rounds"][side]
    return {figure: median(sample[figure] for sample in samples if figure in sample) for figure in samples[0]}


def cpu(figures: Mapping[str, float]) -> str:
    """Processor time of the server's processes for one call, message of a stream, or connection."""
    units = ("call", "message", "connection")
    found = [figures[name] for unit in units if (name := f"cpu_us_per_{unit}") in figures]
    return number(found[0]) if found else ""


def machine(run: Mapping[str, Any]) -> str:
    """When and where the figures were made, and how busy others kept the machine."""
    about = ", ".join(f"{key} {value}" for key, value in run["machine"].items())
    samples = [sample for row in run["rows"] for side in row["rounds"].values() for sample in side]
    busy = [sample["cores_used_by_others"] for sample in samples if "cores_used_by_others" in sample]
    others = f" Other programs kept {spread(busy)} cores busy meanwhile." if busy else ""
    return f"Measured {run['when'][:10]} on this machine: {about}.{others}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json")
    parser.add_argument("--page", type=Path, help="the page whose part `table` to replace, instead of printing")
    options = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in options.results]
    rows = {row["name"]: row for run in runs for row in run["rows"]}
    text = f"{machine(runs[-1])}\n\n{table(list(rows.values()))}"
    if options.page:
        page.replace(options.page, "table", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
