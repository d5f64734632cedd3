from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Deployment(_message.Message):
    __slots__ = ("name", "code", "code_version", "config_json", "autoscaling_policy", "request_router")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    CODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    AUTOSCALING_POLICY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ROUTER_FIELD_NUMBER: _ClassVar[int]
    name: str
    code: bytes
    code_version: str
    config_json: str
    autoscaling_policy: bytes
    request_router: bytes
    def __init__(self, name: _Optional[str] = ..., code: _Optional[bytes] = ..., code_version: _Optional[str] = ..., config_json: _Optional[str] = ..., autoscaling_policy: _Optional[bytes] = ..., request_router: _Optional[bytes] = ...) -> None: ...

class Application(_message.Message):
    __slots__ = ("name", "route_prefix", "ingress", "deployments", "sys_path", "runtime_env_json", "source_json", "source", "logging_config_json", "docs_path", "external_scaler_enabled", "autoscaling_policy", "canary")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROUTE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    INGRESS_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    SYS_PATH_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_ENV_JSON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_JSON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LOGGING_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    DOCS_PATH_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_SCALER_ENABLED_FIELD_NUMBER: _ClassVar[int]
    AUTOSCALING_POLICY_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    name: str
    route_prefix: str
    ingress: str
    deployments: _containers.RepeatedCompositeFieldContainer[Deployment]
    sys_path: _containers.RepeatedScalarFieldContainer[str]
    runtime_env_json: str
    source_json: str
    source: str
    logging_config_json: str
    docs_path: str
    external_scaler_enabled: bool
    autoscaling_policy: bytes
    canary: Canary
    def __init__(self, name: _Optional[str] = ..., route_prefix: _Optional[str] = ..., ingress: _Optional[str] = ..., deployments: _Optional[_Iterable[_Union[Deployment, _Mapping]]] = ..., sys_path: _Optional[_Iterable[str]] = ..., runtime_env_json: _Optional[str] = ..., source_json: _Optional[str] = ..., source: _Optional[str] = ..., logging_config_json: _Optional[str] = ..., docs_path: _Optional[str] = ..., external_scaler_enabled: bool = ..., autoscaling_policy: _Optional[bytes] = ..., canary: _Optional[_Union[Canary, _Mapping]] = ...) -> None: ...

class Canary(_message.Message):
    __slots__ = ("application", "options_json")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    application: Application
    options_json: str
    def __init__(self, application: _Optional[_Union[Application, _Mapping]] = ..., options_json: _Optional[str] = ...) -> None: ...

class GrpcMethod(_message.Message):
    __slots__ = ("path", "client_streaming", "server_streaming")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CLIENT_STREAMING_FIELD_NUMBER: _ClassVar[int]
    SERVER_STREAMING_FIELD_NUMBER: _ClassVar[int]
    path: str
    client_streaming: bool
    server_streaming: bool
    def __init__(self, path: _Optional[str] = ..., client_streaming: bool = ..., server_streaming: bool = ...) -> None: ...

class InstanceOptions(_message.Message):
    __slots__ = ("grpc_options_json", "http_options_json", "logging_config_json", "proxy_location", "grpc_methods", "file_descriptors", "sys_path", "num_proxies", "http_port_required")
    GRPC_OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    HTTP_OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    LOGGING_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    PROXY_LOCATION_FIELD_NUMBER: _ClassVar[int]
    GRPC_METHODS_FIELD_NUMBER: _ClassVar[int]
    FILE_DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
    SYS_PATH_FIELD_NUMBER: _ClassVar[int]
    NUM_PROXIES_FIELD_NUMBER: _ClassVar[int]
    HTTP_PORT_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    grpc_options_json: str
    http_options_json: str
    logging_config_json: str
    proxy_location: str
    grpc_methods: _containers.RepeatedCompositeFieldContainer[GrpcMethod]
    file_descriptors: _containers.RepeatedScalarFieldContainer[bytes]
    sys_path: _containers.RepeatedScalarFieldContainer[str]
    num_proxies: int
    http_port_required: bool
    def __init__(self, grpc_options_json: _Optional[str] = ..., http_options_json: _Optional[str] = ..., logging_config_json: _Optional[str] = ..., proxy_location: _Optional[str] = ..., grpc_methods: _Optional[_Iterable[_Union[GrpcMethod, _Mapping]]] = ..., file_descriptors: _Optional[_Iterable[bytes]] = ..., sys_path: _Optional[_Iterable[str]] = ..., num_proxies: _Optional[int] = ..., http_port_required: bool = ...) -> None: ...

class ReplicaView(_message.Message):
    __slots__ = ("replica_id", "address", "max_ongoing_requests", "multiplexed_model_ids", "routing_stats_json")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MAX_ONGOING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MULTIPLEXED_MODEL_IDS_FIELD_NUMBER: _ClassVar[int]
    ROUTING_STATS_JSON_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    address: str
    max_ongoing_requests: int
    multiplexed_model_ids: _containers.RepeatedScalarFieldContainer[str]
    routing_stats_json: str
    def __init__(self, replica_id: _Optional[str] = ..., address: _Optional[str] = ..., max_ongoing_requests: _Optional[int] = ..., multiplexed_model_ids: _Optional[_Iterable[str]] = ..., routing_stats_json: _Optional[str] = ...) -> None: ...

class DeploymentView(_message.Message):
    __slots__ = ("app", "name", "replicas", "max_queued_requests", "unavailable", "backpressure_status_code", "backpressure_retry_after_s", "autoscaled", "request_router_json", "request_router", "sys_path", "release", "aside")
    APP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    BACKPRESSURE_STATUS_CODE_FIELD_NUMBER: _ClassVar[int]
    BACKPRESSURE_RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    AUTOSCALED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ROUTER_JSON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ROUTER_FIELD_NUMBER: _ClassVar[int]
    SYS_PATH_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ASIDE_FIELD_NUMBER: _ClassVar[int]
    app: str
    name: str
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaView]
    max_queued_requests: int
    unavailable: bool
    backpressure_status_code: int
    backpressure_retry_after_s: float
    autoscaled: bool
    request_router_json: str
    request_router: bytes
    sys_path: _containers.RepeatedScalarFieldContainer[str]
    release: str
    aside: bool
    def __init__(self, app: _Optional[str] = ..., name: _Optional[str] = ..., replicas: _Optional[_Iterable[_Union[ReplicaView, _Mapping]]] = ..., max_queued_requests: _Optional[int] = ..., unavailable: bool = ..., backpressure_status_code: _Optional[int] = ..., backpressure_retry_after_s: _Optional[float] = ..., autoscaled: bool = ..., request_router_json: _Optional[str] = ..., request_router: _Optional[bytes] = ..., sys_path: _Optional[_Iterable[str]] = ..., release: _Optional[str] = ..., aside: bool = ...) -> None: ...

class CanaryView(_message.Message):
    __slots__ = ("release", "ingress", "weight", "match", "sticky_key", "ready")
    class MatchEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    INGRESS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    STICKY_KEY_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    release: str
    ingress: str
    weight: float
    match: _containers.ScalarMap[str, str]
    sticky_key: str
    ready: bool
    def __init__(self, release: _Optional[str] = ..., ingress: _Optional[str] = ..., weight: _Optional[float] = ..., match: _Optional[_Mapping[str, str]] = ..., sticky_key: _Optional[str] = ..., ready: bool = ...) -> None: ...

class ApplicationView(_message.Message):
    __slots__ = ("name", "route_prefix", "ingress", "release", "canary")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROUTE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    INGRESS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    name: str
    route_prefix: str
    ingress: str
    release: str
    canary: CanaryView
    def __init__(self, name: _Optional[str] = ..., route_prefix: _Optional[str] = ..., ingress: _Optional[str] = ..., release: _Optional[str] = ..., canary: _Optional[_Union[CanaryView, _Mapping]] = ...) -> None: ...

class View(_message.Message):
    __slots__ = ("version", "options", "applications", "deployments", "draining", "proxy_ids", "drain_s")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    APPLICATIONS_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    PROXY_IDS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_S_FIELD_NUMBER: _ClassVar[int]
    version: int
    options: InstanceOptions
    applications: _containers.RepeatedCompositeFieldContainer[ApplicationView]
    deployments: _containers.RepeatedCompositeFieldContainer[DeploymentView]
    draining: bool
    proxy_ids: _containers.RepeatedScalarFieldContainer[str]
    drain_s: float
    def __init__(self, version: _Optional[int] = ..., options: _Optional[_Union[InstanceOptions, _Mapping]] = ..., applications: _Optional[_Iterable[_Union[ApplicationView, _Mapping]]] = ..., deployments: _Optional[_Iterable[_Union[DeploymentView, _Mapping]]] = ..., draining: bool = ..., proxy_ids: _Optional[_Iterable[str]] = ..., drain_s: _Optional[float] = ...) -> None: ...

class ReplicaStatus(_message.Message):
    __slots__ = ("replica_id", "state", "pid", "start_time_s")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_S_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    state: str
    pid: int
    start_time_s: float
    def __init__(self, replica_id: _Optional[str] = ..., state: _Optional[str] = ..., pid: _Optional[int] = ..., start_time_s: _Optional[float] = ...) -> None: ...

class DeploymentStatus(_message.Message):
    __slots__ = ("name", "status", "status_trigger", "message", "replicas", "target_num_replicas", "config_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STATUS_TRIGGER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    TARGET_NUM_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    status: str
    status_trigger: str
    message: str
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaStatus]
    target_num_replicas: int
    config_json: str
    def __init__(self, name: _Optional[str] = ..., status: _Optional[str] = ..., status_trigger: _Optional[str] = ..., message: _Optional[str] = ..., replicas: _Optional[_Iterable[_Union[ReplicaStatus, _Mapping]]] = ..., target_num_replicas: _Optional[int] = ..., config_json: _Optional[str] = ...) -> None: ...

class ApplicationStatus(_message.Message):
    __slots__ = ("name", "route_prefix", "status", "message", "last_deployed_time_s", "deployments", "source", "source_json", "ingress", "external_scaler_enabled", "canary")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROUTE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LAST_DEPLOYED_TIME_S_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_JSON_FIELD_NUMBER: _ClassVar[int]
    INGRESS_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_SCALER_ENABLED_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    name: str
    route_prefix: str
    status: str
    message: str
    last_deployed_time_s: float
    deployments: _containers.RepeatedCompositeFieldContainer[DeploymentStatus]
    source: str
    source_json: str
    ingress: str
    external_scaler_enabled: bool
    canary: CanaryStatus
    def __init__(self, name: _Optional[str] = ..., route_prefix: _Optional[str] = ..., status: _Optional[str] = ..., message: _Optional[str] = ..., last_deployed_time_s: _Optional[float] = ..., deployments: _Optional[_Iterable[_Union[DeploymentStatus, _Mapping]]] = ..., source: _Optional[str] = ..., source_json: _Optional[str] = ..., ingress: _Optional[str] = ..., external_scaler_enabled: bool = ..., canary: _Optional[_Union[CanaryStatus, _Mapping]] = ...) -> None: ...

class SideCounts(_message.Message):
    __slots__ = ("calls", "errors")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    calls: int
    errors: int
    def __init__(self, calls: _Optional[int] = ..., errors: _Optional[int] = ...) -> None: ...

class CanaryStatus(_message.Message):
    __slots__ = ("phase", "message", "weight", "options_json", "status", "status_message", "started_time_s", "deployments", "canary", "stable")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STATUS_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STARTED_TIME_S_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    STABLE_FIELD_NUMBER: _ClassVar[int]
    phase: str
    message: str
    weight: float
    options_json: str
    status: str
    status_message: str
    started_time_s: float
    deployments: _containers.RepeatedCompositeFieldContainer[DeploymentStatus]
    canary: SideCounts
    stable: SideCounts
    def __init__(self, phase: _Optional[str] = ..., message: _Optional[str] = ..., weight: _Optional[float] = ..., options_json: _Optional[str] = ..., status: _Optional[str] = ..., status_message: _Optional[str] = ..., started_time_s: _Optional[float] = ..., deployments: _Optional[_Iterable[_Union[DeploymentStatus, _Mapping]]] = ..., canary: _Optional[_Union[SideCounts, _Mapping]] = ..., stable: _Optional[_Union[SideCounts, _Mapping]] = ...) -> None: ...

class ProxyStatus(_message.Message):
    __slots__ = ("proxy_id", "status", "pid", "message", "grpc_address", "http_address")
    PROXY_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HTTP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    proxy_id: str
    status: str
    pid: int
    message: str
    grpc_address: str
    http_address: str
    def __init__(self, proxy_id: _Optional[str] = ..., status: _Optional[str] = ..., pid: _Optional[int] = ..., message: _Optional[str] = ..., grpc_address: _Optional[str] = ..., http_address: _Optional[str] = ...) -> None: ...

class InstanceStatus(_message.Message):
    __slots__ = ("proxies", "applications", "options", "controller_pid", "agent_pid", "target_capacity", "base_options", "options_digest")
    PROXIES_FIELD_NUMBER: _ClassVar[int]
    APPLICATIONS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_PID_FIELD_NUMBER: _ClassVar[int]
    AGENT_PID_FIELD_NUMBER: _ClassVar[int]
    TARGET_CAPACITY_FIELD_NUMBER: _ClassVar[int]
    BASE_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    proxies: _containers.RepeatedCompositeFieldContainer[ProxyStatus]
    applications: _containers.RepeatedCompositeFieldContainer[ApplicationStatus]
    options: InstanceOptions
    controller_pid: int
    agent_pid: int
    target_capacity: float
    base_options: InstanceOptions
    options_digest: str
    def __init__(self, proxies: _Optional[_Iterable[_Union[ProxyStatus, _Mapping]]] = ..., applications: _Optional[_Iterable[_Union[ApplicationStatus, _Mapping]]] = ..., options: _Optional[_Union[InstanceOptions, _Mapping]] = ..., controller_pid: _Optional[int] = ..., agent_pid: _Optional[int] = ..., target_capacity: _Optional[float] = ..., base_options: _Optional[_Union[InstanceOptions, _Mapping]] = ..., options_digest: _Optional[str] = ...) -> None: ...

class DeployRequest(_message.Message):
    __slots__ = ("applications", "declarative", "config_json", "target_capacity", "options", "base_options", "options_digest")
    APPLICATIONS_FIELD_NUMBER: _ClassVar[int]
    DECLARATIVE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    TARGET_CAPACITY_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    BASE_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    applications: _containers.RepeatedCompositeFieldContainer[Application]
    declarative: bool
    config_json: str
    target_capacity: float
    options: InstanceOptions
    base_options: InstanceOptions
    options_digest: str
    def __init__(self, applications: _Optional[_Iterable[_Union[Application, _Mapping]]] = ..., declarative: bool = ..., config_json: _Optional[str] = ..., target_capacity: _Optional[float] = ..., options: _Optional[_Union[InstanceOptions, _Mapping]] = ..., base_options: _Optional[_Union[InstanceOptions, _Mapping]] = ..., options_digest: _Optional[str] = ...) -> None: ...

class DeployResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("unknown",)
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    unknown: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, unknown: _Optional[_Iterable[str]] = ...) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("app", "deployment", "num_replicas")
    APP_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    NUM_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    app: str
    deployment: str
    num_replicas: int
    def __init__(self, app: _Optional[str] = ..., deployment: _Optional[str] = ..., num_replicas: _Optional[int] = ...) -> None: ...

class ScaleResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StartCanaryRequest(_message.Message):
    __slots__ = ("canary",)
    CANARY_FIELD_NUMBER: _ClassVar[int]
    canary: Canary
    def __init__(self, canary: _Optional[_Union[Canary, _Mapping]] = ...) -> None: ...

class StartCanaryResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChangeCanaryRequest(_message.Message):
    __slots__ = ("app", "weight", "promote", "rollback")
    APP_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    app: str
    weight: float
    promote: bool
    rollback: bool
    def __init__(self, app: _Optional[str] = ..., weight: _Optional[float] = ..., promote: bool = ..., rollback: bool = ...) -> None: ...

class ChangeCanaryResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EndedCalls(_message.Message):
    __slots__ = ("app", "release", "calls", "errors")
    APP_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    app: str
    release: str
    calls: int
    errors: int
    def __init__(self, app: _Optional[str] = ..., release: _Optional[str] = ..., calls: _Optional[int] = ..., errors: _Optional[int] = ...) -> None: ...

class ReportCallsRequest(_message.Message):
    __slots__ = ("ended",)
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ended: _containers.RepeatedCompositeFieldContainer[EndedCalls]
    def __init__(self, ended: _Optional[_Iterable[_Union[EndedCalls, _Mapping]]] = ...) -> None: ...

class ReportCallsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class QueueLength(_message.Message):
    __slots__ = ("app", "deployment", "queued", "release")
    APP_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    app: str
    deployment: str
    queued: int
    release: str
    def __init__(self, app: _Optional[str] = ..., deployment: _Optional[str] = ..., queued: _Optional[int] = ..., release: _Optional[str] = ...) -> None: ...

class ReportQueuesRequest(_message.Message):
    __slots__ = ("kind", "id", "queues")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    queues: _containers.RepeatedCompositeFieldContainer[QueueLength]
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ..., queues: _Optional[_Iterable[_Union[QueueLength, _Mapping]]] = ...) -> None: ...

class ReportQueuesResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SawViewRequest(_message.Message):
    __slots__ = ("proxy_id", "version", "reported")
    PROXY_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPORTED_FIELD_NUMBER: _ClassVar[int]
    proxy_id: str
    version: int
    reported: bool
    def __init__(self, proxy_id: _Optional[str] = ..., version: _Optional[int] = ..., reported: bool = ...) -> None: ...

class SawViewResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("when_seen",)
    WHEN_SEEN_FIELD_NUMBER: _ClassVar[int]
    when_seen: bool
    def __init__(self, when_seen: bool = ...) -> None: ...

class GetConfigRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetConfigResponse(_message.Message):
    __slots__ = ("config_json",)
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    config_json: str
    def __init__(self, config_json: _Optional[str] = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShutdownResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchViewRequest(_message.Message):
    __slots__ = ("kind", "id")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class MetricsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MetricsResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class RenewCertificatesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RenewCertificatesResponse(_message.Message):
    __slots__ = ("renewed", "faults")
    RENEWED_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    renewed: _containers.RepeatedScalarFieldContainer[str]
    faults: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, renewed: _Optional[_Iterable[str]] = ..., faults: _Optional[_Iterable[str]] = ...) -> None: ...

class ReplicaSpec(_message.Message):
    __slots__ = ("replica_id", "app", "deployment", "code", "config_json", "address", "controller_address", "sys_path", "grpc_servicer_functions", "grpc_options_json", "logging_config_json", "log_dir", "code_version", "rank", "world_size", "is_ingress", "release")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SYS_PATH_FIELD_NUMBER: _ClassVar[int]
    GRPC_SERVICER_FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    GRPC_OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    LOGGING_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    LOG_DIR_FIELD_NUMBER: _ClassVar[int]
    CODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    IS_INGRESS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    app: str
    deployment: str
    code: bytes
    config_json: str
    address: str
    controller_address: str
    sys_path: _containers.RepeatedScalarFieldContainer[str]
    grpc_servicer_functions: _containers.RepeatedScalarFieldContainer[str]
    grpc_options_json: str
    logging_config_json: str
    log_dir: str
    code_version: str
    rank: int
    world_size: int
    is_ingress: bool
    release: str
    def __init__(self, replica_id: _Optional[str] = ..., app: _Optional[str] = ..., deployment: _Optional[str] = ..., code: _Optional[bytes] = ..., config_json: _Optional[str] = ..., address: _Optional[str] = ..., controller_address: _Optional[str] = ..., sys_path: _Optional[_Iterable[str]] = ..., grpc_servicer_functions: _Optional[_Iterable[str]] = ..., grpc_options_json: _Optional[str] = ..., logging_config_json: _Optional[str] = ..., log_dir: _Optional[str] = ..., code_version: _Optional[str] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., is_ingress: bool = ..., release: _Optional[str] = ...) -> None: ...

class ProxySpec(_message.Message):
    __slots__ = ("proxy_id", "controller_address", "log_dir", "ready_file", "address", "shares_ports")
    PROXY_ID_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_DIR_FIELD_NUMBER: _ClassVar[int]
    READY_FILE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SHARES_PORTS_FIELD_NUMBER: _ClassVar[int]
    proxy_id: str
    controller_address: str
    log_dir: str
    ready_file: str
    address: str
    shares_ports: bool
    def __init__(self, proxy_id: _Optional[str] = ..., controller_address: _Optional[str] = ..., log_dir: _Optional[str] = ..., ready_file: _Optional[str] = ..., address: _Optional[str] = ..., shares_ports: bool = ...) -> None: ...

class ReplicaState(_message.Message):
    __slots__ = ("phase", "message", "ongoing", "multiplexed_model_ids", "pid", "autoscaling_stats", "routing_stats_json")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PHASE_UNSPECIFIED: _ClassVar[ReplicaState.Phase]
        INITIALIZING: _ClassVar[ReplicaState.Phase]
        RUNNING: _ClassVar[ReplicaState.Phase]
        FAILED: _ClassVar[ReplicaState.Phase]
        DRAINING: _ClassVar[ReplicaState.Phase]
    PHASE_UNSPECIFIED: ReplicaState.Phase
    INITIALIZING: ReplicaState.Phase
    RUNNING: ReplicaState.Phase
    FAILED: ReplicaState.Phase
    DRAINING: ReplicaState.Phase
    class AutoscalingStatsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PHASE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ONGOING_FIELD_NUMBER: _ClassVar[int]
    MULTIPLEXED_MODEL_IDS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    AUTOSCALING_STATS_FIELD_NUMBER: _ClassVar[int]
    ROUTING_STATS_JSON_FIELD_NUMBER: _ClassVar[int]
    phase: ReplicaState.Phase
    message: str
    ongoing: int
    multiplexed_model_ids: _containers.RepeatedScalarFieldContainer[str]
    pid: int
    autoscaling_stats: _containers.ScalarMap[str, float]
    routing_stats_json: str
    def __init__(self, phase: _Optional[_Union[ReplicaState.Phase, str]] = ..., message: _Optional[str] = ..., ongoing: _Optional[int] = ..., multiplexed_model_ids: _Optional[_Iterable[str]] = ..., pid: _Optional[int] = ..., autoscaling_stats: _Optional[_Mapping[str, float]] = ..., routing_stats_json: _Optional[str] = ...) -> None: ...

class WatchStateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckHealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckHealthResponse(_message.Message):
    __slots__ = ("healthy", "message")
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    healthy: bool
    message: str
    def __init__(self, healthy: bool = ..., message: _Optional[str] = ...) -> None: ...

class ReconfigureRequest(_message.Message):
    __slots__ = ("config_json", "rank", "world_size")
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    config_json: str
    rank: int
    world_size: int
    def __init__(self, config_json: _Optional[str] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ...) -> None: ...

class ReconfigureResponse(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: str
    def __init__(self, error: _Optional[str] = ...) -> None: ...

class TakeOptionsRequest(_message.Message):
    __slots__ = ("grpc_servicer_functions", "sys_path", "methods", "grpc_options_json", "file_descriptors")
    GRPC_SERVICER_FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    SYS_PATH_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    GRPC_OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    FILE_DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
    grpc_servicer_functions: _containers.RepeatedScalarFieldContainer[str]
    sys_path: _containers.RepeatedScalarFieldContainer[str]
    methods: _containers.RepeatedCompositeFieldContainer[GrpcMethod]
    grpc_options_json: str
    file_descriptors: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, grpc_servicer_functions: _Optional[_Iterable[str]] = ..., sys_path: _Optional[_Iterable[str]] = ..., methods: _Optional[_Iterable[_Union[GrpcMethod, _Mapping]]] = ..., grpc_options_json: _Optional[str] = ..., file_descriptors: _Optional[_Iterable[bytes]] = ...) -> None: ...

class TakeOptionsResponse(_message.Message):
    __slots__ = ("unknown", "outdated", "error")
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    OUTDATED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    unknown: _containers.RepeatedScalarFieldContainer[str]
    outdated: bool
    error: str
    def __init__(self, unknown: _Optional[_Iterable[str]] = ..., outdated: bool = ..., error: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("timeout_s",)
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    timeout_s: float
    def __init__(self, timeout_s: _Optional[float] = ...) -> None: ...

class StopResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
