"""One HTTP/2 connection as a state machine (RFC 9113): bytes in, events out; frames in, bytes out.

Made for gRPC's load: many small calls whose headers are mostly the same. So a header block that came before is not
decoded again (`wire/hpack.py`), an event is a tuple, and a frame that is whole and plain is handled where it is read.

What a peer may do wrong has three ends. The connection's: `receive` raises `Http2Error`, and a GOAWAY that says why is
ready to be sent. The stream's: it is reset and `CLOSED` is told. Frames of streams that are over may have crossed their
end on the way; they are ignored, and told as such, for whoever counts them.

What the caller keeps to:
  - received bytes of bodies are acknowledged once, also those of streams that are over by then (others the engine
    acknowledges itself);
  - a server sends a response's headers, then its body;
  - header lists to be sent are right (`wire/metadata.py`): they are not checked again;
  - after `receive` and after `data_to_send`, `events` has what was found.
"""

from __future__ import annotations

from collections.abc import Callable

from swerve.wire import events as told
from swerve.wire import frames
from swerve.wire.events import BODY, REQUEST, WHOLE_REQUEST, Event
from swerve.wire.frame_reader import ConnectionFault, FrameReader
from swerve.wire.frames import ErrorCode
from swerve.wire.header_rules import content_length, good_request, good_response, good_trailers
from swerve.wire.hpack import Decoder, HeaderListTooLarge, HpackError
from swerve.wire.http2_sender import Http2Error, Sender, StreamGone, TooManyStreams
from swerve.wire.limits import Http2Limits
from swerve.wire.metadata import Headers
from swerve.wire.outbox import ANSWERED, LOCAL_DONE, REMOTE_DONE, Stream

__all__ = ["Http2", "Http2Error", "StreamGone", "TooManyStreams"]

# Answers to the peer's frames that may wait to be sent: one that does not read them asks for more.
_MAX_ANSWERS = 10_000
# The largest block of headers that are kept to be known again.
_MAX_GOOD_BLOCK = 2048
# Credit for fewer bytes of a body that waits costs more than it lets through (CVE-2019-9511).
_LEAST_CREDIT = 256
# The largest frames that are sent, whatever the peer takes: other streams wait for the end of each.
_MAX_SENT_FRAME = 256 * 1024
# Kinds of frames that have one size, and those that name no stream.
_SIZES = {
    frames.PRIORITY: 5,
    frames.RST_STREAM: 4,
    frames.PING: 8,
    frames.WINDOW_UPDATE: 4,
}
_OF_CONNECTION = frozenset((frames.SETTINGS, frames.PING, frames.GOAWAY))
_IGNORED: Event = (told.IGNORED,)
_DRIBBLE: Event = (told.DRIBBLE,)


class Http2(Sender):
    """An HTTP/2 connection of either role, without I/O."""

    __slots__ = (
        "_data_mask",
        "_data_state",
        "_decoder",
        "_good_headers",
        "_good_length",
        "_known_blocks",
        "_reader",
    )

    def __init__(self, *, server: bool, limits: Http2Limits) -> None:
        super().__init__(server=server, limits=limits)
        self._reader = FrameReader(limits, server=server)
        self._decoder = Decoder(limits.max_header_list_size)
        self._known_blocks = self._decoder.known_blocks
        # The last headers of a request or a response that were found good, and what they say of the body's length:
        # mostly the next ones are the same object.
        self._good_headers: Headers | None = None
        self._good_length = -1
        # Of a stream's state, what says whether DATA may come that needs no closer look.
        self._data_mask = REMOTE_DONE if server else REMOTE_DONE | ANSWERED
        self._data_state = 0 if server else ANSWERED

    def receive(self, data: bytes) -> None:
        """Take what the peer sent.

        Raises:
            Http2Error: the connection is beyond repair. `data_to_send` has a GOAWAY that tells the peer why.
        """
        if self.failed:
            return
        try:
            self._reader.read(data, self)
        except ConnectionFault as fault:
            self.failed = True
            self.go_away(fault.code, fault.why.encode())
            raise Http2Error(fault.why) from None

    def take_data(self, stream_id: int, data: bytes, end_stream: bool, padding: int = 0) -> None:
        """Part of `FrameTaker`."""
        stream = self._streams.get(stream_id)
        size = len(data)
        if (
            stream is None
            or stream.state & self._data_mask != self._data_state
            or size > stream.room
            or size > self._room
            or padding
        ):
            self._take_odd_data(stream, stream_id, data, end_stream, padding)
            return
        if stream.expected >= 0:
            if stream.misses(size, end_stream):
                self._take_odd_data(stream, stream_id, data, end_stream, padding)
                return
            stream.expected -= size
        self._room -= size
        stream.room -= size
        events = self._events
        if not end_stream:
            stream.told_at = -1
            events.append((BODY, stream_id, data, False))
            return
        stream.state |= REMOTE_DONE
        waits_at = stream.told_at - self._events_taken
        if waits_at >= 0:
            # Nobody has heard of the request yet: it is told whole.
            events[waits_at] = (WHOLE_REQUEST, stream_id, events[waits_at][2], data)
            return
        events.append((BODY, stream_id, data, True))
        if stream.state & LOCAL_DONE:
            self._remove(stream, ErrorCode.NO_ERROR)

    def _take_odd_data(
        self, stream: Stream | None, stream_id: int, data: bytes, end_stream: bool, padding: int
    ) -> None:
        """DATA that is padded, or that may not be."""
        size = len(data) + padding
        self._room -= size
        if self._room < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA came than there was credit for")
        if stream is None:
            self._check_not_idle(stream_id)
            self._events.append(_IGNORED)
            self.acknowledge(size, stream_id)
            return
        if stream.state & REMOTE_DONE:
            fault = ErrorCode.STREAM_CLOSED
        elif size > stream.room:
            fault = ErrorCode.FLOW_CONTROL_ERROR
        elif stream.state & self._data_mask != self._data_state or stream.misses(len(data), end_stream):
            fault = ErrorCode.PROTOCOL_ERROR
        else:
            stream.room -= size
            if stream.expected >= 0:
                stream.expected -= len(data)
            stream.told_at = -1
            self._events.append((BODY, stream_id, data, end_stream))
            if end_stream:
                self._end_remote(stream)
            elif padding:
                # At once: who waits for a window full of data would wait for ever.
                stream.room += padding
                self._answer(frames.window_update(stream_id, padding))
            self.acknowledge(padding, 0)
            return
        self._punish(stream, fault)
        self.acknowledge(size, stream_id)

    def take_headers(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        """Part of `FrameTaker`."""
        # Whatever becomes of them, the decoder's table has to follow.
        headers = self._known_blocks.get(block) or self._decode(block)
        if (
            headers is not self._good_headers
            or not self._last_id < stream_id <= self._shut
            or not stream_id & 1
            or len(self._streams) >= self._may_open
            or end_stream
        ):
            self._take_other_headers(stream_id, headers, end_stream)
            if len(block) > _MAX_GOOD_BLOCK:
                self._good_headers = None
            return
        # A request as the last one.
        self._last_id = stream_id
        events = self._events
        self._streams[stream_id] = Stream(
            stream_id, self._initial_window, self._stream_room, 0, self._events_taken + len(events), self._good_length
        )
        events.append((REQUEST, stream_id, headers, False))

    def _take_other_headers(self, stream_id: int, headers: Headers, end_stream: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._take_more_headers(stream, headers, end_stream)
        elif not self._is_server or stream_id <= self._last_id or not stream_id & 1:
            self._check_not_idle(stream_id)
            self._events.append(_IGNORED)
        else:
            self._begin(stream_id, headers, end_stream)

    def _begin(self, stream_id: int, headers: Headers, end_stream: bool) -> None:
        """A client's new stream."""
        self._last_id = stream_id
        if stream_id > self._shut:
            self._events.append(_IGNORED)
            return
        good = self._good(headers, good_request)
        if good is None:
            self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        if len(self._streams) >= self._may_open:
            self._refuse(stream_id, ErrorCode.REFUSED_STREAM)
            return
        stream = Stream(stream_id, self._initial_window, self._stream_room, expected=self._good_length)
        self._streams[stream_id] = stream
        if end_stream:
            if stream.misses(0, True):
                self._punish(stream, ErrorCode.PROTOCOL_ERROR)
                return
            stream.state = REMOTE_DONE
        self._events.append((REQUEST, stream_id, good, end_stream))

    def _good(self, headers: Headers, rule: Callable[[Headers], Headers | None]) -> Headers | None:
        """The headers of a request or a response as `rule` gives them; None when they break it."""
        if headers == self._good_headers:
            self._good_headers = headers
            return headers
        good = rule(headers)
        if good is not None:
            self._good_headers = good
            self._good_length = content_length(good)
        return good

    def _refuse(self, stream_id: int, error_code: ErrorCode) -> None:
        """Answer a request that is told nobody."""
        self._answer(frames.reset(stream_id, error_code))
        self._events.append((told.RESET, stream_id))

    def _decode(self, block: bytes) -> Headers:
        try:
            return self._decoder.decode(block)
        except HpackError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        except HeaderListTooLarge:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header list is too large") from None

    def _take_more_headers(self, stream: Stream, headers: Headers, end_stream: bool) -> None:
        """Those of a stream that is open: a response's, or trailers."""
        if stream.state & REMOTE_DONE:
            self._punish(stream, ErrorCode.STREAM_CLOSED)
        elif not self._is_server and not stream.state & ANSWERED:
            self._take_response(stream, headers, end_stream)
        elif not end_stream or (trailers := good_trailers(headers)) is None or stream.misses(0, True):
            self._punish(stream, ErrorCode.PROTOCOL_ERROR)
        else:
            self._events.append((told.TRAILERS, stream.id, trailers))
            self._end_remote(stream)

    def _take_response(self, stream: Stream, headers: Headers, end_stream: bool) -> None:
        good = self._good(headers, good_response)
        if good is None:
            self._punish(stream, ErrorCode.PROTOCOL_ERROR)
            return
        if good[0][1][:1] == b"1":
            # An interim response: the real one follows.
            if end_stream:
                self._punish(stream, ErrorCode.PROTOCOL_ERROR)
            return
        stream.expected = self._good_length
        if end_stream and stream.misses(0, True):
            self._punish(stream, ErrorCode.PROTOCOL_ERROR)
            return
        stream.state |= ANSWERED
        self._events.append((told.RESPONSE, stream.id, good, end_stream))
        if end_stream:
            self._end_remote(stream)

    def take_other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Part of `FrameTaker`."""
        if _SIZES.get(kind, len(payload)) != len(payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of kind {kind} has {len(payload)} bytes")
        if kind in _OF_CONNECTION and stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame of kind {kind} names a stream")
        match kind:
            case frames.WINDOW_UPDATE:
                self._take_window_update(stream_id, frames.read_number(payload) & frames.LARGEST)
            case frames.RST_STREAM:
                self._take_reset(stream_id, frames.read_number(payload))
            case frames.SETTINGS:
                self._take_settings(flags, payload)
            case frames.PING:
                if flags & frames.ACK:
                    self._events.append((told.PONG, payload))
                else:
                    self._answer(frames.frame(frames.PING, frames.ACK, 0, payload))
                    self._events.append((told.PING, payload))
            case frames.GOAWAY:
                self._take_go_away(payload)
            case frames.PUSH_PROMISE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE is not taken")
            case frames.PRIORITY if not stream_id:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY names no stream")
            case _:
                # PRIORITY, and what this side does not know (section 5.5).
                self._events.append(_IGNORED)

    def _take_window_update(self, stream_id: int, increment: int) -> None:
        self._events.append(_IGNORED)
        outbox = self._outbox
        if stream_id == 0:
            outbox.window += increment
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the connection's credit grows by nothing")
            if outbox.window > frames.LARGEST:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's credit is too large")
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
        elif not increment or stream.window + increment > frames.LARGEST:
            self._punish(stream, ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR)
        else:
            if increment < _LEAST_CREDIT and stream.body is not None:
                self._events.append(_DRIBBLE)
            outbox.credit(stream, increment)

    def _take_reset(self, stream_id: int, error_code: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
            self._events.append(_IGNORED)
        else:
            self._events.append((told.RESET, stream_id))
            self._remove(stream, error_code)

    def _take_settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS has a payload")
            self._events.append(_IGNORED)
            return
        if len(payload) % 6:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS have {len(payload)} bytes")
        window = self._initial_window
        for setting, value in frames.read_settings(payload):
            if setting == frames.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"the setting INITIAL_WINDOW_SIZE is {value}")
                window = value
            elif setting == frames.MAX_FRAME_SIZE:
                if not frames.DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"the setting MAX_FRAME_SIZE is {value}")
                self._outbox.frame_size = min(value, _MAX_SENT_FRAME)
            elif setting == frames.MAX_CONCURRENT_STREAMS:
                self._most_streams = value
            elif setting == frames.HEADER_TABLE_SIZE:
                self._encoder.set_max_table_size(value)
            elif setting == frames.ENABLE_PUSH and value > (1 if self._is_server else 0):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"the setting ENABLE_PUSH is {value}")
        # Once a frame, which has room for thousands of values: each takes a step for every stream.
        if window != self._initial_window:
            self._resize_windows(window)
        self._answer(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))
        self._events.append((told.SETTINGS,))

    def _resize_windows(self, size: int) -> None:
        """The peer gives each stream credit for `size` bytes at its start (section 6.9.2)."""
        change, self._initial_window = size - self._initial_window, size
        for stream in self._streams.values():
            if stream.window + change > frames.LARGEST:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's credit is too large")
            self._outbox.credit(stream, change)

    def _take_go_away(self, payload: bytes) -> None:
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY has {len(payload)} bytes")
        last = frames.read_number(payload) & frames.LARGEST
        self._events.append((told.GOAWAY, last, frames.read_number(payload[4:])))
        if not self._is_server:
            self._shut = 0
            # The peer has not acted on later ones and never will (section 6.8).
            for stream in [stream for stream in self._streams.values() if stream.id > last]:
                self._remove(stream, ErrorCode.REFUSED_STREAM)

    def _end_remote(self, stream: Stream) -> None:
        """The peer has ended its side."""
        stream.state |= REMOTE_DONE
        if stream.state & LOCAL_DONE:
            self._remove(stream, ErrorCode.NO_ERROR)

    def _check_not_idle(self, stream_id: int) -> None:
        """A frame of a stream that is not open: fine when it was, and its end crossed the frame."""
        if not 0 < stream_id <= self._last_id or not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame names stream {stream_id}, which is not open")

    def _punish(self, stream: Stream, error_code: ErrorCode) -> None:
        """Break a stream off for what the peer sent on it."""
        self._count_answer()
        self._events.append((told.RESET, stream.id))
        self._break_off(stream, error_code)

    def _answer(self, frame: bytes) -> None:
        self._count_answer()
        self._outbox.frames.append(frame)

    def _count_answer(self) -> None:
        self._answers += 1
        if self._answers > _MAX_ANSWERS:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the answers to the peer's frames are not read")
