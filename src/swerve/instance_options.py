"""What an instance is started with, from the options of `serve.start`, the commands or a configuration file."""

from __future__ import annotations

import json

from swerve import interceptors, servicers
from swerve.build import own_sys_path
from swerve.config import HTTPOptions, LoggingConfig, ProxyLocation, gRPCOptions
from swerve.generated import control_pb2
from swerve.port_tls import grpc_tls, http_tls


def instance_options(
    grpc_options: gRPCOptions,
    http_options: HTTPOptions | None = None,
    logging_config: LoggingConfig | None = None,
    proxy_location: ProxyLocation = ProxyLocation.EveryNode,
) -> control_pb2.InstanceOptions:
    """The options with the method table of the servicer functions. These are imported and checked here, and so are
    interceptors and TLS files.

    Raises:
        ImportError, AttributeError, ValueError: a servicer function is wrong (`swerve.servicers.load`).
        InterceptorError: an interceptor cannot be used.
        TlsError: the TLS files of a port cannot be used.
    """
    http = http_options or HTTPOptions()
    for enabled, tls in (
        (grpc_options.enabled, grpc_tls(grpc_options.model_dump())),
        (http.enabled, http_tls(http.model_dump())),
    ):
        if enabled and tls is not None:
            tls.context()
    options = control_pb2.InstanceOptions(
        grpc_options_json=grpc_options.model_dump_json(),
        http_options_json=http.model_dump_json() if http.enabled else "",
        http_port_required="port" in http.model_fields_set,
        logging_config_json=(logging_config or LoggingConfig()).model_dump_json(),
        proxy_location=proxy_location.value,
        sys_path=own_sys_path(),
        num_proxies=grpc_options.num_proxies,
    )
    if grpc_options.enabled:
        served = servicers.load(grpc_options.grpc_servicer_functions)
        for path in grpc_options.interceptors:
            interceptors.check(path)
        options.grpc_methods.extend(served.grpc_methods())
        options.file_descriptors.extend(served.file_descriptors)
    return options


def ignored_options(
    running: control_pb2.InstanceOptions,
    grpc_options: gRPCOptions | None = None,
    http_options: HTTPOptions | None = None,
) -> str:
    """A warning that names the options that were asked for but that the running instance has otherwise, or ""."""
    different = [
        *_different("", grpc_options, running.grpc_options_json),
        *_different("HTTP ", http_options, running.http_options_json),
    ]
    if not different:
        return ""
    return (
        "The running instance keeps its options, because they are fixed when it starts: "
        f"{'; '.join(different)}. Shut it down and start it again to change them."
    )


def _different(label: str, wanted: gRPCOptions | HTTPOptions | None, running_json: str) -> list[str]:
    if wanted is None:
        return []
    asked = wanted.model_dump(mode="json", exclude_unset=True)
    if not running_json:
        # Only HTTP is kept so when it is off.
        return ["HTTP is off"] if asked and wanted.enabled else []
    present = json.loads(running_json)
    return [
        # Warnings end in logs and on terminals.
        f"{label}{name} is another"
        if name == "ssl_keyfile_password"
        else f"{label}{name} is {present[name]!r}, not {value!r}"
        for name, value in asked.items()
        if present[name] != value
    ]


def _security(grpc: gRPCOptions) -> str:
    if grpc.ssl_certfile is None:
        return ""
    if grpc.ssl_ca_certs is None:
        return " with TLS"
    return f" with mutual TLS (client certificates are {grpc.ssl_client_certificate or 'required'})"


def where_it_serves(status: control_pb2.InstanceStatus) -> list[str]:
    """For each protocol where an instance serves it, or why it does not."""
    options = status.options
    if options.proxy_location == ProxyLocation.Disabled:
        return ["gRPC and HTTP are off (proxy location Disabled)"]
    grpc = gRPCOptions.model_validate_json(options.grpc_options_json or "{}")
    if grpc.port <= 0:
        lines = [f"gRPC is off (port {grpc.port})"]
    elif not options.grpc_methods:
        lines = ["no gRPC server: no servicer functions given (--grpc-servicer-functions)"]
    else:
        bound = next((proxy.grpc_address for proxy in status.proxies if proxy.grpc_address), None)
        lines = [f"gRPC{_security(grpc)} on {bound or f'{grpc.host}:{grpc.port}'}"]
    if not options.http_options_json:
        return [*lines, "HTTP is off"]
    http = HTTPOptions.model_validate_json(options.http_options_json)
    scheme = "http" if http.ssl_certfile is None else "https"
    bound = next((proxy.http_address for proxy in status.proxies if proxy.http_address), None)
    if bound:
        return [*lines, f"HTTP on {scheme}://{bound}"]
    return [*lines, f"no HTTP: port {http.port} of {http.host} is taken (--http-port names another)"]
