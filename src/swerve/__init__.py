"""Swerve: serve Python models over gRPC. `import swerve as serve` and use it as Ray Serve."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swerve.api import (
        RunTarget,
        delete,
        get_app_handle,
        get_deployment_handle,
        run,
        run_many,
        shutdown,
        shutdown_async,
        start,
        status,
    )
    from swerve.application import Application, Deployment, deployment
    from swerve.batching import batch
    from swerve.config import ControllerOptions, HTTPOptions, TracingConfig
    from swerve.context import get_replica_context
    from swerve.http_ingress import ingress
    from swerve.multiplex import get_multiplexed_model_id, multiplexed

__all__ = [
    "Application",
    "ControllerOptions",
    "Deployment",
    "HTTPOptions",
    "RunTarget",
    "TracingConfig",
    "batch",
    "delete",
    "deployment",
    "get_app_handle",
    "get_deployment_handle",
    "get_multiplexed_model_id",
    "get_replica_context",
    "ingress",
    "multiplexed",
    "run",
    "run_many",
    "shutdown",
    "shutdown_async",
    "start",
    "status",
]

__version__ = "0.1.0"

# Each public name is imported when it is first used: a replica needs no CLI, and a command no batching.
_HOMES = {
    "swerve.api": (
        "RunTarget",
        "delete",
        "get_app_handle",
        "get_deployment_handle",
        "run",
        "run_many",
        "shutdown",
        "shutdown_async",
        "start",
        "status",
    ),
    "swerve.application": ("Application", "Deployment", "deployment"),
    "swerve.batching": ("batch",),
    "swerve.config": ("ControllerOptions", "HTTPOptions", "TracingConfig"),
    "swerve.context": ("get_replica_context",),
    "swerve.http_ingress": ("ingress",),
    "swerve.multiplex": ("get_multiplexed_model_id", "multiplexed"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_PUBLIC_MODULES = (
    "autoscaling_policy",
    "batching",
    "canary",
    "config",
    "context",
    "exceptions",
    "grpc_util",
    "handle",
    "metrics",
    "schema",
)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value
    if name in _PUBLIC_MODULES:
        return importlib.import_module(f"swerve.{name}")
    raise AttributeError(f"module 'swerve' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_PUBLIC_MODULES])
