"""The configuration file.

Field names, leniency to unknown keys and messages are Ray Serve's (`ray.serve.schema`). That module has the status too
(`swerve.status_overview`, `swerve.statuses`), so this one gives its names to those who import them from here.
"""

from __future__ import annotations

import logging
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticSerializationError

from swerve.config import (
    AutoscalingConfig,
    AutoscalingPolicy,
    BackpressureConfig,
    CanaryOptions,
    ControllerOptions,
    DeploymentActorConfig,
    GangSchedulingConfig,
    HTTPOptions,
    LoggingConfig,
    Options,
    ProxyLocation,
    RequestRouterConfig,
    TracingConfig,
    check_max_ongoing_requests,
    check_max_queued_requests,
    check_user_config,
    explain,
    gRPCOptions,
)
from swerve.config_base import ignored_keys
from swerve.exceptions import RayServeException
from swerve.status_overview import (
    ApplicationStatusOverview,
    CallCounts,
    CanaryStatusOverview,
    DeploymentStatusOverview,
    ServeStatus,
)
from swerve.statuses import (
    ApplicationStatus,
    CanaryPhase,
    DeploymentStatus,
    DeploymentStatusTrigger,
    ProxyStatus,
    ReplicaState,
)

__all__ = [
    "APIType",
    "ApplicationStatus",
    "ApplicationStatusOverview",
    "CallCounts",
    "CanaryPhase",
    "CanarySchema",
    "CanaryStatusOverview",
    "ConfigError",
    "DeploymentSchema",
    "DeploymentStatus",
    "DeploymentStatusOverview",
    "DeploymentStatusTrigger",
    "HTTPOptionsSchema",
    "LoggingConfig",
    "ProxyStatus",
    "RayActorOptionsSchema",
    "ReplicaState",
    "ServeApplicationSchema",
    "ServeDeploySchema",
    "ServeStatus",
    "TracingConfig",
    "gRPCOptionsSchema",
    "load_config",
]


logger = logging.getLogger("swerve.schema")

# A file of another kind altogether is told by its first lines.
_MOST_WARNINGS = 20


class APIType(StrEnum):
    """How an application came to be: `declarative` from a configuration file, `imperative` from Python."""

    UNKNOWN = "unknown"
    DECLARATIVE = "declarative"
    IMPERATIVE = "imperative"


class ConfigError(RayServeException):
    """A configuration file that cannot be applied; the message says where and why."""


# ---------------------------------------------------------------------------------------------------------------------
# The file

gRPCOptionsSchema = gRPCOptions
# Unlike in Ray Serve, a file too binds the loopback address unless it names another.
HTTPOptionsSchema = HTTPOptions


class RayActorOptionsSchema(Options):
    """What a replica needs to run. One machine uses `runtime_env` and keeps the rest."""

    runtime_env: dict[str, Any] = Field(default_factory=dict)
    num_cpus: Annotated[float, Field(ge=0)] | None = None
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    memory: Annotated[float, Field(ge=0)] | None = None
    resources: dict[str, float] | None = None
    accelerator_type: str | None = None
    label_selector: dict[str, str] | None = None
    fallback_strategy: list[dict[str, Any]] | None = None


class DeploymentSchema(Options):
    """A deployment in the file: what is set here overrides the code."""

    name: Annotated[str, Field(min_length=1)]
    num_replicas: Annotated[int, Field(gt=0)] | Literal["auto"] | None = None
    max_ongoing_requests: Annotated[int, Field(gt=0)] = 5
    max_queued_requests: int = -1
    backpressure_config: BackpressureConfig | None = None
    user_config: dict[str, Any] | None = None
    autoscaling_config: AutoscalingConfig | None = None
    graceful_shutdown_wait_loop_s: Annotated[float, Field(ge=0)] = 2.0
    graceful_shutdown_timeout_s: Annotated[float, Field(ge=0)] = 20.0
    health_check_period_s: Annotated[float, Field(gt=0)] = 10.0
    health_check_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    ray_actor_options: RayActorOptionsSchema | None = None
    placement_group_bundles: list[dict[str, float]] | None = None
    placement_group_strategy: str | None = None
    placement_group_bundle_label_selector: list[dict[str, str]] | None = None
    max_replicas_per_node: Annotated[int, Field(ge=1, le=100)] | None = None
    logging_config: LoggingConfig | None = None
    request_router_config: RequestRouterConfig | None = None
    gang_scheduling_config: GangSchedulingConfig | None = None
    deployment_actors: list[DeploymentActorConfig] | None = None
    rolling_update_percentage: Annotated[float, Field(gt=0, le=1)] = 0.2
    max_surge_percent: Annotated[int, Field(ge=0, le=100)] = 0

    _ongoing = field_validator("max_ongoing_requests", mode="before")(check_max_ongoing_requests)
    _queued = field_validator("max_queued_requests", mode="before")(check_max_queued_requests)
    _user_config = field_validator("user_config")(check_user_config)

    @model_validator(mode="after")
    def _replicas_or_autoscaling(self) -> DeploymentSchema:
        if isinstance(self.num_replicas, int) and self.autoscaling_config is not None:
            raise ValueError("Manually setting num_replicas is not allowed when autoscaling_config is provided.")
        return self

    def overrides(self) -> dict[str, Any]:
        """The options that the file sets, nested values as plain data."""
        return self.model_dump(exclude_unset=True, exclude={"name"})


class CanarySchema(CanaryOptions):
    """A new version beside an application (Swerve's own). What is set here is over the application's own."""

    import_path: str | None = None
    runtime_env: dict[str, Any] | None = None
    deployments: list[DeploymentSchema] | None = None
    autoscaling_policy: AutoscalingPolicy | None = None
    args: dict[str, Any] | None = None
    logging_config: LoggingConfig | None = None

    def options(self) -> CanaryOptions:
        """How it is treated, without what it consists of."""
        return CanaryOptions.model_validate(self.model_dump(include=set(CanaryOptions.model_fields)))

    def overrides(self) -> dict[str, Any]:
        """What it consists of where it differs from the application, as plain data."""
        own = CanarySchema.model_fields.keys() - CanaryOptions.model_fields.keys()
        return self.model_dump(mode="json", include=own, exclude_unset=True, exclude_none=True)


class ServeApplicationSchema(Options):
    """An application in the file."""

    name: str = "default"
    route_prefix: str | None = "/"
    import_path: str
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    host: str | None = None
    port: int | None = None
    deployments: list[DeploymentSchema] = Field(default_factory=list)
    autoscaling_policy: AutoscalingPolicy | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    logging_config: LoggingConfig | None = None
    external_scaler_enabled: bool = False
    canary: CanarySchema | None = None

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value:
            raise ValueError("Application names must be nonempty.")
        return value

    @field_validator("import_path")
    @classmethod
    def _importable(cls, value: str) -> str:
        return check_import_path(value)

    @field_validator("route_prefix")
    @classmethod
    def _route(cls, value: str | None) -> str | None:
        start = f'Got "{value}" for route_prefix. Route prefix'
        if value is None:
            return value
        if not value.startswith("/"):
            raise ValueError(f'{start} must start with "/".')
        if value != "/" and value.endswith("/"):
            raise ValueError(f'{start} cannot end with "/" unless the route prefix is just "/".')
        if "{" in value or "}" in value:
            raise ValueError(f"{start} cannot contain wildcards, so it cannot contain '{{' or '}}'.")
        return value

    @field_validator("runtime_env", mode="before")
    @classmethod
    def _empty_runtime_env(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _scaled_from_one_side(self) -> ServeApplicationSchema:
        scaled = [
            f'"{deployment.name}"'
            for deployment in self.deployments
            if deployment.num_replicas == "auto" or deployment.autoscaling_config is not None
        ]
        if self.external_scaler_enabled and scaled:
            raise ValueError(
                "external_scaler_enabled is set to True, but the following deployment(s) have autoscaling configured: "
                f"{', '.join(scaled)}. When using an external autoscaler, Serve's built-in autoscaling must be "
                "disabled for all deployments in the application."
            )
        return self

    def as_canary(self) -> ServeApplicationSchema:
        """The application as its canary has it.

        Raises:
            ValueError: what that sets does not go with what it does not.
        """
        assert self.canary is not None
        own = self.model_dump(mode="json", exclude_unset=True, exclude={"canary"})
        try:
            return ServeApplicationSchema.model_validate({**own, **self.canary.overrides()})
        except ValidationError as error:
            raise ValueError(f"The canary of application '{self.name}': {explain(error)}") from error

    @model_validator(mode="after")
    def _with_a_canary_that_fits(self) -> ServeApplicationSchema:
        if self.canary is not None:
            self.as_canary()
        return self

    @model_validator(mode="after")
    def _each_deployment_once(self) -> ServeApplicationSchema:
        for name, count in Counter(deployment.name for deployment in self.deployments).items():
            if count > 1:
                raise ValueError(
                    f'Found multiple configs for deployment "{name}" of application "{self.name}". '
                    "Please remove all duplicates."
                )
        return self


def check_import_path(value: str) -> str:
    """`value`, if it has the form of an import path.

    Raises:
        ValueError: it has not.
    """
    if value.count(":") > 1:
        raise ValueError(f'Got invalid import path "{value}". An import path may have at most one colon.')
    if value.startswith(":") or value.endswith(":"):
        raise ValueError(f'Got invalid import path "{value}". An import path may not start or end with a colon.')
    if value.startswith(".") or value.endswith("."):
        raise ValueError(f'Got invalid import path "{value}". An import path may not start or end with a dot.')
    if ":" not in value and "." not in value:
        raise ValueError(
            f'Got invalid import path "{value}". An import path must contain at least on dot or colon separating the '
            "module (and potentially submodules) from the deployment graph."
        )
    return value


class ServeDeploySchema(Options):
    """The whole file."""

    proxy_location: ProxyLocation = ProxyLocation.EveryNode
    http_options: HTTPOptionsSchema = Field(default_factory=HTTPOptionsSchema)
    grpc_options: gRPCOptions = Field(default_factory=gRPCOptions)
    controller_options: ControllerOptions | None = None
    logging_config: LoggingConfig | None = None
    tracing_config: TracingConfig | None = None
    applications: list[ServeApplicationSchema]
    target_capacity: Annotated[float, Field(ge=0, le=100)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ServeDeploySchema:
        for name, count in Counter(app.name for app in self.applications).items():
            if count > 1:
                raise ValueError(f'Found multiple configs for application "{name}". Please remove all duplicates.')
        routes = Counter(app.route_prefix for app in self.applications if app.route_prefix is not None)
        for route, count in routes.items():
            if count > 1:
                raise ValueError(
                    f'Found duplicate applications for route prefix "{route}". '
                    "Please ensure each application's route_prefix is unique."
                )
        for app in self.applications:
            for key in ("host", "port"):
                value = getattr(app, key)
                if value is not None:
                    raise ValueError(
                        f'{key.capitalize()} "{value}" is set in the config for application `{app.name}`. '
                        f"Please remove it and set {key} in the top level deploy config only."
                    )
        return self


def load_config(path: Path) -> ServeDeploySchema:
    """The configuration file at `path`, checked.

    Raises:
        ConfigError: it cannot be read, is no YAML (with line and column), or has wrong content.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The config file {path} cannot be read: {error}") from error
    return parse_config(text, str(path))


def parse_config(text: str, path: str) -> ServeDeploySchema:
    """The configuration file whose text is `text`, checked. `path` is for messages.

    Raises:
        ConfigError: it is no YAML (with line and column), or has wrong content.
    """
    # PyYAML takes its time to import, and few who import this read a file.
    from swerve.config_text import parse_yaml

    try:
        content = parse_yaml(text, path)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(content, dict):
        kind = "empty" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"The config file {path} must hold a mapping with the key 'applications', but it is {kind}.")
    try:
        made = ServeDeploySchema.model_validate(content)
        # What the instance is sent of it, before anything is built.
        made.model_dump_json()
    except ValidationError as error:
        raise ConfigError(f"The config file {path} is not valid:\n{explain(error)}") from error
    except (TypeError, PydanticSerializationError) as error:
        raise ConfigError(f"The config file {path} is not valid:\n{error}") from error
    for key in ignored_keys(made, content)[:_MOST_WARNINGS]:
        logger.warning("The config file %s: %.200s is no option that Swerve knows, and is ignored.", path, key)
    return made
