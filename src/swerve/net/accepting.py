"""A listening socket whose connections are taken many at a time.

asyncio's servers, as uvloop has them, take one in a turn of the event loop. Where there is much to do turns are long,
and the last of a thousand clients that connect together would not be heard for seconds.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

logger = logging.getLogger("swerve.net")

BACKLOG = 1024
# Connections that are taken in one turn: not so many that the calls of others wait for milliseconds.
_MOST_A_TURN = 32
# When the process or the system has no more files or memory, connections wait in the backlog this long (as in asyncio).
_RETRY_S = 1.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Door:
    """Listens on a bound socket, which it owns, and hands what it accepts to `take`, with the peer's address."""

    def __init__(self, sock: socket.socket, take: Callable[[socket.socket, object], None]) -> None:
        sock.listen(BACKLOG)
        sock.setblocking(False)
        self.socket = sock
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._open()

    def _open(self) -> None:
        self._retry = None
        self._loop.add_reader(self.socket, self.accept, _MOST_A_TURN)

    def accept(self, most: int = BACKLOG) -> None:
        """Take connections that wait, up to so many."""
        for _ in range(most):
            try:
                sock, address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Others are errors of the connection that would have been accepted (accept(2)).
                if error.errno not in _EXHAUSTED:
                    continue
                logger.warning("No connection can be accepted for %s s: %s", _RETRY_S, error.strerror)
                self._shut()
                self._retry = self._loop.call_later(_RETRY_S, self._open)
                return
            sock.setblocking(False)
            self._take(sock, address)

    def _shut(self) -> None:
        self._loop.remove_reader(self.socket)
        if self._retry is not None:
            self._retry.cancel()

    def close(self) -> None:
        """Listen no more. The system resets connections that wait."""
        if self.socket.fileno() >= 0:
            self._shut()
            self.socket.close()
