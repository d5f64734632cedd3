"""One HTTP/2 connection on an asyncio transport, either role.

It reads, hands events to the streams' handlers, and writes what they queued: once per event loop turn, however many
streams did. Three things live here because all roles need them:

  - credit: a handler acknowledges what it has consumed; a forwarder says instead "acknowledge it over there once these
    bytes have left here" (`forward_data`), so that memory per call is bounded by a window;
  - fairness: at most about `CHUNK` bytes of a stream wait in the engine, the rest is held here and follows when
    everything else has been written (the engine itself sends one stream's body before the next);
  - endings: every stream's handler gets exactly one `on_closed`, also when the connection is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from swerve.wire.http2 import (
    ConnectionClosed,
    DataReceived,
    ErrorCode,
    GoAwayReceived,
    Http2,
    Http2Error,
    Http2Limits,
    PingReceived,
    RequestReceived,
    ResponseReceived,
    SettingsReceived,
    StreamClosed,
    StreamGone,
    TrailersReceived,
)

logger = logging.getLogger("swerve.net")

Headers = tuple[tuple[bytes, bytes], ...]

# `on_closed` carries this instead of an HTTP/2 error code when the connection went away under the stream.
CONNECTION_LOST = -1

# Bytes of one stream's body that wait in the engine at a time, and bytes per write.
CHUNK = 64 * 1024
_WRITE_SIZE = 256 * 1024
# Parts below this cannot fill a chunk between two flushes often enough to be worth a look at what is queued.
_SMALL = 4096
# Pings that a peer may send between two DATA or HEADERS frames before the connection is ended, as gRPC servers do
# against ping floods ("too_many_pings").
_MAX_IDLE_PINGS = 1000


class StreamHandler(Protocol):
    """What a stream's events call. None of these may wait."""

    def on_headers(self, headers: Headers, end_stream: bool) -> None:
        """The response's headers (client role only)."""

    def on_data(self, data: bytes, end_stream: bool) -> None:
        """Part of the body. The handler owes the connection an `acknowledge` of its length."""

    def on_trailers(self, headers: Headers) -> None:
        """The trailers; nothing follows them."""

    def on_closed(self, error_code: int) -> None:
        """The stream is over, both ways. Called once, and last. 0 is a regular end."""


# Takes (connection, stream id, headers, end_stream) of a request and returns its handler, or None when it already
# answered or reset the stream.
Acceptor = Callable[["Connection", int, Headers, bool], StreamHandler | None]


class Connection(asyncio.Protocol):
    """An HTTP/2 connection. All methods are called on its event loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Http2Limits,
        *,
        accept: Acceptor | None = None,
        on_made: Callable[[Connection], bool] | None = None,
        on_lost: Callable[[Connection], None] | None = None,
    ) -> None:
        self.http2 = Http2(server=accept is not None, limits=limits)
        self.streams: dict[int, StreamHandler] = {}
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.peer_name = b""
        # False once no new stream may be opened here: GOAWAY was received, or the connection is closing.
        self.usable = True
        self._loop = loop
        self._accept = accept
        self._on_made = on_made
        self._on_lost = on_lost
        self._established = False
        self._unusable: asyncio.Future[None] | None = None
        self._closed = False
        self._abort_timer: asyncio.TimerHandle | None = None
        self._draining = False
        self._paused = False
        self._flush_due = False
        self._unacknowledged = 0
        self._window_suspect = False
        self._idle_pings = 0
        # Body parts and trailers that wait behind a full chunk of their stream.
        self._held: dict[int, deque[bytes | memoryview | Headers | None]] = {}
        # (stream here, connection to credit, stream there, bytes), in sending order.
        self._owed: list[tuple[int, Connection, int, int]] = []
        self._drain_callbacks: dict[int, Callable[[], None]] = {}

    # --- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer = self.peer or _peer_name(self.transport)
        self.peer_name = self.peer.encode()
        if self._on_made is not None and not self._on_made(self):
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=2 * _WRITE_SIZE)
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        # Writes that handlers make below are flushed at the end of this turn, not by a callback of their own.
        self._flush_due = True
        try:
            self.http2.receive(data)
        except Http2Error as error:
            self._dispatch()
            logger.info("Closing connection of %s: %s", self.peer or "peer", error)
            self._fail()
            return
        self._dispatch()
        self.flush()

    def eof_received(self) -> None:
        self._fail()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._fail()
        if self._abort_timer is not None:
            self._abort_timer.cancel()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()

    # --- sending ---------------------------------------------------------------------------------------------------

    def open_stream(self, headers: Headers, handler: StreamHandler, *, end_stream: bool = False) -> int:
        """Send a request's headers (client role). Returns the stream's id.

        Raises:
            Http2Error: the connection takes no new streams; `usable` is False then.
        """
        if not self.usable:
            raise Http2Error("The connection is closing or closed.")
        stream_id = self.http2.send_request(headers, end_stream=end_stream)
        self.streams[stream_id] = handler
        if not self._flush_due:
            self._schedule_flush()
        return stream_id

    def send_headers(self, stream_id: int, headers: Headers, *, end_stream: bool = False) -> None:
        """Send a response's headers (server role)."""
        try:
            self.http2.send_response(stream_id, headers, end_stream=end_stream)
        except StreamGone:
            return
        if not self._flush_due:
            self._schedule_flush()

    def send_data(self, stream_id: int, data: bytes | memoryview, *, end_stream: bool = False) -> None:
        """Send body bytes, in order with what is held back for the stream."""
        held = self._held.get(stream_id) if self._held else None
        if held is None and len(data) > CHUNK:
            held = self._hold(stream_id)
        if held is not None:
            view = memoryview(data)
            held.extend(view[start : start + CHUNK] for start in range(0, len(view), CHUNK))
            if end_stream:
                held.append(None)
        else:
            try:
                self.http2.send_data(stream_id, data, end_stream=end_stream)
                if len(data) >= _SMALL and not end_stream and self.http2.queued_body_size(stream_id) > CHUNK:
                    self._hold(stream_id)
            except StreamGone:
                return
        if not self._flush_due:
            self._schedule_flush()

    def _hold(self, stream_id: int) -> deque[bytes | memoryview | Headers | None]:
        held = self._held[stream_id] = deque()
        if self._accept is not None and stream_id in self.streams:
            self.http2.interleave(stream_id)
        return held

    def forward_data(self, stream_id: int, data: bytes, end_stream: bool, source: Connection, source_id: int) -> None:
        """`send_data`, and acknowledge `data` to the stream that it came from when it has left this process."""
        size = len(data)
        self._owed.append((stream_id, source, source_id, size))
        if size >= _SMALL or self._held:
            self.send_data(stream_id, data, end_stream=end_stream)
            return
        try:
            self.http2.send_data(stream_id, data, end_stream=end_stream)
        except StreamGone:
            return
        if not self._flush_due:
            self._schedule_flush()

    def send_trailers(self, stream_id: int, headers: Headers) -> None:
        """End the stream with trailers, after what is held back for it."""
        held = self._held.get(stream_id) if self._held else None
        if held is not None:
            held.append(headers)
            return
        try:
            self.http2.send_trailers(stream_id, headers)
        except StreamGone:
            return
        if not self._flush_due:
            self._schedule_flush()

    def end_stream(self, stream_id: int) -> None:
        """End this side of the stream without trailers."""
        held = self._held.get(stream_id) if self._held else None
        if held is not None:
            held.append(None)
            return
        try:
            self.http2.end_stream(stream_id)
        except StreamGone:
            return
        if not self._flush_due:
            self._schedule_flush()

    def reset(self, stream_id: int, error_code: int = ErrorCode.CANCEL) -> None:
        """Abandon the stream. It overtakes whatever is queued for it."""
        self._held.pop(stream_id, None)
        self._window_suspect = True
        try:
            self.http2.reset_stream(stream_id, error_code)
        except StreamGone:
            return
        if not self._flush_due:
            self._schedule_flush()

    def acknowledge(self, stream_id: int, amount: int) -> None:
        """Give the peer credit for `amount` received bytes of the stream."""
        if self._closed or not amount:
            return
        self._unacknowledged -= amount
        try:
            self.http2.acknowledge(amount, stream_id)
        except StreamGone:
            return
        if not self._flush_due and self.http2.want_write:
            self._schedule_flush()

    def end_early(self, stream_id: int) -> None:
        """Close a stream whose request is still open, once the response has been written (RFC 9113, section 8.1)."""
        self.when_drained(stream_id, lambda: self.reset(stream_id, ErrorCode.NO_ERROR))

    def unsent(self, stream_id: int) -> int:
        """Bytes of the stream's body that wait to be written (those held back included)."""
        try:
            waiting = self.http2.queued_body_size(stream_id)
        except StreamGone:
            return 0
        for part in self._held.get(stream_id, ()):
            if part is not None and not isinstance(part, tuple):
                waiting += len(part)
        return waiting

    def when_drained(self, stream_id: int, callback: Callable[[], None]) -> None:
        """Call `callback` once, when nothing of the stream's body waits any more or the stream is gone."""
        self._drain_callbacks[stream_id] = callback
        if not self._flush_due:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        self._flush_due = True
        self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is queued, as far as the transport takes it, and settle what that frees."""
        self._flush_due = False
        if self.transport is None or self._closed:
            return
        try:
            while True:
                self._flush_due = True
                self._write()
                self._dispatch()
                if not ((self._held or self._owed or self._drain_callbacks) and self._settle()):
                    break
        except Http2Error as error:
            logger.info("Closing connection of %s: %s", self.peer or "peer", error)
            self._fail()
        finally:
            self._flush_due = False
        if self._window_suspect and self._unacknowledged == 0 and not self._closed:
            self._window_suspect = False
            self.http2.repair_window()
            if self.http2.want_write:
                self._schedule_flush()
        if self._draining and not self.streams:
            self.close()

    def _write(self) -> None:
        transport, take = self.transport, self.http2.data_to_send
        while transport is not None and not self._paused:
            data = take(_WRITE_SIZE)
            if data:
                transport.write(data)
            if len(data) < _WRITE_SIZE:
                return

    def _settle(self) -> bool:
        """Credit what has left, refill streams that were held back. True when there is something to write again."""
        queued = self.http2.queued_body_size
        if self._owed:
            owed, self._owed = self._owed, []
            if self._held or queued():
                left = []
                for entry in owed:
                    (self._owed if self._waiting(entry[0]) else left).append(entry)
                owed = left
            for _, source, source_id, amount in owed:
                source.acknowledge(source_id, amount)
        refilled = False
        if self._held and not self._paused:
            for stream_id in list(self._held):
                refilled |= self._refill(stream_id)
        # While the transport is paused trailers may wait in the engine, which counts only bodies.
        if self._drain_callbacks and not self._paused:
            for stream_id in [sid for sid in self._drain_callbacks if not self._waiting(sid)]:
                self._drain_callbacks.pop(stream_id)()
        return refilled

    def _waiting(self, stream_id: int) -> bool:
        if self._held and stream_id in self._held:
            return True
        try:
            return self.http2.queued_body_size(stream_id) > 0
        except StreamGone:
            return False

    def _refill(self, stream_id: int) -> bool:
        """Move the stream's next chunk into the engine when its last one has been written."""
        held = self._held[stream_id]
        moved = 0
        try:
            if self.http2.queued_body_size(stream_id):
                return False
            while held and moved < CHUNK:
                part = held.popleft()
                if part is None:
                    self.http2.end_stream(stream_id)
                elif isinstance(part, tuple):
                    self.http2.send_trailers(stream_id, part)
                else:
                    self.http2.send_data(stream_id, part)
                    moved += len(part)
        except StreamGone:
            held.clear()
        if not held:
            del self._held[stream_id]
        return True

    # --- receiving -------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Hand the engine's events to the streams' handlers. Written out in one loop: it runs for every frame."""
        streams = self.streams
        for event in self.http2.events():
            kind = type(event)
            try:
                if kind is DataReceived:
                    data, stream_id = event.data, event.stream_id
                    self._unacknowledged += len(data)
                    handler = streams.get(stream_id)
                    if handler is not None:
                        handler.on_data(data, event.end_stream)
                    else:
                        self.acknowledge(stream_id, len(data))
                elif kind is StreamClosed:
                    handler = streams.pop(event.stream_id, None)
                    if self._held:
                        self._held.pop(event.stream_id, None)
                    if handler is not None:
                        handler.on_closed(event.error_code)
                elif kind is RequestReceived:
                    self._idle_pings = 0
                    assert self._accept is not None
                    stream_id = event.stream_id
                    handler = self._accept(self, stream_id, event.headers, event.end_stream)
                    if handler is not None:
                        streams[stream_id] = handler
                elif kind is TrailersReceived:
                    handler = streams.get(event.stream_id)
                    if handler is not None:
                        handler.on_trailers(event.headers)
                elif kind is ResponseReceived:
                    handler = streams.get(event.stream_id)
                    if handler is not None:
                        handler.on_headers(event.headers, event.end_stream)
                else:
                    self._on_control(event)
            except Exception:
                # One call's failure must not lose the events of the others.
                logger.exception("Handling %s failed", kind.__name__)
                self._drop(getattr(event, "stream_id", 0))

    def _drop(self, stream_id: int) -> None:
        if stream_id in self.streams:
            self.reset(stream_id, ErrorCode.INTERNAL_ERROR)

    def _on_control(self, event: object) -> None:
        """Frames of the connection itself."""
        if isinstance(event, SettingsReceived):
            self._established = True
        elif isinstance(event, PingReceived):
            self._on_ping()
        elif isinstance(event, GoAwayReceived):
            self._stop_using()
            self._draining = True
        elif isinstance(event, ConnectionClosed):
            self._loop.call_soon(self._fail)

    def _on_ping(self) -> None:
        self._idle_pings += 1
        if self._idle_pings > _MAX_IDLE_PINGS:
            self.http2.terminate(ErrorCode.ENHANCE_YOUR_CALM)

    # --- ending ----------------------------------------------------------------------------------------------------

    async def wait_unusable(self) -> None:
        """Wait until the connection takes no new streams."""
        if self.usable:
            self._unusable = self._unusable or self._loop.create_future()
            await asyncio.shield(self._unusable)

    def _stop_using(self) -> None:
        self.usable = False
        if self._unusable is not None and not self._unusable.done():
            self._unusable.set_result(None)

    @property
    def closed(self) -> bool:
        return self._closed

    def drain(self) -> None:
        """Ask the peer to open no more streams; the connection closes when the last one ends."""
        if self._closed or self._draining:
            return
        if self._accept is None:
            self._stop_using()
            self._draining = True
            self.flush()
            return
        self.http2.announce_shutdown()
        self.flush()
        # The second stage follows when requests that crossed the notice have arrived.
        self._loop.call_later(_GOAWAY_DELAY_S, self._finish_drain)

    def _finish_drain(self) -> None:
        if not self._closed:
            self._draining = True
            self._stop_using()
            self.http2.go_away()
            self.flush()

    def close_unless_established(self) -> None:
        """Close when the peer has not even sent its SETTINGS: it does not speak HTTP/2, or says nothing."""
        if not self._established:
            self._fail()

    def close(self) -> None:
        """Write what is queued and close. Streams that still run end with CONNECTION_LOST."""
        if self._closed:
            return
        if self.transport is not None:
            self._draining = False
            self._write()
        self._fail()

    def _fail(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._stop_using()
        if self.transport is not None:
            self.transport.close()
            # A peer that does not read would keep the socket open for what is still to be written.
            self._abort_timer = self._loop.call_later(_CLOSE_TIMEOUT_S, self._abort)
        owed, self._owed = self._owed, []
        for _, source, source_id, amount in owed:
            source.acknowledge(source_id, amount)
        handlers = list(self.streams.values())
        self.streams.clear()
        for handler in handlers:
            try:
                # A handler may ask for `unsent` bytes: a request that has not left completely can be made elsewhere.
                handler.on_closed(CONNECTION_LOST)
            except Exception:
                logger.exception("Ending a call of a lost connection failed")
        self._held.clear()
        callbacks, self._drain_callbacks = self._drain_callbacks, {}
        for callback in callbacks.values():
            callback()
        if self._on_lost is not None:
            self._on_lost(self)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


_CLOSE_TIMEOUT_S = 5.0
# Time for requests that were under way when the shutdown notice left. RFC 9113, section 6.8 asks for one round trip.
_GOAWAY_DELAY_S = 0.1


def _peer_name(transport: asyncio.Transport) -> str:
    """The peer's address as gRPC writes it: "ipv4:127.0.0.1:5000", "ipv6:%5B::1%5D:5000" or "unix:"."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return "unix:"
    if len(name) == 4:
        return f"ipv6:%5B{name[0]}%5D:{name[1]}"
    return f"ipv4:{name[0]}:{name[1]}"
