"""The HTTP route table, and what the proxy reads in a request's headers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swerve.generated import control_pb2
from swerve.proxy.request_ids import is_usable
from swerve.proxy.routes import Upstream


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """An application's ingress deployment and what a request that it sheds is answered. Times in seconds."""

    prefix: str
    upstream: Upstream
    shed_status: int = 503
    retry_after_s: float | None = None

    @property
    def app(self) -> str:
        return self.upstream.app


@dataclass(frozen=True, slots=True)
class HttpRoutes:
    """Routes, longest prefix first."""

    routes: tuple[HttpRoute, ...] = ()

    def match(self, path: str) -> HttpRoute | None:
        """The route with the longest prefix of `path`, by whole segments."""
        for route in self.routes:
            prefix = route.prefix
            if prefix == "/" or path == prefix or path.startswith(prefix + "/"):
                return route
        return None

    @property
    def applications(self) -> dict[str, str]:
        """Application names by prefix."""
        return {route.prefix: route.app for route in self.routes}


def build_http_routes(view: control_pb2.View) -> HttpRoutes:
    """The routes of a view: applications with a route prefix."""
    deployments = {Upstream(item.app, item.name, item.release): item for item in view.deployments}
    routes = []
    for app in view.applications:
        if not app.HasField("route_prefix"):
            continue
        upstream = Upstream(app.name, app.ingress, app.release)
        ingress = deployments.get(upstream, control_pb2.DeploymentView())
        after = ingress.backpressure_retry_after_s if ingress.HasField("backpressure_retry_after_s") else None
        status = ingress.backpressure_status_code or 503
        routes.append(HttpRoute(app.route_prefix, upstream, status, after))
    return HttpRoutes(tuple(sorted(routes, key=lambda route: len(route.prefix), reverse=True)))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request's headers ask of the proxy; "" and None where they do not."""

    request_id: str = ""
    model_id: str = ""
    session_id: str = ""
    timeout_s: float | None = None
    # Run to the end even if the client goes away.
    detached: bool = False
    # The body has a length, so it is meant to be read whole; without one it may be a stream.
    whole: bool = False


def read_wanted(headers: Iterable[Sequence[bytes]]) -> Wanted:
    """Ray Serve's request headers. Of duplicates the last counts; a timeout that is no positive number is ignored."""
    fields = {name: value.decode("latin-1") for name, value in headers}
    request_id = fields.get(b"x-request-id", "")
    model_id = fields.get(b"serve_multiplexed_model_id") or fields.get(b"serve-multiplexed-model-id") or ""
    return Wanted(
        request_id=request_id if is_usable(request_id.encode("latin-1")) else "",
        model_id=model_id,
        session_id=fields.get(b"x-session-id", ""),
        timeout_s=_seconds(fields.get(b"x-request-timeout-seconds", "")),
        detached=fields.get(b"x-request-disconnect-disabled") == "?1",
        whole=fields.get(b"content-length", "0") != "0",
    )


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value > 0 and math.isfinite(value) else None
