"""The Python API: start an instance, run applications on it, look at them, stop them. Signatures are Ray Serve's."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from swerve.application import Application
from swerve.build import BuildOptions, build
from swerve.config import (
    ControllerOptions,
    HTTPOptions,
    LoggingConfig,
    ProxyLocation,
    TracingConfig,
    explain,
    gRPCOptions,
    local_testing_forced,
)
from swerve.config_base import ignored_keys
from swerve.context import current_replica_context
from swerve.exceptions import RayServeException, does_not_exist
from swerve.generated import control_pb2
from swerve.instance_options import change_by_name, differences, fixed_logging, instance_options
from swerve.instances import (
    InstanceConnection,
    connected,
    current_state_dir,
    required,
    shut_down,
    start_instance,
    use_state_dir,
)
from swerve.status_overview import ServeStatus
from swerve.statuses import ApplicationStatus

if TYPE_CHECKING:
    from swerve.handle import DeploymentHandle

logger = logging.getLogger("swerve.api")

Model = TypeVar("Model", bound=BaseModel)

# Ray Serve waits as long for applications to go.
_DELETE_TIMEOUT_S = 60.0
# How often `status` is asked while waiting: a local exchange costs less than a millisecond.
_POLL_S = 0.02
# How often a blocking `run` looks whether the instance still runs.
_WATCH_S = 0.5


@dataclass(frozen=True, slots=True)
class RunTarget:
    """One application for `run_many`."""

    target: Application
    name: str = "default"
    route_prefix: str | None = "/"
    logging_config: dict[str, Any] | LoggingConfig | None = None
    external_scaler_enabled: bool = False


# ---------------------------------------------------------------------------------------------------------------------
# The instance


def start(
    proxy_location: ProxyLocation | str | None = None,
    http_options: HTTPOptions | dict[str, Any] | None = None,
    grpc_options: gRPCOptions | dict[str, Any] | None = None,
    logging_config: LoggingConfig | dict[str, Any] | None = None,
    tracing_config: TracingConfig | dict[str, Any] | None = None,
    controller_options: ControllerOptions | dict[str, Any] | None = None,
    *,
    state_dir: str | Path | None = None,
    **kwargs: Any,
) -> None:
    """Starts an instance that outlives this program; returns when it serves.

    One that runs already takes over the options that are named here and goes on: `grpc_options`, `http_options` and
    `proxy_location`. `state_dir` says where the instance lives; the other functions of this process then use that one.

    Raises:
        ValueError, TypeError: an option is wrong.
        ImportError, AttributeError: a servicer function cannot be imported.
        InstanceError: it cannot start, for example because its port is in use.
        RayServeException: a running instance cannot take over the options; it goes on as before.
    """
    for name in kwargs:
        if name in ("http_host", "http_port", "http_middlewares"):
            raise ValueError(f"`{name}` of `serve.start` has been removed. Use `http_options`.")
        raise TypeError(f"serve.start() got an unexpected keyword argument '{name}'.")
    location = None if proxy_location is None else ProxyLocation.of(proxy_location)
    grpc = _model(gRPCOptions, grpc_options)
    http = _model(HTTPOptions, http_options)
    logs = _model(LoggingConfig, logging_config)
    _model(TracingConfig, tracing_config)
    _model(ControllerOptions, controller_options)
    if state_dir is not None:
        use_state_dir(Path(state_dir))
    present = connected()
    if present is not None:
        logger.info("Connecting to the Serve instance that runs already (state folder: %s).", current_state_dir())
        found = present.status()
        _change_options(present, found, lambda status: change_by_name(status, grpc, http, location))
        if problem := fixed_logging(found.options, logs):
            logger.warning(problem)
        return
    options = instance_options(grpc or gRPCOptions(), http, logs, location or ProxyLocation.EveryNode)
    start_instance(options, owned=False)


def _change_options(
    connection: InstanceConnection,
    present: control_pb2.InstanceStatus,
    change: Callable[[control_pb2.InstanceStatus], control_pb2.DeployRequest],
) -> None:
    wanted = change(present)
    if (wanted.options, wanted.base_options) != (present.options, present.base_options):
        before, applied = connection.deploy(change)
        for line in differences(before.options, applied.options):
            logger.info("Changed: %s", line)


def _model(kind: type[Model], value: Model | dict[str, Any] | None) -> Model | None:
    if value is None or isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise TypeError(f"Must be a dict or {kind.__name__}, got: {type(value)}.")
    try:
        made = kind.model_validate(value)
    except ValidationError as error:
        raise ValueError(explain(error)) from error
    for key in ignored_keys(made, value):
        logger.warning("%s: %.200s is no option that Swerve knows, and is ignored.", kind.__name__, key)
    return made


def status() -> ServeStatus:
    """The state of the instance; empty when none runs."""
    connection = connected()
    return ServeStatus() if connection is None else ServeStatus.from_proto(connection.status())


def shutdown() -> None:
    """Stops the instance with all applications and waits until it is gone. Does nothing when none runs.

    Raises:
        TimeoutError: it is still there after 90 s.
    """
    connection = connected()
    if connection is not None:
        shut_down(connection)


async def shutdown_async() -> None:
    """As `shutdown`, without blocking the event loop."""
    await asyncio.to_thread(shutdown)


# ---------------------------------------------------------------------------------------------------------------------
# Applications


def run(
    target: Application,
    blocking: bool = False,
    name: str = "default",
    route_prefix: str | None = "/",
    logging_config: dict[str, Any] | LoggingConfig | None = None,
    _local_testing_mode: bool = False,
    external_scaler_enabled: bool = False,
    controller_options: ControllerOptions | dict[str, Any] | None = None,
) -> DeploymentHandle:
    """Deploys an application, or updates the one of this name, and returns a handle to its ingress once it runs.

    With no instance running it starts one, which ends with this program. With `blocking` it stays until the program is
    interrupted, stops what it started, and lets the KeyboardInterrupt go on, as Ray Serve does.

    Raises:
        KeyboardInterrupt: interrupted; with `blocking` after stopping what it started.
        TypeError, ValueError, RayServeException: an argument is wrong.
        RuntimeError: the deployment failed.
    """
    one = RunTarget(target, name, route_prefix, logging_config, external_scaler_enabled)
    return run_many(
        [one], blocking=blocking, _local_testing_mode=_local_testing_mode, controller_options=controller_options
    )[0]


def run_many(
    targets: Sequence[RunTarget],
    blocking: bool = False,
    wait_for_ingress_deployment_creation: bool = True,
    wait_for_applications_running: bool = True,
    _local_testing_mode: bool = False,
    controller_options: ControllerOptions | dict[str, Any] | None = None,
) -> list[DeploymentHandle]:
    """As `run`, for several applications; they are applied together or not at all."""
    _check_targets(targets)
    _model(ControllerOptions, controller_options)
    if _local_testing_mode or local_testing_forced():
        from swerve.testing import run_locally

        return [run_locally(one.target, one.name) for one in targets]
    applications = [
        build(
            one.target,
            BuildOptions(
                name=one.name,
                route_prefix=one.route_prefix,
                logging_config=_model(LoggingConfig, one.logging_config),
                packages=current_state_dir() / "packages",
                external_scaler_enabled=one.external_scaler_enabled,
            ),
        )
        for one in targets
    ]
    connection = connected() or start_instance(instance_options(gRPCOptions()), owned=True)
    connection.call(lambda client: client.deploy(control_pb2.DeployRequest(applications=applications)))
    names = [app.name for app in applications]
    try:
        if wait_for_applications_running:
            for name, failure in settled(names, connection.status):
                if failure is not None:
                    raise RuntimeError(f"Deploying application {name} failed: {failure}")
        if blocking:
            _stay()
    except KeyboardInterrupt:
        if blocking:
            logger.warning("Got KeyboardInterrupt, shutting down...")
            if connection.owned:
                shut_down(connection)
            else:
                connection.call(lambda client: client.delete(names))
        raise
    from swerve.handle import DeploymentHandle

    return [DeploymentHandle(app.ingress, app.name) for app in applications]


def _check_targets(targets: Sequence[RunTarget]) -> None:
    if not targets:
        raise ValueError("No applications provided.")
    for one in targets:
        if not isinstance(one.name, str) or not one.name:
            raise RayServeException("Application name must a non-empty string.")
        if not isinstance(one.target, Application):
            raise TypeError("`serve.run` expects an `Application` returned by `Deployment.bind()`.")
        check_route_prefix(one.route_prefix)
    names = [one.name for one in targets]
    if len(set(names)) != len(names):
        raise RayServeException(f"Application names must be unique, got: {names}.")


def check_route_prefix(route_prefix: str | None) -> None:
    """Ray Serve's rules for a prefix given in Python.

    Raises:
        ValueError: it breaks one.
    """
    if route_prefix is None:
        return
    if not route_prefix.startswith("/"):
        raise ValueError(f"Invalid route_prefix '{route_prefix}', must start with a forward slash ('/').")
    if route_prefix != "/" and route_prefix.endswith("/"):
        raise ValueError(f"Invalid route_prefix '{route_prefix}', may not end with a trailing '/'.")
    if "{" in route_prefix or "}" in route_prefix:
        raise ValueError(f"Invalid route_prefix '{route_prefix}', may not contain wildcards.")


def settled(
    names: Sequence[str], get_status: Callable[[], control_pb2.InstanceStatus]
) -> Iterator[tuple[str, str | None]]:
    """Each of these applications as soon as it runs (None) or has failed (why).

    A model may load for hours, so there is no time limit.
    """
    waiting = list(names)
    while waiting:
        present = {app.name: app for app in get_status().applications}
        for name in list(waiting):
            app = present.get(name)
            if app is None:
                yield name, "it was deleted meanwhile."
            elif app.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                yield name, app.message
            elif app.status == ApplicationStatus.RUNNING:
                yield name, None
            else:
                continue
            waiting.remove(name)
        if waiting:
            time.sleep(_POLL_S)


def _stay() -> None:
    """Returns when the instance has gone."""
    while connected() is not None:
        time.sleep(_WATCH_S)
    logger.warning("The Serve instance was shut down; leaving.")


def delete(name: str, _blocking: bool = True) -> None:
    """Deletes an application and waits until it is gone; one that does not exist is already deleted.

    Raises:
        RayServeException: no instance runs.
        TimeoutError: it is still there after 60 s.
    """
    connection = required()
    if connection.call(lambda client: client.delete([name])):
        applications = [app.name for app in connection.status().applications]
        logger.warning("%s Nothing was deleted.", does_not_exist(f"Application '{name}'", applications))
    if not _blocking:
        return
    deadline = time.monotonic() + _DELETE_TIMEOUT_S
    while any(app.name == name for app in connection.status().applications):
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"Some of these applications weren't deleted after {_DELETE_TIMEOUT_S:.0f}s: ['{name}']."
            )
        time.sleep(_POLL_S)


def get_app_handle(name: str) -> DeploymentHandle:
    """A handle to the ingress deployment of an application.

    Raises:
        RayServeException: no instance runs, or no application has this name.
    """
    from swerve.handle import DeploymentHandle

    connection = required()
    for app in connection.status().applications:
        if app.name == name:
            return DeploymentHandle(app.ingress, name)
    raise RayServeException(f"Application '{name}' does not exist.")


def get_deployment_handle(
    deployment_name: str,
    app_name: str | None = None,
    _check_exists: bool = True,
    _record_telemetry: bool = True,
) -> DeploymentHandle:
    """A handle to any deployment; in a replica `app_name` defaults to the replica's application.

    Raises:
        RayServeException: no instance runs, or no application is named outside of one.
        KeyError: the deployment does not exist.
    """
    from swerve.handle import DeploymentHandle

    if app_name is None:
        context = current_replica_context()
        if context is None:
            raise RayServeException(
                "Please specify an application name when getting a deployment handle outside of a Serve application."
            )
        app_name = context.app_name
    connection = required()
    if _check_exists:
        applications = connection.status().applications
        known = {
            (app.name, deployment.name)
            for app in applications
            # A canary's replicas may ask for deployments that only it has.
            for deployment in (*app.deployments, *app.canary.deployments)
        }
        if (app_name, deployment_name) not in known:
            raise KeyError(f"Deployment(name='{deployment_name}', app='{app_name}') does not exist.")
    return DeploymentHandle(deployment_name, app_name)
