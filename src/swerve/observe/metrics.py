"""Metrics that the hot paths can afford: plain integers, put into Prometheus' form when somebody asks.

Names and buckets are Ray Serve's, without its `ray_` prefix.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

# Milliseconds (RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS).
LATENCY_BUCKETS_MS = (
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0),
    *(60000.0, 120000.0, 300000.0, 600000.0),
)

Labels = tuple[tuple[str, str], ...]


class Histogram:
    """Counts by bucket, with their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS_MS) + 1)
        self.total = 0.0

    def observe(self, milliseconds: float) -> None:
        self.counts[bisect_left(LATENCY_BUCKETS_MS, milliseconds)] += 1
        self.total += milliseconds


def counter_text(name: str, help_text: str, values: Mapping[Labels, int]) -> list[str]:
    """A counter's lines in Prometheus' text format."""
    lines = [f"# HELP {name}_total {help_text}", f"# TYPE {name}_total counter"]
    lines += [f"{name}_total{_labels(labels)} {value}" for labels, value in values.items()]
    return lines


def gauge_text(name: str, help_text: str, values: Mapping[Labels, float]) -> list[str]:
    """A gauge's lines in Prometheus' text format."""
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
    lines += [f"{name}{_labels(labels)} {value}" for labels, value in values.items()]
    return lines


def histogram_text(name: str, help_text: str, values: Mapping[Labels, Histogram]) -> list[str]:
    """A histogram's lines in Prometheus' text format."""
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} histogram"]
    for labels, histogram in values.items():
        running = 0
        for bound, count in zip((*LATENCY_BUCKETS_MS, float("inf")), histogram.counts, strict=True):
            running += count
            text = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f"{name}_bucket{_labels((*labels, ('le', text)))} {running}")
        lines.append(f"{name}_sum{_labels(labels)} {histogram.total}")
        lines.append(f"{name}_count{_labels(labels)} {running}")
    return lines


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
