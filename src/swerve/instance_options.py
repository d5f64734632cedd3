"""What an instance is started with, from the options of `serve.start`, the commands or a configuration file."""

from __future__ import annotations

import json

from swerve import servicers
from swerve.build import own_sys_path
from swerve.config import HTTPOptions, LoggingConfig, ProxyLocation, gRPCOptions
from swerve.generated import control_pb2


def instance_options(
    grpc_options: gRPCOptions,
    http_options: HTTPOptions | None = None,
    logging_config: LoggingConfig | None = None,
    proxy_location: ProxyLocation = ProxyLocation.EveryNode,
) -> control_pb2.InstanceOptions:
    """The options with the method table of the servicer functions, which are imported and checked here.

    Raises:
        ImportError, AttributeError, ValueError: a servicer function is wrong (`swerve.servicers.load`).
    """
    http = http_options or HTTPOptions()
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
        options.grpc_methods.extend(served.grpc_methods())
        options.file_descriptors.extend(served.file_descriptors)
    return options


def ignored_options(wanted: gRPCOptions, running: control_pb2.InstanceOptions) -> str:
    """A warning that names the options that were asked for but that the running instance has otherwise, or ""."""
    present = json.loads(running.grpc_options_json or "{}")
    asked = wanted.model_dump(exclude_unset=True)
    different = [
        f"{name} is {present[name]!r}, not {value!r}" for name, value in asked.items() if present.get(name) != value
    ]
    if not different:
        return ""
    return (
        "The running instance keeps its gRPC options, because they are fixed when it starts: "
        f"{'; '.join(different)}. Shut it down and start it again to change them."
    )
