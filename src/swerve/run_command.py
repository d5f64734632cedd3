"""`swerve run`: start what is missing, build, apply, stay, and take away what it made."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from swerve import instances
from swerve.api import check_route_prefix, settled
from swerve.command_output import note
from swerve.commands import (
    CommandError,
    application_schema,
    apply,
    change_by_file,
    checked_instance_options,
    choose,
    config_of,
    import_from,
    running,
    say_where_it_serves,
    surroundings,
)
from swerve.config import HTTPOptions, ProxyLocation, gRPCOptions
from swerve.config_apps import build_applications
from swerve.exceptions import RayServeException
from swerve.generated import control_pb2
from swerve.instance_options import change_by_name, merged
from swerve.instances import InstanceConnection
from swerve.schema import ServeApplicationSchema, check_import_path

_Change = Callable[[control_pb2.InstanceStatus], control_pb2.DeployRequest]

# How often the foreground looks whether its instance still runs and whether files have changed.
_WATCH_S = 0.5
_NOT_WATCHED = ("__pycache__", "node_modules", "site-packages")


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
    http: HTTPOptions | None = None
    # None: what the config file says.
    proxy_location: ProxyLocation | None = None


def run(target: str, arguments: Sequence[str], request: RunRequest) -> None:
    """Nothing is applied unless everything could be built, and an instance that was started for it goes with it."""
    choose(request.state_dir)
    signal.signal(signal.SIGTERM, _interrupt)
    job = _Run(target, arguments, request)
    try:
        failures = job.deploy()
        if failures and len(failures) == len(job.names):
            raise CommandError(_failed(failures))
        if failures:
            note(f"Error: {_failed(failures)}")
        if request.blocking:
            job.stay()
        elif failures:
            raise SystemExit(1)
    except KeyboardInterrupt:
        note("Stopping ...")
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
        self._config = config_of(target, arguments, request.runtime_env)
        self._schemas = [] if self._config is None else self._config.applications
        if self._config is None:
            check_route_prefix(request.route_prefix)
            check_import_path(target)
            self._schemas = [
                application_schema(target, request.name, request.route_prefix, arguments, request.runtime_env)
            ]
        self._connection: InstanceConnection | None = None
        self.owns_instance = False
        # Applications that were there before, which are not this command's to delete.
        self._others: set[str] = set()
        # When this command last deployed its own.
        self._deployed_s: dict[str, float] = {}

    @property
    def names(self) -> list[str]:
        return [schema.name for schema in self._schemas]

    def deploy(self) -> dict[str, str]:
        """Starts what is missing, builds and applies; returns the applications that failed, with the reason."""
        request = self._request
        import_from(request.app_dir, request.ray_compat)
        with ThreadPoolExecutor(max_workers=1) as pool:
            self._connection = instances.connected()
            starting = None
            change: _Change = self._change
            if self._connection is None:
                # Imports the servicer functions; the instance then starts while the applications are built.
                options, change = self._beginning()
                starting = pool.submit(self._start, options)
            try:
                applications = self._build(fresh=self._config is None)
            finally:
                if starting is not None:
                    starting.result()
        assert self._connection is not None
        self._others = set(_deploy_times(self._connection))
        apply(self._connection, change, applications, self._config)
        say_where_it_serves(self._connection)
        return self._settle(self._connection)

    def _settle(self, connection: InstanceConnection) -> dict[str, str]:
        times = _deploy_times(connection)
        self._deployed_s = {name: times[name] for name in self.names if name in times}
        return self._wait(connection)

    def _change(self, status: control_pb2.InstanceStatus) -> control_pb2.DeployRequest:
        """What becomes of the options of an instance that runs already."""
        request = self._request
        named = (request.grpc, request.http, request.proxy_location)
        if self._config is None:
            return change_by_name(status, *named)
        return change_by_file(status, self._config, *named)

    def _start(self, options: control_pb2.InstanceOptions) -> None:
        self._connection = instances.start_instance(options, owned=self._request.blocking)
        self.owns_instance = True

    def _beginning(self) -> tuple[control_pb2.InstanceOptions, _Change]:
        """The options that an instance starts with, and what becomes of them when the applications are deployed."""
        config, request = self._config, self._request
        grpc, http, location = request.grpc, request.http, request.proxy_location
        base = checked_instance_options(grpc, http, config, location=location or ProxyLocation.EveryNode)
        if config is None:
            return base, _no_change
        grpc, http = merged(config.grpc_options, grpc), merged(config.http_options, http)
        options = checked_instance_options(grpc, http, config, location=location or config.proxy_location)
        # What the file names it names for itself: another file that does not gets what there is without.
        return options, lambda status: control_pb2.DeployRequest(options=status.options, base_options=base)

    def _build(self, *, fresh: bool) -> list[control_pb2.Application]:
        request = self._request
        if self._config is None and not request.runtime_env and not request.reload:
            return [_built_here(self._schemas[0])]
        base = Path(self._target).absolute().parent if self._config else Path.cwd()
        around = surroundings(base, request.app_dir, request.ray_compat, fresh=fresh)
        applications = build_applications(self._schemas, around)
        if self._config is None:
            for app in applications:
                app.source = "imperative"
        return applications

    def _wait(self, connection: InstanceConnection) -> dict[str, str]:
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
        connection = running()
        typer.echo("Files have changed; deploying again.")
        try:
            apply(connection, _no_change, self._build(fresh=True), self._config)
            failures = self._settle(connection)
        except RayServeException as error:
            note(f"Error: {error}\nThe applications run on as before.")
            return
        if failures:
            note(f"Error: {_failed(failures)}")

    def undo(self) -> None:
        """Stops the instance if this command started it, else deletes the applications that are still its own: not
        there before it, and not deployed again by someone else."""
        connection = instances.connected()
        if connection is None or self._connection is None:
            return
        if self.owns_instance:
            instances.shut_down(connection)
        else:
            times = _deploy_times(connection)
            own = [
                name
                for name in self.names
                if name in times and name not in self._others and times[name] == self._deployed_s.get(name, times[name])
            ]
            if own:
                connection.call(lambda client: client.delete(own))


def _no_change(status: control_pb2.InstanceStatus) -> control_pb2.DeployRequest:
    return control_pb2.DeployRequest()


def _deploy_times(connection: InstanceConnection) -> dict[str, float]:
    return {app.name: app.last_deployed_time_s for app in connection.status().applications}


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
