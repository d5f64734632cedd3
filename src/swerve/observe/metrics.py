"""Metrics that the hot paths can afford: plain numbers, put into Prometheus' text format when somebody asks.

Names and buckets are Ray Serve's; what is exported has the prefix `ray_`, as what Ray exports has.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

# Milliseconds (RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS).
LATENCY_BUCKETS_MS = (
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0),
    *(60000.0, 120000.0, 300000.0, 600000.0),
)
PREFIX = "ray_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]

# What the series of a canary have besides those of its application.
CANARY = "canary"


def version_label(version: str) -> Labels:
    """The label of a version, none for the application's own: its series stay the same with and without a canary."""
    return (("version", version),) if version else ()


# Modules of user code that count by themselves (batches, models) put a function here that gives their lines with the
# labels of their replica. So a replica whose code imports none of them imports none either.
collectors: list[Callable[[Labels], list[str]]] = []


class Histogram:
    """Counts by bucket, with their sum. `bounds` are the buckets' upper ends, ascending."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BUCKETS_MS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        # Most calls of a busy process are in the first bucket, and to look for it takes as long as all the rest.
        self.counts[0 if value <= self.bounds[0] else bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def plus(self, other: Histogram) -> Histogram:
        """Both together, which have the same bounds."""
        added = Histogram(self.bounds)
        added.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        added.total = self.total + other.total
        return added


# ---------------------------------------------------------------------------------------------------------------------
# From numbers to text


def counter_text(name: str, help_text: str, values: Mapping[Labels, int]) -> list[str]:
    """A counter's lines."""
    return _simple(f"{name}_total", "counter", help_text, values)


def gauge_text(name: str, help_text: str, values: Mapping[Labels, float]) -> list[str]:
    """A gauge's lines."""
    return _simple(name, "gauge", help_text, values)


def histogram_text(name: str, help_text: str, values: Mapping[Labels, Histogram]) -> list[str]:
    """A histogram's lines."""
    lines = _head(name, "histogram", help_text)
    for labels, histogram in values.items():
        running = 0
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            running += count
            text = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f"{PREFIX}{name}_bucket{_labels((*labels, ('le', text)))} {running}")
        lines.append(f"{PREFIX}{name}_sum{_labels(labels)} {histogram.total}")
        lines.append(f"{PREFIX}{name}_count{_labels(labels)} {running}")
    return lines


def text_of(lines: Iterable[str]) -> str:
    """The lines as a text, each ended."""
    return "".join(f"{line}\n" for line in lines)


def _head(name: str, kind: str, help_text: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {help_text}", f"# TYPE {PREFIX}{name} {kind}"]


def _simple(name: str, kind: str, help_text: str, values: Mapping[Labels, float]) -> list[str]:
    samples = [f"{PREFIX}{name}{_labels(labels)} {value}" for labels, value in values.items()]
    return _head(name, kind, help_text) + samples


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


# ---------------------------------------------------------------------------------------------------------------------
# From texts to one text

# The name at the start of a sample.
_SAMPLE_NAME = re.compile(r"[^{\s]*")


def merge(texts: Iterable[str]) -> str:
    """The texts of several processes as one, in which each family stands once; its first HELP and TYPE count.

    No two texts may have a sample with the same labels.
    """
    heads: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        family = ""
        for line in text.split("\n"):
            if line.startswith(("# HELP ", "# TYPE ")):
                _, keyword, family, *_ = line.split(" ", 3)
                heads.setdefault(family, {}).setdefault(keyword, line)
                samples.setdefault(family, [])
            elif line and not line.startswith("#"):
                if not family or not line.startswith(family):
                    name = _SAMPLE_NAME.match(line)
                    family = name.group() if name else line
                samples.setdefault(family, []).append(line)
    return text_of(
        line for family, lines in samples.items() for line in (*sorted(heads.get(family, {}).values()), *lines)
    )


def with_labels(text: str, labels: Labels) -> str:
    """`text` with those of `labels` in each sample that it has not yet."""
    return text_of(line if line.startswith("#") else _labelled(line, labels) for line in text.split("\n") if line)


def _labelled(sample: str, labels: Labels) -> str:
    # In a value a quote stands behind a backslash, so no value can look like a label.
    missing = _labels(tuple(label for label in labels if not re.search(rf'[{{,]{label[0]}="', sample)))
    if not missing:
        return sample
    end = sample.rfind("}")
    if end < 0:
        name, _, value = sample.partition(" ")
        return f"{name}{missing} {value}"
    comma = "" if sample[end - 1] in "{," else ","
    return f"{sample[:end]}{comma}{missing[1:]}{sample[end + 1 :]}"
