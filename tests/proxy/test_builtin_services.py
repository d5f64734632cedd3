"""The services that the proxy answers itself, asked by grpcio's stubs."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from swerve.generated import serve_pb2, serve_pb2_grpc
from swerve.net.client_call import request_headers
from swerve.net.connection import Connection
from swerve.wire.limits import Http2Limits
from swerve.wire.message import frame
from tests.net.net_support import Recorder

TIMEOUT_S = 20


@pytest.fixture
def api(channel):
    return serve_pb2_grpc.RayServeAPIServiceStub(channel)


@pytest.fixture
def health(channel):
    return health_pb2_grpc.HealthStub(channel)


def status_of(call):
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code(), raised.value.details()


def populate(proxy):
    proxy.add_replica("a")
    proxy.serve(one=["a"], two=["a"])


def drain(proxy):
    proxy.call(proxy.ingress.builtin.drain)


def test_healthz_is_unavailable_until_an_application_is_known(proxy, api):
    expected = (grpc.StatusCode.UNAVAILABLE, "Route table is not populated yet.")
    assert status_of(lambda: api.Healthz(serve_pb2.HealthzRequest(), timeout=TIMEOUT_S)) == expected
    populate(proxy)
    assert api.Healthz(serve_pb2.HealthzRequest(), timeout=TIMEOUT_S).message == "success"


def test_applications_are_listed_in_order(proxy, api):
    populate(proxy)
    listed = api.ListApplications(serve_pb2.ListApplicationsRequest(), timeout=TIMEOUT_S)
    assert list(listed.application_names) == ["one", "two"]


def test_both_stay_available_when_the_last_application_is_deleted(proxy, api):
    populate(proxy)
    proxy.serve()
    assert api.Healthz(serve_pb2.HealthzRequest(), timeout=TIMEOUT_S).message == "success"
    assert not api.ListApplications(serve_pb2.ListApplicationsRequest(), timeout=TIMEOUT_S).application_names


def test_both_are_unavailable_while_the_proxy_drains(proxy, api):
    populate(proxy)
    drain(proxy)
    expected = (grpc.StatusCode.UNAVAILABLE, "This node is being drained.")
    assert status_of(lambda: api.Healthz(serve_pb2.HealthzRequest(), timeout=TIMEOUT_S)) == expected
    assert status_of(lambda: api.ListApplications(serve_pb2.ListApplicationsRequest(), timeout=TIMEOUT_S)) == expected


def test_a_draining_instance_says_so_too(proxy, api):
    populate(proxy)
    proxy.draining = True
    proxy.publish()
    assert (
        status_of(lambda: api.Healthz(serve_pb2.HealthzRequest(), timeout=TIMEOUT_S))[1]
        == "This node is being drained."
    )


@pytest.mark.parametrize("service", ["", "t.Lab", "ray.serve.RayServeAPIService", "grpc.health.v1.Health"])
def test_health_checks_know_what_is_served(proxy, health, service):
    populate(proxy)
    answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_health_of_an_unknown_service_is_not_found(proxy, health):
    populate(proxy)
    request = health_pb2.HealthCheckRequest(service="no.Such")
    assert status_of(lambda: health.Check(request, timeout=TIMEOUT_S))[0] == grpc.StatusCode.NOT_FOUND


def test_a_health_request_that_does_not_parse_is_an_invalid_argument(proxy, channel):
    populate(proxy)
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert status_of(lambda: check(b"\xff\xff\xff", timeout=TIMEOUT_S))[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_a_health_watch_reports_each_change(proxy, health):
    watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    populate(proxy)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    drain(proxy)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()


def test_a_health_watch_of_an_unknown_service_waits_for_it(proxy, health):
    watch = health.Watch(health_pb2.HealthCheckRequest(service="no.Such"), timeout=TIMEOUT_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_watchers_that_left_are_forgotten(proxy, health):
    for _ in range(20):
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        next(watch)
        watch.cancel()
    proxy.until(lambda: not proxy.ingress.builtin._watchers)


def test_the_built_in_services_read_compressed_requests(proxy, api):
    populate(proxy)
    answer = api.Healthz(serve_pb2.HealthzRequest(), timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
    assert answer.message == "success"


# --- reflection


@pytest.fixture
def described(proxy):
    """The instance's files are those of our own API service and what it is asked for."""
    proxy.file_descriptors = [serve_pb2.DESCRIPTOR.serialized_pb]
    populate(proxy)


def test_reflection_lists_the_served_services_and_the_standard_ones(described, channel):
    names = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert set(names) == {
        "t.Lab",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": serve_pb2.DESCRIPTOR.name},
        {"file_containing_symbol": "ray.serve.RayServeAPIService"},
        {"file_containing_symbol": "ray.serve.HealthzRequest"},
        {"file_containing_symbol": "ray.serve.RayServeAPIService.Healthz"},
    ],
    ids=["file", "service", "message", "method"],
)
def test_reflection_finds_files_by_name_and_symbol(described, channel, version, question):
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = ask(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=TIMEOUT_S)
    assert list(answer.file_descriptor_response.file_descriptor_proto) == [serve_pb2.DESCRIPTOR.serialized_pb]


@pytest.mark.parametrize(
    "service",
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"],
)
def test_reflection_describes_the_standard_services(described, channel, service):
    found = DescriptorPool(ProtoReflectionDescriptorDatabase(channel)).FindServiceByName(service)
    assert all(method.input_type.full_name.startswith(found.file.package) for method in found.methods)


@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "nothing.proto"},
        {"file_containing_symbol": "no.Such"},
        {"all_extension_numbers_of_type": "no.Such"},
    ],
)
def test_reflection_says_what_it_does_not_know(described, channel, question):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (answer,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=TIMEOUT_S)
    assert answer.error_response.error_code == 5


def test_reflection_answers_many_questions_on_one_stream(described, channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [reflection_pb2.ServerReflectionRequest(list_services="", host=str(number)) for number in range(50)]
    answers = list(stub.ServerReflectionInfo(iter(requests), timeout=TIMEOUT_S))
    assert [answer.valid_host for answer in answers] == [str(number) for number in range(50)]


def ask_and_not_read(proxy, count, *, end_stream):
    question = reflection_pb2.ServerReflectionRequest(file_by_filename=health_pb2.DESCRIPTOR.name).SerializeToString()

    async def ask():
        def make():
            return Connection(proxy.loop, Http2Limits(max_concurrent_streams=0, stream_window=1000))

        _, connection = await proxy.loop.create_connection(make, "127.0.0.1", proxy.port)
        recorder = Recorder(connection, credit=False)
        path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        recorder.stream_id = connection.open_stream(request_headers(path, "test"), recorder)
        connection.send_data(recorder.stream_id, frame(question) * count, end_stream=end_stream)
        return connection, recorder

    return proxy.run(ask())


def test_reflection_waits_for_its_reader(described, proxy):
    """An answer is larger than its question: who asks and does not read gets no more than a little ahead."""
    count = 20_000
    lazy, recorder = ask_and_not_read(proxy, count, end_stream=True)
    proxy.until(lambda: recorder.data)
    (connection,) = [one for one in proxy.listener.connections if one.streams]
    for _ in range(50):
        assert proxy.call(lambda: connection.unsent(recorder.stream_id)) < 100_000
    recorder.credit = True
    proxy.call(recorder.pay)
    proxy.until(lambda: recorder.closed)
    assert recorder.trailers == ((b"grpc-status", b"0"),)
    assert len(recorder.data) > count * len(health_pb2.DESCRIPTOR.serialized_pb)
    proxy.until(lambda: connection._unacknowledged == 0)
    proxy.call(lazy.close)


def test_a_reflection_client_that_goes_leaves_nothing(described, proxy):
    lazy, recorder = ask_and_not_read(proxy, 2000, end_stream=False)
    proxy.until(lambda: recorder.data)
    (connection,) = [one for one in proxy.listener.connections if one.streams]
    assert connection._unacknowledged > 0
    proxy.call(lambda: lazy.reset(recorder.stream_id))
    proxy.until(lambda: connection._unacknowledged == 0 and connection.backlog.empty)
    proxy.call(lazy.close)


def test_a_reflection_request_that_does_not_parse_is_an_invalid_argument(described, channel):
    ask = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    code, _ = status_of(lambda: list(ask(iter([b"\xff\xff"]), timeout=TIMEOUT_S)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


def test_there_is_no_reflection_without_descriptions(proxy, channel):
    populate(proxy)
    ask = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    assert status_of(lambda: list(ask(iter([b""]), timeout=TIMEOUT_S)))[0] == grpc.StatusCode.UNIMPLEMENTED
