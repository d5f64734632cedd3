"""Arguments and options that several commands take, as Typer reads them from a function's annotations."""

from pathlib import Path
from typing import Annotated

import typer

StateDir = Annotated[
    Path | None,
    typer.Option(
        help="Where the instance lives: two folders, two instances. "
        "Default: $SWERVE_STATE_DIR, else the user's XDG state folder.",
        show_default=False,
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", "-a", help="Accepted for Ray Serve's scripts; has no effect.", show_default=False),
]
AppDir = Annotated[Path, typer.Option("--app-dir", "-d", help="Where to import from.")]
RuntimeEnvFile = Annotated[
    Path | None, typer.Option("--runtime-env", help="YAML file with the runtime_env.", show_default=False)
]
RuntimeEnvJson = Annotated[str | None, typer.Option(help="The runtime_env as JSON.", show_default=False)]
WorkingDir = Annotated[
    str | None, typer.Option(help="Folder or zip file that the replicas work in.", show_default=False)
]
RayCompat = Annotated[bool, typer.Option("--ray-compat", help="Let `ray.serve` mean Swerve in the application's code.")]
Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ARGUMENTS]...", help="key=value pairs for an application builder.", show_default=False),
]

GrpcPort = Annotated[
    int | None, typer.Option(help="gRPC port; 0 turns gRPC off.  \\[default: 9000]", show_default=False)
]
GrpcHost = Annotated[
    str | None,
    typer.Option(
        "--grpc-host", "--host", help='Address to bind; "" binds all.  \\[default: localhost]', show_default=False
    ),
]
GrpcServicers = Annotated[
    list[str] | None,
    typer.Option(
        "--grpc-servicer-functions",
        help="Import path of an add_X_to_server function. Repeatable. Without any there is no gRPC server.",
        show_default=False,
    ),
]
GrpcReflection = Annotated[
    bool | None,
    typer.Option("--grpc-enable-reflection/--grpc-disable-reflection", help="\\[default: enabled]", show_default=False),
]
GrpcTimeout = Annotated[
    float | None, typer.Option(help="Seconds that a call may take.  \\[default: no limit]", show_default=False)
]
GrpcMaxMessage = Annotated[
    int | None, typer.Option(help="Bytes that a message may have.  \\[default: 2147483647]", show_default=False)
]
GrpcKeyfile = Annotated[
    str | None, typer.Option(help="PEM file with the private key; switches TLS on.", show_default=False)
]
GrpcCertfile = Annotated[
    str | None,
    typer.Option(help="PEM file with the certificate, and those between it and the root.", show_default=False),
]
GrpcKeyfilePassword = Annotated[
    str | None,
    typer.Option(
        help="Password of the private key. Others can read it in the list of processes; a config file is private.",
        show_default=False,
    ),
]
GrpcCaCerts = Annotated[
    str | None, typer.Option(help="PEM file with the authorities of clients' certificates.", show_default=False)
]
GrpcClientCertificate = Annotated[
    str | None,
    typer.Option(help="With authorities: required or optional.  \\[default: required]", show_default=False),
]
GrpcInterceptors = Annotated[
    list[str] | None,
    typer.Option(help="Import path of what sees each call first and may refuse it. Repeatable.", show_default=False),
]
HttpHost = Annotated[str | None, typer.Option(help="HTTP address to bind.  \\[default: 127.0.0.1]", show_default=False)]
HttpPort = Annotated[
    int | None, typer.Option(help="HTTP port; 0 turns HTTP off.  \\[default: 8000]", show_default=False)
]
Location = Annotated[
    str | None,
    typer.Option(
        "--proxy-location",
        help="Disabled (no ports), HeadOnly or EveryNode.  \\[default: EveryNode]",
        show_default=False,
    ),
]
RoutePrefix = Annotated[str, typer.Option(help="HTTP route of the application, for an import path.")]
NumProxies = Annotated[
    int | None, typer.Option(help="Proxies that share the port.  \\[default: 1]", show_default=False)
]
