"""The route table: what the view says about applications and methods, in the form that the hot path looks up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from swerve.generated import control_pb2
from swerve.routing.split import Split
from swerve.wire.metadata import MAX_METADATA_SIZE

_SEE_LIST = "Ping /ray.serve.RayServeAPIService/ListApplications for available applications."


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """The gRPC options that the proxy itself keeps. Times in seconds, sizes in bytes."""

    request_timeout_s: float | None = None
    strict_application: bool = False
    max_metadata_size: int = MAX_METADATA_SIZE
    enable_reflection: bool = True


class Upstream(NamedTuple):
    """The ingress deployment of one release of an application."""

    app: str
    deployment: str
    release: str = ""


class CanaryRoute(NamedTuple):
    """Where the calls go that `split` says."""

    split: Split
    upstream: Upstream


@dataclass(frozen=True, slots=True)
class Method:
    """What the proxy needs to know of an RPC. `unary`: neither its requests nor its responses are streams."""

    path: bytes
    client_streaming: bool
    unary: bool


@dataclass(frozen=True, slots=True)
class RouteTable:
    """One view's routes.

    `methods` maps an RPC's path to what it is, `ingresses` an application's name, as it stands in metadata, to its
    ingress deployment. `canaries` are those that take calls, by the other side.
    """

    methods: Mapping[bytes, Method] = field(default_factory=dict)
    ingresses: Mapping[bytes, Upstream] = field(default_factory=dict)
    limits: GrpcLimits = GrpcLimits()
    # The ingress of the single application; None where there are none or several.
    only: Upstream | None = None
    canaries: Mapping[Upstream, CanaryRoute] = field(default_factory=dict)

    def side(self, ingress: Upstream, fields: Mapping[bytes, bytes]) -> Upstream:
        """Which release of the application with this ingress gets a call with these header fields."""
        canary = self.canaries.get(ingress)
        return canary.upstream if canary is not None and canary.split.takes(fields) else ingress

    def find(self, application: bytes | None) -> Upstream | None:
        """The ingress deployment for a call that names `application`.

        A single application takes every call, whatever name it brings (as in Ray Serve), unless
        `strict_application` is set.
        """
        if self.only is not None and not (application and self.limits.strict_application):
            return self.only
        return self.ingresses.get(application or b"")

    @property
    def applications(self) -> list[str]:
        """Names of the applications, in the view's order."""
        return [ingress.app for ingress in self.ingresses.values()]


def not_found(application: bytes | None) -> str:
    """Ray Serve's details for a call that no application takes."""
    if not application:
        return f"Application metadata not set. {_SEE_LIST}"
    return f"Application '{application.decode('latin-1')}' not found. {_SEE_LIST}"


def limits_of(options: Mapping[str, object]) -> GrpcLimits:
    """The proxy's part of the instance's gRPC options (JSON of `swerve.config.gRPCOptions`)."""
    timeout = options.get("request_timeout_s")
    size = options.get("max_metadata_size")
    return GrpcLimits(
        request_timeout_s=float(timeout) if isinstance(timeout, int | float) and timeout >= 0 else None,
        strict_application=bool(options.get("strict_application", False)),
        max_metadata_size=int(size) if isinstance(size, int) else GrpcLimits().max_metadata_size,
        enable_reflection=bool(options.get("enable_reflection", True)),
    )


def build_routes(view: control_pb2.View) -> RouteTable:
    """The route table of a view."""
    grpc_options = json.loads(view.options.grpc_options_json or "{}")
    ingresses = {app.name.encode(): Upstream(app.name, app.ingress, app.release) for app in view.applications}
    return RouteTable(
        methods={
            method.path.encode(): Method(
                method.path.encode(),
                client_streaming=method.client_streaming,
                unary=not (method.client_streaming or method.server_streaming),
            )
            for method in view.options.grpc_methods
        },
        ingresses=ingresses,
        limits=limits_of(grpc_options),
        only=next(iter(ingresses.values())) if len(ingresses) == 1 else None,
        canaries={
            ingresses[app.name.encode()]: _canary_route(app.name, app.canary)
            for app in view.applications
            if app.canary.ready
        },
    )


def _canary_route(app: str, canary: control_pb2.CanaryView) -> CanaryRoute:
    match = {name.encode(): value.encode() for name, value in canary.match.items()}
    split = Split(canary.weight, match, canary.sticky_key.encode(), canary.release.encode())
    return CanaryRoute(split, Upstream(app, canary.ingress, canary.release))
