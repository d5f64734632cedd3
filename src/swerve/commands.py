"""What the commands do. Whatever goes wrong is an exception with a message for the user; `cli.main` prints it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from swerve import instances
from swerve.api import check_route_prefix
from swerve.command_output import note, readable, to_yaml
from swerve.config import HTTPOptions, ProxyLocation, explain, gRPCOptions
from swerve.config_apps import Surroundings, build_applications
from swerve.exceptions import RayServeException, does_not_exist
from swerve.generated import control_pb2
from swerve.instance_options import (
    changed_options,
    deployed_options,
    differences,
    fixed_logging,
    instance_options,
    merged,
    shown_options,
    where_it_serves,
)
from swerve.instances import InstanceConnection
from swerve.schema import (
    APIType,
    ServeApplicationSchema,
    ServeDeploySchema,
    check_import_path,
    load_config,
)
from swerve.status_overview import ServeStatus
from swerve.statuses import ApplicationStatus

logger = logging.getLogger("swerve.cli")


class CommandError(RayServeException):
    """A command that cannot be carried out."""


# ---------------------------------------------------------------------------------------------------------------------
# Options


def accept_address(address: str | None) -> None:
    """Says that Ray's address means nothing here, rather than act on another instance than the user thinks."""
    if address is not None:
        note("--address has no effect: the instance is found by its state folder (--state-dir).")


def grpc_options(**given: Any) -> gRPCOptions:
    """The options that the command line gives, and no others.

    Raises:
        ValueError: one has a wrong value.
    """
    try:
        return gRPCOptions(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ValueError(f"Wrong gRPC option: {explain(error)}") from error


def http_options(**given: Any) -> HTTPOptions | None:
    """The options that the command line gives, None if it gives none.

    Raises:
        ValueError: one has a wrong value.
    """
    named = {name: value for name, value in given.items() if value is not None}
    try:
        return HTTPOptions(**named) if named else None
    except ValidationError as error:
        raise ValueError(f"Wrong HTTP option: {explain(error)}") from error


def proxy_location(given: str | None) -> ProxyLocation | None:
    """The location that the command line gives, None if it gives none.

    Raises:
        ValueError: there is no such location.
    """
    try:
        return None if given is None else ProxyLocation.of(given)
    except ValueError as error:
        names = ", ".join(location.value for location in ProxyLocation)
        raise ValueError(f"--proxy-location must be one of {names}, got: {given!r}.") from error


def runtime_env(file: Path | None, text: str | None, working_dir: str | None) -> dict[str, Any]:
    """The runtime_env of the command line.

    Raises:
        CommandError: it is given twice, or is no mapping.
    """
    if file is not None and text is not None:
        raise CommandError("Give either --runtime-env or --runtime-env-json, not both.")
    env: Any = {}
    try:
        if file is not None:
            import yaml

            env = yaml.safe_load(file.read_text(encoding="utf-8"))
        elif text is not None:
            env = json.loads(text)
    except Exception as error:
        raise CommandError(f"The runtime_env cannot be read: {error}") from error
    if not isinstance(env, dict):
        raise CommandError(f"The runtime_env must be a mapping, got: {env!r}.")
    return {**env, "working_dir": working_dir} if working_dir is not None else env


def _arguments(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for argument in given:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise CommandError(f"Invalid application argument '{argument}', must be of the form '<key>=<val>'.")
        pairs[key] = value
    return pairs


def import_from(app_dir: Path, ray_compat: bool) -> None:
    """Makes what is in `app_dir` importable in this process."""
    if not app_dir.is_dir():
        raise CommandError(f"The app folder {app_dir} does not exist.")
    sys.path.insert(0, str(app_dir.absolute()))
    if ray_compat:
        import swerve.ray_compat  # noqa: F401  (importing it installs the alias)


# ---------------------------------------------------------------------------------------------------------------------
# start, deploy, config, status, shutdown


def start(
    state_dir: Path | None, app_dir: Path, grpc: gRPCOptions, http: HTTPOptions | None, location: ProxyLocation | None
) -> None:
    choose(state_dir)
    import_from(app_dir, ray_compat=False)
    if instances.connected() is not None:
        raise CommandError(f"A Serve instance is already running (state folder: {instances.current_state_dir()}).")
    options = checked_instance_options(grpc, http, location=location or ProxyLocation.EveryNode)
    try:
        say_where_it_serves(instances.start_instance(options, owned=False))
    except KeyboardInterrupt:
        instances.end_started()
        raise


def say_where_it_serves(connection: InstanceConnection) -> None:
    """Prints the addresses of the instance, and where its files are."""
    folder = instances.current_state_dir()
    lines = [*where_it_serves(connection.status()), f"state folder: {folder}", f"logs: {folder / 'logs'}"]
    typer.echo("\n  ".join(["Serve is running:", *lines]))


def choose(state_dir: Path | None) -> None:
    """Acts on the instance of this state folder, if one is given."""
    if state_dir is not None:
        instances.use_state_dir(state_dir)


def checked_instance_options(
    grpc: gRPCOptions, http: HTTPOptions | None, config: ServeDeploySchema | None = None, *, location: ProxyLocation
) -> control_pb2.InstanceOptions:
    try:
        return instance_options(grpc, http, config.logging_config if config else None, location)
    except AttributeError as error:
        # A wrong name in a servicer function's path; Ray Serve raises the same type.
        raise CommandError(str(error)) from error


def running() -> InstanceConnection:
    """The connection to the running instance.

    Raises:
        CommandError: none runs.
    """
    connection = instances.connected()
    if connection is None:
        raise CommandError(
            f"No Serve instance is running (state folder: {instances.current_state_dir()}). "
            "Start one with `swerve start` or `swerve run`."
        )
    return connection


def deploy(
    target: str,
    arguments: Sequence[str],
    state_dir: Path | None,
    app_dir: Path,
    name: str,
    route_prefix: str,
    env: Mapping[str, Any],
    ray_compat: bool,
) -> None:
    choose(state_dir)
    connection = running()
    config = config_of(target, arguments, env)
    base = Path.cwd()
    if config is None:
        check_route_prefix(route_prefix)
        app = application_schema(target, name, route_prefix, arguments, env)
        config = ServeDeploySchema(applications=[app])
    else:
        base = Path(target).absolute().parent
        import_from(app_dir, ray_compat)
    applications = build_applications(config.applications, surroundings(base, app_dir, ray_compat))
    apply(connection, lambda status: change_by_file(status, config), applications, config)
    typer.echo("Sent the deploy request. See `swerve status` for its progress.")


def config_of(target: str, arguments: Sequence[str], env: Mapping[str, Any]) -> ServeDeploySchema | None:
    """The config file that `target` names, None for an import path."""
    if not Path(target).is_file():
        if target.endswith((".yaml", ".yml")):
            raise CommandError(f"The config file {target} does not exist.")
        if not {":", "."} & set(target) or "/" in target:
            raise CommandError(
                f"There is no config file '{target}', and it is no import path, like `module:application`."
            )
        return None
    if arguments:
        raise CommandError("Application arguments are given in the config file (`args`), not on the command line.")
    if env:
        raise CommandError("With a config file, the runtime_env belongs into the file.")
    return load_config(Path(target))


def application_schema(
    import_path: str, name: str, route_prefix: str, arguments: Sequence[str], env: Mapping[str, Any]
) -> ServeApplicationSchema:
    given = {"name": name, "route_prefix": route_prefix, "import_path": import_path}
    try:
        return ServeApplicationSchema.model_validate({**given, "args": _arguments(arguments), "runtime_env": dict(env)})
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def surroundings(base: Path, app_dir: Path, ray_compat: bool, *, fresh: bool = False) -> Surroundings:
    packages = instances.current_state_dir() / "packages"
    return Surroundings(base, (str(app_dir.absolute()),), packages, ray_compat, fresh)


def apply(
    connection: InstanceConnection,
    change: Callable[[control_pb2.InstanceStatus], control_pb2.DeployRequest],
    applications: Sequence[control_pb2.Application],
    config: ServeDeploySchema | None,
) -> None:
    """Deploys, all of it or nothing; `change` says what becomes of the instance's options."""

    def request_for(status: control_pb2.InstanceStatus) -> control_pb2.DeployRequest:
        request = change(status)
        request.applications.extend(applications)
        if config is not None:
            request.declarative = True
            request.config_json = config.model_dump_json(exclude_unset=True)
            if config.target_capacity is not None:
                request.target_capacity = config.target_capacity
        return request

    before, applied = connection.deploy(request_for)
    for line in differences(before.options, applied.options) if applied.HasField("options") else ():
        note(f"Changed: {line}")


def change_by_file(
    status: control_pb2.InstanceStatus,
    config: ServeDeploySchema,
    grpc: gRPCOptions | None = None,
    http: HTTPOptions | None = None,
    location: ProxyLocation | None = None,
) -> control_pb2.DeployRequest:
    """The running instance's options as a file has them: what that sets, over what they would be without any.

    `grpc`, `http` and `location` are what the command line sets over both, and for files to come.

    Raises:
        CommandError, ImportError, ValueError: they cannot become that.
    """
    if problem := fixed_logging(status.options, config.logging_config):
        raise CommandError(problem)
    base = status.base_options
    location_of_file = config.proxy_location if "proxy_location" in config.model_fields_set else None
    try:
        options = changed_options(
            base, merged(config.grpc_options, grpc), merged(config.http_options, http), location or location_of_file
        )
        request = control_pb2.DeployRequest(options=options)
        if (grpc and grpc.model_fields_set) or http or location:
            request.base_options.CopyFrom(changed_options(base, grpc, http, location))
        return request
    except AttributeError as error:
        # A wrong name in a servicer function's path; Ray Serve raises the same type.
        raise CommandError(str(error)) from error


def config(state_dir: Path | None, name: str | None) -> None:
    choose(state_dir)
    connection = running()
    text = connection.call(lambda client: client.config())
    if not text:
        note("No config file has been applied.")
        return
    applied = json.loads(text)
    status = connection.status()
    present = {app.name for app in status.applications if _is_from_file(app)}
    applied["applications"] = [app for app in applied["applications"] if app.get("name", "default") in present]
    # The options may have been changed by other means since.
    applied |= deployed_options(applied, status.options)
    if name is None:
        typer.echo(to_yaml(applied), nl=False)
        return
    for app in applied["applications"]:
        if app.get("name", "default") == name:
            typer.echo(to_yaml(app), nl=False)
            return
    names = [app.get("name", "default") for app in applied["applications"]]
    raise CommandError(does_not_exist(f"Application '{name}' of the applied config file", names))


def _is_from_file(app: control_pb2.ApplicationStatus) -> bool:
    return app.source == APIType.DECLARATIVE and app.status != ApplicationStatus.DELETING


def status(state_dir: Path | None, name: str | None) -> None:
    choose(state_dir)
    found = running().status()
    present = {**readable(ServeStatus.from_proto(found)), **shown_options(found.options)}
    if name is None:
        typer.echo(to_yaml(present), nl=False)
    elif name in present["applications"]:
        typer.echo(to_yaml(present["applications"][name]), nl=False)
    else:
        raise CommandError(does_not_exist(f"Application '{name}'", present["applications"]))


def scale(state_dir: Path | None, app: str, deployment: str, num_replicas: int) -> None:
    choose(state_dir)
    running().call(lambda client: client.scale(app, deployment, num_replicas))
    typer.echo("Scaling request received. Deployment will get scaled asynchronously.")


def renew_certificates(state_dir: Path | None) -> None:
    choose(state_dir)
    answer = running().call(lambda client: client.renew_certificates())
    for line in answer.renewed:
        typer.echo(line)
    if answer.faults:
        raise CommandError("\n".join([*answer.faults, "The old certificate stays in use there."]))
    if not answer.renewed:
        raise CommandError("No port of the instance speaks TLS.")


def metrics(state_dir: Path | None) -> None:
    choose(state_dir)
    typer.echo(running().call(lambda client: client.metrics()), nl=False)


def shutdown(state_dir: Path | None, *, ask: bool) -> None:
    choose(state_dir)
    connection = instances.connected()
    if connection is None:
        typer.echo(f"No Serve instance is running (state folder: {instances.current_state_dir()}).")
        return
    if ask:
        typer.confirm("This stops Serve and all its applications. Continue?", abort=True)
    instances.shut_down(connection)
    typer.echo("Serve has stopped.")


def build(
    import_paths: Sequence[str], app_dir: Path, output_path: Path | None, grpc: gRPCOptions, ray_compat: bool
) -> None:
    from swerve.build import deployments_of
    from swerve.import_path import load_application

    import_from(app_dir, ray_compat)
    applications = []
    for number, import_path in enumerate(import_paths, 1):
        check_import_path(import_path)
        name = f"app{number}"
        graph = deployments_of(load_application(import_path, {}), name)
        deployments = [
            {"name": deployment_name, **deployment.config.model_dump(mode="json", exclude_unset=True)}
            for deployment_name, (deployment, _) in graph.items()
        ]
        route = "/" if len(import_paths) == 1 else f"/{name}"
        applications.append(
            {
                "name": name,
                "route_prefix": route,
                "import_path": import_path,
                "runtime_env": {},
                "deployments": deployments,
            }
        )
    content = {
        "proxy_location": ProxyLocation.EveryNode.value,
        "grpc_options": {
            "port": grpc.port,
            "grpc_servicer_functions": grpc.grpc_servicer_functions,
            "enable_reflection": grpc.enable_reflection,
        },
        "logging_config": {"encoding": "TEXT", "log_level": "INFO", "logs_dir": None, "enable_access_log": True},
        "applications": applications,
    }
    text = f"# Made by `swerve build`; apply it with `swerve run` or `swerve deploy`.\n\n{to_yaml(content)}"
    if output_path is None:
        typer.echo(text, nl=False)
    else:
        output_path.write_text(text, encoding="utf-8")
