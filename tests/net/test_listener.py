"""Listening sockets."""

import socket

import pytest
import uvloop

from swerve.net.address import client_of
from swerve.net.listener import ListenOptions, bind_tcp, listen


def test_the_system_asks_silent_peers_whether_they_are_there():
    (listening,) = bind_tcp("127.0.0.1", 0, share=False)
    with listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            interval = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
            assert interval * accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 20


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:10.0.0.1:5000", "10.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "0000:0000:0000:0000"),
        ("ipv6:%5B2001:db8:1:2:3::4%5D:5000", "2001:0db8:0001:0002"),
        ("ipv6:%5Bfe80::1%eth0%5D:5000", "fe80:0000:0000:0000"),
        ("unix:", ""),
    ],
)
def test_a_client_is_an_address_or_the_network_that_it_has_for_itself(peer, client):
    assert client_of(peer) == client


@pytest.mark.parametrize("linger", [False, True])
def test_who_has_connected_when_a_listener_closes_is_served(linger):
    async def scenario():
        listener = listen("127.0.0.1:0", lambda *_: None, ListenOptions())
        address = listener._doors[0].socket.getsockname()
        with socket.create_connection(address, timeout=5) as client:
            # The system has accepted it, and the event loop has not looked since.
            await listener.close(5.0, linger=linger)
            assert client.recv(9)

    uvloop.run(scenario())
