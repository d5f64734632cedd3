"""What the proxy counts and logs of each HTTP request."""

from __future__ import annotations

from swerve.observe.access import AccessLog
from swerve.observe.metrics import (
    Histogram,
    Labels,
    counter_text,
    gauge_text,
    histogram_text,
    text_of,
    version_label,
)
from swerve.wire import websocket

# What a request whose client went away is recorded as; nobody gets it as an answer.
CLIENT_CLOSED_REQUEST = 499
# A fault of the server's below 500: a request that was not done in time.
_REQUEST_TIMEOUT = 408
# Methods are the client's words: those that HTTP does not define share a label.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "WEBSOCKET"))
# Codes of WebSockets that ended as they should.
_CLOSED_WELL = (websocket.NORMAL_CLOSURE, websocket.GOING_AWAY, websocket.NO_STATUS)


def is_server_error(status: int) -> bool:
    """Whether a status tells of a fault of the server's; that of a request that was too slow counts as gRPC's does."""
    return 500 <= status < 600 or status in (_REQUEST_TIMEOUT, websocket.INTERNAL_ERROR)


class HttpObserver:
    """Counters of the HTTP ingress, by route, method and status. `access_log` is None when it is switched off."""

    def __init__(self, access_log: AccessLog | None) -> None:
        self.ongoing = 0
        self._access_log = access_log
        # By (application, deployment, route, method, status, version).
        self._requests: dict[tuple[str, str, str, str, int, str], Histogram] = {}

    def ended(
        self,
        app: str,
        deployment: str,
        route: str,
        method: str,
        status: int,
        request_id: str,
        path: str,
        seconds: float,
        version: str = "",
    ) -> None:
        """A request has been answered. `app`, `deployment` and `route` are "" when no application got it."""
        key = (app, deployment, route, method if method in _METHODS else "OTHER", status, version)
        histogram = self._requests.get(key)
        if histogram is None:
            histogram = self._requests[key] = Histogram()
        histogram.observe(seconds * 1000.0)
        if self._access_log is not None:
            self._access_log.add(request_id, method, path, status, seconds, version)

    def prometheus_text(self, own: Labels) -> str:
        """All series in Prometheus' text format; `own` are this proxy's labels."""
        requests: dict[Labels, int] = {}
        errors: dict[Labels, int] = {}
        deployment_errors: dict[Labels, int] = {}
        latencies: dict[Labels, Histogram] = {}
        for (app, deployment, route, method, status, version), histogram in self._requests.items():
            base = (("application", app), ("method", method), ("route", route), *version_label(version))
            labels = (*base, ("status_code", str(status)), *own)
            count = histogram.count
            requests[labels] = count
            latencies[labels] = histogram
            if status >= 400 and status not in _CLOSED_WELL:
                failed = (*base, ("error_code", str(status)), *own)
                errors[failed] = count
                if deployment:
                    deployment_errors[(*failed, ("deployment", deployment))] = count
        lines = counter_text("serve_num_http_requests", "HTTP requests that the proxy answered.", requests)
        lines += counter_text("serve_num_http_error_requests", "HTTP requests that ended with an error.", errors)
        lines += counter_text(
            "serve_num_deployment_http_error_requests",
            "HTTP requests of a deployment that ended with an error.",
            deployment_errors,
        )
        lines += histogram_text("serve_http_request_latency_ms", "Time from a request's head to its end.", latencies)
        lines += gauge_text("serve_num_ongoing_http_requests", "HTTP requests under way.", {own: self.ongoing})
        return text_of(lines)
