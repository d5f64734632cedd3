"""grpcio's client against our server side, and our client against grpcio's server."""

import asyncio
import threading
from concurrent import futures

import grpc
import pytest
from grpc_lab import lab

from swerve.net.client import Channel
from swerve.wire.status import RpcError, Status, StatusCode
from tests.conftest import wait_for

TIMEOUT_S = 20
BIG = bytes(range(256)) * (1 << 16)  # 16 MiB
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module")
def server():
    with lab() as running:
        yield running


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address, options=UNLIMITED) as opened:
        yield opened


# --- grpcio's client -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [b"", b"x", bytes(70_000), BIG], ids=len)
def test_a_unary_call(channel, message):
    assert channel.unary_unary("/t/Echo")(message, timeout=TIMEOUT_S) == message


def test_a_server_stream(channel):
    assert list(channel.unary_stream("/t/Repeat")(b"3000", timeout=TIMEOUT_S)) == [b"%d" % n for n in range(3000)]


def test_a_server_stream_of_megabytes(channel):
    assert sum(len(part) for part in channel.unary_stream("/t/Flood")(b"40", timeout=TIMEOUT_S)) == 40 << 20


def test_an_empty_server_stream(channel):
    assert list(channel.unary_stream("/t/Repeat")(b"0", timeout=TIMEOUT_S)) == []


def test_a_client_stream(channel):
    parts = [bytes(size) for size in (0, 1, 5, 100_000, 3 << 20)] * 3
    answer = channel.stream_unary("/t/Collect")(iter(parts), timeout=TIMEOUT_S)
    assert answer == b"15 %d" % sum(map(len, parts))


def test_a_bidirectional_stream_takes_turns(channel):
    turn = threading.Semaphore(1)

    def ask():
        for number in range(50):
            assert turn.acquire(timeout=TIMEOUT_S)
            yield b"%d" % number

    answers = []
    for answer in channel.stream_stream("/t/Chat")(ask(), timeout=TIMEOUT_S):
        answers.append(answer)
        turn.release()
    assert answers == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_read(channel, kind):
    assert channel.unary_unary("/t/Echo")(bytes(100_000), timeout=TIMEOUT_S, compression=kind) == bytes(100_000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_responses_are_understood(channel, encoding):
    answers = channel.unary_stream("/t/Repeat")(b"20", timeout=TIMEOUT_S, metadata=[("answer-encoding", encoding)])
    assert list(answers) == [b"%d" % number for number in range(20)]


def test_metadata_of_both_kinds_comes_back_as_initial_and_trailing(channel):
    sent = [("x-text", "a b"), ("x-data-bin", bytes(range(256))), ("x-empty", ""), ("x-text", "again")]
    _, call = channel.unary_unary("/t/Echo").with_call(b"", timeout=TIMEOUT_S, metadata=sent)
    assert [(key, value) for key, value in call.initial_metadata() if key.startswith("x-")] == sent
    assert [(key[1:], value) for key, value in call.trailing_metadata() if key.startswith("tx-")] == sent


def test_spaces_at_the_edges_of_metadata_are_stripped(channel):
    """grpcio sends them as they are given, against HTTP/2's rules."""
    sent = [("x-after", "v "), ("x-before", " v"), ("x-nothing", " ")]
    _, call = channel.unary_unary("/t/Echo").with_call(b"", timeout=TIMEOUT_S, metadata=sent)
    found = [(key, value) for key, value in call.initial_metadata() if key.startswith("x-")]
    assert found == [("x-after", "v"), ("x-before", "v"), ("x-nothing", "")]


@pytest.mark.parametrize("details", ["", "plain", "100 % \N{SNOWMAN} \n tail ", "x" * 5000])
def test_a_status_and_its_details(channel, details):
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/t/Fail")(details.encode(), timeout=TIMEOUT_S)
    assert raised.value.code() == grpc.StatusCode.DATA_LOSS
    expected = details if len(details) <= 4096 else details[:4081] + "... [truncated]"
    assert raised.value.details() == expected


def test_a_deadline_ends_the_call_and_the_server_hears_of_it(server, channel):
    before = len(server.cancelled)
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/t/Hang")(b"", timeout=0.05)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: len(server.cancelled) > before)


def test_a_cancellation_reaches_the_server(server, channel):
    before, hanging = len(server.cancelled), len(server.hanging)
    call = channel.unary_unary("/t/Hang").future(b"", timeout=TIMEOUT_S)
    wait_for(lambda: len(server.hanging) > hanging)
    call.cancel()
    wait_for(lambda: len(server.cancelled) > before)


def test_cancelled_streams_leave_nothing_behind(server, channel):
    for _ in range(100):
        stream = channel.unary_stream("/t/Flood")(b"20", timeout=TIMEOUT_S)
        next(stream)
        stream.cancel()
    assert channel.unary_unary("/t/Echo")(BIG, timeout=TIMEOUT_S) == BIG
    wait_for(lambda: server.run(server.count())[1] == 0)


def test_a_message_over_the_limit_is_refused_while_it_is_sent(server):
    with grpc.insecure_channel(server.address, options=UNLIMITED) as opened, pytest.raises(grpc.RpcError) as raised:
        opened.unary_unary("/t/Echo")(bytes(33 << 20), timeout=TIMEOUT_S)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in raised.value.details()


def test_many_calls_at_once(channel):
    echo = channel.unary_unary("/t/Echo")
    pending = [echo.future(b"%d" % number, timeout=TIMEOUT_S) for number in range(500)]
    assert [call.result() for call in pending] == [b"%d" % number for number in range(500)]


def test_the_aio_client_is_served_too(server):
    async def main():
        async with grpc.aio.insecure_channel(server.address) as opened:
            call = opened.stream_stream("/t/Chat")(timeout=TIMEOUT_S)
            for number in range(20):
                await call.write(b"%d" % number)
                assert await call.read() == b"%d" % number
            await call.done_writing()
            assert await call.read() == grpc.aio.EOF

    asyncio.run(main())


# --- grpcio's server -------------------------------------------------------------------------------------------------


class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        kind = details.method.rsplit("/", 1)[1]
        return {
            "Echo": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
            "Repeat": grpc.unary_stream_rpc_method_handler(self.repeat),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Hang": grpc.unary_unary_rpc_method_handler(self.hang),
            "Metadata": grpc.unary_unary_rpc_method_handler(self.metadata),
        }.get(kind)

    def repeat(self, request, context):
        for number in range(int(request)):
            yield b"%d" % number

    def fail(self, request, context):
        context.set_trailing_metadata((("why", "because"),))
        context.abort(grpc.StatusCode.DATA_LOSS, "lost \N{SNOWMAN}")

    def hang(self, request, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(TIMEOUT_S)
        return b""

    def metadata(self, request, context):
        found = dict(context.invocation_metadata())
        return found["mine"].encode() + found["data-bin"]


@pytest.fixture(scope="module")
def grpcio_address():
    running = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Handlers()], options=UNLIMITED)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield f"127.0.0.1:{port}"
    running.stop(0).wait()


def ask(address, ask_it):
    async def main():
        channel = Channel(address)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await ask_it(channel)
        finally:
            await channel.close()

    return asyncio.run(main())


@pytest.mark.parametrize("message", [b"", b"x", BIG], ids=len)
def test_our_channel_calls_a_grpcio_server(grpcio_address, message):
    assert ask(grpcio_address, lambda channel: channel.unary("/t/Echo", message, timeout=TIMEOUT_S)) == message


def test_our_channel_reads_a_grpcio_stream(grpcio_address):
    async def read(channel):
        return [message async for message in channel.stream("/t/Repeat", b"2000")]

    assert ask(grpcio_address, read) == [b"%d" % number for number in range(2000)]


def test_our_channel_sees_a_grpcio_status_with_its_trailers(grpcio_address):
    with pytest.raises(RpcError) as raised:
        ask(grpcio_address, lambda channel: channel.unary("/t/Fail", b"", timeout=TIMEOUT_S))
    assert raised.value.status == Status(StatusCode.DATA_LOSS, "lost \N{SNOWMAN}")
    assert (b"why", b"because") in raised.value.trailers


def test_our_channel_sends_metadata_to_a_grpcio_server(grpcio_address):
    sent = [(b"mine", b"yes"), (b"data-bin", b"AP8")]
    answer = ask(grpcio_address, lambda channel: channel.unary("/t/Metadata", b"", timeout=TIMEOUT_S, metadata=sent))
    assert answer == b"yes\x00\xff"


def test_our_deadline_ends_a_grpcio_call(grpcio_address):
    with pytest.raises(RpcError) as raised:
        ask(grpcio_address, lambda channel: channel.unary("/t/Hang", b"", timeout=0.1))
    assert raised.value.status.code == StatusCode.DEADLINE_EXCEEDED


def test_an_unknown_method_of_a_grpcio_server_is_unimplemented(grpcio_address):
    with pytest.raises(RpcError) as raised:
        ask(grpcio_address, lambda channel: channel.unary("/t/Nothing", b"", timeout=TIMEOUT_S))
    assert raised.value.status.code == StatusCode.UNIMPLEMENTED
