"""What waits, beside the HTTP/2 engine, for bytes of a connection's streams to be written.

The engine sends one stream's body before the next, so at most about a chunk of each may be inside it; the rest is held
here. So is whom it concerns when bytes have left: who gets credit for them, and who wants to know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container

from swerve.net.credit import Owed
from swerve.net.streams import Headers
from swerve.wire.http2 import Http2, StreamGone

# Bytes per write.
WRITE_SIZE = 256 * 1024
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


class Backlog:
    """All that waits, by stream. `Connection` adds to it and has it settled after each write."""

    __slots__ = ("_http2", "_interleaved", "callbacks", "held", "owed")

    def __init__(self, http2: Http2, interleaved: Container[int]) -> None:
        """`interleaved`: the streams whose bodies the engine is to send in turns with others once they are held."""
        self._http2 = http2
        self._interleaved = interleaved
        self.held: dict[int, HeldBody] = {}
        self.owed = Owed()
        self.callbacks: dict[int, list[Callable[[], None]]] = {}

    @property
    def empty(self) -> bool:
        return not (self.held or self.owed or self.callbacks)

    def has_share(self, stream_id: int) -> bool:
        """True when the engine has a chunk of the stream, and a write's worth of bodies."""
        queued = self._http2.queued_body_size
        return queued(stream_id) > CHUNK and queued() > WRITE_SIZE

    def hold(self, stream_id: int) -> HeldBody:
        """From now on the stream's body waits here."""
        held = self.held[stream_id] = HeldBody()
        if stream_id in self._interleaved:
            self._http2.interleave(stream_id)
        return held

    def settle(self, *, paused: bool) -> bool:
        """Credit what has left, refill streams that were held back. True when there may be something to write again."""
        more = False
        if self.owed:
            everything_left = not self.held and self._http2.queued_body_size() == 0
            self.owed.pay(None if everything_left else self._waits)
        # Before refilling: an end that is moved now has not been written, and a reset would overtake it. While the
        # transport is paused trailers may wait in the engine, which counts only bodies.
        if self.callbacks and not paused:
            for stream_id in [sid for sid in self.callbacks if not self._waits(sid)]:
                more = True
                for callback in self.callbacks.pop(stream_id, ()):
                    callback()
        if self.held and not paused:
            # A write's worth for all together, so that a stream that is alone needs no more writes than it must.
            share = max(CHUNK, WRITE_SIZE // len(self.held))
            for stream_id, held in list(self.held.items()):
                more |= held.move(self._http2, stream_id, share)
                if not held.parts:
                    del self.held[stream_id]
        return more

    def drop(self) -> None:
        """Nothing will be written any more: what is held is lost, and who waited for it is called."""
        self.held.clear()
        waiting = list(self.callbacks.values())
        self.callbacks.clear()
        for callbacks in waiting:
            for callback in callbacks:
                callback()

    def _waits(self, stream_id: int) -> bool:
        """Whether bytes of the stream have not left yet."""
        held = self.held.get(stream_id)
        # One without parts is there for what may follow.
        if held is not None and held.parts:
            return True
        try:
            return self._http2.queued_body_size(stream_id) > 0
        except StreamGone:
            return False
