"""The part of a stream's body that waits outside the HTTP/2 engine.

The engine sends one stream's body before the next, so at most about a chunk of each may be inside it.
"""

from __future__ import annotations

from collections import deque

Headers = tuple[tuple[bytes, bytes], ...]

# Bytes of one stream's body that wait in the engine at a time.
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
