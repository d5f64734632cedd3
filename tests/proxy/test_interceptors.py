"""Calls that interceptors see first: what they know, what they decide, and what it costs when they refuse."""

import asyncio
import gc
import time
import tracemalloc
import warnings
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from swerve.exceptions import gRPCStatusError
from swerve.generated import serve_pb2, serve_pb2_grpc
from swerve.proxy.interception import InterceptedBuiltin, InterceptedCall, Interception, Interceptors
from swerve.wire.peer import INSECURE, auth_context_of, peer_address
from swerve.wire.status import StatusCode
from tests.net.net_support import Recorder

TIMEOUT_S = 20
TRANSPORT = {key: list(values) for key, values in INSECURE.items()}


@pytest.fixture
def guard(proxy):
    """Puts interceptors before the calls of one application, `one`, with a replica."""
    proxy.add_replica("a")
    proxy.serve(one=["a"])

    def put(*chain, timeout_s: float = TIMEOUT_S) -> None:
        proxy.call(lambda: proxy.ingress.intercept(Interceptors(chain, timeout_s, proxy.loop)))

    yield put
    proxy.check_idle()


def echo(channel, *metadata, timeout: float = TIMEOUT_S) -> bytes:
    return channel.unary_unary("/t.Lab/Echo")(b"hello", timeout=timeout, metadata=metadata)


def failure(call) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value


def seen_by_replica(proxy) -> list[dict[bytes, bytes]]:
    return proxy.replicas["a"].seen


def known_of_client(proxy) -> dict[str, list[bytes]]:
    return auth_context_of(seen_by_replica(proxy)[-1][b"swerve-peer"].decode())


def refuse(call):
    call.abort(grpc.StatusCode.UNAUTHENTICATED, "No token.", [("www-authenticate", "Bearer"), ("why-bin", b"\0\1")])


async def refuse_later(call):
    await asyncio.sleep(0)
    refuse(call)


def admit(call):
    return None


async def admit_later(call):
    await asyncio.sleep(0)


BOTH = pytest.mark.parametrize("kind", ["plain", "async"])


@BOTH
def test_a_call_that_passes_is_as_without_interceptors(proxy, channel, guard, kind):
    guard({"plain": admit, "async": admit_later}[kind])
    assert echo(channel) == b"hello"
    (seen,) = seen_by_replica(proxy)
    assert auth_context_of(seen[b"swerve-peer"].decode()) == TRANSPORT
    assert peer_address(seen[b"swerve-peer"].decode()).startswith("ipv4:127.0.0.1:")
    assert [end[3] for end in proxy.observer.ends] == [StatusCode.OK]


@BOTH
@pytest.mark.parametrize("rpc", ["Echo", "Repeat", "Collect", "Chat"])
def test_a_refused_call_reaches_no_replica_and_is_counted_like_others(proxy, channel, guard, kind, rpc):
    guard({"plain": refuse, "async": refuse_later}[kind])
    stub = {
        "Echo": lambda: channel.unary_unary("/t.Lab/Echo")(b"x", timeout=TIMEOUT_S),
        "Repeat": lambda: list(channel.unary_stream("/t.Lab/Repeat")(b"3", timeout=TIMEOUT_S)),
        "Collect": lambda: channel.stream_unary("/t.Lab/Collect")(iter([b"x"] * 3), timeout=TIMEOUT_S),
        "Chat": lambda: list(channel.stream_stream("/t.Lab/Chat")(iter([b"x"] * 3), timeout=TIMEOUT_S)),
    }[rpc]
    error = failure(stub)
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, "No token.")
    trailers = dict(error.trailing_metadata())
    assert (trailers["www-authenticate"], trailers["why-bin"]) == ("Bearer", b"\0\1")
    ((app, path, request_id, code),) = proxy.observer.ends
    assert (app, path, code) == ("one", f"/t.Lab/{rpc}".encode(), StatusCode.UNAUTHENTICATED)
    assert trailers["request_id"] == request_id.decode()
    assert seen_by_replica(proxy) == []


def test_an_interceptor_knows_of_the_call_what_its_handler_will(proxy, channel, guard):
    told = {}

    def note(call):
        told.update(
            method=call.method(),
            application=call.application(),
            request_id=call.request_id(),
            metadata=call.invocation_metadata(),
            peer=call.peer(),
            context=call.auth_context(),
            identities=(call.peer_identities(), call.peer_identity_key()),
            remaining=call.time_remaining(),
        )

    guard(note)
    metadata = (
        ("authorization", "Bearer x"),
        ("key-bin", b"\0\xff"),
        ("swerve-peer", "forged"),
        ("request_id", "mine"),
    )
    assert echo(channel, *metadata, timeout=10) == b"hello"
    assert (told["method"], told["application"], told["request_id"]) == ("/t.Lab/Echo", "one", "mine")
    assert ("authorization", "Bearer x") in told["metadata"]
    assert ("key-bin", b"\0\xff") in told["metadata"]
    assert "swerve-peer" not in dict(told["metadata"])
    assert told["peer"].startswith("ipv4:127.0.0.1:")
    assert (told["context"], told["identities"]) == (TRANSPORT, (None, None))
    assert 0 < told["remaining"] < 2 * 10


def test_a_call_without_a_deadline_has_no_time_remaining(channel, guard):
    told = []
    guard(lambda call: told.append(call.time_remaining()))
    assert channel.unary_unary("/t.Lab/Echo")(b"x") == b"x"
    assert told == [None]


@BOTH
def test_what_interceptors_add_reaches_the_handler_and_no_client_can_forge_it(proxy, channel, guard, kind):
    def add(call):
        return {"user": "Ädä", "groups": ["a", b"\xff"]}

    async def add_later(call):
        return add(call)

    guard({"plain": add, "async": add_later}[kind])
    assert echo(channel, ("swerve-peer", 'ipv4:6.6.6.6:1 {"user":["root"]}'), ("user", "root")) == b"hello"
    assert known_of_client(proxy) == {**TRANSPORT, "user": ["Ädä".encode()], "groups": [b"a", b"\xff"]}


def test_a_client_cannot_forge_what_interceptors_leave_out(proxy, channel, guard):
    guard(admit)
    echo(channel, ("swerve-peer", 'ipv4:6.6.6.6:1 {"user":["root"]}'))
    assert known_of_client(proxy) == TRANSPORT


def test_interceptors_run_in_their_order_and_see_what_those_before_them_added(proxy, channel, guard):
    async def first(call):
        return {"user": "ada"}

    def second(call):
        assert call.auth_context()["user"] == [b"ada"]
        return {"user": "eve", "role": "admin"}

    guard(first, admit, second)
    assert echo(channel) == b"hello"
    assert known_of_client(proxy) == {**TRANSPORT, "user": [b"ada", b"eve"], "role": [b"admin"]}


def test_after_a_refusal_no_interceptor_is_asked(channel, guard):
    asked = []
    guard(admit_later, refuse, asked.append)
    assert failure(lambda: echo(channel)).code() is grpc.StatusCode.UNAUTHENTICATED
    assert asked == []


def test_a_class_is_an_interceptor_by_its_call(proxy, channel, guard):
    class Counting:
        def __init__(self):
            self.count = 0

        async def __call__(self, call):
            self.count += 1
            return {"count": str(self.count)}

    guard(Counting())
    echo(channel)
    echo(channel)
    assert known_of_client(proxy)["count"] == [b"2"]


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


def boom(call):
    raise KeyError("the secret")


async def boom_later(call):
    await asyncio.sleep(0)
    raise KeyError("the secret")


async def cancels_itself(call):
    raise asyncio.CancelledError


def exits(call):
    raise SystemExit(1)


async def exits_later(call):
    await asyncio.sleep(0)
    raise SystemExit(1)


class Stop(BaseException):
    """As what tests and frameworks raise to end a process."""


def stops(call):
    raise Stop


async def stops_later(call):
    await asyncio.sleep(0)
    raise Stop


class Unprintable:
    def __str__(self):
        raise RuntimeError("no text")


def raises_status(code, details=None):
    def interceptor(call):
        raise gRPCStatusError(None, code, details)

    return interceptor


@pytest.mark.parametrize(
    "wrong",
    [
        boom,
        boom_later,
        cancels_itself,
        exits,
        exits_later,
        stops,
        stops_later,
        raises_status(7, Unprintable()),
        raises_status(None),
        raises_status(grpc.StatusCode.OK),
        lambda call: True,
        lambda call: False,
        lambda call: {"key": 3},
        lambda call: {3: "value"},
        lambda call: {"large": bytes(64 * 1024)},
        lambda call: call.abort(grpc.StatusCode.OK),
        lambda call: call.abort("UNAUTHENTICATED"),
        lambda call: call.abort(16, b"details"),
        lambda call: call.abort(16, "", [("Bad Key", "x")]),
    ],
)
def test_an_interceptor_that_fails_refuses_the_call_and_tells_the_operator_alone(proxy, channel, guard, caplog, wrong):
    guard(wrong)
    error = failure(lambda: echo(channel, ("request_id", "the-id")))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "The server could not decide whether to serve the call."
    assert seen_by_replica(proxy) == []
    (record,) = caplog.records
    assert "the-id" in record.getMessage()
    assert record.exc_info


@BOTH
@pytest.mark.parametrize("decision", ["admitted", "refused"])
def test_a_call_that_cannot_be_passed_on_or_refused_ends_and_is_logged_once(
    proxy, channel, guard, caplog, monkeypatch, kind, decision
):
    def fail(*args):
        raise RuntimeError("a fault")

    monkeypatch.setattr(InterceptedCall, decision, fail)
    decisions = {"admitted": (admit, admit_later), "refused": (refuse, refuse_later)}
    guard(decisions[decision][kind == "async"])
    assert failure(lambda: echo(channel, ("request_id", "the-id"))).code() is grpc.StatusCode.INTERNAL
    proxy.until(lambda: [end[3] for end in proxy.observer.ends] == [StatusCode.INTERNAL])
    (record,) = caplog.records
    assert "the-id" in record.getMessage()
    monkeypatch.undo()
    guard(admit)
    assert echo(channel) == b"hello"


@BOTH
def test_a_service_of_the_proxy_that_cannot_answer_ends_its_call(proxy, channel, guard, caplog, monkeypatch, kind):
    def fail(*args):
        raise RuntimeError("a fault")

    guard({"plain": admit, "async": admit_later}[kind])
    monkeypatch.setattr(proxy.ingress.builtin, "accept", fail)
    api = serve_pb2_grpc.RayServeAPIServiceStub(channel)
    error = failure(lambda: api.ListApplications(serve_pb2.ListApplicationsRequest(), timeout=TIMEOUT_S))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert len(caplog.records) == 1


def test_a_status_that_is_raised_without_abort_refuses_all_the_same(channel, guard):
    guard(raises_status(7, b"odd"))
    error = failure(lambda: echo(channel))
    assert (error.code(), error.details()) == (grpc.StatusCode.PERMISSION_DENIED, "b'odd'")


def test_an_interceptor_that_takes_too_long_refuses_the_call(proxy, channel, guard, caplog):
    cancelled = []

    async def hang(call):
        try:
            await asyncio.sleep(TIMEOUT_S)
        except asyncio.CancelledError:
            cancelled.append(call)
            raise

    guard(hang, timeout_s=0.05)
    error = failure(lambda: echo(channel))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == "The server could not decide within 0.05 s whether to serve the call."
    assert 500 <= int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) <= 1500
    proxy.until(lambda: cancelled)
    assert "took more than 0.05 s" in caplog.text


def test_an_interceptor_that_will_not_end_holds_no_call(proxy, channel, guard):
    may_end = asyncio.Event()

    async def stubborn(call):
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    guard(stubborn, timeout_s=0.05)
    try:
        assert failure(lambda: echo(channel)).code() is grpc.StatusCode.UNAVAILABLE
        proxy.until(lambda: proxy.observer.ends)
    finally:
        proxy.call(may_end.set)


class Waiting:
    """An interceptor that notes who waits in it, and how that ended."""

    def __init__(self):
        self.inside = 0
        self.cancelled = 0
        self.go_on = asyncio.Event()

    async def __call__(self, call):
        self.inside += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.inside -= 1


def test_a_client_that_gives_up_ends_the_wait(proxy, channel, guard):
    waiting = Waiting()
    guard(waiting)
    call = channel.unary_unary("/t.Lab/Echo").future(b"x", timeout=TIMEOUT_S)
    proxy.until(lambda: waiting.inside)
    call.cancel()
    proxy.until(lambda: waiting.cancelled)
    proxy.until(lambda: [end[3] for end in proxy.observer.ends] == [StatusCode.CANCELLED])
    assert seen_by_replica(proxy) == []


@pytest.mark.parametrize("as_task", [False, True], ids=["coroutine", "task"])
def test_a_call_that_ends_before_its_interceptor_has_begun_ends_that_too(as_task):
    begun = []

    async def main():
        async def wait(call):
            begun.append(call)
            await asyncio.sleep(TIMEOUT_S)

        loop = asyncio.get_running_loop()
        answers = []

        def intercept(call):
            answers.append(loop.create_task(wait(call)) if as_task else wait(call))
            return answers[-1]

        interception = Interception(Interceptors([intercept], TIMEOUT_S, loop), SimpleNamespace(), SimpleNamespace())
        interception.start()
        interception.cancel()
        assert len(asyncio.all_tasks()) == (3 if as_task else 2)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        answers.clear()

    # A coroutine that nobody awaits says so when it is freed.
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert begun == []
    assert [str(one.message) for one in warned] == []


def test_the_deadline_holds_while_interceptors_wait(proxy, channel, guard):
    waiting = Waiting()
    guard(waiting)
    begun = time.monotonic()
    assert failure(lambda: echo(channel, timeout=0.2)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun < TIMEOUT_S
    proxy.until(lambda: waiting.cancelled)


def test_an_application_that_goes_meanwhile_is_not_found(proxy, channel, guard):
    waiting = Waiting()
    guard(waiting)
    call = channel.unary_unary("/t.Lab/Echo").future(b"x", timeout=TIMEOUT_S)
    proxy.until(lambda: waiting.inside)
    proxy.serve()
    proxy.call(waiting.go_on.set)
    assert call.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("size", [0, 1000, 1 << 20])
def test_requests_that_come_meanwhile_are_whole(proxy, channel, guard, size):
    waiting = Waiting()
    guard(waiting)
    unary = channel.unary_unary("/t.Lab/Echo").future(bytes(size), timeout=TIMEOUT_S)
    uploads = channel.stream_unary("/t.Lab/Collect").future(iter([bytes(size)] * 4), timeout=TIMEOUT_S)
    proxy.until(lambda: waiting.inside == 2)
    proxy.call(waiting.go_on.set)
    assert unary.result() == bytes(size)
    assert uploads.result() == b"4 %d" % (4 * size)


# ---------------------------------------------------------------------------------------------------------------------
# The proxy's own services


@BOTH
def test_probes_need_no_credentials_and_other_services_of_the_proxy_do(proxy, channel, guard, probe, kind):
    guard({"plain": refuse, "async": refuse_later}[kind])
    proxy.file_descriptors = [probe.pb.DESCRIPTOR.serialized_pb]
    proxy.publish()
    api = serve_pb2_grpc.RayServeAPIServiceStub(channel)
    assert api.Healthz(serve_pb2.HealthzRequest(), timeout=TIMEOUT_S).message == "success"
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status == 1
    watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    assert next(watch).status == 1
    watch.cancel()
    error = failure(lambda: api.ListApplications(serve_pb2.ListApplicationsRequest(), timeout=TIMEOUT_S))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, "No token.")
    assert dict(error.trailing_metadata())["www-authenticate"] == "Bearer"
    error = failure(lambda: list(ProtoReflectionDescriptorDatabase(channel).get_services()))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert [refusal[2] for refusal in proxy.observer.refusals] == [StatusCode.UNAUTHENTICATED] * 2


@BOTH
def test_services_of_the_proxy_answer_those_who_pass(proxy, channel, guard, probe, kind):
    methods = []

    def note(call):
        methods.append((call.method(), call.application(), bool(call.request_id())))

    async def note_later(call):
        await asyncio.sleep(0.01)
        note(call)

    guard({"plain": note, "async": note_later}[kind])
    proxy.file_descriptors = [probe.pb.DESCRIPTOR.serialized_pb]
    proxy.publish()
    api = serve_pb2_grpc.RayServeAPIServiceStub(channel)
    listed = api.ListApplications(serve_pb2.ListApplicationsRequest(), timeout=TIMEOUT_S)
    assert list(listed.application_names) == ["one"]
    assert ProtoReflectionDescriptorDatabase(channel).get_services()
    assert methods[0] == ("/ray.serve.RayServeAPIService/ListApplications", "", True)
    assert methods[1][0].startswith("/grpc.reflection.v1alpha.ServerReflection/")


def test_a_client_that_gives_up_on_a_service_of_the_proxy_ends_the_wait(proxy, channel, guard):
    waiting = Waiting()
    guard(waiting)
    api = serve_pb2_grpc.RayServeAPIServiceStub(channel)
    call = api.ListApplications.future(serve_pb2.ListApplicationsRequest(), timeout=TIMEOUT_S)
    proxy.until(lambda: waiting.inside)
    call.cancel()
    proxy.until(lambda: waiting.cancelled)


def test_reflection_that_is_switched_off_meanwhile_is_not_found(proxy, channel, guard, probe):
    waiting = Waiting()
    guard(waiting)
    proxy.file_descriptors = [probe.pb.DESCRIPTOR.serialized_pb]
    proxy.publish()
    reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    call = reflect(iter([b"\x3a\0"]), timeout=TIMEOUT_S)
    proxy.until(lambda: waiting.inside)
    proxy.options = {"enable_reflection": False}
    proxy.publish()
    proxy.call(waiting.go_on.set)
    error = failure(lambda: list(call))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


@pytest.mark.parametrize("end", ["data", "trailers", "none"])
def test_tiny_parts_of_a_request_that_waits_take_little_more_than_their_bytes(end):
    handler = Recorder()
    connection = SimpleNamespace(streams={}, acknowledge=lambda *_: None)
    handler.connection = connection
    waiting = connection.streams[1] = InterceptedBuiltin(connection, 1, lambda: handler, lambda *_: handler)
    tracemalloc.start()
    for _ in range(10_000):
        waiting.on_data(b"12345", False)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 70_000
    match end:
        case "data":
            waiting.on_data(b"", True)
        case "trailers":
            waiting.on_trailers(())
    waiting.admitted(None)
    assert connection.streams == {1: handler}
    assert handler.data == b"12345" * 10_000
    assert (handler.ended, handler.trailers) == (end != "none", () if end == "trailers" else None)
