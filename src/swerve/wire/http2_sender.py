"""What one side of an HTTP/2 connection says: streams, their ends, and credit for the peer."""

from __future__ import annotations

import functools

from swerve.wire import events as told
from swerve.wire import frames
from swerve.wire.events import Event
from swerve.wire.frames import DATA, DEFAULT_WINDOW, ErrorCode, head, headers_frames
from swerve.wire.hpack import HeaderListTooLarge
from swerve.wire.hpack_encoder import Encoder
from swerve.wire.limits import Http2Limits
from swerve.wire.metadata import Headers, size_of
from swerve.wire.outbox import ANSWERED, ENDING, LOCAL_DONE, OVER, REMOTE_DONE, Outbox, Stream

# The connection gives credit back in steps no larger: what is not given back yet is missing from a window.
_LARGEST_CREDIT_STEP = 16 * 1024 * 1024
# A stream of which no response's headers may be sent.
_BEGUN = ANSWERED | ENDING


class Http2Error(Exception):
    """The connection is beyond repair, or takes no new streams."""


class TooManyStreams(Http2Error):
    """The peer takes no more streams at a time."""


class StreamGone(Exception):
    """The stream has ended, or this side of it."""


@functools.lru_cache(16)
def _greeting(server: bool, limits: Http2Limits) -> bytes:
    """What a connection begins with (section 3.4): the same for all of a port."""
    settings = {
        frames.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
        frames.INITIAL_WINDOW_SIZE: limits.stream_window,
        frames.MAX_FRAME_SIZE: limits.max_frame_size,
        frames.MAX_HEADER_LIST_SIZE: limits.max_header_list_size,
        frames.NO_RFC7540_PRIORITIES if server else frames.ENABLE_PUSH: 1 if server else 0,
    }
    greeting = (b"" if server else frames.PREFACE) + frames.settings(settings)
    if limits.connection_window > DEFAULT_WINDOW:
        greeting += frames.window_update(0, limits.connection_window - DEFAULT_WINDOW)
    return greeting


class Sender:
    """The sending half of an HTTP/2 connection, and the streams, which it shares with the other half."""

    __slots__ = (
        "_answers",
        "_consumed",
        "_credit_step",
        "_encode",
        "_encoder",
        "_events",
        "_events_taken",
        "_initial_window",
        "_is_server",
        "_last_id",
        "_limits",
        "_max_streams",
        "_may_open",
        "_most_streams",
        "_outbox",
        "_room",
        "_shut",
        "_stream_credit_step",
        "_stream_room",
        "_streams",
        "_unheard_room",
        "failed",
    )

    def __init__(self, *, server: bool, limits: Http2Limits) -> None:
        self.failed = False
        self._is_server = server
        self._limits = limits
        self._encoder = Encoder(limits.max_header_list_size)
        self._encode = self._encoder.encode
        self._outbox = Outbox(self._encode)
        self._streams: dict[int, Stream] = {}
        self._events: list[Event] = []
        self._events_taken = 0
        # The last stream that the client has opened, and the last that it may open.
        self._last_id = 0 if server else -1
        self._shut = frames.LARGEST
        # How many streams the peer may have open: those whose end waits to be written are open to it, and it must not
        # have this side make answers without end that it does not read.
        self._may_open = self._max_streams = limits.max_concurrent_streams if server else 0
        # Answers to the peer's frames since something was written.
        self._answers = 0
        # What may still come, on the connection and on a stream at its start (before the peer has heard of another
        # size it may send the default's worth), how much of a stream's it has no credit for once it has heard, what has
        # been consumed, and how much of it makes a WINDOW_UPDATE.
        self._room = max(limits.connection_window, DEFAULT_WINDOW)
        self._stream_room = max(limits.stream_window, DEFAULT_WINDOW)
        self._unheard_room = self._stream_room - limits.stream_window
        self._consumed = 0
        self._credit_step = max(1, min(limits.connection_window // 2, _LARGEST_CREDIT_STEP))
        self._stream_credit_step = max(1, limits.stream_window // 2)
        # How many streams the peer takes, and what may be sent on one at its start.
        self._most_streams = frames.LARGEST
        self._initial_window = DEFAULT_WINDOW
        self._outbox.frames.append(_greeting(server, limits))

    # --- what the caller asks --------------------------------------------------------------------------------------

    def events(self) -> list[Event]:
        """What has been told since this was called last."""
        events, self._events = self._events, []
        self._events_taken += len(events)
        return events

    def data_to_send(self, amount: int) -> bytes:
        """What is to be written next: all frames, and bodies until there are about `amount` bytes."""
        outbox = self._outbox
        data = outbox.take(amount)
        if outbox.finished:
            self._close_finished()
        self._answers = 0
        self._may_open = self._max_streams
        return data

    @property
    def want_write(self) -> bool:
        """Whether `data_to_send` would return something."""
        return not self._outbox.empty

    @property
    def untold(self) -> bool:
        """Whether `events` would return something."""
        return bool(self._events)

    def queued_body_size(self, stream_id: int | None = None) -> int:
        """Bytes of the stream's body that wait for credit or their turn; of all bodies without a stream."""
        if stream_id is None:
            return self._outbox.queued
        stream = self._streams.get(stream_id)
        return 0 if stream is None or stream.body is None else stream.body.size

    def queued_bodies(self) -> dict[int, tuple[int, object]]:
        """By stream, the bytes of its body that wait, and an object that is the same until all of them have left."""
        if not self._outbox.queued:
            return {}
        return {stream.id: (stream.body.size, stream.body) for stream in self._streams.values() if stream.body}

    def may_receive(self, stream_id: int) -> bool:
        """Whether the peer, which knows this side's SETTINGS, has credit on the stream."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.room > self._unheard_room

    # --- sending ---------------------------------------------------------------------------------------------------

    def send_request(self, headers: Headers, *, end_stream: bool = False) -> int:
        """Open a stream (client role). Returns its id.

        Raises:
            Http2Error: no more streams may be opened.
            TooManyStreams: none before another one ends.
        """
        stream_id = self._last_id + 2
        if self.failed or stream_id > self._shut:
            raise Http2Error("The connection takes no new streams.")
        if len(self._streams) >= self._most_streams:
            raise TooManyStreams(f"The peer takes no more than {self._most_streams} streams at a time.")
        self._last_id = stream_id
        stream = self._streams[stream_id] = Stream(stream_id, self._initial_window, self._stream_room)
        self._send_headers(stream, headers, end_stream)
        return stream_id

    def send_response(self, stream_id: int, headers: Headers, *, end_stream: bool = False) -> None:
        """Send a response's headers (server role).

        Raises:
            StreamGone: the stream has ended, or the response has begun.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.state & _BEGUN:
            raise StreamGone
        assert stream.body is None, "a response's headers come before its body"
        stream.state |= ANSWERED
        self._send_headers(stream, headers, end_stream)

    def send_data(self, stream_id: int, data: bytes | memoryview, *, end_stream: bool = False) -> None:
        """Send part of a body, when there is credit for it. `data` may not change any more.

        Raises:
            StreamGone: this side of the stream has ended.
        """
        stream = self._unended(stream_id)
        if data:
            self._outbox.add(stream, data)
        if end_stream:
            self._end(stream, None)

    def send_at_once(self, stream_id: int, data: bytes, amount: int) -> bytes:
        """`send_data`, then `data_to_send`.

        Raises:
            StreamGone: this side of the stream has ended.
        """
        stream = self._unended(stream_id)
        outbox = self._outbox
        size = len(data)
        if outbox.queued or not 0 < size <= stream.window or size > outbox.window or size > outbox.frame_size:
            self.send_data(stream_id, data)
            return self.data_to_send(amount)
        stream.window -= size
        outbox.window -= size
        frame = head(size, DATA, 0, stream_id) + data
        if not outbox.frames:
            return frame
        outbox.frames.append(frame)
        return self.data_to_send(amount)

    def send_trailers(self, stream_id: int, headers: Headers) -> None:
        """End the stream with trailers, after its body.

        Raises:
            StreamGone: this side of the stream has ended.
        """
        stream = self._unended(stream_id)
        if size_of(headers) > self._limits.max_header_list_size:
            self._break_off(stream, ErrorCode.INTERNAL_ERROR)
        else:
            self._end(stream, headers)

    def end_stream(self, stream_id: int) -> None:
        """End the stream after its body, without trailers.

        Raises:
            StreamGone: this side of the stream has ended.
        """
        self._end(self._unended(stream_id), None)

    def respond(
        self,
        stream_id: int,
        headers: Headers,
        body: bytes | None,
        trailers: Headers,
        last: tuple[bytes, bytes] | None = None,
    ) -> bool:
        """Send a whole response (server role); without a body, all in one header block. Returns whether the stream is
        over, of which nothing is told then. `last` is one trailer more, which no other response has.

        Raises:
            StreamGone: the stream has ended, or the response has begun.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.state & _BEGUN:
            raise StreamGone
        outbox = self._outbox
        size = 0 if body is None else len(body)
        if body and (size > stream.window or size > outbox.window or size > outbox.frame_size):
            # It cannot leave at once.
            self.send_response(stream_id, headers)
            self.send_data(stream_id, body)
            self.send_trailers(stream_id, trailers if last is None else (*trailers, last))
            return False
        try:
            block, end = self._encode(headers), self._encode(trailers)
            if last is not None:
                end += self._encoder.literal(last)
        except HeaderListTooLarge:
            self._break_off(stream, ErrorCode.INTERNAL_ERROR)
            return False
        outbox.window -= size
        if body is None:
            outbox.frames.append(headers_frames(stream_id, block + end, True, outbox.frame_size))
        else:
            outbox.frames.append(frames.response(stream_id, block, body, end, outbox.frame_size))
        if stream.state & REMOTE_DONE:
            del self._streams[stream_id]
            self._may_open -= 1
            return True
        stream.state |= LOCAL_DONE | ENDING
        return False

    def reset_stream(self, stream_id: int, error_code: int = ErrorCode.CANCEL) -> None:
        """Break the stream off, with what waits of its body.

        Raises:
            StreamGone: it is over.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            raise StreamGone
        self._break_off(stream, error_code)

    def acknowledge(self, amount: int, stream_id: int) -> bool:
        """`amount` received bytes of the stream have been consumed: the peer gets credit for them, some time. Returns
        whether that is now, so that there is something to write."""
        self._consumed += amount
        gives = self._consumed >= self._credit_step
        if gives:
            self._room += self._consumed
            self._outbox.frames.append(frames.window_update(0, self._consumed))
            self._consumed = 0
        stream = self._streams.get(stream_id)
        if stream is None or stream.state & REMOTE_DONE:
            return gives
        stream.consumed += amount
        if stream.consumed < self._stream_credit_step:
            return gives
        stream.room += stream.consumed
        self._outbox.frames.append(frames.window_update(stream_id, stream.consumed))
        stream.consumed = 0
        return True

    def ping(self, opaque_data: bytes) -> None:
        """Ask the peer for an answer with the same eight bytes."""
        self._outbox.frames.append(frames.frame(frames.PING, 0, 0, opaque_data))

    def announce_shutdown(self) -> None:
        """First stage of a graceful close: the peer should open no new streams (section 6.8)."""
        self._outbox.frames.append(frames.go_away(frames.LARGEST, ErrorCode.NO_ERROR))

    def go_away(self, error_code: int = ErrorCode.NO_ERROR, why: bytes = b"") -> None:
        """Second stage: streams that the peer opened up to now are served, later ones are not. `why` is for the peer's
        log."""
        last = 0
        if self._is_server:
            # Never more than was said before (section 6.8).
            last = self._shut = min(self._last_id, self._shut)
        self._outbox.frames.append(frames.go_away(last, error_code, why))

    def _unended(self, stream_id: int) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None or stream.state & ENDING:
            raise StreamGone
        return stream

    def _send_headers(self, stream: Stream, headers: Headers, end_stream: bool) -> None:
        outbox = self._outbox
        try:
            block = self._encode(headers)
        except HeaderListTooLarge:
            if self._is_server:
                self._break_off(stream, ErrorCode.INTERNAL_ERROR)
            else:
                self._remove(stream, ErrorCode.INTERNAL_ERROR)
            return
        outbox.frames.append(headers_frames(stream.id, block, end_stream, outbox.frame_size))
        if end_stream:
            self._end_now(stream)

    def _end(self, stream: Stream, trailers: Headers | None) -> None:
        self._outbox.end(stream, trailers)
        if self._outbox.finished:
            self._close_finished()

    def _end_now(self, stream: Stream) -> None:
        """The last frame of this side is on its way."""
        stream.state |= LOCAL_DONE | ENDING
        if stream.state & REMOTE_DONE:
            del self._streams[stream.id]
            self._may_open -= 1
            self._events.append((told.CLOSED, stream.id, ErrorCode.NO_ERROR))

    def _close_finished(self) -> None:
        finished, self._outbox.finished = self._outbox.finished, []
        for stream in finished:
            self._end_now(stream)

    def _break_off(self, stream: Stream, error_code: int) -> None:
        """Reset the stream and tell of its end."""
        self._outbox.frames.append(frames.reset(stream.id, error_code))
        self._may_open -= 1
        self._remove(stream, error_code)

    def _remove(self, stream: Stream, error_code: int) -> None:
        self._outbox.drop(stream)
        stream.state |= OVER | ENDING
        del self._streams[stream.id]
        self._events.append((told.CLOSED, stream.id, error_code))
