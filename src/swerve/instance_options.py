"""What an instance serves, from the options of `serve.start`, the commands or a configuration file.

An option has the value that the applied configuration file sets, else the one that the instance was started with or
that a program or a command has set since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from swerve import interceptors, servicers
from swerve.build import own_sys_path
from swerve.config import HTTPOptions, LoggingConfig, ProxyLocation, explain, gRPCOptions
from swerve.config_ports import HIDDEN
from swerve.generated import control_pb2
from swerve.port_tls import grpc_tls, http_tls

_Model = TypeVar("_Model", gRPCOptions, HTTPOptions)

# Never shown.
_PASSWORD = "ssl_keyfile_password"


def instance_options(
    grpc_options: gRPCOptions,
    http_options: HTTPOptions | None = None,
    logging_config: LoggingConfig | None = None,
    proxy_location: ProxyLocation = ProxyLocation.EveryNode,
) -> control_pb2.InstanceOptions:
    """The options with the method table of the servicer functions. These are imported and checked here, and so are
    interceptors and TLS files.

    Raises:
        ImportError, AttributeError, ValueError: a servicer function is wrong (`swerve.servicers.load`), or the options
            do not go together.
        InterceptorError: an interceptor cannot be used.
        TlsError: the TLS files of a port cannot be used.
    """
    http = http_options or HTTPOptions()
    _check_tls(grpc_options, http)
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
        _set_services(options, grpc_options)
        _check_interceptors(grpc_options)
    return options


def _check_interceptors(grpc_options: gRPCOptions) -> None:
    for path in grpc_options.interceptors:
        interceptors.check(path)


def _check_tls(grpc_options: gRPCOptions, http_options: HTTPOptions) -> None:
    grpc_options.require_consistent()
    http_options.require_consistent()
    for enabled, tls in (
        (grpc_options.enabled, grpc_tls(grpc_options.model_dump())),
        (http_options.enabled, http_tls(http_options.model_dump())),
    ):
        if enabled and tls is not None:
            tls.context()


def changed_options(
    present: control_pb2.InstanceOptions,
    grpc_options: gRPCOptions | None = None,
    http_options: HTTPOptions | None = None,
    proxy_location: ProxyLocation | None = None,
) -> control_pb2.InstanceOptions:
    """`present` with the fields that these options set.

    An empty list of servicer functions, as in files that tools write, says nothing; port 0 turns gRPC off. Functions
    that are named are imported and checked here, even if their names are the old ones.

    Raises:
        ImportError, AttributeError, ValueError: a servicer function is wrong (`swerve.servicers.load`), or the options
            do not go together.
        InterceptorError: an interceptor cannot be used.
        TlsError: the TLS files of a port cannot be used.
    """
    grpc, http = _named(grpc_options), _named(http_options)
    if not grpc.get("grpc_servicer_functions"):
        grpc.pop("grpc_servicer_functions", None)
    changed = control_pb2.InstanceOptions()
    changed.CopyFrom(present)
    if proxy_location is not None:
        changed.proxy_location = proxy_location.value
    try:
        of_grpc = gRPCOptions.model_validate({**json.loads(present.grpc_options_json or "{}"), **grpc})
        # Where HTTP is off, naming its port turns it on.
        of_http = HTTPOptions.model_validate({**json.loads(present.http_options_json or '{"port": 0}'), **http})
    except ValidationError as error:
        raise ValueError(explain(error)) from error
    _check_tls(of_grpc, of_http)
    changed.grpc_options_json = of_grpc.model_dump_json()
    changed.num_proxies = of_grpc.num_proxies
    changed.http_options_json = of_http.model_dump_json() if of_http.enabled else ""
    changed.http_port_required |= "port" in http
    if not of_grpc.enabled:
        changed.ClearField("grpc_methods")
        changed.ClearField("file_descriptors")
        return changed
    if "grpc_servicer_functions" in grpc or not changed.grpc_methods:
        _set_services(changed, of_grpc)
        changed.sys_path[:] = own_sys_path()
    if "interceptors" in grpc:
        _check_interceptors(of_grpc)
        changed.sys_path[:] = dict.fromkeys([*own_sys_path(), *changed.sys_path])
    return changed


def merged(under: _Model, over: _Model | None) -> _Model:
    """The fields that either names; those of `over` count."""
    if over is None:
        return under
    return type(under)(**{**under.model_dump(exclude_unset=True), **over.model_dump(exclude_unset=True)})


def fixed_logging(present: control_pb2.InstanceOptions, wanted: LoggingConfig | None) -> str:
    """Why a running instance cannot have this logging_config, "" if it has it."""
    if wanted is None or wanted.model_dump_json() == present.logging_config_json:
        return ""
    return (
        "The logging_config of an instance is fixed when it starts. Leave it out, give it to single applications, or "
        "shut the instance down and start it again."
    )


def change_by_name(
    status: control_pb2.InstanceStatus,
    grpc_options: gRPCOptions | None,
    http_options: HTTPOptions | None,
    proxy_location: ProxyLocation | None,
) -> control_pb2.DeployRequest:
    """The request that sets these options on a running instance, whatever the applied file says of them."""
    named = (grpc_options, http_options, proxy_location)
    return control_pb2.DeployRequest(
        options=changed_options(status.options, *named), base_options=changed_options(status.base_options, *named)
    )


def _named(options: gRPCOptions | HTTPOptions | None) -> dict[str, Any]:
    return {} if options is None else options.model_dump(mode="json", exclude_unset=True)


def _set_services(options: control_pb2.InstanceOptions, grpc_options: gRPCOptions) -> None:
    served = servicers.load(grpc_options.grpc_servicer_functions)
    options.ClearField("grpc_methods")
    options.ClearField("file_descriptors")
    options.grpc_methods.extend(served.grpc_methods())
    options.file_descriptors.extend(served.file_descriptors)


def differences(before: control_pb2.InstanceOptions, after: control_pb2.InstanceOptions) -> list[str]:
    """What is different in the options, a line for each, for people."""
    lines = []
    for section in ("grpc_options", "http_options"):
        old, new = (json.loads(getattr(options, f"{section}_json") or "{}") for options in (before, after))
        lines += [
            f"{section}.{name}: {_text(old, name)} -> {_text(new, name)}"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        ]
    if before.proxy_location != after.proxy_location:
        lines.append(f"proxy_location: {before.proxy_location} -> {after.proxy_location}")
    paths, present = ({method.path for method in options.grpc_methods} for options in (before, after))
    lines += [f"no longer served: {path}" for path in sorted(paths - present)]
    lines += [f"newly served: {path}" for path in sorted(present - paths)]
    return lines


def _text(options: dict[str, Any], name: str) -> str:
    if name not in options:
        # Of HTTP that is off nothing is known.
        return "off"
    return json.dumps(_public(options)[name])


def _public(options: dict[str, Any]) -> dict[str, Any]:
    """The options as they may be shown on terminals and in logs."""
    return {name: HIDDEN if name == _PASSWORD and value else value for name, value in options.items()}


def shown_options(options: control_pb2.InstanceOptions) -> dict[str, Any]:
    """The options in force, as sections of a configuration file. A section whose protocol is off has port 0."""
    return {
        "proxy_location": options.proxy_location,
        "grpc_options": _public(json.loads(options.grpc_options_json or "{}")),
        "http_options": _public(json.loads(options.http_options_json or '{"port": 0}')),
    }


def deployed_options(file: Mapping[str, Any], options: control_pb2.InstanceOptions) -> dict[str, Any]:
    """What an applied configuration file names of the instance's options, each with the value in force.

    So the file changes nothing when it is deployed again, and what others have set stays theirs.
    """
    in_force = shown_options(options)
    return {
        name: _in_force(value, in_force[name]) if isinstance(value, Mapping) else in_force[name]
        for name, value in file.items()
        if name in in_force
    }


def _in_force(section: Mapping[str, Any], in_force: Mapping[str, Any]) -> dict[str, Any]:
    # No servicer functions, as in files that tools write, says nothing.
    silent = "grpc_servicer_functions" if section.get("grpc_servicer_functions") == [] else ""
    return {name: value if name == silent else in_force.get(name, value) for name, value in section.items()}


def _security(grpc: gRPCOptions) -> str:
    if grpc.ssl_certfile is None:
        return ""
    return " with TLS" if grpc.ssl_ca_certs is None else _mutual(grpc.ssl_client_certificate or "required")


def _mutual(certificate: str) -> str:
    return f" with mutual TLS (client certificates are {certificate})"


def _http_security(grpc: gRPCOptions, http: HTTPOptions) -> str:
    text = "" if http.ssl_client_certificate is None else _mutual(http.ssl_client_certificate)
    if grpc.interceptors and http.bypass_interceptors:
        return f"{text}, past the interceptors (bypass_interceptors)"
    if grpc.interceptors:
        return f"{text}, without the applications: they have interceptors (see bypass_interceptors)"
    return text


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
        return [*lines, f"HTTP on {scheme}://{bound}{_http_security(grpc, http)}"]
    return [*lines, f"no HTTP: port {http.port} of {http.host} is taken (--http-port names another)"]
