"""Clients that do what they should not; each is told, and nobody else notices."""

import asyncio
import contextlib
import json
import socket

import pytest
from e2e_support import Raw, failure_of, open_raw, raw_call, raw_exchange, trailer

from swerve.wire.message import frame
from swerve.wire.status import decode_message
from tests.conftest import wait_for

LAB = (b"application", b"lab")


@pytest.fixture(autouse=True)
def _others_are_served(client):
    yield
    assert client.ask("__call__", "you").text == "Hello you"


def exchange(port: int, path: str, body: bytes, *extra: tuple[bytes, bytes]) -> Raw:
    """A request whose body is sent as it is."""

    async def run() -> Raw:
        connection = await open_raw(port)
        try:
            return await raw_exchange(connection, path, body, (LAB, *extra))
        finally:
            connection.close()

    return asyncio.run(run())


def status(raw: Raw) -> tuple[int, str]:
    return int(raw.trailer(b"grpc-status")), decode_message(raw.trailer(b"grpc-message") or b"")


# --- messages --------------------------------------------------------------------------------------------------------


def test_a_request_over_the_limit_is_refused_with_both_sizes(tuned):
    error = tuned.client.failure("Plain", payload=b"x" * 100_001)

    assert error.code().name == "RESOURCE_EXHAUSTED"
    assert "larger than max" in error.details()
    assert "100000" in error.details()
    assert trailer(error, "request_id")


def test_a_message_over_the_limit_in_an_upload_is_refused(tuned):
    notes = [tuned.client.note(number=1), tuned.client.note(payload=b"x" * 100_001)]

    error = failure_of(lambda: tuned.client.upload("Total", iter(notes)))

    assert error.code().name == "RESOURCE_EXHAUSTED"


def test_a_response_over_the_limit_is_refused(tuned):
    error = failure_of(lambda: tuned.client.script(["return", "big", 100_001]))

    assert error.code().name == "RESOURCE_EXHAUSTED"
    assert "larger than max" in error.details()


def test_a_compressed_request_may_not_grow_over_the_limit(tuned):
    import grpc

    error = failure_of(
        lambda: tuned.client.lab.Plain(
            tuned.client.note(payload=b"x" * 10_000_000), compression=grpc.Compression.Gzip, timeout=10
        )
    )

    assert error.code().name == "RESOURCE_EXHAUSTED"


def test_no_message_where_one_is_due_is_internal(world):
    code, details = status(exchange(world.port, "/lab.v1.Lab/Plain", b""))

    assert code == 13
    assert "/lab.v1.Lab/Plain takes one request message" in details


def test_two_messages_where_one_is_due_are_internal(world):
    code, details = status(exchange(world.port, "/lab.v1.Lab/Plain", frame(b"") + frame(b"")))

    assert code == 13
    assert "/lab.v1.Lab/Plain takes one request message" in details


def test_a_message_that_ends_early_is_internal(world):
    code, _ = status(exchange(world.port, "/lab.v1.Lab/Plain", b"\0\0\0\0\x09half"))

    assert code == 13


def test_an_unknown_compression_is_unimplemented(world):
    code, details = status(exchange(world.port, "/lab.v1.Lab/Plain", frame(b""), (b"grpc-encoding", b"snappy")))

    assert code == 12
    assert "snappy" in details


def test_an_upload_with_a_bad_message_is_an_invalid_argument(world, client):
    good = frame(client.note("x", 1).SerializeToString())

    code, details = status(exchange(world.port, "/lab.v1.Lab/Total", good + frame(b"\xff\xff\xff")))

    assert code == 3
    assert "probe.v1.Note" in details


# --- headers ---------------------------------------------------------------------------------------------------------


def test_a_malformed_timeout_is_refused(world):
    code, details = status(exchange(world.port, "/lab.v1.Lab/Plain", frame(b""), (b"grpc-timeout", b"soon")))

    assert code == 13
    assert "'soon'" in details


def test_too_much_metadata_is_refused_with_both_sizes(world):
    code, details = status(exchange(world.port, "/lab.v1.Lab/Plain", frame(b""), (b"heavy", b"x" * 17_000)))

    assert code == 8
    assert "16384" in details


def test_the_private_paths_of_replicas_are_closed_to_clients(world):
    for path in ("/swerve.control.v1.Handle/Call", "/swerve.control.v1.Replica/Stop"):
        code, _ = status(exchange(world.port, path, frame(b"")))
        assert code == 12


def test_a_client_cannot_forge_the_proxy_s_fields(world, client):
    raw = raw_call(
        world.port,
        "/lab.v1.Lab/Describe",
        b"",
        [LAB, (b"swerve-peer", b"ipv4:6.6.6.6:6"), (b"swerve-method", b"Events")],
    )

    said = json.loads(client.pb.Note.FromString(raw.body[5:]).text)
    assert "6.6.6.6" not in said["peer"]


def test_a_request_that_is_no_grpc_is_told_so(world):
    async def run() -> Raw:
        from e2e_support import _RawStream

        connection = await open_raw(world.port)
        stream = _RawStream(asyncio.get_running_loop())
        stream.connection = connection
        headers = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/lab.v1.Lab/Plain"),
            (b":authority", b"x"),
            (b"content-type", b"text/plain"),
        )
        stream.stream_id = connection.open_stream(headers, stream, end_stream=True)
        async with asyncio.timeout(10):
            await stream.closed
        connection.close()
        return stream.raw

    assert dict(asyncio.run(run()).headers)[b":status"] == b"415"


# --- connections -----------------------------------------------------------------------------------------------------


def closed_by_server(sock: socket.socket, timeout_s: float = 20) -> bytes:
    """What the server sent before it closed the connection."""
    sock.settimeout(timeout_s)
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            received += chunk
    return received


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 4096, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" * 50]
)
def test_garbage_on_the_port_closes_the_connection(world, garbage):
    with socket.create_connection(("localhost", world.port)) as sock:
        sock.sendall(garbage)
        closed_by_server(sock)


def test_garbage_after_the_preface_closes_the_connection(world):
    with socket.create_connection(("localhost", world.port)) as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000)
        closed_by_server(sock)


def test_a_connection_that_sends_nothing_is_closed(tuned):
    with socket.create_connection(("localhost", tuned.port)) as sock:
        closed_by_server(sock)


def test_a_client_with_too_many_connections_loses_the_rest_and_others_do_not_notice(tuned):
    """20 of one client at each of the two proxies."""
    with contextlib.ExitStack() as stack:
        greedy = []
        for _ in range(60):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", tuned.port), 20, ("127.0.0.9", 0)))
            with contextlib.suppress(OSError):
                sock.sendall(GREETING)
            sock.setblocking(False)
            greedy.append(sock)
        wait_for(lambda: sum(map(is_hung_up, greedy)) >= 20)
        assert tuned.client.ask("__call__", "you").text == "Hello you"


GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"


def is_hung_up(sock: socket.socket) -> bool:
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def test_a_client_that_does_not_read_does_not_hold_up_others(world, client):
    """It asks for a large response, gives no window, and stays."""

    async def run() -> None:
        connection = await open_raw(world.port)

        class Greedy:
            def on_headers(self, headers, end_stream): ...

            def on_data(self, data, end_stream): ...  # no credit, ever

            def on_trailers(self, headers): ...

            def on_closed(self, error_code): ...

        message = client.note("greedy", 1000, b"x" * 100_000).SerializeToString()
        from e2e_support import raw_headers

        for _ in range(3):
            stream_id = connection.open_stream(raw_headers("/lab.v1.Lab/AsyncGenerator", (LAB,)), Greedy())
            connection.send_data(stream_id, frame(message), end_stream=True)
        await asyncio.to_thread(wait_for, lambda: client.events("started greedy"))
        progress = await asyncio.to_thread(_settled_count, client)
        assert await asyncio.to_thread(lambda: client.ask("__call__", "me").text) == "Hello me"
        # The windows on the way hold some; the 300 MB that were asked for are not made.
        assert progress < 300
        connection.close()

    asyncio.run(run())
    wait_for(lambda: len(client.events("closed greedy")) == 3)


def _settled_count(client) -> int:
    import time

    last, seen_at = -1, time.monotonic()
    while time.monotonic() - seen_at < 0.5:
        now = len([event for event in client.events("greedy") if event.startswith("yielded")])
        if now != last:
            last, seen_at = now, time.monotonic()
        time.sleep(0.05)
    return last
