"""How much of what is written may wait in a transport, and in the system's socket below it."""

from __future__ import annotations

import asyncio
import socket

from swerve.net.backlog import WRITE_SIZE


def size_buffers(transport: asyncio.Transport) -> None:
    """Let two writes wait in the transport before it asks to pause, and as much in a unix socket.

    By default a unix socket takes less than one write (208 KiB; socket(7), "wmem_default"): the rest of each would wait
    for a wake-up of both processes. A TCP socket grows by itself.
    """
    transport.set_write_buffer_limits(high=2 * WRITE_SIZE)
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * WRITE_SIZE)
