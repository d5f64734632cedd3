"""The commands `swerve canary ...`: what they accept. What they do is in `swerve.canary_command`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swerve.cli_options import AppDir, Arguments, RayCompat, RuntimeEnvFile, RuntimeEnvJson, StateDir, WorkingDir

app = typer.Typer(
    help="A new version of an application beside it, for a part of the calls.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Canaried = Annotated[str, typer.Argument(metavar="APPLICATION", help="Name of the application.")]


@app.command()
def start(
    application: Canaried,
    import_path: Annotated[str, typer.Argument(help="The new version, as `module:application`.")],
    arguments: Arguments = None,
    weight: Annotated[
        float | None, typer.Option(help="Percent of the calls.  \\[default: 10]", show_default=False)
    ] = None,
    match: Annotated[
        list[str] | None,
        typer.Option(
            help="key=value: calls with this metadata go to it in any case. Repeatable; all must be there.",
            show_default=False,
        ),
    ] = None,
    sticky_key: Annotated[
        str | None,
        typer.Option(help="Metadata key whose value, instead of chance, tells the calls apart.", show_default=False),
    ] = None,
    max_error_percent: Annotated[
        float | None, typer.Option(help="Roll it back when more calls fail.  \\[default: 5]", show_default=False)
    ] = None,
    min_calls: Annotated[
        int | None, typer.Option(help="But not for fewer calls than this.  \\[default: 50]", show_default=False)
    ] = None,
    window_s: Annotated[
        float | None, typer.Option(help="Seconds that calls count for.  \\[default: 60]", show_default=False)
    ] = None,
    for_s: Annotated[
        float | None, typer.Option(help="Seconds that it must last.  \\[default: 5]", show_default=False)
    ] = None,
    auto_rollback: Annotated[bool, typer.Option(help="Roll it back by itself.")] = True,
    state_dir: StateDir = None,
    app_dir: AppDir = Path("."),
    runtime_env: RuntimeEnvFile = None,
    runtime_env_json: RuntimeEnvJson = None,
    working_dir: WorkingDir = None,
    ray_compat: RayCompat = False,
) -> None:
    """Start a new version beside an application; returns before its replicas run."""
    from swerve import canary_command, commands

    rollback = {"max_error_percent": max_error_percent, "min_calls": min_calls, "window_s": window_s, "for_s": for_s}
    canary_command.start(
        application,
        import_path,
        arguments or [],
        canary_command.options(weight, match or [], sticky_key, rollback, auto_rollback=auto_rollback),
        state_dir,
        app_dir,
        commands.runtime_env(runtime_env, runtime_env_json, working_dir),
        ray_compat,
    )


@app.command()
def weight(
    application: Canaried,
    weight: Annotated[float, typer.Argument(help="Percent of the calls that match nothing.", min=0, max=100)],
    state_dir: StateDir = None,
) -> None:
    """Set how many of the calls the canary gets."""
    from swerve import canary_command

    canary_command.weigh(state_dir, application, weight)


@app.command()
def promote(application: Canaried, state_dir: StateDir = None) -> None:
    """Make the canary the application; its replicas go on, the others drain."""
    from swerve import canary_command

    canary_command.promote(state_dir, application)


@app.command()
def rollback(application: Canaried, state_dir: StateDir = None) -> None:
    """End the canary; its replicas drain."""
    from swerve import canary_command

    canary_command.rollback(state_dir, application)


@app.command()
def status(
    application: Annotated[
        str | None, typer.Argument(help="Only the canary of this application.", show_default=False)
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Print the canaries as YAML: how they do, and why one was rolled back."""
    from swerve import canary_command

    canary_command.status(state_dir, application)
