"""What the ingress answers itself: routing errors, limits, requests that are no gRPC."""

import grpc
import pytest

from swerve.config_ports import MAX_METADATA_LIMIT
from swerve.net.client_call import request_headers
from swerve.net.connection import Connection
from swerve.proxy.request_ids import path_for_log
from swerve.wire.limits import Http2Limits
from tests.net.net_support import Recorder

TIMEOUT_S = 20
SEE = "Ping /ray.serve.RayServeAPIService/ListApplications for available applications."


def failure(channel, path="/t.Lab/Echo", metadata=()):
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(path)(b"x", timeout=TIMEOUT_S, metadata=metadata)
    return raised.value


def ask(proxy, headers):
    """A request of these headers, on a connection of its own that sends what grpcio would not."""

    async def connect():
        def make():
            return Connection(proxy.loop, Http2Limits(max_concurrent_streams=0, max_header_list_size=1 << 20))

        _, connection = await proxy.loop.create_connection(make, "127.0.0.1", proxy.port)
        recorder = Recorder(connection)
        recorder.stream_id = connection.open_stream(headers, recorder)
        return connection, recorder

    return proxy.run(connect())


def serve_two(proxy):
    for name in ("a", "b"):
        proxy.add_replica(name)
    proxy.serve(one=["a"], two=["b"])


def test_one_application_takes_every_call_whatever_its_name(proxy, channel):
    proxy.add_replica("a")
    proxy.serve(one=["a"])
    for metadata in ([], [("application", "one")], [("application", "other")]):
        assert channel.unary_unary("/t.Lab/Echo")(b"x", timeout=TIMEOUT_S, metadata=metadata) == b"x"


def test_a_strict_proxy_refuses_a_wrong_name(proxy, channel):
    proxy.add_replica("a")
    proxy.options = {"strict_application": True}
    proxy.serve(one=["a"])
    error = failure(channel, metadata=[("application", "other")])
    assert (error.code(), error.details()) == (
        grpc.StatusCode.NOT_FOUND,
        f"Application 'other' not found. {SEE}",
    )


def test_of_several_applications_the_named_one_gets_the_call(proxy, channel):
    serve_two(proxy)
    for name, replica in (("one", "a"), ("two", "b")):
        channel.unary_unary("/t.Lab/Echo")(b"", timeout=TIMEOUT_S, metadata=[("application", name)])
        assert len(proxy.replicas[replica].seen) == 1


def test_a_client_that_repeats_its_headers_follows_the_view(proxy, channel):
    serve_two(proxy)
    to_one = [("application", "one")]
    for _ in range(3):
        channel.unary_unary("/t.Lab/Echo")(b"", timeout=TIMEOUT_S, metadata=to_one)
    proxy.serve(two=["b"], three=["a"])
    assert failure(channel, metadata=to_one).code() is grpc.StatusCode.NOT_FOUND
    proxy.serve(one=["b"], two=["a"])
    channel.unary_unary("/t.Lab/Echo")(b"", timeout=TIMEOUT_S, metadata=to_one)
    assert len(proxy.replicas["b"].seen) == 1


@pytest.mark.parametrize(
    ("metadata", "details"),
    [
        ([], f"Application metadata not set. {SEE}"),
        ([("application", "")], f"Application metadata not set. {SEE}"),
        ([("application", "three")], f"Application 'three' not found. {SEE}"),
    ],
    ids=["absent", "empty", "unknown"],
)
def test_a_call_that_no_application_takes_is_not_found(proxy, channel, metadata, details):
    serve_two(proxy)
    error = failure(channel, metadata=[*metadata, ("request_id", "mine")])
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, details)
    assert ("request_id", "mine") in error.trailing_metadata()


def test_a_method_that_is_not_served_is_unimplemented(proxy, channel):
    serve_two(proxy)
    error = failure(channel, "/t.Lab/Nothing")
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    assert "request_id" in dict(error.trailing_metadata())
    assert proxy.observer.refusals[-1][2] == 12


def test_a_refused_call_gets_a_request_id_that_logs_can_carry(proxy):
    connection, recorder = ask(proxy, request_headers("/t.Lab/Nothing", "x", ((b"request_id", b"csi\x9b31m"),)))
    proxy.until(lambda: recorder.closed)
    assert len(dict(recorder.headers[0])[b"request_id"]) == 36
    proxy.call(connection.close)


def test_a_path_is_logged_in_visible_ascii():
    assert path_for_log(b"/a b\n\x85\x9b\x7f/" + b"x" * 300) == "/a%20b%0A%85%9B%7F/" + "x" * (256 - 9)


def test_the_private_methods_of_a_replica_cannot_be_reached(proxy, channel):
    serve_two(proxy)
    for path in ("/swerve.control.v1.Handle/Call", "/swerve.control.v1.Replica/Stop"):
        assert failure(channel, path).code() == grpc.StatusCode.UNIMPLEMENTED


def test_metadata_over_the_limit_is_refused_and_the_connection_goes_on(proxy, channel):
    proxy.add_replica("a")
    proxy.options = {"max_metadata_size": 8000}
    proxy.serve(one=["a"])
    error = failure(channel, metadata=[("big", "x" * 9000)])
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.details()
    assert channel.unary_unary("/t.Lab/Echo")(b"x", timeout=TIMEOUT_S, metadata=[("ok", "x" * 7000)]) == b"x"


def test_many_small_fields_count_too(proxy, channel):
    proxy.add_replica("a")
    proxy.options = {"max_metadata_size": 4000}
    proxy.serve(one=["a"])
    assert failure(channel, metadata=[(f"k{n}", "") for n in range(150)]).code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "extra",
    [tuple((b"same", bytes(60_000).replace(b"\0", b"v")) for _ in range(4)), ((b"n" * 60_000, b"v"),)],
    ids=["duplicates", "names"],
)
def test_names_and_duplicates_count_too(proxy, channel, extra):
    proxy.add_replica("a")
    proxy.serve(one=["a"])
    link = next(iter(proxy.target("one").router.replicas.values())).link
    connection, recorder = ask(proxy, (*request_headers("/t.Lab/Echo", "x"), *extra))
    proxy.until(lambda: recorder.closed)
    assert (b"grpc-status", b"8") in recorder.headers[0]
    assert link.usable
    proxy.call(connection.close)


def test_the_largest_header_list_that_may_be_allowed_passes(proxy, channel):
    proxy.add_replica("a")
    proxy.options = {"max_metadata_size": MAX_METADATA_LIMIT}
    proxy.serve(one=["a"])
    connection, recorder = ask(
        proxy, (*request_headers("/t.Lab/Chat", "x"), *((b"n", b"") for _ in range(MAX_METADATA_LIMIT // 33 - 20)))
    )
    proxy.until(lambda: proxy.replicas["a"].running)
    proxy.call(lambda: connection.reset(recorder.stream_id))
    proxy.until(lambda: recorder.closed)
    proxy.call(connection.close)


def test_a_call_before_the_first_view_is_unimplemented(proxy, channel):
    assert failure(channel).code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("content_type", [b"text/html", b"application/grpc-web+proto", b"application/grpcs", b"", None])
def test_a_request_that_is_no_grpc_gets_http_status_415(proxy, content_type):
    proxy.add_replica("a")
    proxy.serve(one=["a"])
    headers = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/t.Lab/Echo"),
        (b":authority", b"x"),
        *(((b"content-type", content_type),) if content_type is not None else ()),
    )

    connection, recorder = ask(proxy, headers)
    proxy.until(lambda: recorder.closed)
    assert dict(recorder.headers[0])[b":status"] == b"415"
    proxy.call(connection.close)


@pytest.mark.parametrize(
    "content_type", [b"application/grpc+proto", b"application/grpc;charset=utf-8", b"Application/gRPC"]
)
def test_grpcs_content_type_may_name_the_format_of_messages(proxy, channel, content_type):
    proxy.add_replica("a")
    proxy.serve(one=["a"])
    headers = [field for field in request_headers("/t.Lab/Chat", "x") if field[0] != b"content-type"]
    connection, recorder = ask(proxy, (*headers, (b"content-type", content_type)))
    proxy.until(lambda: proxy.replicas["a"].running)
    proxy.call(lambda: connection.reset(recorder.stream_id))
    proxy.until(lambda: recorder.closed)
    proxy.call(connection.close)


def test_every_call_is_recorded_once_with_its_code(proxy, channel):
    proxy.add_replica("a")
    proxy.serve(one=["a"])
    channel.unary_unary("/t.Lab/Echo")(b"", timeout=TIMEOUT_S, metadata=[("request_id", "r1")])
    with pytest.raises(grpc.RpcError):
        channel.unary_unary("/t.Lab/Fail")(b"why", timeout=TIMEOUT_S, metadata=[("request_id", "r2")])
    proxy.until(lambda: len(proxy.observer.ends) == 2)
    assert proxy.observer.ends == [("one", b"/t.Lab/Echo", b"r1", 0), ("one", b"/t.Lab/Fail", b"r2", 15)]
