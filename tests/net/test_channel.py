"""Channels and small servers over real sockets."""

import asyncio
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest
import uvloop

from swerve.net.address import parse_address
from swerve.net.client import Channel
from swerve.net.server import Server, ServerStream, Unary, serve
from swerve.wire.status import RpcError, Status, StatusCode

TIMEOUT_S = 20.0


@pytest.fixture
def address():
    # Short: a socket path holds 107 bytes.
    with tempfile.TemporaryDirectory(prefix="sw-") as folder:
        yield f"unix:{folder}/s"


async def echo(request: bytes, metadata: dict[str, str]) -> bytes:
    return request


async def fail(request: bytes, metadata: dict[str, str]) -> bytes:
    raise RpcError(Status(StatusCode.NOT_FOUND, "nothing here"))


async def crash(request: bytes, metadata: dict[str, str]) -> bytes:
    raise ValueError("a bug")


async def show_metadata(request: bytes, metadata: dict[str, str]) -> bytes:
    return f"{metadata['mine']} {'grpc-timeout' in metadata}".encode()


async def count(request: bytes, metadata: dict[str, str]) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


async def megabytes(request: bytes, metadata: dict[str, str]) -> AsyncIterator[bytes]:
    for _ in range(int(request)):
        yield bytes(1 << 20)


METHODS = {
    "/t/Echo": Unary(echo),
    "/t/Fail": Unary(fail),
    "/t/Crash": Unary(crash),
    "/t/Metadata": Unary(show_metadata),
    "/t/Count": ServerStream(count),
    "/t/Megabytes": ServerStream(megabytes),
}


def run(main: Callable[[Server, Channel], Coroutine[None, None, None]], address: str, methods=METHODS) -> None:
    """Run `main` with a server and a channel to it."""

    async def body() -> None:
        server = serve(address, methods)
        channel = Channel(address)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await main(server, channel)
        finally:
            await channel.close()
            await server.close(0)

    uvloop.run(body())


@pytest.mark.parametrize("size", [0, 1, 5, 70_000, 16 << 20])
def test_a_message_of_any_size_goes_there_and_back(address, size):
    async def main(server, channel):
        assert await channel.unary("/t/Echo", bytes(size), timeout=TIMEOUT_S) == bytes(size)

    run(main, address)


def test_the_same_works_over_tcp():
    async def body():
        server = serve("127.0.0.1:0", METHODS)
        port = server._listener._doors[0].socket.getsockname()[1]
        channel = Channel(f"127.0.0.1:{port}")
        assert await channel.unary("/t/Echo", b"x", timeout=TIMEOUT_S) == b"x"
        await channel.close()
        await server.close(0)

    uvloop.run(body())


def test_a_status_comes_as_an_error(address):
    async def main(server, channel):
        with pytest.raises(RpcError) as raised:
            await channel.unary("/t/Fail", b"", timeout=TIMEOUT_S)
        assert raised.value.status == Status(StatusCode.NOT_FOUND, "nothing here")

    run(main, address)


def test_an_exception_of_a_method_is_internal_and_harms_no_other_call(address):
    async def main(server, channel):
        with pytest.raises(RpcError) as raised:
            await channel.unary("/t/Crash", b"", timeout=TIMEOUT_S)
        assert raised.value.status == Status(StatusCode.INTERNAL, "ValueError: a bug")
        assert await channel.unary("/t/Echo", b"x", timeout=TIMEOUT_S) == b"x"

    run(main, address)


def test_an_unknown_method_is_unimplemented(address):
    async def main(server, channel):
        with pytest.raises(RpcError) as raised:
            await channel.unary("/t/Nothing", b"", timeout=TIMEOUT_S)
        assert raised.value.status.code == StatusCode.UNIMPLEMENTED
        assert "/t/Nothing" in raised.value.status.details

    run(main, address)


def test_metadata_and_the_timeout_travel(address):
    async def main(server, channel):
        answer = await channel.unary("/t/Metadata", b"", timeout=TIMEOUT_S, metadata=[(b"mine", b"yes")])
        assert answer == b"yes True"

    run(main, address)


def test_a_stream_gives_every_message_in_order(address):
    async def main(server, channel):
        messages = [int(message) async for message in channel.stream("/t/Count", b"5000")]
        assert messages == list(range(5000))

    run(main, address)


def test_an_empty_stream_ends(address):
    async def main(server, channel):
        assert [message async for message in channel.stream("/t/Count", b"0")] == []

    run(main, address)


def test_a_reader_that_rests_holds_back_the_server(address):
    made = 0

    async def endless(request, metadata):
        nonlocal made
        while True:
            made += 1
            yield bytes(1 << 16)

    async def main(server, channel):
        stream = channel.stream("/t/Endless", b"")
        await anext(stream)
        before = -1
        while before != made:
            before = made
            await asyncio.sleep(0.05)
        assert made < 100
        for _ in range(200):
            await anext(stream)
        assert made >= 200
        stream.cancel()

    run(main, address, {"/t/Endless": ServerStream(endless)})


def test_abandoned_streams_give_their_window_back(address):
    """Each holds a megabyte back when it is cancelled; a thousand of them would fill the connection's window."""

    async def main(server, channel):
        for _ in range(30):
            stream = channel.stream("/t/Megabytes", b"20")
            await anext(stream)
            connection = await channel.connect()
            stream.cancel()
        while connection.streams:  # noqa: ASYNC110 (the test's own deadline ends it)
            await asyncio.sleep(0.01)
        assert connection._unacknowledged == 0

    run(main, address)


def test_cancelling_a_stream_cancels_its_generator(address):
    closed = asyncio.Event()

    async def endless(request, metadata):
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    async def main(server, channel):
        stream = channel.stream("/t/Endless", b"")
        await anext(stream)
        stream.cancel()
        await closed.wait()

    run(main, address, {"/t/Endless": ServerStream(endless)})


def test_a_call_that_is_cancelled_cancels_its_handler(address):
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(request, metadata):
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    async def main(server, channel):
        task = asyncio.create_task(channel.unary("/t/Slow", b"", timeout=None))
        await started.wait()
        task.cancel()
        await cancelled.wait()

    run(main, address, {"/t/Slow": Unary(slow)})


def test_a_deadline_ends_the_call_at_both_ends(address):
    cancelled = asyncio.Event()

    async def slow(request, metadata):
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return b""

    async def main(server, channel):
        with pytest.raises(RpcError) as raised:
            await channel.unary("/t/Slow", b"", timeout=0.05)
        assert raised.value.status.code == StatusCode.DEADLINE_EXCEEDED
        await cancelled.wait()

    run(main, address, {"/t/Slow": Unary(slow)})


def test_nobody_at_the_address_is_unavailable(address):
    async def main():
        channel = Channel(address)
        with pytest.raises(RpcError) as raised:
            await channel.unary("/t/Echo", b"", timeout=TIMEOUT_S)
        assert raised.value.status.code == StatusCode.UNAVAILABLE
        assert address in raised.value.status.details

    uvloop.run(main())


def test_a_stream_that_could_not_begin_fails_again_when_it_is_asked_again(address):
    async def main():
        stream = Channel(address).stream("/t/Count", b"1")
        for _ in range(2):
            with pytest.raises(RpcError) as raised:
                async with asyncio.timeout(TIMEOUT_S):
                    await anext(stream)
            assert raised.value.status.code == StatusCode.UNAVAILABLE

    uvloop.run(main())


def test_a_channel_connects_anew_after_its_server_came_back(address):
    async def main():
        channel = Channel(address)
        for _ in range(3):
            server = serve(address, METHODS)
            assert await channel.unary("/t/Echo", b"x", timeout=TIMEOUT_S) == b"x"
            await server.close(5)
        await channel.close()

    uvloop.run(main())


def test_a_call_under_way_when_its_server_stops_is_unavailable(address):
    started = asyncio.Event()

    async def slow(request, metadata):
        started.set()
        await asyncio.sleep(60)
        return b""

    async def main(server, channel):
        task = asyncio.create_task(channel.unary("/t/Slow", b"", timeout=TIMEOUT_S))
        await started.wait()
        await server.close(0)
        with pytest.raises(RpcError) as raised:
            await task
        assert raised.value.status.code == StatusCode.UNAVAILABLE

    run(main, address, {"/t/Slow": Unary(slow)})


def test_closing_with_grace_lets_a_call_finish(address):
    started = asyncio.Event()

    async def slow(request, metadata):
        started.set()
        await asyncio.sleep(0.3)
        return b"finished"

    async def main(server, channel):
        task = asyncio.create_task(channel.unary("/t/Slow", b"", timeout=TIMEOUT_S))
        await started.wait()
        await server.close(10)
        assert await task == b"finished"

    run(main, address, {"/t/Slow": Unary(slow)})


def test_many_callers_at_once_share_one_connection(address):
    async def main(server, channel):
        answers = await asyncio.gather(
            *(channel.unary("/t/Echo", b"%d" % number, timeout=TIMEOUT_S) for number in range(500))
        )
        assert answers == [b"%d" % number for number in range(500)]
        assert len(server._listener.connections) == 1

    run(main, address)


def test_a_unix_socket_is_private_and_goes_away_with_its_server(address):
    async def main(server, channel):
        path = address.removeprefix("unix:")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        await server.close(0)
        assert os.listdir(os.path.dirname(path)) == []

    run(main, address)


def test_a_stale_socket_file_is_replaced(address):
    async def main():
        first = serve(address, METHODS)
        second = serve(address, METHODS)
        channel = Channel(address)
        assert await channel.unary("/t/Echo", b"x", timeout=TIMEOUT_S) == b"x"
        await channel.close()
        await second.close(0)
        await first.close(0)

    uvloop.run(main())


@pytest.mark.parametrize(
    "text", ["", "nothing", "host:", "host:notaport", "host:70000", "unix:", "unix:a", "unix:" + "/x" * 60]
)
def test_a_bad_address_is_named(text):
    with pytest.raises(ValueError, match=r"address|socket path"):
        parse_address(text)


@pytest.mark.parametrize("text", ["unix:/a/b", "127.0.0.1:9000", "[::1]:9000", "localhost:0"])
def test_an_address_is_written_as_it_was_read(text):
    assert str(parse_address(text)) == text
