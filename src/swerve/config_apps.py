"""Builds the applications of a configuration file, each in a process of its own with its runtime_env.

A process of its own, because applications may want different variables and folders, and because what one of them
imports must not end up in the command that applies the file. `python -m swerve.config_apps` is that process: a line of
JSON on standard input, which stays open for as long as the command lives, the result on the file descriptor that the
JSON names. Its session is its own, so that Ctrl-C reaches the command alone, which ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swerve.runtime_env import resolve
from swerve.schema import ConfigError, ServeApplicationSchema

if TYPE_CHECKING:
    from swerve.generated import control_pb2

# Importing an application may load a large framework; more than this is a hang.
_BUILD_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for all applications of a command."""

    # Relative paths in a runtime_env start here.
    base: Path
    # In front of `sys.path`.
    import_dirs: tuple[str, ...]
    # Where archives are unpacked.
    packages: Path
    ray_compat: bool = False
    # Replaces the replicas even if nothing changed.
    fresh: bool = False


def build_applications(
    applications: Sequence[ServeApplicationSchema], surroundings: Surroundings
) -> list[control_pb2.Application]:
    """All applications with their canaries, built side by side.

    Raises:
        ConfigError: one cannot be built; the message names it.
    """
    started: list[subprocess.Popen[bytes]] = []
    with_canary = {app.name: app.canary.options() for app in applications if app.canary is not None}
    schemas = [(f"Application '{app.name}'", app) for app in applications]
    schemas += [
        (f"The canary of application '{app.name}'", app.as_canary()) for app in applications if app.canary is not None
    ]
    with ThreadPoolExecutor(max_workers=max(1, min(len(schemas), os.cpu_count() or 1))) as pool:
        futures = [pool.submit(_build_in_child, what, app, surroundings, started) for what, app in schemas]
        try:
            built = [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            for child in started:
                _end(child)
            raise
    by_name = {app.name: app for app in built[: len(applications)]}
    for app in built[len(applications) :]:
        by_name[app.name].canary.application.CopyFrom(app)
        by_name[app.name].canary.options_json = with_canary[app.name].model_dump_json()
    return list(by_name.values())


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends a child with all that the application's import has started."""
    # Until it is waited for, its group's number is nobody else's.
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _build_in_child(
    what: str, app: ServeApplicationSchema, surroundings: Surroundings, started: list[subprocess.Popen[bytes]]
) -> control_pb2.Application:
    from swerve.generated import control_pb2

    try:
        environment = resolve(app.runtime_env, base=surroundings.base, packages=surroundings.packages)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{what}: {error}") from error
    read_end, write_end = os.pipe()
    task = {
        "application": app.model_dump(mode="json", exclude_unset=True),
        "base": str(surroundings.base),
        "packages": str(surroundings.packages),
        "sys_path": [*environment.sys_path, *surroundings.import_dirs],
        "ray_compat": surroundings.ray_compat,
        "fresh": surroundings.fresh,
        "result_fd": write_end,
    }
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "swerve.config_apps"],
        stdin=subprocess.PIPE,
        env={**os.environ, **environment.env_vars},
        cwd=environment.working_dir,
        pass_fds=(write_end,),
        start_new_session=True,
    )
    started.append(child)
    os.close(write_end)
    watchdog = threading.Timer(_BUILD_TIMEOUT_S, _end, (child,))
    watchdog.start()
    try:
        with child, open(read_end, "rb") as results:
            assert child.stdin is not None
            # A child that ended at once has nobody who reads.
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps(task).encode() + b"\n")
                child.stdin.flush()
            result = results.read()
            # Before its input is closed, which would kill it.
            child.wait()
    finally:
        watchdog.cancel()
    if child.returncode == 0:
        return control_pb2.Application.FromString(result)
    message = result.decode("utf-8", "replace") or f"the process that imports it ended with code {child.returncode}."
    raise ConfigError(f"{what}: {message}")


def _build(task: dict[str, Any]) -> control_pb2.Application:
    """The application of one task, in the child."""
    from swerve.build import BuildOptions, build
    from swerve.import_path import load_application, stable_code_version

    schema = ServeApplicationSchema.model_validate(task["application"])
    app = load_application(schema.import_path, schema.args)
    version = "" if task["fresh"] else stable_code_version(schema.import_path, schema.runtime_env, schema.args)
    return build(
        app,
        BuildOptions(
            name=schema.name,
            route_prefix=schema.route_prefix,
            runtime_env=schema.runtime_env,
            base=Path(task["base"]),
            packages=Path(task["packages"]),
            logging_config=schema.logging_config,
            overrides=schema.deployments,
            code_version=version,
            source="declarative",
            source_json=json.dumps(task["application"]),
            autoscaling_policy=schema.autoscaling_policy,
            external_scaler_enabled=schema.external_scaler_enabled,
        ),
    )


def _take_stdin() -> bytes:
    """The line that the command wrote. From then on the application's code finds an empty standard input, and the
    end of the command ends this process."""
    command = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    with open(command, "rb", closefd=False) as given:
        line = given.readline()
    threading.Thread(target=_end_with_command, args=(command,), daemon=True).start()
    return line


def _end_with_command(command: int) -> None:
    os.read(command, 1)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """The child: 0 and the application, or 1 and what is wrong."""
    task = json.loads(_take_stdin())
    os.set_inheritable(task["result_fd"], False)
    with open(task["result_fd"], "wb") as results:
        sys.path[:0] = task["sys_path"]
        if task["ray_compat"]:
            import swerve.ray_compat  # noqa: F401  (importing it installs the alias)
        try:
            results.write(_build(task).SerializeToString())
        except (ImportError, TypeError, ValueError, OSError) as error:
            results.write(str(error).encode())
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
