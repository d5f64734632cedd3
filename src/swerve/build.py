"""From a bound application to what the controller deploys: names, pickled code, versions, import paths."""

from __future__ import annotations

import inspect
import logging
import os
import secrets
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swerve.application import Application, Deployment, configure
from swerve.autoscaling_policy import default_autoscaling_policy
from swerve.config import AutoscalingPolicy, DeploymentConfig, LoggingConfig, RequestRouterConfig, state_dir
from swerve.deployment_code import DeploymentCode, pickled, pickled_extra
from swerve.generated import control_pb2
from swerve.import_path import load_object
from swerve.request_router import RequestRouter
from swerve.routing.options import BUILT_IN
from swerve.runtime_env import merge, resolve
from swerve.schema import DeploymentSchema

logger = logging.getLogger("swerve.build")


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What surrounds an application when it is built."""

    name: str = "default"
    route_prefix: str | None = "/"
    # As the user wrote it; relative paths in it start at `base`.
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    base: Path = field(default_factory=Path.cwd)
    # Where archives are unpacked.
    packages: Path = field(default_factory=lambda: state_dir() / "packages")
    logging_config: LoggingConfig | None = None
    # The configuration file's options, over the code's.
    overrides: Sequence[DeploymentSchema] = ()
    # "" draws a random one: running the same program again replaces the replicas.
    code_version: str = ""
    source: str = "imperative"
    source_json: str = ""
    # Decides for all deployments that are autoscaled, instead of their own policies.
    autoscaling_policy: AutoscalingPolicy | None = None
    external_scaler_enabled: bool = False


def build(app: Application, options: BuildOptions) -> control_pb2.Application:
    """The application as the controller takes it. Nested applications become handles.

    Raises:
        TypeError: `app` is no application.
        ValueError: an override names no deployment or has a wrong value, or code cannot be pickled.
        FileNotFoundError: the runtime_env names a folder that does not exist.
        ImportError: an autoscaling policy or a request router cannot be imported.
    """
    if not isinstance(app, Application):
        raise TypeError("`serve.run` expects an `Application` returned by `Deployment.bind()`.")
    graph = deployments_of(app, options.name)
    environment = resolve(options.runtime_env, base=options.base, packages=options.packages)
    configs = _configs(graph, options)
    version = options.code_version or secrets.token_hex(8)
    built = control_pb2.Application(
        name=options.name,
        ingress=next(iter(graph)),
        sys_path=list(dict.fromkeys([*environment.sys_path, *own_sys_path()])),
        # Replicas start where the program that deployed them runs, so that relative paths mean the same.
        runtime_env_json=environment.to_json(default_working_dir=str(options.base)),
        source=options.source,
        source_json=options.source_json,
        logging_config_json=options.logging_config.model_dump_json() if options.logging_config else "",
        deployments=[
            control_pb2.Deployment(
                name=name,
                code=pickled(name, code),
                code_version=version,
                config_json=configs[name].model_dump_json(),
                autoscaling_policy=_policy(scaling.policy) if (scaling := configs[name].autoscaling_config) else b"",
                request_router=_router(configs[name].request_router_config),
            )
            for name, (_, code) in graph.items()
        ],
        autoscaling_policy=_policy(options.autoscaling_policy) if options.autoscaling_policy else b"",
        external_scaler_enabled=options.external_scaler_enabled,
    )
    if options.route_prefix is not None:
        built.route_prefix = options.route_prefix
    return built


def deployments_of(
    app: Application, app_name: str, make_handle: Callable[[str, str], Any] | None = None
) -> dict[str, tuple[Deployment, DeploymentCode]]:
    """Every deployment of the graph by its final name, the ingress first.

    An application that appears twice is one deployment. Different ones of one name get `_1`, `_2`, ... with a warning.
    """
    handle_of = make_handle or _handle
    names: dict[int, str] = {}
    graph: dict[str, tuple[Deployment, DeploymentCode]] = {}

    def visit(node: Application) -> str:
        if id(node) in names:
            return names[id(node)]
        deployment = node._bound_deployment
        name = names[id(node)] = _unique(deployment.name, graph)
        # Reserves the name, and keeps the ingress first.
        graph[name] = (deployment, DeploymentCode(deployment.func_or_class))
        args = replace_applications(node._args, lambda nested: handle_of(visit(nested), app_name))
        kwargs = replace_applications(node._kwargs, lambda nested: handle_of(visit(nested), app_name))
        graph[name] = (deployment, DeploymentCode(deployment.func_or_class, args, kwargs))
        return name

    visit(app)
    return graph


def _handle(deployment_name: str, app_name: str) -> Any:
    from swerve.handle import DeploymentHandle

    return DeploymentHandle(deployment_name, app_name)


def replace_applications(value: Any, handle_for: Callable[[Application], Any]) -> Any:
    """`value` with each application in it, however deep in lists, tuples, sets and dicts, replaced by its handle."""
    if isinstance(value, Application):
        return handle_for(value)
    if isinstance(value, dict):
        pairs = {key: replace_applications(item, handle_for) for key, item in value.items()}
        return value if all(pairs[key] is item for key, item in value.items()) else pairs
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [replace_applications(item, handle_for) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _unique(name: str, taken: Mapping[str, object]) -> str:
    if name not in taken:
        return name
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    logger.warning("Multiple deployments are named '%s'; this one is deployed as '%s_%d'.", name, name, number)
    return f"{name}_{number}"


def _configs(
    graph: Mapping[str, tuple[Deployment, DeploymentCode]], options: BuildOptions
) -> dict[str, DeploymentConfig]:
    configs = {name: deployment.config for name, (deployment, _) in graph.items()}
    for override in options.overrides:
        if override.name not in configs:
            raise ValueError(f"Deployment '{override.name}' does not exist. Available: {sorted(configs)}.")
        configs[override.name] = configure(configs[override.name], override.overrides())
    for name, (deployment, _) in graph.items():
        config = configs[name]
        if config.user_config is not None and not inspect.isclass(deployment.func_or_class):
            raise ValueError(f"deployment_def must be a class to use user_config or rank (deployment '{name}').")
        scaling = config.autoscaling_config
        if scaling is not None and config.max_ongoing_requests < scaling.target_ongoing_requests:
            logger.warning(
                "Deployment '%s': a replica takes fewer calls at a time (max_ongoing_requests %d) than autoscaling "
                "wants it to have (target_ongoing_requests %g).",
                name,
                config.max_ongoing_requests,
                scaling.target_ongoing_requests,
            )
        own = config.ray_actor_options.get("runtime_env")
        if own:
            environment = resolve(merge(options.runtime_env, own), base=options.base, packages=options.packages)
            actor_options = {**config.ray_actor_options, "runtime_env": environment.to_dict()}
            configs[name] = config.model_copy(update={"ray_actor_options": actor_options})
    return configs


def _policy(policy: AutoscalingPolicy) -> bytes:
    """The policy as the controller takes it; nothing for the default one, which it has."""
    found = load_object(str(policy.policy_function))
    if found is default_autoscaling_policy:
        return b""
    if not callable(found):
        raise TypeError(f"The autoscaling policy '{policy.policy_function}' is no function or class: {found!r}.")
    return pickled_extra(found, policy.policy_kwargs, "autoscaling policy", "the controller")


def _router(config: RequestRouterConfig) -> bytes:
    """The request router as callers take it; nothing for one that is built in."""
    path = str(config.request_router_class)
    if path in BUILT_IN:
        return b""
    found = load_object(path)
    if not inspect.isclass(found) or not issubclass(found, RequestRouter):
        raise TypeError(
            f"The request router '{path}' is no subclass of swerve.request_router.RequestRouter: {found!r}."
        )
    return pickled_extra(found, {}, "request router", "the deployment's callers")


def own_sys_path() -> list[str]:
    """This process's `sys.path` without what every Python of this environment has, as absolute paths."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    common = {os.path.realpath(sysconfig.get_paths()[name]) for name in names}
    absolute = (os.path.abspath(entry) for entry in sys.path)
    return [
        entry
        for entry in dict.fromkeys(absolute)
        if os.path.exists(entry) and os.path.realpath(entry) not in common and not _within_stdlib(entry)
    ]


def _within_stdlib(entry: str) -> bool:
    stdlib = sysconfig.get_paths()["stdlib"]
    return os.path.basename(entry) == "lib-dynload" or (
        entry.endswith(".zip") and os.path.dirname(entry) == os.path.dirname(stdlib)
    )
