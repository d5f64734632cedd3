"""What `swerve canary` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from swerve.command_output import readable, to_yaml
from swerve.commands import CommandError, application_schema, choose, running, surroundings
from swerve.config import CanaryOptions, explain
from swerve.config_apps import build_applications
from swerve.exceptions import does_not_exist
from swerve.generated import control_pb2
from swerve.schema import check_import_path
from swerve.status_overview import ServeStatus


def options(
    weight: float | None,
    match: Sequence[str],
    sticky_key: str | None,
    rollback: Mapping[str, float | None],
    *,
    auto_rollback: bool,
) -> CanaryOptions:
    """The options that the command line gives, over the defaults.

    Raises:
        CommandError: a match has the wrong form.
        ValueError: one has a wrong value.
    """
    fields = {}
    for pair in match:
        key, equals, value = pair.partition("=")
        if not equals:
            raise CommandError(f"Invalid --match '{pair}', must be of the form '<key>=<val>'.")
        fields[key] = value
    limits = {name: value for name, value in rollback.items() if value is not None}
    if limits and not auto_rollback:
        raise CommandError("With --no-auto-rollback there are no limits to be set.")
    given: dict[str, Any] = {"match": fields, "sticky_key": sticky_key, "rollback": limits if auto_rollback else None}
    if weight is not None:
        given["weight"] = weight
    try:
        return CanaryOptions.model_validate(given)
    except ValidationError as error:
        raise ValueError(f"Wrong canary option: {explain(error)}") from error


def start(
    app: str,
    import_path: str,
    arguments: Sequence[str],
    options: CanaryOptions,
    state_dir: Path | None,
    app_dir: Path,
    env: Mapping[str, Any],
    ray_compat: bool,
) -> None:
    choose(state_dir)
    connection = running()
    check_import_path(import_path)
    schema = application_schema(import_path, app, "/", arguments, env)
    (built,) = build_applications([schema], surroundings(Path.cwd(), app_dir, ray_compat))
    canary = control_pb2.Canary(application=built, options_json=options.model_dump_json())
    connection.call(lambda client: client.start_canary(canary))
    typer.echo(f"The canary of application '{app}' starts. See `swerve canary status` for its progress.")


def weigh(state_dir: Path | None, app: str, weight: float) -> None:
    _change(state_dir, control_pb2.ChangeCanaryRequest(app=app, weight=weight))
    typer.echo(f"The canary of application '{app}' gets {weight:g} % of the calls.")


def promote(state_dir: Path | None, app: str) -> None:
    _change(state_dir, control_pb2.ChangeCanaryRequest(app=app, promote=True))
    typer.echo(f"The canary is application '{app}' now; the replicas of the other version drain.")


def rollback(state_dir: Path | None, app: str) -> None:
    _change(state_dir, control_pb2.ChangeCanaryRequest(app=app, rollback=True))
    typer.echo(f"The canary of application '{app}' is rolled back; its replicas drain.")


def _change(state_dir: Path | None, request: control_pb2.ChangeCanaryRequest) -> None:
    choose(state_dir)
    running().call(lambda client: client.change_canary(request))


def status(state_dir: Path | None, app: str | None) -> None:
    choose(state_dir)
    present = readable(ServeStatus.from_proto(running().status()))["applications"]
    if app is not None and app not in present:
        raise CommandError(does_not_exist(f"Application '{app}'", present))
    found = {name: entry["canary"] for name, entry in present.items() if "canary" in entry and app in (None, name)}
    if found:
        typer.echo(to_yaml(found), nl=False)
    else:
        typer.echo("There is no canary." if app is None else f"Application '{app}' has no canary.")
