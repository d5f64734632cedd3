"""Whom it concerns when bytes of a connection's streams have left: who gets credit for them, and who wants to know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from swerve.net.credit import Owed
from swerve.wire.http2 import Http2

logger = logging.getLogger("swerve.net")

# Bytes per write.
WRITE_SIZE = 256 * 1024
# Answers per write: a client with ten calls in flight should get all in one.
ANSWERS_PER_WRITE = 16


class Backlog:
    """`Connection` adds to it and has it settled after each write."""

    __slots__ = ("_http2", "callbacks", "owed")

    def __init__(self, http2: Http2) -> None:
        self._http2 = http2
        self.owed = Owed()
        self.callbacks: dict[int, list[Callable[[], None]]] = {}

    @property
    def empty(self) -> bool:
        return not (self.owed or self.callbacks)

    def settle(self) -> bool:
        """Credit and call for what has left. True when there may be something to write again."""
        queued = self._http2.queued_body_size
        if self.owed:
            self.owed.pay(queued if queued() else None)
        written = [stream_id for stream_id in self.callbacks if not queued(stream_id)]
        for stream_id in written:
            _call_all(self.callbacks.pop(stream_id, ()))
        return bool(written)

    def drop(self) -> None:
        """Nothing will be written any more: who waited for it is called."""
        waiting = list(self.callbacks.values())
        self.callbacks.clear()
        for callbacks in waiting:
            _call_all(callbacks)


def _call_all(callbacks: Iterable[Callable[[], None]]) -> None:
    for callback in callbacks:
        try:
            callback()
        except Exception:
            # One call's failure must not keep the others waiting.
            logger.exception("Telling a call that its body has left failed")
