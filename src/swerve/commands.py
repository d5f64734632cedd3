"""What the commands do. Whatever goes wrong is an exception with a message for the user; `cli.main` prints it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from pydantic import ValidationError

from swerve import connection as instances
from swerve.api import check_route_prefix, settled
from swerve.config import HTTPOptions, ProxyLocation, explain, gRPCOptions
from swerve.config_apps import Surroundings, build_applications
from swerve.connection import Connection
from swerve.exceptions import RayServeException
from swerve.generated import control_pb2
from swerve.instance_options import ignored_options, instance_options
from swerve.schema import ServeApplicationSchema, ServeDeploySchema, ServeStatus, check_import_path, load_config

logger = logging.getLogger("swerve.cli")

# How often the foreground looks whether its instance still runs and whether files have changed.
_WATCH_S = 0.5
_NOT_WATCHED = ("__pycache__", "node_modules", "site-packages")


class CommandError(RayServeException):
    """A command that cannot be carried out."""


# ---------------------------------------------------------------------------------------------------------------------
# Options


def accept_address(address: str | None) -> None:
    if address is not None:
        _note("--address has no effect: the instance is found by its state folder (--state-dir).")


def grpc_options(**given: Any) -> gRPCOptions:
    """The options that the command line gives, and no others.

    Raises:
        ValueError: one has a wrong value.
    """
    try:
        return gRPCOptions(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ValueError(f"Wrong gRPC option: {explain(error)}") from error


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


def _import_from(app_dir: Path, ray_compat: bool) -> None:
    if not app_dir.is_dir():
        raise CommandError(f"The app folder {app_dir} does not exist.")
    sys.path.insert(0, str(app_dir.absolute()))
    if ray_compat:
        import swerve.ray_compat  # noqa: F401  (importing it installs the alias)


def _note(message: str) -> None:
    typer.echo(message, err=True)


# ---------------------------------------------------------------------------------------------------------------------
# start, deploy, config, status, shutdown


def start(
    state_dir: Path | None, app_dir: Path, grpc: gRPCOptions, http: Mapping[str, Any], proxy_location: str
) -> None:
    _choose(state_dir)
    _import_from(app_dir, ray_compat=False)
    if instances.connected() is not None:
        raise CommandError(f"A Serve instance is already running (state folder: {instances.current_state_dir()}).")
    try:
        location = ProxyLocation.of(proxy_location)
        http_options = HTTPOptions(**http) if http else None
    except ValidationError as error:
        raise ValueError(f"Wrong HTTP option: {explain(error)}") from error
    instances.start_instance(_instance_options(grpc, http_options, location=location), owned=False)
    where = f"gRPC on {grpc.host or '*'}:{grpc.port}" if grpc.enabled else "no gRPC server: no servicer functions given"
    typer.echo(f"Serve is running ({where}; state folder: {instances.current_state_dir()}).")


def _choose(state_dir: Path | None) -> None:
    if state_dir is not None:
        instances.use_state_dir(state_dir)


def _instance_options(
    grpc: gRPCOptions, http: HTTPOptions | None, config: ServeDeploySchema | None = None, *, location: ProxyLocation
) -> control_pb2.InstanceOptions:
    try:
        return instance_options(grpc, http, config.logging_config if config else None, location)
    except AttributeError as error:
        # A wrong name in a servicer function's path; Ray Serve raises the same type.
        raise CommandError(str(error)) from error


def _running() -> Connection:
    connection = instances.connected()
    if connection is None:
        raise CommandError(
            f"No Serve instance is running (state folder: {instances.current_state_dir()}). Start one with "
            "`swerve start` or `swerve run`."
        )
    return connection


def deploy(
    target: str,
    arguments: Sequence[str],
    state_dir: Path | None,
    app_dir: Path,
    name: str,
    env: Mapping[str, Any],
    ray_compat: bool,
) -> None:
    _choose(state_dir)
    connection = _running()
    config = _config_of(target, arguments, env)
    base = Path.cwd()
    if config is None:
        app = _application_schema(target, name, "/", arguments, env)
        config = ServeDeploySchema(applications=[app])
    else:
        base = Path(target).absolute().parent
        _warn_of_ignored(connection, config.grpc_options)
    applications = build_applications(config.applications, _surroundings(base, app_dir, ray_compat))
    _apply(connection, applications, config)
    typer.echo("Sent the deploy request. See `swerve status` for its progress.")


def _config_of(target: str, arguments: Sequence[str], env: Mapping[str, Any]) -> ServeDeploySchema | None:
    """The config file that `target` names, None for an import path."""
    if not Path(target).is_file():
        if target.endswith((".yaml", ".yml")):
            raise CommandError(f"The config file {target} does not exist.")
        return None
    if arguments:
        raise CommandError("Application arguments are given in the config file (`args`), not on the command line.")
    if env:
        raise CommandError("With a config file, the runtime_env belongs into the file.")
    return load_config(Path(target))


def _application_schema(
    import_path: str, name: str, route_prefix: str, arguments: Sequence[str], env: Mapping[str, Any]
) -> ServeApplicationSchema:
    given = {"name": name, "route_prefix": route_prefix, "import_path": import_path}
    try:
        return ServeApplicationSchema.model_validate({**given, "args": _arguments(arguments), "runtime_env": dict(env)})
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def _surroundings(base: Path, app_dir: Path, ray_compat: bool, *, fresh: bool = False) -> Surroundings:
    packages = instances.current_state_dir() / "packages"
    return Surroundings(base, (str(app_dir.absolute()),), packages, ray_compat, fresh)


def _apply(
    connection: Connection, applications: Sequence[control_pb2.Application], config: ServeDeploySchema | None
) -> None:
    request = control_pb2.DeployRequest(applications=applications)
    if config is not None:
        request.declarative = True
        request.config_json = config.model_dump_json(exclude_unset=True)
    connection.call(lambda client: client.deploy(request))


def _warn_of_ignored(connection: Connection, grpc: gRPCOptions) -> None:
    warning = ignored_options(grpc, connection.status().options)
    if warning:
        _note(f"Warning: {warning}")


def config(state_dir: Path | None, name: str | None) -> None:
    _choose(state_dir)
    connection = _running()
    text = connection.call(lambda client: client.config())
    if not text:
        _note("No config file has been applied.")
        return
    applied = json.loads(text)
    if name is None:
        typer.echo(to_yaml(applied), nl=False)
        return
    for app in applied["applications"]:
        if app.get("name", "default") == name:
            typer.echo(to_yaml(app), nl=False)
            return
    raise CommandError(f"The applied config file has no application '{name}'.")


def status(state_dir: Path | None, name: str | None) -> None:
    _choose(state_dir)
    connection = _running()
    present = asdict(ServeStatus.from_proto(connection.status()))
    if name is None:
        typer.echo(to_yaml(present), nl=False)
    elif name in present["applications"]:
        typer.echo(to_yaml(present["applications"][name]), nl=False)
    else:
        raise CommandError(f"Application '{name}' does not exist.")


def to_yaml(value: Any) -> str:
    """`value` as YAML, keys in their order, texts of several lines as block scalars."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        # A block scalar cannot hold tabs at line starts or spaces at line ends; both only occur in tracebacks.
        lines = "\n".join(line.rstrip() for line in value.expandtabs().splitlines()) if style else value
        return dumper.represent_scalar("tag:yaml.org,2002:str", str(lines), style=style)

    Dumper.add_multi_representer(str, text)
    return str(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def shutdown(state_dir: Path | None, *, ask: bool) -> None:
    _choose(state_dir)
    connection = instances.connected()
    if connection is None:
        typer.echo(f"No Serve instance is running (state folder: {instances.current_state_dir()}).")
        return
    if ask:
        typer.confirm("This stops Serve and all its applications. Continue?", abort=True)
    instances.shut_down(connection)
    typer.echo("Serve has stopped.")


# ---------------------------------------------------------------------------------------------------------------------
# run


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The options of `run`."""

    state_dir: Path | None = None
    app_dir: Path = Path()
    name: str = "default"
    route_prefix: str = "/"
    blocking: bool = True
    reload: bool = False
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    ray_compat: bool = False
    grpc: gRPCOptions = field(default_factory=gRPCOptions)


def run(target: str, arguments: Sequence[str], request: RunRequest) -> None:
    """Nothing is applied unless everything could be built, and an instance that was started for it goes with it."""
    _choose(request.state_dir)
    signal.signal(signal.SIGTERM, _interrupt)
    job = _Run(target, arguments, request)
    try:
        failures = job.deploy()
        if len(failures) == len(job.names):
            raise CommandError(_failed(failures))
        if failures:
            _note(f"Error: {_failed(failures)}")
        if request.blocking:
            job.stay()
        elif failures:
            raise SystemExit(1)
    except KeyboardInterrupt:
        _note("Stopping ...")
        job.undo()
    except Exception:
        # What failed on an instance of others stays there to be looked at with `status`.
        if job.owns_instance:
            job.undo()
        raise


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _failed(failures: Mapping[str, str]) -> str:
    return "\n".join(f"Deploying application {name} failed: {message}" for name, message in failures.items())


class _Run:
    """One `run`: what it deploys and where."""

    def __init__(self, target: str, arguments: Sequence[str], request: RunRequest) -> None:
        self._target = target
        self._request = request
        self._config = _config_of(target, arguments, request.runtime_env)
        self._schemas = [] if self._config is None else self._config.applications
        if self._config is None:
            check_route_prefix(request.route_prefix)
            check_import_path(target)
            self._schemas = [
                _application_schema(target, request.name, request.route_prefix, arguments, request.runtime_env)
            ]
        self._connection: Connection | None = None
        self.owns_instance = False

    @property
    def names(self) -> list[str]:
        return [schema.name for schema in self._schemas]

    def deploy(self) -> dict[str, str]:
        """Starts what is missing, builds and applies; returns the applications that failed, with the reason."""
        request = self._request
        _import_from(request.app_dir, request.ray_compat)
        with ThreadPoolExecutor(max_workers=1) as pool:
            self._connection = instances.connected()
            starting = None
            if self._connection is not None:
                _warn_of_ignored(self._connection, self._grpc_options())
            else:
                # Imports the servicer functions; the instance then starts while the applications are built.
                options = self._instance_options()
                starting = pool.submit(instances.start_instance, options, owned=request.blocking)
            try:
                applications = self._build(fresh=self._config is None)
            finally:
                if starting is not None:
                    self._connection = starting.result()
                    self.owns_instance = True
        assert self._connection is not None
        _apply(self._connection, applications, self._config)
        return self._wait(self._connection)

    def _grpc_options(self) -> gRPCOptions:
        given = self._config.grpc_options.model_dump(exclude_unset=True) if self._config else {}
        return gRPCOptions(**{**given, **self._request.grpc.model_dump(exclude_unset=True)})

    def _instance_options(self) -> control_pb2.InstanceOptions:
        config = self._config
        location = config.proxy_location if config else ProxyLocation.EveryNode
        http = config.http_options if config and "http_options" in config.model_fields_set else None
        return _instance_options(self._grpc_options(), http, config, location=location)

    def _build(self, *, fresh: bool) -> list[control_pb2.Application]:
        request = self._request
        if self._config is None and not request.runtime_env and not request.reload:
            return [_built_here(self._schemas[0])]
        base = Path(self._target).absolute().parent if self._config else Path.cwd()
        surroundings = _surroundings(base, request.app_dir, request.ray_compat, fresh=fresh)
        applications = build_applications(self._schemas, surroundings)
        if self._config is None:
            for app in applications:
                app.source = "imperative"
        return applications

    def _wait(self, connection: Connection) -> dict[str, str]:
        failures = {}
        for name, failure in settled(self.names, connection.status):
            if failure is None:
                typer.echo(f"Application '{name}' is running.")
            else:
                failures[name] = failure
        return failures

    def stay(self) -> None:
        """Returns never: interrupted, or the instance goes.

        Raises:
            CommandError: the instance has gone.
        """
        files = _python_files(self._request.app_dir) if self._request.reload else {}
        while True:
            time.sleep(_WATCH_S)
            if instances.connected() is None:
                self.owns_instance = False
                raise CommandError("The Serve instance was shut down.")
            if self._request.reload:
                present = _python_files(self._request.app_dir)
                if present != files:
                    files = present
                    self._redeploy()

    def _redeploy(self) -> None:
        connection = _running()
        typer.echo("Files have changed; deploying again.")
        try:
            _apply(connection, self._build(fresh=True), self._config)
            failures = self._wait(connection)
        except RayServeException as error:
            _note(f"Error: {error}\nThe applications run on as before.")
            return
        if failures:
            _note(f"Error: {_failed(failures)}")

    def undo(self) -> None:
        """Stops the instance if this command started it, else deletes its applications."""
        connection = instances.connected()
        if connection is None or self._connection is None:
            return
        if self.owns_instance:
            instances.shut_down(connection)
        else:
            connection.call(lambda client: client.delete(self.names))


def _built_here(schema: ServeApplicationSchema) -> control_pb2.Application:
    from swerve.build import BuildOptions, build
    from swerve.import_path import load_application

    app = load_application(schema.import_path, schema.args)
    packages = instances.current_state_dir() / "packages"
    return build(app, BuildOptions(name=schema.name, route_prefix=schema.route_prefix, packages=packages))


def _python_files(folder: Path) -> dict[str, int]:
    """When each Python file below `folder` was last changed."""
    return dict(_scan(folder))


def _scan(folder: Path) -> Iterator[tuple[str, int]]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_WATCHED]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(root, name)
                # Editors replace files; one may be gone by now.
                with contextlib.suppress(FileNotFoundError):
                    yield path, os.stat(path).st_mtime_ns


# ---------------------------------------------------------------------------------------------------------------------
# build


def build(
    import_paths: Sequence[str], app_dir: Path, output_path: Path | None, grpc: gRPCOptions, ray_compat: bool
) -> None:
    from swerve.build import deployments_of
    from swerve.import_path import load_application

    _import_from(app_dir, ray_compat)
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
        "http_options": {"host": "0.0.0.0", "port": 8000},
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
