"""What a process's routers hold: the calls that wait for each deployment, and those that run there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from swerve.caller.target import Target
from swerve.observe.metrics import Labels, gauge_text


def queue_lines(
    targets: Iterable[Target[Any]], caller: str, version_of: Callable[[Target[Any]], Labels] = lambda target: ()
) -> list[str]:
    """The lines of Prometheus' text format; `caller` is the id of the process whose targets these are, `version_of`
    gives the label of a version for those that need one."""
    queued: dict[Labels, float] = {}
    ongoing: dict[Labels, float] = {}
    for target in targets:
        names = (("application", target.app), ("deployment", target.deployment), ("caller", caller))
        labels = (*names, *version_of(target))
        queued[labels] = target.router.queued
        ongoing[labels] = sum(replica.ongoing for replica in target.router.replicas.values())
    lines = gauge_text("serve_deployment_queued_queries", "Calls of this caller that wait for a replica.", queued)
    lines += gauge_text(
        "serve_num_ongoing_requests_at_replicas", "Calls of this caller that replicas have under way.", ongoing
    )
    return lines
