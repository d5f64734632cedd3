"""The parts of uvicorn that `swerve.proxy.http_guard` stands on, and that a new release may change.

Where one of these fails, the limits of the HTTP port may not hold with that release: see what has taken its place.
"""

import asyncio
import inspect

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from swerve.proxy.http_guard import HeadWatch
from swerve.proxy.http_server import http_settings, server_config


async def nothing(scope, receive, send):
    await asyncio.get_running_loop().create_future()


class Transport(asyncio.Transport):
    """Of a connection that nothing comes from."""

    def __init__(self):
        super().__init__()
        self.protocol = None
        self.reading = True
        self.closed = False
        self.written = b""

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def get_write_buffer_size(self):
        return 0

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_protocol(self):
        return self.protocol

    def is_closing(self):
        return self.closed

    def write(self, data):
        self.written += data

    def close(self):
        self.closed = True

    abort = close


def connected(state: ServerState):
    """A connection of a server's, with nothing sent yet."""
    config = server_config(http_settings({"host": "127.0.0.1", "port": 1}), nothing)
    made = config.http_protocol_class(config=config, server_state=state, app_state={})
    transport = Transport()
    transport.protocol = made
    made.connection_made(transport)
    return made, transport


def run(check):
    async def body():
        state = ServerState()
        try:
            await check(state)
        finally:
            for task in state.tasks:
                task.cancel()

    asyncio.run(body())


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def test_an_open_connection_is_among_the_servers_and_has_what_the_guard_reads():
    async def check(state):
        connection, transport = connected(state)
        assert connection in state.connections
        assert connection.connections is state.connections
        assert connection.transport is transport
        assert connection.loop is asyncio.get_running_loop()
        assert hasattr(connection, "client")
        assert (connection.cycle, connection.timeout_keep_alive_task) == (None, None)
        connection.connection_lost(None)
        assert connection not in state.connections

    run(check)


def test_a_head_in_pieces_is_awaited_until_it_is_whole():
    async def check(state):
        connection, _ = connected(state)
        assert connection.awaits_head()
        connection.data_received(HEAD)
        assert connection.awaits_head()
        connection.data_received(b"\r\n")
        assert connection.cycle is not None
        assert not connection.cycle.response_complete
        assert not connection.awaits_head()

    run(check)


def test_a_request_reads_by_the_connections_flow_which_says_when_it_has_paused():
    async def check(state):
        connection, transport = connected(state)
        ours = connection.flow
        assert isinstance(ours, FlowControl)
        connection.data_received(HEAD + b"\r\n")
        assert connection.cycle.flow is ours
        assert not ours.read_paused
        connection.data_received(bytes(200_000))
        while connection.unparsed and not ours.read_paused:  # noqa: ASYNC110 (the guard's turns are the event)
            await asyncio.sleep(0)
        assert ours.read_paused
        assert not transport.reading

    run(check)


def test_a_connection_that_rests_has_a_timer_and_one_with_a_request_has_none():
    async def check(state):
        connection, _ = connected(state)
        connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.timeout_keep_alive_task is None
        await connection.cycle.send({"type": "http.response.start", "status": 200, "headers": []})
        await connection.cycle.send({"type": "http.response.body", "body": b""})
        assert connection.cycle.response_complete
        assert connection.timeout_keep_alive_task is not None
        assert not connection.awaits_head()
        connection.data_received(b"GET")
        assert connection.timeout_keep_alive_task is None
        assert connection.awaits_head()

    run(check)


async def upgraded(state):
    connection, transport = connected(state)
    connection.data_received(UPGRADE)
    websocket = transport.get_protocol()
    assert websocket is not connection, "a WebSocket has a protocol of its own at the transport"
    return websocket, transport


def test_a_websocket_has_what_the_guard_reads_and_no_head_that_is_awaited():
    async def check(state):
        websocket, transport = await upgraded(state)
        assert websocket in state.connections
        assert websocket.transport is transport
        assert websocket.loop is asyncio.get_running_loop()
        assert hasattr(websocket, "client")
        assert (websocket.read_paused, list(websocket.frames)) == (False, [])
        watch = HeadWatch(asyncio.get_running_loop(), state.connections, 1.0)
        watch.look(0.0)
        watch.look(100.0)
        assert not transport.closed
        watch.close()

    run(check)


def test_the_fragments_of_a_message_are_its_frames_until_it_is_whole():
    async def check(state):
        websocket, _ = await upgraded(state)
        await websocket.send({"type": "websocket.accept"})
        websocket.data_received(b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 3)
        assert len(websocket.frames) == 4
        websocket.data_received(b"\x80\x80\0\0\0\0")
        assert len(websocket.frames) == 0

    run(check)


def test_an_application_takes_a_websockets_messages_by_receive():
    async def check(state):
        websocket, transport = await upgraded(state)
        assert inspect.iscoroutinefunction(websocket.receive)
        await websocket.send({"type": "websocket.accept"})
        websocket.data_received(b"\x82\x81\0\0\0\0x")
        assert websocket.read_paused
        assert not transport.reading
        assert (await websocket.receive())["type"] == "websocket.connect"
        assert (await websocket.receive())["bytes"] == b"x"
        assert not websocket.read_paused

    run(check)


@pytest.mark.parametrize("name", ["main_loop", "startup", "shutdown"])
def test_the_server_has_the_steps_that_a_proxy_takes_one_by_one(name):
    assert inspect.iscoroutinefunction(getattr(uvicorn.Server, name))
