"""What the proxy counts and logs of each call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol

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
from swerve.proxy.forward import CallObserver, CallSeries
from swerve.proxy.request_ids import path_for_log
from swerve.wire.status import StatusCode

# Errors that are the server's (OpenTelemetry's semantic conventions for gRPC); others may be the client's own.
SERVER_ERRORS = frozenset(
    (
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    )
)
_CODE_NAMES = tuple(code.name for code in StatusCode)


class IngressObserver(CallObserver, Protocol):
    """Where the calls of an ingress are counted and logged. Whoever begins a call adds it to `ongoing`, and its series
    takes it off again."""

    ongoing: int

    def series(self, app: str, path: bytes, version: str = "") -> CallSeries: ...

    def refused(self, path: bytes, request_id: bytes, code: int) -> None: ...


class Series:
    """The calls of one RPC of one version of an application, by code. Satisfies `CallSeries`."""

    __slots__ = ("_app", "_method", "_observer", "_version", "latencies")

    def __init__(self, observer: ProxyObserver, app: str, method: str, version: str) -> None:
        self.latencies: defaultdict[int, Histogram] = defaultdict(Histogram)
        self._observer = observer
        self._app = app
        self._method = method
        self._version = version

    def ended(self, request_id: bytes, code: int, seconds: float) -> None:
        observer = self._observer
        observer.ongoing -= 1
        self.latencies[code].observe(seconds * 1000.0)
        log = observer.access_log
        if log is not None:
            log.add(request_id.decode("latin-1"), self._method, self._app, code, seconds, self._version)


class ProxyObserver:
    """Counters of the gRPC ingress, by application, method and code. `access_log` is None when it is switched off."""

    def __init__(self, access_log: AccessLog | None) -> None:
        self.ongoing = 0
        self.access_log = access_log
        # By (application, path, version).
        self._series: dict[tuple[str, bytes, str], Series] = {}

    def series(self, app: str, path: bytes, version: str = "") -> Series:
        key = (app, path, version)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series(self, app, path.decode("latin-1"), version)
        return series

    def refused(self, path: bytes, request_id: bytes, code: int) -> None:
        """A request that no application got. Its path is the client's invention, so it is no label."""
        self.series("", b"").latencies[code].observe(0.0)
        if self.access_log is not None:
            self.access_log.add(request_id.decode("latin-1"), path_for_log(path), "", code, 0.0)

    def prometheus_text(self, own: Labels, ingresses: Mapping[tuple[str, str], str]) -> str:
        """All series in Prometheus' text format; `own` are this proxy's labels, `ingresses` the deployments by
        application and version."""
        requests: dict[Labels, int] = {}
        errors: dict[Labels, int] = {}
        deployment_errors: dict[Labels, int] = {}
        latencies: dict[Labels, Histogram] = {}
        by_code = ((key, *item) for key, series in self._series.items() for item in series.latencies.items())
        for (app, path, version), code, histogram in by_code:
            base = (("application", app), ("method", path.decode("latin-1")), ("route", app), *version_label(version))
            labels = (*base, ("status_code", _CODE_NAMES[code]), *own)
            requests[labels] = histogram.count
            latencies[labels] = histogram
            if code != StatusCode.OK:
                failed = (*base, ("error_code", _CODE_NAMES[code]), *own)
                errors[failed] = histogram.count
                deployment = ingresses.get((app, version))
                if deployment is not None:
                    deployment_errors[(*failed, ("deployment", deployment))] = histogram.count
        lines = counter_text("serve_num_grpc_requests", "gRPC requests that the proxy answered.", requests)
        lines += counter_text("serve_num_grpc_error_requests", "gRPC requests that ended with an error.", errors)
        lines += counter_text(
            "serve_num_deployment_grpc_error_requests",
            "gRPC requests of a deployment that ended with an error.",
            deployment_errors,
        )
        lines += histogram_text("serve_grpc_request_latency_ms", "Time from a request's headers to its end.", latencies)
        lines += gauge_text("serve_num_ongoing_grpc_requests", "gRPC requests under way.", {own: self.ongoing})
        return text_of(lines)


class Tally:
    """Calls that have ended since somebody took the numbers, and how many of them with an error of the server's."""

    __slots__ = ("calls", "errors")

    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0

    def add(self, *, error: bool) -> None:
        self.calls += 1
        self.errors += error

    def take(self) -> tuple[int, int]:
        """The calls and errors until now, which are counted no more."""
        taken = self.calls, self.errors
        self.calls = self.errors = 0
        return taken

    def put_back(self, calls: int, errors: int) -> None:
        self.calls += calls
        self.errors += errors


class SideObserver:
    """Counts the calls of one side of a split, for the controller and as all calls are."""

    def __init__(self, observer: IngressObserver, version: str) -> None:
        self.version = version
        self.tally = Tally()
        self._observer = observer

    def series(self, app: str, path: bytes) -> CallSeries:
        return _SideSeries(self.tally, self._observer.series(app, path, self.version))


class _SideSeries:
    """The calls of one RPC at one side of a split."""

    __slots__ = ("_series", "_tally")

    def __init__(self, tally: Tally, series: CallSeries) -> None:
        self._tally = tally
        self._series = series

    def ended(self, request_id: bytes, code: int, seconds: float) -> None:
        self._tally.add(error=code in SERVER_ERRORS)
        self._series.ended(request_id, code, seconds)
