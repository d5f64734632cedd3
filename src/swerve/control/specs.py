"""The processes that commands ask for: what each is started with."""

from __future__ import annotations

import json
from typing import Any

from swerve.control.events import StartReplica
from swerve.engine.base import ProcessSpec
from swerve.engine.layout import Layout
from swerve.generated import control_pb2 as pb


def replica_process(layout: Layout, options: pb.InstanceOptions, command: StartReplica, code: bytes) -> ProcessSpec:
    """The process of one replica."""
    target = command.target
    spec = pb.ReplicaSpec(
        replica_id=command.id,
        app=command.key.app,
        deployment=command.key.name,
        code=code,
        config_json=target.config_json,
        address=layout.address_of(command.id),
        controller_address=layout.controller_address,
        sys_path=[*target.import_dirs, *options.sys_path],
        grpc_servicer_functions=_grpc_options(options).get("grpc_servicer_functions", ()),
        grpc_options_json=options.grpc_options_json,
        logging_config_json=target.logging_config_json or options.logging_config_json,
        log_dir=str(layout.logs),
        code_version=target.code_version,
        rank=command.rank,
        world_size=command.world_size,
        is_ingress=target.is_ingress,
        release=command.key.release,
    )
    return ProcessSpec(
        id=command.id,
        module="swerve.replica.process",
        payload=spec.SerializeToString(),
        env=target.env_vars,
        cwd=target.working_dir,
    )


def proxy_process(layout: Layout, proxy_id: str) -> ProcessSpec:
    """The process of one proxy."""
    spec = pb.ProxySpec(
        proxy_id=proxy_id,
        controller_address=layout.controller_address,
        log_dir=str(layout.logs),
        ready_file=str(layout.of_process(proxy_id, "ready")),
        address=layout.address_of(proxy_id),
    )
    return ProcessSpec(id=proxy_id, module="swerve.proxy.process", payload=spec.SerializeToString())


def num_proxies(options: pb.InstanceOptions) -> int:
    """How many proxies the options ask for: none when there is no port to serve."""
    serves_grpc = bool(options.grpc_methods) and _grpc_options(options).get("port", 0) > 0
    if options.proxy_location == "Disabled" or not (serves_grpc or options.http_options_json):
        return 0
    return max(options.num_proxies, 1)


def _grpc_options(options: pb.InstanceOptions) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(options.grpc_options_json or "{}")
    return parsed
