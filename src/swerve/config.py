"""Every option, its default and its check. Those of the proxies, of routing and of canaries have files of their own:
`config_ports`, `config_routing`, `config_canary`. Only this one reads the environment.

The models have Ray Serve's field names, defaults and messages; unknown keys are ignored unless a model says otherwise
(`extra="forbid"`), as there. What Swerve adds is marked so. Options that only a cluster honours are checked and kept.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from swerve.autoscaling_policy import AutoscalingContext as AutoscalingContext
from swerve.config_base import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, require_json
from swerve.config_base import Options as Options
from swerve.config_base import explain as explain
from swerve.config_base import import_path_of as import_path_of
from swerve.config_canary import CanaryOptions as CanaryOptions
from swerve.config_canary import CanaryRollback as CanaryRollback
from swerve.config_ports import HTTPOptions as HTTPOptions
from swerve.config_ports import ProxyLocation as ProxyLocation
from swerve.config_ports import gRPCOptions as gRPCOptions
from swerve.config_routing import QueueConfig as QueueConfig
from swerve.config_routing import RequestRouterConfig as RequestRouterConfig

STATE_DIR_VARIABLE = "SWERVE_STATE_DIR"


def state_dir(given: str | Path | None = None) -> Path:
    """The absolute path of the state folder: `given`, else $SWERVE_STATE_DIR, else the user's XDG state folder."""
    chosen = given or os.environ.get(STATE_DIR_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME")
    # The XDG base directory specification: a relative path in the variable is invalid and ignored.
    home = Path(base) if base and os.path.isabs(base) else Path.home() / ".local" / "state"
    return home / "swerve"


def local_testing_forced() -> bool:
    """Whether RAY_SERVE_FORCE_LOCAL_TESTING_MODE asks `serve.run` to stay in this process."""
    return os.environ.get("RAY_SERVE_FORCE_LOCAL_TESTING_MODE", "0") == "1"


# ---------------------------------------------------------------------------------------------------------------------
# The instance


class LoggingConfig(Options):
    """How a component logs."""

    model_config = ConfigDict(extra="forbid")

    encoding: str = "TEXT"
    log_level: str = "INFO"
    logs_dir: str | None = None
    enable_access_log: bool = True
    additional_log_standard_attrs: list[str] = Field(default_factory=list)

    @field_validator("encoding", mode="before")
    @classmethod
    def _encoding(cls, value: Any) -> Any:
        value = value.value if isinstance(value, Enum) else value
        if value not in ("TEXT", "JSON"):
            raise ValueError(f"Got '{value}' for encoding. Encoding must be one of ['TEXT', 'JSON'].")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _log_level(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return logging.getLevelName(value)
        levels = logging.getLevelNamesMapping()
        if not isinstance(value, str) or value.upper() not in levels:
            raise ValueError(f'Got "{value}" for log_level. log_level must be one of {list(levels)}.')
        return value.upper()

    @field_validator("additional_log_standard_attrs")
    @classmethod
    def _unique(cls, value: list[str]) -> list[str]:
        return list(dict.fromkeys(value))


class TracingConfig(Options):
    """OpenTelemetry tracing."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = False
    exporter_import_path: str = ""
    sampling_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01


class _EnvVars(Options):
    model_config = ConfigDict(extra="forbid")

    env_vars: dict[str, str] = Field(default_factory=dict)


class ControllerOptions(Options):
    """How the controller starts."""

    model_config = ConfigDict(extra="forbid")

    runtime_env: _EnvVars | None = None


# ---------------------------------------------------------------------------------------------------------------------
# A deployment


class AutoscalingPolicy(Options):
    """The function or class that decides the number of replicas."""

    policy_function: str | Callable[..., Any] = "swerve.autoscaling_policy:default_autoscaling_policy"
    policy_kwargs: dict[str, Any] = Field(default_factory=dict)

    _path = field_validator("policy_function")(import_path_of)


class AutoscalingConfig(Options):
    """Between which bounds and how fast the number of replicas follows the load."""

    min_replicas: NonNegativeInt = 1
    initial_replicas: NonNegativeInt | None = None
    max_replicas: PositiveInt = 1
    target_ongoing_requests: PositiveFloat = 2
    metrics_interval_s: PositiveFloat = 10.0
    look_back_period_s: PositiveFloat = 30.0
    smoothing_factor: PositiveFloat = 1.0
    upscale_smoothing_factor: PositiveFloat | None = None
    downscale_smoothing_factor: PositiveFloat | None = None
    upscaling_factor: PositiveFloat | None = None
    downscaling_factor: PositiveFloat | None = None
    upscale_delay_s: NonNegativeFloat = 30.0
    downscale_delay_s: NonNegativeFloat = 600.0
    downscale_to_zero_delay_s: NonNegativeFloat | None = None
    aggregation_function: Literal["mean", "max", "min"] = "mean"
    policy: AutoscalingPolicy = Field(default_factory=AutoscalingPolicy)

    @model_validator(mode="after")
    def _bounds(self) -> AutoscalingConfig:
        low, first, high = self.min_replicas, self.initial_replicas, self.max_replicas
        if high < low:
            raise ValueError(f"max_replicas ({high}) must be greater than or equal to min_replicas ({low})!")
        if first is not None and first < low:
            raise ValueError(f"min_replicas ({low}) must be less than or equal to initial_replicas ({first})!")
        if first is not None and first > high:
            raise ValueError(f"max_replicas ({high}) must be greater than or equal to initial_replicas ({first})!")
        return self

    def get_target_ongoing_requests(self) -> float:
        return self.target_ongoing_requests

    def get_upscaling_factor(self) -> float:
        return self.upscaling_factor or self.upscale_smoothing_factor or self.smoothing_factor

    def get_downscaling_factor(self) -> float:
        return self.downscaling_factor or self.downscale_smoothing_factor or self.smoothing_factor

    @classmethod
    def default(cls) -> AutoscalingConfig:
        """What `num_replicas="auto"` means."""
        return cls(target_ongoing_requests=2.0, min_replicas=1, max_replicas=100)


class BackpressureConfig(Options):
    """What an HTTP client is told when its request is shed."""

    model_config = ConfigDict(extra="forbid")

    status_code: Literal[503, 429] = 503
    retry_after_s: NonNegativeFloat | None = None


class GangSchedulingConfig(Options):
    """Replicas that start and fail in groups. Kept for a cluster."""

    gang_size: PositiveInt
    gang_placement_strategy: Literal["PACK", "SPREAD"] = "PACK"
    runtime_failure_policy: Literal["RESTART_GANG", "RESTART_REPLICA"] = "RESTART_GANG"

    @field_validator("runtime_failure_policy")
    @classmethod
    def _implemented(cls, value: str) -> str:
        if value == "RESTART_REPLICA":
            raise ValueError("runtime_failure_policy RESTART_REPLICA is not implemented.")
        return value


class DeploymentActorConfig(Options):
    """A helper process that the replicas of a deployment share. Kept for a cluster."""

    name: Annotated[str, Field(min_length=1)]
    actor_class: str | Callable[..., Any]
    init_args: list[Any] = Field(default_factory=list)
    init_kwargs: dict[str, Any] = Field(default_factory=dict)
    actor_options: dict[str, Any] = Field(default_factory=dict)

    _path = field_validator("actor_class")(import_path_of)


_RAY_ACTOR_OPTIONS = (
    "accelerator_type",
    "fallback_strategy",
    "label_selector",
    "memory",
    "num_cpus",
    "num_gpus",
    "resources",
    "runtime_env",
)


def check_max_queued_requests(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("max_queued_requests must be an integer.")
    if value != -1 and value < 1:
        raise ValueError("max_queued_requests must be -1 (no limit) or a positive integer.")
    return value


def check_max_ongoing_requests(value: Any) -> Any:
    if value is None:
        raise ValueError("`max_ongoing_requests` must be non-null, got None.")
    return value


def check_user_config(value: Any) -> Any:
    require_json("user_config", value)
    return value


def check_ray_actor_options(value: Any) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"ray_actor_options must be a dictionary, got: {type(value)}.")
    for key in value:
        if key not in _RAY_ACTOR_OPTIONS:
            allowed = ", ".join(_RAY_ACTOR_OPTIONS)
            raise ValueError(f"Specifying '{key}' in ray_actor_options is not allowed. Allowed options: {allowed}")
    return value


class DeploymentConfig(Options):
    """All options of a deployment but its name. `model_fields_set` tells what the user set from what is a default.

    Its JSON is what travels to the controller and the replicas.
    """

    num_replicas: PositiveInt | None = 1
    max_ongoing_requests: PositiveInt = 5
    max_queued_requests: int = -1
    backpressure_config: BackpressureConfig = Field(default_factory=BackpressureConfig)
    user_config: Any = None
    autoscaling_config: AutoscalingConfig | None = None
    graceful_shutdown_wait_loop_s: NonNegativeFloat = 2.0
    graceful_shutdown_timeout_s: NonNegativeFloat = 20.0
    health_check_period_s: PositiveFloat = 10.0
    health_check_timeout_s: PositiveFloat = 30.0
    ray_actor_options: dict[str, Any] = Field(default_factory=lambda: {"num_cpus": 1})
    placement_group_bundles: list[dict[str, float]] | None = None
    placement_group_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] | None = None
    placement_group_bundle_label_selector: list[dict[str, str]] | None = None
    max_replicas_per_node: Annotated[int, Field(ge=1, le=100)] | None = None
    logging_config: LoggingConfig | None = None
    request_router_config: RequestRouterConfig = Field(default_factory=RequestRouterConfig)
    max_constructor_retry_count: PositiveInt = 20
    gang_scheduling_config: GangSchedulingConfig | None = None
    deployment_actors: list[DeploymentActorConfig] | None = None
    rolling_update_percentage: Annotated[float, Field(gt=0, le=1)] = 0.2
    max_surge_percent: Annotated[int, Field(ge=0, le=100)] = 0

    _ongoing = field_validator("max_ongoing_requests", mode="before")(check_max_ongoing_requests)
    _queued = field_validator("max_queued_requests", mode="before")(check_max_queued_requests)
    _user_config = field_validator("user_config")(check_user_config)
    _actor_options = field_validator("ray_actor_options", mode="before")(check_ray_actor_options)

    @field_validator("ray_actor_options")
    @classmethod
    def _one_cpu(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {**value, "num_cpus": 1} if value.get("num_cpus") is None else value

    @field_validator("num_replicas")
    @classmethod
    def _none_is_one(cls, value: int | None) -> int:
        return 1 if value is None else value

    @field_validator("deployment_actors")
    @classmethod
    def _unique_actors(cls, value: list[DeploymentActorConfig] | None) -> list[DeploymentActorConfig] | None:
        names = [actor.name for actor in value or ()]
        if len(set(names)) != len(names):
            raise ValueError(f"deployment_actors must have unique names, got: {names}.")
        return value

    @model_validator(mode="after")
    def _placement(self) -> DeploymentConfig:
        bundles, selectors = self.placement_group_bundles, self.placement_group_bundle_label_selector
        if bundles is None and self.placement_group_strategy is not None:
            raise ValueError(
                "If `placement_group_strategy` is provided, `placement_group_bundles` must also be provided."
            )
        if selectors is not None and (bundles is None or len(selectors) not in (1, len(bundles))):
            raise ValueError(
                "`placement_group_bundle_label_selector` needs `placement_group_bundles` and one selector, or one each."
            )
        if self.max_replicas_per_node is not None and (bundles is not None or self.gang_scheduling_config is not None):
            raise ValueError(
                "Setting `max_replicas_per_node` is not allowed when `placement_group_bundles` or "
                "`gang_scheduling_config` is provided."
            )
        gang = self.gang_scheduling_config
        if gang is not None and self.autoscaling_config is None and (self.num_replicas or 1) % gang.gang_size:
            raise ValueError(f"num_replicas ({self.num_replicas}) must be a multiple of gang_size ({gang.gang_size}).")
        return self
