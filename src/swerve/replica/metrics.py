"""The metrics of a replica: Swerve's own, and those that user code made."""

from __future__ import annotations

import asyncio
import logging
import sys

from swerve.caller.queue_metrics import queue_lines
from swerve.caller.runtime import get_runtime
from swerve.observe.metrics import Labels, collectors, text_of, with_labels
from swerve.replica.observer import ReplicaObserver

logger = logging.getLogger("swerve.replica")


async def metrics_of(observer: ReplicaObserver, ongoing: int) -> str:
    """All series of this process in Prometheus' text format."""
    own = observer.lines(ongoing)
    for lines in collectors:
        own += lines(observer.labels)
    own += queue_lines(get_runtime().targets, dict(observer.labels)["replica"])
    return text_of(own) + await _of_user_code(observer.labels)


async def _of_user_code(labels: Labels) -> str:
    """What is in prometheus-client's default registry, nothing when user code does not use it."""
    if "prometheus_client" not in sys.modules:
        return ""
    from prometheus_client import generate_latest

    try:
        # In a thread, because a collector of the user's may take its time.
        text = (await asyncio.to_thread(generate_latest)).decode()
    except Exception:
        logger.exception("The metrics of user code cannot be read")
        return ""
    return with_labels(text, labels)
