"""The view's publication: each watcher gets the newest snapshot; those that came between are skipped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable

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
        # The newest version that each proxy is known to route by.
        self._seen: dict[str, int] = {}
        self._acknowledged = asyncio.Event()

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

    def saw(self, proxy_id: str, version: int) -> None:
        """A proxy routes by this version."""
        self._seen[proxy_id] = version
        self._acknowledged.set()
        self._acknowledged = asyncio.Event()

    async def until_seen(self, proxy_ids: Callable[[], Iterable[str]], timeout_s: float) -> None:
        """Wait until all proxies route by the newest view, or `timeout_s` seconds."""
        version = self._version
        try:
            async with asyncio.timeout(timeout_s):
                while any(self._seen.get(proxy_id, 0) < version for proxy_id in proxy_ids()):
                    await self._acknowledged.wait()
        except TimeoutError:
            pass  # a proxy that hangs holds up nobody
        known = set(proxy_ids())
        self._seen = {proxy_id: seen for proxy_id, seen in self._seen.items() if proxy_id in known}

    async def watch(self) -> AsyncIterator[bytes]:
        """The newest view, and each newer one, serialized."""
        seen = 0
        while not self._closed:
            if self._message and seen != self._version:
                seen = self._version
                yield self._message
            else:
                await self._changed.wait()
