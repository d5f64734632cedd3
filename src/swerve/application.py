"""What users write: `@serve.deployment`, its options, and `.bind()`, which makes an application to run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, Unpack, overload

from pydantic import ValidationError

from swerve.config import (
    AutoscalingConfig,
    BackpressureConfig,
    DeploymentActorConfig,
    DeploymentConfig,
    GangSchedulingConfig,
    LoggingConfig,
    RequestRouterConfig,
    explain,
)


class DeploymentOptions(TypedDict, total=False):
    """What `@serve.deployment(...)` and `Deployment.options(...)` accept."""

    name: str
    num_replicas: int | str | None
    ray_actor_options: dict[str, Any]
    placement_group_bundles: list[dict[str, float]] | None
    placement_group_strategy: str | None
    placement_group_bundle_label_selector: list[dict[str, str]] | None
    max_replicas_per_node: int | None
    user_config: Any
    max_ongoing_requests: int
    max_queued_requests: int
    backpressure_config: dict[str, Any] | BackpressureConfig
    autoscaling_config: dict[str, Any] | AutoscalingConfig | None
    graceful_shutdown_wait_loop_s: float
    graceful_shutdown_timeout_s: float
    health_check_period_s: float
    health_check_timeout_s: float
    logging_config: dict[str, Any] | LoggingConfig | None
    request_router_config: dict[str, Any] | RequestRouterConfig
    max_constructor_retry_count: int
    gang_scheduling_config: dict[str, Any] | GangSchedulingConfig | None
    deployment_actors: list[dict[str, Any] | DeploymentActorConfig] | None
    rolling_update_percentage: float
    max_surge_percent: int


def configure(base: DeploymentConfig, changes: Mapping[str, Any]) -> DeploymentConfig:
    """`base` with `changes` over it: the one place that knows how options combine.

    A number of replicas and autoscaling exclude each other; whichever is set last replaces the other.

    Raises:
        ValueError, TypeError: an option is wrong.
    """
    changed = dict(changes)
    merged = {name: getattr(base, name) for name in base.model_fields_set}
    count, scaling = changed.get("num_replicas"), changed.get("autoscaling_config")
    if count == "auto":
        del changed["num_replicas"]
        merged.pop("num_replicas", None)
        given = scaling.model_dump(exclude_unset=True) if isinstance(scaling, AutoscalingConfig) else scaling or {}
        changed["autoscaling_config"] = {**AutoscalingConfig.default().model_dump(exclude_unset=True), **given}
    elif count is not None and scaling is not None:
        raise ValueError("Manually setting num_replicas is not allowed when autoscaling_config is provided.")
    elif count == 0:
        raise ValueError("num_replicas is expected to larger than 0")
    elif count is not None:
        merged.pop("autoscaling_config", None)
    elif scaling is not None:
        merged.pop("num_replicas", None)
    try:
        return DeploymentConfig(**{**merged, **changed})
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def _split(options: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The name, if one is given, and the other options; refuses options that do not exist (any more)."""
    if "version" in options:
        raise ValueError(
            "`version` in `@serve.deployment` has been removed. Serve manages deployment versions internally."
        )
    if "route_prefix" in options:
        raise ValueError(
            "`route_prefix` belongs to an application: pass it to `serve.run` or set it in the config file."
        )
    for key in options:
        if key not in DeploymentOptions.__annotations__:
            raise TypeError(
                f"A deployment has no option '{key}'. Options: {', '.join(DeploymentOptions.__annotations__)}."
            )
    name = options.get("name")
    if "name" in options and not isinstance(name, str):
        raise TypeError("name must be a string.")
    if name is not None and "#" in name:
        raise ValueError(f"Deployment names must not contain the '#' character. Current name: {name}.")
    return name, {key: value for key, value in options.items() if key != "name"}


class Deployment:
    """A class or function with its options, made by `@serve.deployment`. `options` and `bind` return new objects."""

    def __init__(
        self,
        name: str,
        deployment_config: DeploymentConfig,
        func_or_class: Callable[..., Any],
        *,
        _internal: bool = False,
    ) -> None:
        if not _internal:
            raise RuntimeError(
                "The Deployment constructor should not be called directly. Use `@serve.deployment` instead."
            )
        self._name = name
        self._config = deployment_config
        self._func_or_class = func_or_class

    name = property(lambda self: self._name)
    func_or_class = property(lambda self: self._func_or_class)
    num_replicas = property(lambda self: self._config.num_replicas)
    user_config = property(lambda self: self._config.user_config)
    max_ongoing_requests = property(lambda self: self._config.max_ongoing_requests)
    max_queued_requests = property(lambda self: self._config.max_queued_requests)
    backpressure_config = property(lambda self: self._config.backpressure_config)
    ray_actor_options = property(lambda self: self._config.ray_actor_options)
    logging_config = property(lambda self: self._config.logging_config)
    config = property(lambda self: self._config)
    # Versions are decided when an application is built, as in Ray Serve.
    version = None

    def options(self, **options: Unpack[DeploymentOptions]) -> Deployment:
        """A copy with these options set over the present ones.

        Raises:
            ValueError, TypeError: an option is wrong or does not exist.
        """
        name, rest = _split(options)
        return Deployment(name or self._name, configure(self._config, rest), self._func_or_class, _internal=True)

    def bind(self, *args: Any, **kwargs: Any) -> Application:
        """An application with this deployment as its ingress, constructed with these arguments.

        Applications among the arguments, also within lists, tuples, sets and dicts, reach the constructor as handles.

        Raises:
            ValueError: arguments for a function, which has no constructor.
        """
        if not inspect.isclass(self._func_or_class):
            if args:
                raise ValueError("init_args not supported for function deployments.")
            if kwargs:
                raise ValueError("init_kwargs not supported for function deployments.")
        return Application(self, args, kwargs)

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(
            "Deployments cannot be constructed directly. Use `.bind()` and `serve.run` to deploy them, "
            "and a `DeploymentHandle` to call them."
        )

    def __repr__(self) -> str:
        return f'Deployment(name="{self._name}")'


class Application:
    """A deployment bound to its constructor's arguments. Opaque: pass it to `serve.run` or to another `.bind()`."""

    def __init__(self, deployment: Deployment, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._bound_deployment = deployment
        self._args = args
        self._kwargs = kwargs

    def __reduce__(self) -> Any:
        raise TypeError(
            f"The application of deployment '{self._bound_deployment.name}' cannot be pickled. Pass it to `.bind()` as "
            "an argument of its own or within a list, tuple, set or dict; the constructor then gets a handle."
        )

    def __repr__(self) -> str:
        return f'Application(ingress="{self._bound_deployment.name}")'


@overload
def deployment(_func_or_class: Callable[..., Any], /) -> Deployment: ...
@overload
def deployment(**options: Unpack[DeploymentOptions]) -> Callable[[Callable[..., Any]], Deployment]: ...
def deployment(
    _func_or_class: Callable[..., Any] | None = None, /, **options: Any
) -> Deployment | Callable[[Callable[..., Any]], Deployment]:
    """Makes a class or function a deployment: `@serve.deployment` or `@serve.deployment(num_replicas=2, ...)`.

    Raises:
        ValueError, TypeError: an option is wrong or does not exist, or the decorated object is no class or function.
    """
    name, rest = _split(options)
    config = configure(DeploymentConfig(), rest)

    def decorate(target: Callable[..., Any]) -> Deployment:
        if not (inspect.isclass(target) or inspect.isroutine(target)):
            raise TypeError(f"@serve.deployment must be used on a class or a function, got: {type(target)}.")
        return Deployment(name or target.__name__, config, target, _internal=True)

    return decorate if _func_or_class is None else decorate(_func_or_class)
