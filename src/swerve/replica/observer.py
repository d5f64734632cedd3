"""What a replica counts and logs of each call."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from swerve.net.pace import Pace
from swerve.observe.access import AccessLog
from swerve.observe.metrics import Histogram, Labels, counter_text, gauge_text, histogram_text
from swerve.wire.status import StatusCode

if TYPE_CHECKING:
    from swerve.replica.user_call import UserCall

# To look up an enum's member takes as long as the whole of `observe`.
_OK = StatusCode.OK


class ReplicaObserver:
    """Counters of one replica, by route and whether calls succeeded. `access_log` is None when it is switched off."""

    def __init__(self, app: str, deployment: str, replica_id: str, access_log: AccessLog | None) -> None:
        self._labels: Labels = (("application", app), ("deployment", deployment), ("replica", replica_id))
        self.pace = Pace()
        self._access_log = access_log
        self._succeeded: dict[str, Histogram] = {}
        self._failed: dict[str, Histogram] = {}

    def ended(self, call: UserCall) -> None:
        """User code of `call` has ended."""
        now = time.monotonic()
        seconds = now - call.started_at
        self.pace.ended(call.started_at, now)
        context = call.context
        calls = self._succeeded if call.status is _OK else self._failed
        histogram = calls.get(context.route)
        if histogram is None:
            histogram = calls[context.route] = Histogram()
        histogram.observe(seconds * 1000.0)
        if self._access_log is not None and not call.logged_by_proxy:
            self._access_log.add(context.request_id, "CALL", call.path, call.status, seconds)

    @property
    def labels(self) -> Labels:
        """Those of the replica."""
        return self._labels

    def lines(self, ongoing: int) -> list[str]:
        """All series in Prometheus' text format."""
        requests: dict[Labels, int] = {}
        errors: dict[Labels, int] = {}
        latencies: dict[Labels, Histogram] = {}
        for calls, counts in ((self._succeeded, requests), (self._failed, errors)):
            for route, histogram in calls.items():
                labels = (*self._labels, ("route", route))
                counts[labels] = histogram.count
                latencies[labels] = histogram.plus(latencies[labels]) if labels in latencies else histogram
        lines = counter_text("serve_deployment_request_counter", "Calls that succeeded in this replica.", requests)
        lines += counter_text("serve_deployment_error_counter", "Calls that failed in this replica.", errors)
        lines += histogram_text("serve_deployment_processing_latency_ms", "Time in the replica.", latencies)
        lines += gauge_text("serve_replica_processing_queries", "Calls under way.", {self._labels: ongoing})
        return lines
