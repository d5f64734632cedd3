"""Listening sockets."""

import socket

from swerve.net.listener import bind_tcp


def test_the_system_asks_silent_peers_whether_they_are_there():
    (listening,) = bind_tcp("127.0.0.1", 0, share=False)
    with listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            interval = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
            assert interval * accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 20
