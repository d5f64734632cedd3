"""The processes that commands ask for: what each is started with."""

from __future__ import annotations

from swerve.control.events import StartProxy, StartReplica
from swerve.control.options import grpc_options
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
        grpc_servicer_functions=grpc_options(options).get("grpc_servicer_functions", ()),
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


def options_request(options: pb.InstanceOptions) -> pb.TakeOptionsRequest:
    """What replicas are told of the options."""
    return pb.TakeOptionsRequest(
        grpc_servicer_functions=grpc_options(options).get("grpc_servicer_functions", ()),
        sys_path=options.sys_path,
        methods=options.grpc_methods,
        file_descriptors=options.file_descriptors,
        grpc_options_json=options.grpc_options_json or "{}",
    )


def proxy_process(layout: Layout, command: StartProxy) -> ProcessSpec:
    """The process of one proxy."""
    spec = pb.ProxySpec(
        proxy_id=command.id,
        controller_address=layout.controller_address,
        log_dir=str(layout.logs),
        ready_file=str(layout.of_process(command.id, "ready")),
        address=layout.address_of(command.id),
        shares_ports=command.shares_ports,
    )
    return ProcessSpec(id=command.id, module="swerve.proxy.process", payload=spec.SerializeToString())
