"""The services that the proxy answers itself: Ray Serve's, the standard health service, reflection."""

import contextlib
import os
import subprocess
import sys
import threading

import grpc
import pytest
from e2e_support import failure_of, raw_call
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from swerve.generated import serve_pb2, serve_pb2_grpc
from tests.conftest import wait_for

NOT_POPULATED = "Route table is not populated yet."
DRAINING = "This node is being drained."
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Builtin:
    def __init__(self, channel: grpc.Channel) -> None:
        self._api = serve_pb2_grpc.RayServeAPIServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    def applications(self) -> list[str]:
        return list(self._api.ListApplications(serve_pb2.ListApplicationsRequest(), timeout=10).application_names)

    def healthz(self) -> str:
        return self._api.Healthz(serve_pb2.HealthzRequest(), timeout=10).message

    def check(self, service: str = "") -> int:
        return self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status

    def watch(self, service: str = ""):
        return self._health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)


@pytest.fixture
def builtin(client) -> Builtin:
    return Builtin(client.channel)


def test_applications_are_listed(builtin):
    assert {"lab", "narrow", "pool", "models", "func", "kinds"} <= set(builtin.applications())


def test_a_healthy_proxy_says_success(builtin):
    assert builtin.healthz() == "success"


def test_the_standard_health_check_knows_the_server_and_its_services(builtin):
    for service in ("", "lab.v1.Lab", "probe.v1.Probe", "ray.serve.RayServeAPIService"):
        assert builtin.check(service) == SERVING


def test_the_standard_health_check_does_not_find_an_unknown_service(builtin):
    error = failure_of(lambda: builtin.check("no.such.Service"))

    assert error.code().name == "NOT_FOUND"
    assert "no.such.Service" in error.details()


def test_watching_an_unknown_service_says_so_and_goes_on(builtin):
    watching = builtin.watch("no.such.Service")

    assert next(watching).status == UNKNOWN
    assert watching.is_active()
    watching.cancel()


def test_a_health_request_that_does_not_parse_is_an_invalid_argument(world):
    assert raw_call(world.port, "/grpc.health.v1.Health/Check", b"\xff\xff").trailer(b"grpc-status") == b"3"


def test_the_life_of_an_instance_in_its_health(bare):
    """Empty, serving, empty again, draining: each state tells itself."""
    builtin = Builtin(bare.client.channel)
    watching = builtin.watch()
    states = []
    reader = threading.Thread(target=lambda: _collect(watching, states))
    reader.start()

    for call in (builtin.healthz, builtin.applications):
        error = failure_of(call)
        assert (error.code().name, error.details()) == ("UNAVAILABLE", NOT_POPULATED)
    assert builtin.check() == NOT_SERVING
    assert bare.client.of("lab").failure("__call__").code().name == "NOT_FOUND"

    bare.deploy("applications: [{name: own, import_path: 'e2e_lab:lab'}]")
    assert builtin.healthz() == "success"
    assert builtin.applications() == ["own"]

    bare.command("deploy", _empty(bare))
    wait_for(lambda: builtin.applications() == [], what="the end of the application")
    assert builtin.healthz() == "success", "once populated it stays so"

    bare.deploy("applications: [{name: own, import_path: 'e2e_lab:lab'}]")
    held = bare.client.of("own").begin("Script", '[["sleep", 2], ["return", "finished"]]')
    wait_for(lambda: not held.done() and bare.client.of("own").ask("__call__", "ready"))
    with bare.in_background("shutdown", "-y"):
        error = wait_for(lambda: _failure_or_none(builtin.healthz), what="draining")
        assert (error.code().name, error.details()) == ("UNAVAILABLE", DRAINING)
    reader.join(30)
    assert held.result().text == "finished"
    assert states == [NOT_SERVING, SERVING, NOT_SERVING]


def _collect(watching, states) -> None:
    with contextlib.suppress(grpc.RpcError):
        states.extend(response.status for response in watching)


def _failure_or_none(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    return None


def _empty(bare) -> str:
    path = bare.state_dir / "empty.yaml"
    path.write_text("applications: []")
    return str(path)


# --- reflection ------------------------------------------------------------------------------------------------------


def test_reflection_lists_the_users_services_and_hides_the_builtin_one(client):
    services = ProtoReflectionDescriptorDatabase(client.channel).get_services()

    assert {"lab.v1.Lab", "probe.v1.Probe", "grpc.reflection.v1alpha.ServerReflection"} <= set(services)
    assert "ray.serve.RayServeAPIService" not in services


def test_reflection_describes_a_service_with_all_its_messages(client):
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(client.channel))

    service = pool.FindServiceByName("lab.v1.Lab")

    assert service.methods_by_name["Total"].input_type.full_name == "probe.v1.Note"
    assert set(service.methods_by_name["Total"].input_type.fields_by_name) == {"text", "number", "payload"}


def test_reflection_answers_version_1_too(client):
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = client.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    (response,) = call(iter([request]), timeout=10)

    assert "lab.v1.Lab" in [service.name for service in response.list_services_response.service]


def test_reflection_says_what_it_does_not_know_and_goes_on(client):
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="lab.proto"),
    ]

    first, second = stub.ServerReflectionInfo(iter(requests), timeout=10)

    assert first.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert second.file_descriptor_response.file_descriptor_proto


def test_the_stubs_live_beside_ray_s_own(tmp_path):
    """Ray registers the same message names; both modules are imported into one process."""
    source = "import swerve.generated.serve_pb2, other_serve_pb2; print(other_serve_pb2.HealthzResponse(message='x'))"
    proto = tmp_path / "other_serve.proto"
    proto.write_text('syntax = "proto3"; package ray.serve; message HealthzResponse { string message = 1; }')
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}", f"--python_out={tmp_path}", proto.name]
    subprocess.run(protoc, check=True, timeout=30)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=30)

    assert "message" in done.stdout, done.stderr
