"""A HTTP server's connections: too many of them, and heads that do not come. The server is uvicorn, as in a proxy."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
import uvloop

from swerve.proxy.http_server import http_settings, start_http_server
from tests.conftest import find_free_port

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
TIMEOUT_S = 20


async def hello(scope, receive, send):
    await receive()
    await asyncio.sleep(0.5)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@contextlib.asynccontextmanager
async def serving(app=hello, **given):
    """A server, and a function that connects to it."""
    port = find_free_port()
    settings = replace(http_settings({"host": "127.0.0.1", "port": port}), **given)
    server = await start_http_server(settings, app, share=False, tls=None, instead_of=None)
    peers = []

    async def connect():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        peers.append(writer)
        return reader, writer

    connect.server = server
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield connect
    finally:
        for peer in peers:
            peer.close()
        await server.close(1)


async def hung_up(reader) -> bool:
    try:
        return await reader.read() == b""
    except OSError:
        return True


def test_connections_over_the_limit_are_hung_up_on():
    async def run() -> None:
        async with serving(max_connections=3) as connect:
            kept = [await connect() for _ in range(3)]
            for _, writer in kept:
                writer.write(HEAD + b"\r\n")
            assert await hung_up((await connect())[0])
            for reader, _ in kept:
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"

    asyncio.run(run())


@pytest.mark.parametrize("said", [b"", HEAD], ids=["nothing", "half a head"])
def test_a_head_that_does_not_come_is_given_up(said):
    async def run() -> None:
        async with serving(header_timeout_s=0.2) as connect:
            reader, writer = await connect()
            writer.write(said)
            assert await hung_up(reader)

    asyncio.run(run())


def test_the_head_of_a_second_request_has_no_more_time():
    async def run() -> None:
        async with serving(header_timeout_s=0.2) as connect:
            reader, writer = await connect()
            writer.write(HEAD + b"\r\n")
            await reader.readuntil(b"hello")
            writer.write(HEAD)
            assert await hung_up(reader)

    asyncio.run(run())


def test_a_request_may_run_and_a_connection_rest_for_longer():
    async def run() -> None:
        async with serving(header_timeout_s=0.1) as connect:
            reader, writer = await connect()
            for _ in range(2):
                writer.write(HEAD + b"\r\n")
                await reader.readuntil(b"hello")
                await asyncio.sleep(0.3)

    asyncio.run(run())


def test_a_client_that_does_not_read_is_hung_up_on():
    ended = asyncio.Event()

    async def flood(scope, receive, send):
        await receive()
        watching = asyncio.ensure_future(receive())  # the client's going away
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not watching.done():
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        ended.set()

    async def run() -> None:
        async with serving(flood, stall_timeout_s=0.5) as connect:
            _, writer = await connect()
            writer.transport.pause_reading()
            writer.write(HEAD + b"\r\n")
            await ended.wait()

    asyncio.run(run())


async def count_body(scope, receive, send):
    """Answers with the body's size and its last byte."""
    body, more = b"", True
    while more:
        event = await receive()
        body += event["body"]
        more = event["more_body"]
    answer = b"%d %s" % (len(body), body[-1:])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


CHUNKS = 100_000


def test_a_flood_of_tiny_chunks_is_taken_in_turns_with_all_else():
    async def run() -> None:
        async with serving(count_body) as connect:
            reader, writer = await connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"1\r\nx\r\n" * CHUNKS + b"1\r\ny\r\n0\r\n\r\n")
            answer = asyncio.ensure_future(reader.readuntil(b"y"))
            turns = 0
            while not answer.done():
                turns += 1
                await asyncio.sleep(0)
            assert answer.result().endswith(b"%d y" % (CHUNKS + 1))
            # Otherwise there would be a read's worth of them in each: a handful of turns.
            assert turns > 30

    uvloop.run(run())


@pytest.mark.parametrize("size", [1, 5_000, 3_000_000])
def test_bodies_and_the_requests_behind_them_arrive_whole(size):
    async def run() -> None:
        async with serving(count_body) as connect:
            reader, writer = await connect()
            request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            # The second comes with the first's end.
            writer.write(request + b"a" * (size - 1) + b"b" + request + b"c" * size)
            for last in (b"b", b"c"):
                assert (await reader.readuntil(b" " + last)).endswith(b"\r\n\r\n%d %s" % (size, last))

    uvloop.run(run())


UPGRADE = HEAD + (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
# Masked with zeros: an empty text, a text of one letter, a ping of 125 bytes.
EMPTY, LETTER, PING = b"\x81\x80\0\0\0\0", b"\x81\x81\0\0\0\0%b", b"\x89\xfd\0\0\0\0" + bytes(125)


async def accept(receive, send):
    await receive()
    await send({"type": "websocket.accept"})


def test_messages_of_a_websocket_are_taken_in_turns_and_arrive_in_their_order():
    async def count(scope, receive, send):
        await accept(receive, send)
        received = 0
        while (event := await receive())["type"] == "websocket.receive":
            received += 1
            if event["text"]:
                await send({"type": "websocket.send", "text": f"{event['text']}{received}."})

    async def run() -> None:
        async with serving(count) as connect:
            reader, writer = await connect()
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            writer.write((EMPTY * 20_000 + LETTER % b"a") + (EMPTY * 20_000 + LETTER % b"b"))
            answer = asyncio.ensure_future(reader.readuntil(b"b40002."))
            turns = 0
            while not answer.done():
                turns += 1
                await asyncio.sleep(0)
            assert b"a20001." in answer.result()
            assert turns > 30

    uvloop.run(run())


@pytest.mark.parametrize("unit", [EMPTY, PING], ids=["messages", "pings"])
def test_what_a_websocket_s_application_or_client_does_not_take_is_bounded(unit):
    async def ignore(scope, receive, send):
        await accept(receive, send)
        await asyncio.sleep(TIMEOUT_S)

    async def run() -> None:
        async with serving(ignore) as connect:
            reader, writer = await connect()
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()
            writer.write(unit * (20_000_000 // len(unit)))
            left, before = writer.transport.get_write_buffer_size(), 0
            while left != before:  # until the server takes nothing more
                await asyncio.sleep(0.5)
                left, before = writer.transport.get_write_buffer_size(), left
            assert left > 1_000_000
            (protocol,) = connect.server._server.server_state.connections
            assert protocol.queue.qsize() < 1000
            assert protocol.transport.get_write_buffer_size() < 1_000_000
            for task in connect.server._server.server_state.tasks:
                task.cancel()

    uvloop.run(run())


async def most_unparsed(connect, writer, unit):
    """The most bytes that wait to be parsed of a flood of `unit`, of which more come than are parsed."""
    writer.write(unit * (20_000_000 // len(unit)))
    most, until = 0, asyncio.get_running_loop().time() + 1.5
    while asyncio.get_running_loop().time() < until:
        most = max([most, *(len(protocol.unparsed) for protocol in connect.server._server.server_state.connections)])
        await asyncio.sleep(0.01)
    writer.transport.abort()
    return most


def test_what_is_read_before_it_is_parsed_is_bounded_while_an_application_reads_slowly():
    async def read_slowly(scope, receive, send):
        event = await receive()
        while event["type"] == "http.request":
            await asyncio.sleep(0.05)
            event = await receive()

    async def run() -> None:
        async with serving(read_slowly) as connect:
            _, writer = await connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert 0 < await most_unparsed(connect, writer, b"20\r\n" + bytes(32) + b"\r\n") < 600_000

    uvloop.run(run())


def test_what_is_read_before_it_is_parsed_is_bounded_where_a_websocket_s_messages_take_long():
    async def read(scope, receive, send):
        await accept(receive, send)
        while (await receive())["type"] == "websocket.receive":
            pass

    async def run() -> None:
        async with serving(read) as connect:
            reader, writer = await connect()
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            message = b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 1000 + b"\x80\x80\0\0\0\0"
            assert 0 < await most_unparsed(connect, writer, message) < 600_000

    uvloop.run(run())


def test_a_message_of_endless_fragments_ends_its_websocket():
    async def ignore(scope, receive, send):
        await accept(receive, send)
        await receive()

    async def run() -> None:
        async with serving(ignore) as connect:
            reader, writer = await connect()
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            # A text that begins, and empty continuations of it.
            writer.write(b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 200_000)
            assert await hung_up(reader)

    uvloop.run(run())
