"""The view's publication: each watcher gets the newest snapshot; those that came between are skipped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from swerve.generated import control_pb2 as pb


class Publisher:
    """Holds the newest view."""

    def __init__(self) -> None:
        # Above the versions of an earlier controller.
        self._version = time.time_ns()
        self._content = b""
        self._message = b""
        self._changed = asyncio.Event()
        self._closed = False

    def publish(self, view: pb.View) -> None:
        """Make `view` the newest unless it is what the newest says already. Its version is set here."""
        content = view.SerializeToString(deterministic=True)
        if content == self._content:
            return
        self._content = content
        self._version += 1
        view.version = self._version
        self._message = view.SerializeToString()
        self._wake()

    def close(self) -> None:
        """End all watches."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch(self) -> AsyncIterator[bytes]:
        """The newest view, and each newer one, serialized."""
        seen = 0
        while not self._closed:
            if self._message and seen != self._version:
                seen = self._version
                yield self._message
            else:
                await self._changed.wait()
