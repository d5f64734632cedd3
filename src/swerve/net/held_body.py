"""The part of a stream's body that waits outside the HTTP/2 engine.

The engine sends one stream's body before the next, so at most about a chunk of each may be inside it.
"""

from __future__ import annotations

from collections import deque

from swerve.wire.http2 import Http2, StreamGone

Headers = tuple[tuple[bytes, bytes], ...]

# Bytes of one stream's body that wait in the engine at a time, when others wait as well.
CHUNK = 64 * 1024


class HeldBody:
    """Body parts, and what ends the body (trailers, or None for a bare end), that wait behind a full chunk."""

    __slots__ = ("parts", "size")

    def __init__(self) -> None:
        self.parts: deque[bytes | memoryview | Headers | None] = deque()
        self.size = 0

    def add(self, data: bytes | memoryview) -> None:
        """Hold `data` back, in pieces of a chunk."""
        self.size += len(data)
        if len(data) <= CHUNK:
            self.parts.append(data)
        else:
            view = memoryview(data)
            self.parts.extend(view[start : start + CHUNK] for start in range(0, len(view), CHUNK))

    def move(self, http2: Http2, stream_id: int, amount: int) -> bool:
        """Move about `amount` bytes into the engine, when it has written the last ones. False when it has not."""
        moved = 0
        try:
            if http2.queued_body_size(stream_id):
                return False
            while self.parts and moved < amount:
                part = self.parts.popleft()
                if part is None:
                    http2.end_stream(stream_id)
                elif isinstance(part, tuple):
                    http2.send_trailers(stream_id, part)
                else:
                    http2.send_data(stream_id, part)
                    moved += len(part)
        except StreamGone:
            self.parts.clear()
        self.size -= moved
        return True
