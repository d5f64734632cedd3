"""A TCP port whose connections do TLS's handshake first.

asyncio's own servers say nothing of handshakes that are under way or have failed. Here they count against the limit of
connections, so that clients which connect and say nothing cannot use up the process's file descriptors.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable

from swerve.net.accepting import Door
from swerve.net.address import client_of, peer_name
from swerve.net.connection import Connection

logger = logging.getLogger("swerve.net")

# Where the listener sets none. asyncio's default is 60 s, which is long for something that takes two round trips.
_DEFAULT_TIMEOUT_S = 10.0
# Clients without end can fail; the log gets one line of them in this time.
_REPORT_INTERVAL_S = 1.0


class TlsPort:
    """Accepts connections of one listening socket, which it owns, until it is closed."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], Connection],
        *,
        has_room: Callable[[str], bool],
        timeout_s: float | None,
    ) -> None:
        # The handshakes, and how many each client has.
        self.under_way: dict[asyncio.Task[None], str] = {}
        self.per_client: Counter[str] = Counter()
        self._context = context
        self._make = make
        self._has_room = has_room
        self._timeout_s = _DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        # When a failure was last reported, and how many have not been since.
        self._reported_at = -_REPORT_INTERVAL_S
        self._unreported = 0
        self._loop = asyncio.get_running_loop()
        self._door = Door(sock, self._begin)

    def _begin(self, sock: socket.socket, address: object) -> None:
        peer = peer_name(address)
        client = client_of(peer)
        if not self._has_room(client):
            sock.close()
            return
        task = self._loop.create_task(self._shake_hands(sock, peer))
        self.under_way[task] = client
        self.per_client[client] += 1
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        client = self.under_way.pop(task)
        self.per_client[client] -= 1
        if not self.per_client[client]:
            del self.per_client[client]

    async def _shake_hands(self, sock: socket.socket, peer: str) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make, sock, ssl=self._context, ssl_handshake_timeout=self._timeout_s
            )
        except OSError as error:
            self._report(peer, error)

    def _report(self, peer: str, error: OSError) -> None:
        now = self._loop.time()
        if now - self._reported_at < _REPORT_INTERVAL_S:
            self._unreported += 1
            return
        others = f" ({self._unreported} others failed since the last such line)" if self._unreported else ""
        logger.info("The TLS handshake with %s failed: %s%s", peer, error, others)
        self._reported_at, self._unreported = now, 0

    def stop_accepting(self) -> None:
        """Take no more connections. Handshakes that are under way go on."""
        self._door.close()

    def give_up(self) -> None:
        """End the handshakes that are under way."""
        for task in self.under_way:
            task.cancel()
