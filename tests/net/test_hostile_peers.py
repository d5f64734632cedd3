"""Peers that mean harm, or speak another protocol. Whatever they do, others are served and memory stays bounded."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator

import grpc
import pytest
from grpc_lab import Lab, lab

from swerve.net.limits import ConnectionLimits
from swerve.net.listener import ListenOptions
from swerve.net.server import ServerStream
from swerve.wire.limits import Http2Limits
from tests.conftest import wait_for
from tests.net.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    SETTINGS,
    block,
    field,
    frame,
    integer,
    message,
    reset,
    settings_of,
    window_update,
)

TIMEOUT_S = 20
MIB = 1 << 20
# More than what sockets, one connection's streams and the allocator's habits take; much less than what is thrown at it.
MEMORY_BOUND = 96 * MIB


class Peer:
    """A raw connection, from the address `source`."""

    def __init__(
        self, running: Lab, *, settings: bytes = b"", receive_buffer: int | None = None, source: str = "127.0.0.1"
    ) -> None:
        self.socket = socket.socket()
        self.socket.bind((source, 0))
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(("127.0.0.1", running.port))
        self.settings = settings

    def greet(self) -> None:
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, self.settings))

    def send(self, data: bytes) -> bool:
        """False when the server has hung up, or takes no more."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def flood(self, data: bytes, rounds: int, seconds: float = TIMEOUT_S) -> bool:
        """Send `data` again and again, reading nothing. True when the server hung up."""
        deadline = time.monotonic() + seconds
        return any(not self.send(data) or time.monotonic() > deadline for _ in range(rounds))

    def hung_up(self) -> bool:
        """Read until the server hangs up."""
        try:
            while self.socket.recv(MIB):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made: list[Peer] = []
    yield made
    for peer in made:
        peer.socket.close()


async def endless(request, metadata):
    while True:
        endless.made += 1
        yield bytes(MIB)


endless.made = 0


@pytest.fixture
def server():
    endless.made = 0
    options = ListenOptions(
        limits=Http2Limits(max_concurrent_streams=100, stream_window=256 * 1024),
        connection_limits=ConnectionLimits(handshake_timeout_s=0.5),
        max_connections=60,
    )
    with lab(options, {"/t/Endless": ServerStream(endless)}) as running:
        yield running


@pytest.fixture
def bystander(server):
    """An honest client, which must be served whatever happens; it connects before the trouble begins."""
    with grpc.insecure_channel(server.address) as channel:
        echo = channel.unary_unary("/t/Echo")
        assert echo(b"before", timeout=TIMEOUT_S) == b"before"

        def check():
            assert echo(b"still", timeout=TIMEOUT_S) == b"still"

        yield check


@pytest.fixture
def bounded_memory():
    def resident() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    yield
    assert resident() - before < MEMORY_BOUND


pytestmark = pytest.mark.usefixtures("bounded_memory")


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 1000,
        PREFACE + b"\xff" * 1000,
        PREFACE + frame(DATA, 0, 0, b"x"),
        PREFACE + frame(SETTINGS, 0, 0, b"x"),
        PREFACE + settings_of() + frame(HEADERS, END_HEADERS, 2, block(b"/t/Echo")),
        PREFACE + settings_of() + window_update(0, 0),
        PREFACE + settings_of() + frame(HEADERS, END_HEADERS, 1, b"\xff" * 50),
    ],
    ids=[
        "http1",
        "tls",
        "zeros",
        "bad frame",
        "data first",
        "bad settings",
        "even stream",
        "no increment",
        "bad hpack",
    ],
)
def test_a_peer_that_does_not_speak_http2_is_hung_up_on(server, bystander, peers, garbage):
    peer = Peer(server)
    peers.append(peer)
    peer.send(garbage)
    assert peer.hung_up()
    bystander()


def test_a_peer_is_told_why_it_is_hung_up_on_whatever_else_it_has_sent(server, bystander, peers):
    """What is not read any more must not have the socket thrown away with the GOAWAY in it."""
    peer = Peer(server)
    peers.append(peer)
    peer.greet()
    peer.send(frame(PING, 0, 0, b"short") + bytes(MIB))
    received = b""
    with contextlib.suppress(OSError):
        while data := peer.socket.recv(MIB):
            received += data
    assert b"a frame of kind 6 has 5 bytes" in received
    bystander()


@pytest.mark.parametrize("said", [b"", PREFACE[:10], PREFACE, PREFACE + frame(SETTINGS, 0, 0, b"\0" * 6)[:8]])
def test_a_peer_that_does_not_finish_its_greeting_is_hung_up_on(server, bystander, peers, said):
    peer = Peer(server)
    peers.append(peer)
    peer.send(said)
    assert peer.hung_up()
    bystander()


def test_a_peer_that_greeted_may_be_idle(server, peers):
    peer = Peer(server)
    peers.append(peer)
    peer.greet()
    peer.socket.settimeout(1.0)
    assert not peer.hung_up()


def test_connections_over_the_limit_are_hung_up_on_and_those_that_are_served_stay(server, bystander, peers):
    for _ in range(100):
        peers.append(Peer(server))
        peers[-1].greet()
    bystander()
    assert server.run(server.count())[0] == 60
    assert peers[-1].hung_up()
    for peer in peers:
        peer.socket.close()
    wait_for(lambda: server.run(server.count())[0] == 1)


def test_one_client_cannot_take_the_connections_of_others(peers):
    with lab(ListenOptions(max_connections=60, max_connections_per_client=10)) as server:
        for _ in range(20):
            peers.append(Peer(server, source="127.0.0.2"))
            peers[-1].greet()
        wait_for(lambda: server.run(server.count())[0] == 10)
        assert peers[-1].hung_up()
        other = Peer(server, source="127.0.0.3")
        peers.append(other)
        other.greet()
        wait_for(lambda: server.run(server.count())[0] == 11)
        peers[0].socket.close()
        wait_for(lambda: server.run(server.count())[0] == 10)
        peers.append(Peer(server, source="127.0.0.2"))
        wait_for(lambda: server.run(server.count())[0] == 11)


@pytest.mark.parametrize("reads", [True, False], ids=["read", "not read"])
@pytest.mark.parametrize(
    "unit",
    [
        frame(PING, 0, 0, b"12345678"),
        settings_of(),
        settings_of({4: 65535}),
    ],
    ids=["ping", "empty settings", "settings"],
)
def test_a_flood_of_control_frames_ends_its_connection(server, bystander, peers, unit, reads):
    peer = Peer(server, receive_buffer=4096)
    peers.append(peer)
    peer.greet()
    for _ in range(200):
        if not peer.send(unit * 1000):
            break
        if reads:
            peer.socket.setblocking(False)
            with contextlib.suppress(OSError):
                while peer.socket.recv(MIB):
                    pass
            peer.socket.settimeout(TIMEOUT_S)
    bystander()
    wait_for(lambda: server.run(server.count())[0] == 1, what="the end of the flooding connection")


def test_a_flood_of_resets_ends_its_connection(server, bystander, peers):
    """HEADERS and RST_STREAM, again and again: each makes the server begin a call."""
    peer = Peer(server)
    peers.append(peer)
    peer.greet()
    headers = block(b"/t/Hang")
    for start in range(1, 1_000_000, 2000):
        burst = b"".join(
            frame(HEADERS, END_HEADERS | END_STREAM, sid, headers) + reset(sid) for sid in range(start, start + 2000, 2)
        )
        if not peer.send(burst):
            break
    else:
        pytest.fail("half a million resets were taken")
    server.hanging.clear()
    bystander()
    wait_for(lambda: server.run(server.count()) == (1, 0))


@pytest.mark.parametrize("kind", ["long value", "many fields", "hpack bomb", "endless continuation"])
def test_a_header_bomb_ends_its_connection(server, bystander, peers, kind):
    peer = Peer(server)
    peers.append(peer)
    peer.greet()
    start = block(b"/t/Echo")
    match kind:
        case "long value":
            payload = start + field(b"a", b"x" * 400_000)
        case "many fields":
            payload = start + field(b"a", b"") * 20_000
        case "hpack bomb":
            # One long field in the dynamic table, then a byte for each copy (index 62).
            payload = start + b"\x40" + integer(1) + b"a" + integer(3000) + b"x" * 3000 + b"\xbe" * 10_000
        case _:
            payload = start + field(b"a", b"x") * 100_000
    parts = [payload[at : at + 16_000] for at in range(0, len(payload), 16_000)]
    peer.send(frame(HEADERS, 0, 1, parts[0]))
    for part in parts[1:-1]:
        peer.send(frame(CONTINUATION, 0, 1, part))
    if kind != "endless continuation":
        peer.send(frame(CONTINUATION, END_HEADERS, 1, parts[-1]))
    assert peer.hung_up()
    bystander()


def test_streams_over_the_limit_are_refused_and_the_connection_goes_on(server, bystander, peers):
    peer = Peer(server)
    peers.append(peer)
    peer.greet()
    headers = block(b"/t/Hang")
    for start in range(1, 4000, 200):
        burst = b"".join(frame(HEADERS, END_HEADERS | END_STREAM, sid, headers) for sid in range(start, start + 200, 2))
        peer.send(burst)
    wait_for(lambda: server.run(server.count())[1] >= 100)
    bystander()
    assert server.run(server.count())[1] <= 101
    server.hanging.clear()


def test_refusals_that_nobody_reads_do_not_pile_up(server, bystander, peers):
    peer = Peer(server, receive_buffer=4096)
    peers.append(peer)
    peer.greet()
    headers = block(b"/t/Hang")
    peer.socket.settimeout(3)
    for start in range(1, 2_000_000, 2000):
        if not peer.send(
            b"".join(frame(HEADERS, END_HEADERS | END_STREAM, sid, headers) for sid in range(start, start + 2000, 2))
        ):
            break
    bystander()
    server.hanging.clear()


@pytest.mark.parametrize(
    "unit",
    [
        window_update(0, 1),
        frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 16)),
        frame(0xFA, 0, 0, b"unknown"),
    ],
    ids=["window update", "priority", "unknown kind"],
)
def test_a_flood_of_frames_that_ask_for_nothing_stops_nobody(server, bystander, peers, unit):
    peer = Peer(server)
    peers.append(peer)
    peer.greet()
    for _ in range(20):
        if not peer.send(unit * 5000):
            break
        bystander()


def test_tiny_data_frames_end_their_connection(server, bystander, peers):
    peer = Peer(server)
    peers.append(peer)
    peer.greet()
    peer.send(frame(HEADERS, END_HEADERS, 1, block(b"/t/Collect")) + frame(DATA, 0, 1, message(20 * MIB)))
    peer.flood(frame(DATA, 0, 1, b"x") * 2000, 100)
    assert peer.hung_up()
    bystander()


def test_empty_data_frames_end_their_connection(server, bystander, peers):
    peer = Peer(server)
    peers.append(peer)
    peer.greet()
    peer.send(frame(HEADERS, END_HEADERS, 1, block(b"/t/Collect")))
    peer.flood(frame(DATA, 0, 1) * 5000, 100)
    assert peer.hung_up()
    bystander()


def test_a_client_that_never_reads_stops_the_streams_that_it_asked_for(server, bystander, peers):
    # It grants windows of a gigabyte and then leaves the socket full.
    peer = Peer(server, settings=struct.pack(">HI", 4, 1 << 30), receive_buffer=4096)
    peers.append(peer)
    peer.greet()
    peer.send(window_update(0, 1 << 30))
    for sid in range(1, 41, 2):
        peer.send(frame(HEADERS, END_HEADERS, sid, block(b"/t/Endless")) + frame(DATA, END_STREAM, sid, message(0)))
    before = -1
    while before != endless.made:
        before = endless.made
        time.sleep(0.2)
        bystander()
    assert endless.made < 100


def test_a_client_that_grants_no_window_costs_one_message_a_stream(server, bystander, peers):
    peer = Peer(server, settings=struct.pack(">HI", 4, 0))
    peers.append(peer)
    peer.greet()
    for sid in range(1, 41, 2):
        peer.send(frame(HEADERS, END_HEADERS, sid, block(b"/t/Endless")) + frame(DATA, END_STREAM, sid, message(0)))
    wait_for(lambda: endless.made >= 20)
    bystander()
    assert endless.made <= 40


def test_slow_uploads_wait_without_harm(server, bystander, peers):
    for _ in range(40):
        peer = Peer(server)
        peers.append(peer)
        peer.greet()
        peer.send(frame(HEADERS, END_HEADERS, 1, block(b"/t/Collect")) + frame(DATA, 0, 1, message(MIB)))
    for _ in range(20):
        for peer in peers:
            assert peer.send(frame(DATA, 0, 1, bytes(10)))
        bystander()


def test_an_upload_over_the_limit_is_answered_at_its_prefix(server, bystander, peers):
    peer = Peer(server)
    peers.append(peer)
    peer.greet()
    peer.send(frame(HEADERS, END_HEADERS, 1, block(b"/t/Collect")) + frame(DATA, 0, 1, message(1 << 31)))
    wait_for(lambda: server.run(server.count())[1] == 0)
    bystander()


def test_peers_that_come_and_go_leave_nothing(server, bystander, peers):
    for _ in range(500):
        peer = Peer(server)
        peer.greet()
        peer.send(frame(HEADERS, END_HEADERS, 1, block(b"/t/Hang")))
        peer.socket.close()
    bystander()
    wait_for(lambda: server.run(server.count()) == (1, 0))
