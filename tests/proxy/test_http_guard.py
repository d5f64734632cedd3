"""A HTTP server's connections: too many of them, and heads that do not come. The server is uvicorn, as in a proxy."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

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
