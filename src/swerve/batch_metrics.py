"""What is counted of the batches of `@serve.batch`, by the function's name, under Ray Serve's names."""

from __future__ import annotations

import weakref
from typing import Protocol

from swerve.observe.metrics import Histogram, Labels, collectors, counter_text, gauge_text, histogram_text

_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
_PERCENTS = (5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 100.0)


class Waiting(Protocol):
    """What is looked at of a queue."""

    def __len__(self) -> int: ...


class BatchCounts:
    """The batches of the functions of one name."""

    def __init__(self) -> None:
        self.waits = Histogram()
        self.executions = Histogram()
        self.sizes = Histogram(_SIZES)
        self.utilizations = Histogram(_PERCENTS)
        self.queues: weakref.WeakSet[Waiting] = weakref.WeakSet()

    def began(self, waited_s: float, size: float, max_size: int) -> None:
        """A batch of this size starts; its first item has waited so long."""
        self.waits.observe(waited_s * 1000.0)
        self.sizes.observe(size)
        self.utilizations.observe(100.0 * size / max_size)

    def ended(self, seconds: float) -> None:
        """A batch has ended, well or not."""
        self.executions.observe(seconds * 1000.0)


_counts: dict[str, BatchCounts] = {}


def counts_of(function_name: str) -> BatchCounts:
    """Where batches of functions of this name are counted."""
    return _counts.setdefault(function_name, BatchCounts())


def batch_lines(replica: Labels) -> list[str]:
    """All series as lines of Prometheus' text format, with the labels of the replica."""
    counts = {(*replica, ("function_name", name)): one for name, one in _counts.items()}
    lines = histogram_text(
        "serve_batch_wait_time_ms",
        "Time that the first item of a batch waited for its start.",
        {labels: one.waits for labels, one in counts.items()},
    )
    lines += histogram_text(
        "serve_batch_execution_time_ms",
        "Time that the function took for a batch.",
        {labels: one.executions for labels, one in counts.items()},
    )
    lines += histogram_text(
        "serve_actual_batch_size",
        "Size of a batch: its items, or what batch_size_fn weighs them.",
        {labels: one.sizes for labels, one in counts.items()},
    )
    lines += histogram_text(
        "serve_batch_utilization_percent",
        "Size of a batch in percent of max_batch_size.",
        {labels: one.utilizations for labels, one in counts.items()},
    )
    lines += counter_text(
        "serve_batches_processed",
        "Batches that have ended.",
        {key: one.executions.count for key, one in counts.items()},
    )
    lines += gauge_text(
        "serve_batch_queue_length",
        "Items that wait for a batch to start.",
        {labels: sum(len(queue) for queue in one.queues) for labels, one in counts.items()},
    )
    return lines


collectors.append(batch_lines)
