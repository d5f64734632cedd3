"""The commands `swerve` and `serve`: what they accept. What they do is in `swerve.commands`, imported when one runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from swerve import cli_canary
from swerve.cli_options import (
    Address,
    AppDir,
    Arguments,
    GrpcCaCerts,
    GrpcCertfile,
    GrpcClientCertificate,
    GrpcHost,
    GrpcInterceptors,
    GrpcKeyfile,
    GrpcKeyfilePassword,
    GrpcMaxMessage,
    GrpcPort,
    GrpcReflection,
    GrpcServicers,
    GrpcTimeout,
    HttpHost,
    HttpPort,
    Location,
    NumProxies,
    RayCompat,
    RoutePrefix,
    RuntimeEnvFile,
    RuntimeEnvJson,
    StateDir,
    WorkingDir,
)

app = typer.Typer(
    name="swerve",
    help="Serve Python models over gRPC, with Ray Serve's API and no cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from swerve import __version__

        typer.echo(f"swerve {__version__}")
        raise typer.Exit


@app.callback()
def everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve Python models over gRPC, with Ray Serve's API and no cluster."""


@app.command()
def start(
    state_dir: StateDir = None,
    grpc_port: GrpcPort = None,
    grpc_host: GrpcHost = None,
    grpc_servicer_functions: GrpcServicers = None,
    grpc_enable_reflection: GrpcReflection = None,
    grpc_request_timeout_s: GrpcTimeout = None,
    grpc_max_message_size: GrpcMaxMessage = None,
    grpc_ssl_keyfile: GrpcKeyfile = None,
    grpc_ssl_certfile: GrpcCertfile = None,
    grpc_ssl_keyfile_password: GrpcKeyfilePassword = None,
    grpc_ssl_ca_certs: GrpcCaCerts = None,
    grpc_ssl_client_certificate: GrpcClientCertificate = None,
    grpc_interceptors: GrpcInterceptors = None,
    num_proxies: NumProxies = None,
    app_dir: AppDir = Path("."),
    http_host: HttpHost = None,
    http_port: HttpPort = None,
    proxy_location: Location = None,
    address: Address = None,
) -> None:
    """Start an instance in the background; returns when it serves."""
    from swerve import commands

    commands.accept_address(address)
    commands.start(
        state_dir,
        app_dir,
        commands.grpc_options(
            port=grpc_port,
            host=grpc_host,
            grpc_servicer_functions=grpc_servicer_functions,
            enable_reflection=grpc_enable_reflection,
            request_timeout_s=grpc_request_timeout_s,
            max_message_size=grpc_max_message_size,
            ssl_keyfile=grpc_ssl_keyfile,
            ssl_certfile=grpc_ssl_certfile,
            ssl_keyfile_password=grpc_ssl_keyfile_password,
            ssl_ca_certs=grpc_ssl_ca_certs,
            ssl_client_certificate=grpc_ssl_client_certificate,
            interceptors=grpc_interceptors,
            num_proxies=num_proxies,
        ),
        commands.http_options(host=http_host, port=http_port),
        commands.proxy_location(proxy_location),
    )


@app.command()
def run(
    config_or_import_path: Annotated[str, typer.Argument(help="A YAML file, or `module:application`.")],
    arguments: Arguments = None,
    state_dir: StateDir = None,
    name: Annotated[str, typer.Option(help="Name of the application.")] = "default",
    route_prefix: RoutePrefix = "/",
    blocking: Annotated[bool, typer.Option("--blocking/--non-blocking", help="Stay until Ctrl-C.")] = True,
    reload: Annotated[bool, typer.Option("--reload", "-r", help="Deploy again when a Python file changes.")] = False,
    app_dir: AppDir = Path("."),
    runtime_env: RuntimeEnvFile = None,
    runtime_env_json: RuntimeEnvJson = None,
    working_dir: WorkingDir = None,
    ray_compat: RayCompat = False,
    grpc_port: GrpcPort = None,
    grpc_host: GrpcHost = None,
    grpc_servicer_functions: GrpcServicers = None,
    grpc_enable_reflection: GrpcReflection = None,
    grpc_request_timeout_s: GrpcTimeout = None,
    grpc_max_message_size: GrpcMaxMessage = None,
    grpc_ssl_keyfile: GrpcKeyfile = None,
    grpc_ssl_certfile: GrpcCertfile = None,
    grpc_ssl_keyfile_password: GrpcKeyfilePassword = None,
    grpc_ssl_ca_certs: GrpcCaCerts = None,
    grpc_ssl_client_certificate: GrpcClientCertificate = None,
    grpc_interceptors: GrpcInterceptors = None,
    num_proxies: NumProxies = None,
    http_host: HttpHost = None,
    http_port: HttpPort = None,
    proxy_location: Location = None,
    address: Address = None,
) -> None:
    """Run the applications of a config file, or one application; starts an instance if none runs."""
    from swerve import commands, run_command

    commands.accept_address(address)
    run_command.run(
        config_or_import_path,
        arguments or [],
        run_command.RunRequest(
            state_dir=state_dir,
            app_dir=app_dir,
            name=name,
            route_prefix=route_prefix,
            blocking=blocking,
            reload=reload,
            runtime_env=commands.runtime_env(runtime_env, runtime_env_json, working_dir),
            ray_compat=ray_compat,
            grpc=commands.grpc_options(
                port=grpc_port,
                host=grpc_host,
                grpc_servicer_functions=grpc_servicer_functions,
                enable_reflection=grpc_enable_reflection,
                request_timeout_s=grpc_request_timeout_s,
                max_message_size=grpc_max_message_size,
                ssl_keyfile=grpc_ssl_keyfile,
                ssl_certfile=grpc_ssl_certfile,
                ssl_keyfile_password=grpc_ssl_keyfile_password,
                ssl_ca_certs=grpc_ssl_ca_certs,
                ssl_client_certificate=grpc_ssl_client_certificate,
                interceptors=grpc_interceptors,
                num_proxies=num_proxies,
            ),
            http=commands.http_options(host=http_host, port=http_port),
            proxy_location=commands.proxy_location(proxy_location),
        ),
    )


@app.command()
def deploy(
    config_or_import_path: Annotated[str, typer.Argument(help="A YAML file, or `module:application`.")],
    arguments: Arguments = None,
    state_dir: StateDir = None,
    name: Annotated[str, typer.Option(help="Name of the application, for an import path.")] = "default",
    route_prefix: RoutePrefix = "/",
    app_dir: AppDir = Path("."),
    runtime_env: RuntimeEnvFile = None,
    runtime_env_json: RuntimeEnvJson = None,
    working_dir: WorkingDir = None,
    ray_compat: RayCompat = False,
    address: Address = None,
) -> None:
    """Apply a config file, or one application, to the running instance; returns before the replicas run."""
    from swerve import commands

    commands.accept_address(address)
    commands.deploy(
        config_or_import_path,
        arguments or [],
        state_dir,
        app_dir,
        name,
        route_prefix,
        commands.runtime_env(runtime_env, runtime_env_json, working_dir),
        ray_compat,
    )


@app.command()
def config(
    state_dir: StateDir = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Only this application.", show_default=False)] = None,
    address: Address = None,
) -> None:
    """Print the applied config file as it is in force: deployed again, it changes nothing."""
    from swerve import commands

    commands.accept_address(address)
    commands.config(state_dir, name)


@app.command()
def status(
    state_dir: StateDir = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Only this application.", show_default=False)] = None,
    address: Address = None,
) -> None:
    """Print the state of proxies, applications and deployments as YAML."""
    from swerve import commands

    commands.accept_address(address)
    commands.status(state_dir, name)


@app.command()
def scale(
    application: Annotated[str, typer.Argument(help="Name of an application with `external_scaler_enabled`.")],
    deployment: Annotated[str, typer.Argument(help="Name of the deployment.")],
    num_replicas: Annotated[int, typer.Argument(help="How many replicas to run.", min=0, max=2**31 - 1)],
    state_dir: StateDir = None,
    address: Address = None,
) -> None:
    """Set the number of replicas of a deployment; returns before they run."""
    from swerve import commands

    commands.accept_address(address)
    commands.scale(state_dir, application, deployment, num_replicas)


app.add_typer(cli_canary.app, name="canary")


@app.command()
def renew_certificates(
    state_dir: StateDir = None,
    address: Address = None,
) -> None:
    """Have the proxies read their TLS files now, without waiting for them to see that these have changed."""
    from swerve import commands

    commands.accept_address(address)
    commands.renew_certificates(state_dir)


@app.command()
def metrics(
    state_dir: StateDir = None,
    address: Address = None,
) -> None:
    """Print the metrics of all processes in Prometheus' text format, as `/-/metrics` of the HTTP port gives them."""
    from swerve import commands

    commands.accept_address(address)
    commands.metrics(state_dir)


@app.command()
def shutdown(
    state_dir: StateDir = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    address: Address = None,
) -> None:
    """Stop the instance with all its applications."""
    from swerve import commands

    commands.accept_address(address)
    commands.shutdown(state_dir, ask=not yes)


@app.command()
def build(
    import_paths: Annotated[list[str], typer.Argument(help="One or more `module:application`.")],
    app_dir: AppDir = Path("."),
    output_path: Annotated[
        Path | None, typer.Option("--output-path", "-o", help="File to write; stdout if none.", show_default=False)
    ] = None,
    grpc_servicer_functions: GrpcServicers = None,
    grpc_enable_reflection: GrpcReflection = None,
    ray_compat: RayCompat = False,
) -> None:
    """Write a config file for applications."""
    from swerve import commands

    options = commands.grpc_options(
        grpc_servicer_functions=grpc_servicer_functions, enable_reflection=grpc_enable_reflection
    )
    commands.build(import_paths, app_dir, output_path, options, ray_compat)


def main() -> None:
    """The entry point of both commands."""
    # The console script's own folder is no place to import applications from.
    program = Path(sys.argv[0])
    if sys.path and Path(sys.path[0]) == program.parent:
        del sys.path[0]
    try:
        app(prog_name=program.name if program.name in ("swerve", "serve") else "swerve")
    except Exception as error:
        if not _is_for_user(error):
            raise
        typer.echo(f"Error: {error}{_hint(error)}", err=True)
        sys.exit(1)


def _is_for_user(error: Exception) -> bool:
    """Whether the message says all that the user needs; anything else is our mistake and shows where it happened."""
    from swerve.exceptions import RayServeException

    return isinstance(
        error, (RayServeException, ImportError, OSError, RuntimeError, TimeoutError, TypeError, ValueError)
    )


def _hint(error: Exception) -> str:
    if "No module named 'ray" in str(error) or "<class 'ray.serve." in str(error):
        return "\nThis looks like Ray Serve code: add --ray-compat to run it as it is."
    return ""


if __name__ == "__main__":
    main()
