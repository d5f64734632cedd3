"""What an HTTP/2 connection has to send: frames in order, and bodies that wait for credit (RFC 9113, section 5.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from swerve.wire.frames import DATA, DEFAULT_FRAME_SIZE, DEFAULT_WINDOW, END_STREAM, HEAD_SIZE, head, headers_frames
from swerve.wire.metadata import Headers

# How a stream stands.
LOCAL_DONE = 0x1  # this side has ended it
REMOTE_DONE = 0x2  # the peer has
ANSWERED = 0x4  # the response's headers have been sent (server role), or have come (client role)
ENDING = 0x8  # all that this side has to say is said, though perhaps not sent
OVER = LOCAL_DONE | REMOTE_DONE


# Parts of a body that are smaller than this on average are joined before frames are cut from them.
_SMALL = 1024


class Body:
    """What waits of one stream's body, some bytes at least, and what ends it: trailers, or None for a bare end."""

    __slots__ = ("ends", "parts", "size", "trailers")

    def __init__(self) -> None:
        self.parts: deque[bytes | memoryview] = deque()
        self.size = 0
        self.ends = False
        self.trailers: Headers | None = None

    def cut(self, amount: int) -> list[bytes | memoryview]:
        """The first `amount` bytes, which are not all."""
        parts = self.parts
        if self.size < len(parts) * _SMALL:
            parts = self.parts = deque((b"".join(parts),))
        pieces = []
        while amount:
            part = parts.popleft()
            if len(part) > amount:
                # A view: what is left of a large part is not copied for each frame.
                view = memoryview(part)
                parts.appendleft(view[amount:])
                part = view[:amount]
            pieces.append(part)
            amount -= len(part)
        return pieces


class Stream:
    """One stream of a connection. `window` is how much may be sent, `room` how much may still come."""

    __slots__ = ("body", "consumed", "expected", "id", "room", "state", "told_at", "window")

    def __init__(
        self, stream_id: int, window: int, room: int, state: int = 0, told_at: int = -1, expected: int = -1
    ) -> None:
        self.id = stream_id
        self.window = window
        self.room = room
        self.state = state
        # Which of the events that wait to be taken told of its beginning.
        self.told_at = told_at
        # Bytes of the peer's body that are still to come; negative where it has not said.
        self.expected = expected
        # Bytes that were consumed here, and that the peer has not been given credit for.
        self.consumed = 0
        self.body: Body | None = None

    def misses(self, size: int, ends: bool) -> bool:
        """Whether `size` more bytes are more than the peer said its body has, or the last ones and too few."""
        return 0 <= self.expected != size and (ends or size > self.expected)


class Outbox:
    """Frames go out in the order in which they were put here. Bodies follow, those of several streams in turns, a frame
    each; what ends a body follows it."""

    __slots__ = ("_encode", "_ready", "finished", "frame_size", "frames", "queued", "window")

    def __init__(self, encode: Callable[[Headers], bytes]) -> None:
        """`encode` makes a block of headers. It is called in the order in which the blocks go out, as HPACK asks."""
        self._encode = encode
        self.frames: list[bytes | memoryview] = []
        # Bytes of bodies that may be sent, by the connection's credit, and in one frame.
        self.window = DEFAULT_WINDOW
        self.frame_size = DEFAULT_FRAME_SIZE
        # Bytes of bodies that wait.
        self.queued = 0
        # Streams that have been ended, since somebody looked.
        self.finished: list[Stream] = []
        # Those that wait for their turn, and for credit of the connection at most.
        self._ready: dict[int, Stream] = {}

    @property
    def empty(self) -> bool:
        """Whether there is nothing that could be sent now."""
        return not self.frames and (not self._ready or self.window <= 0)

    def add(self, stream: Stream, data: bytes | memoryview) -> None:
        """Send `data`, which is not empty, after what was added before."""
        body = stream.body
        if body is None:
            body = stream.body = Body()
        body.parts.append(data)
        body.size += len(data)
        self.queued += len(data)
        if stream.window > 0:
            self._ready[stream.id] = stream

    def end(self, stream: Stream, trailers: Headers | None) -> None:
        """End the stream after what was added, with trailers or without."""
        stream.state |= ENDING
        body = stream.body
        if body is None:
            self._finish(stream, trailers)
        else:
            body.ends, body.trailers = True, trailers

    def _finish(self, stream: Stream, trailers: Headers | None) -> None:
        if trailers is None:
            self.frames.append(head(0, DATA, END_STREAM, stream.id))
        else:
            self.frames.append(headers_frames(stream.id, self._encode(trailers), True, self.frame_size))
        stream.state |= LOCAL_DONE
        self.finished.append(stream)

    def drop(self, stream: Stream) -> None:
        """Send nothing more of the stream's body."""
        self._ready.pop(stream.id, None)
        if stream.body is not None:
            self.queued -= stream.body.size
            stream.body = None

    def credit(self, stream: Stream, amount: int) -> None:
        """The peer takes `amount` bytes more of the stream; less than none when its settings changed."""
        stream.window += amount
        if stream.window <= 0:
            self._ready.pop(stream.id, None)
        elif stream.body is not None:
            self._ready[stream.id] = stream

    def take(self, limit: int) -> bytes:
        """All frames, and about `limit` bytes of bodies, as far as there is credit."""
        ready = self._ready
        while ready and self.window > 0 and limit > 0:
            stream_id = next(iter(ready))
            stream = ready.pop(stream_id)
            limit -= self._send_some(stream)
            if stream.body is not None and stream.window > 0:
                ready[stream_id] = stream
        frames = self.frames
        if not frames:
            return b""
        self.frames = []
        return b"".join(frames)

    def _send_some(self, stream: Stream) -> int:
        """Make one frame of the stream's body, and its end if nothing else is left. Returns the frame's size."""
        body, frames = stream.body, self.frames
        assert body is not None
        amount = min(body.size, stream.window, self.window, self.frame_size)
        self.queued -= amount
        self.window -= amount
        stream.window -= amount
        if amount < body.size:
            frames.append(head(amount, DATA, 0, stream.id))
            frames += body.cut(amount)
            body.size -= amount
            return HEAD_SIZE + amount
        stream.body = None
        bare_end = body.ends and body.trailers is None
        frames.append(head(amount, DATA, END_STREAM if bare_end else 0, stream.id))
        frames += body.parts
        if bare_end:
            stream.state |= LOCAL_DONE
            self.finished.append(stream)
        elif body.ends:
            self._finish(stream, body.trailers)
        return HEAD_SIZE + amount
