"""A run in words and tables: Markdown for people, JSON for programs."""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.chaos.campaign import Result
from tests.chaos.faults import Fault
from tests.chaos.load import Outcome


def write(result: Result, folder: Path) -> Path:
    """Write `chaos-SEED.json` and `chaos-SEED.md`; the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"chaos-{result.seed}.md"
    path.write_text(text(result))
    path.with_suffix(".json").write_text(json.dumps(summary(result), indent=2))
    return path


def summary(result: Result) -> dict[str, object]:
    """The figures of the report."""
    recoveries: dict[str, list[float]] = defaultdict(list)
    for fault in result.faults:
        recoveries[fault.name].append(fault.recovery_s)
    return {
        "seed": result.seed,
        "seconds": round(result.seconds, 1),
        "machine": result.machine,
        "calls": len(result.outcomes),
        "outcomes": dict(Counter(outcome.code for outcome in result.outcomes)),
        "outcomes_by_kind": _by_kind(result.outcomes),
        "kills": dict(Counter(kill.kind for kill in result.kills)),
        "latency_ms": {
            "quiet": _latencies([outcome for outcome in result.outcomes if not _is_disturbed(outcome, result.faults)]),
            "during faults": _latencies(
                [outcome for outcome in result.outcomes if _is_disturbed(outcome, result.faults)]
            ),
        },
        "recovery_s": {name: _spread(values) for name, values in sorted(recoveries.items())},
        "before": asdict(result.before),
        "after": asdict(result.after),
        "violations": result.violations,
    }


def _by_kind(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        kinds[outcome.kind][outcome.code] += 1
    return {kind: dict(codes) for kind, codes in sorted(kinds.items())}


def _is_disturbed(outcome: Outcome, faults: Sequence[Fault]) -> bool:
    return any(fault.began < outcome.ended and outcome.began < fault.ended for fault in faults)


def _latencies(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Of the calls that were answered."""
    times = sorted((outcome.ended - outcome.began) * 1000 for outcome in outcomes if outcome.code == "OK")
    if not times:
        return {}
    last = len(times) - 1
    return {name: round(times[int(share * last)], 1) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "times": len(values),
        "median": round(statistics.median(values), 3),
        "longest": round(max(values), 3),
    }


def text(result: Result) -> str:
    """The report as Markdown."""
    figures = summary(result)
    lines = [
        f"# Chaos, seed {result.seed}",
        "",
        f"{figures['seconds']} s on {result.machine}: {figures['calls']} calls, {len(result.kills)} kills. "
        + ("Nothing happened that must not." if not result.violations else f"{len(result.violations)} violations."),
        "",
        *(f"- {violation}" for violation in result.violations),
        "",
    ]
    for title, columns, rows in (
        ("Kills", ("process", "times"), figures["kills"].items()),
        ("Outcomes", ("code", "calls"), figures["outcomes"].items()),
        ("Recovery", ("fault", "times", "median s", "longest s"), _rows(figures["recovery_s"])),
        ("Latency of answered calls", ("when", "p50 ms", "p99 ms", "longest ms"), _rows(figures["latency_ms"])),
        ("What there is", ("of what", "before", "after"), _before_and_after(result)),
    ):
        lines += [f"## {title}", "", _row(columns), _row("---" for _ in columns), *map(_row, rows), ""]
    return "\n".join(lines)


def _rows(table: dict[str, dict[str, float]]) -> list[tuple[object, ...]]:
    return [(name, *values.values()) for name, values in table.items()]


def _before_and_after(result: Result) -> list[tuple[object, ...]]:
    before, after = asdict(result.before), asdict(result.after)
    return [
        (f"{what} of {kind}", before[what].get(kind), after[what].get(kind))
        for what in before
        for kind in sorted({*before[what], *after[what]})
    ]


def _row(cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
