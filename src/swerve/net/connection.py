"""One HTTP/2 connection on an asyncio transport, either role.

It reads, hands events to the streams' handlers, and writes what they queued: once per event loop turn, however many
streams did. Two things live here because all roles need them:

  - credit: a handler acknowledges what it has consumed; a forwarder says instead "acknowledge it over there once these
    bytes have left here" (`forward_data`), so that memory per call is bounded by a window;
  - endings: every stream's handler gets exactly one `on_closed`, also when the connection is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from swerve.net.address import peer_name
from swerve.net.backlog import ANSWERS_PER_WRITE, WRITE_SIZE, Backlog
from swerve.net.begun import Look, Region
from swerve.net.buffers import size_buffers
from swerve.net.flood import PeerGuard
from swerve.net.last_call import LastCall
from swerve.net.streams import CONNECTION_LOST, Acceptor, Bundles, CreditSource, Headers, StreamHandler, end_all
from swerve.wire.events import (
    BODY,
    CLOSED,
    GOAWAY,
    PONG,
    REQUEST,
    RESPONSE,
    SETTINGS,
    TRAILERS,
    WHOLE_REQUEST,
    Event,
)
from swerve.wire.frames import ErrorCode
from swerve.wire.header_block import HeaderBlock
from swerve.wire.http2 import Http2, Http2Error, StreamGone, TooManyStreams
from swerve.wire.limits import Http2Limits
from swerve.wire.message import PREFIX_SIZE

logger = logging.getLogger("swerve.net")

# Calls begun between two writes. A turn may bring many: the peer, on another core, starts on the first of them while
# this process goes on with the rest. Fewer a write would cost more in system calls than they win.
CALLS_PER_WRITE = 8
_CLOSE_TIMEOUT_S = 5.0


def _no_requests(connection: Connection, stream_id: int, headers: Headers, end_stream: bool) -> None:
    raise AssertionError("a server opens no streams")


class Connection(asyncio.Protocol):
    """An HTTP/2 connection. All methods are called on its event loop's thread."""

    __slots__ = (
        "__weakref__",
        "_abort_timer",
        "_accept",
        "_calls_queued",
        "_closed",
        "_draining",
        "_flush_due",
        "_is_server",
        "_last_call",
        "_on_lost",
        "_on_made",
        "_over",
        "_owed",
        "_pause",
        "_peer_guard",
        "_unacknowledged",
        "_unusable",
        "_wrote_early",
        "backlog",
        "begun",
        "block",
        "bundles",
        "established",
        "heard",
        "http2",
        "last_request",
        "look",
        "loop",
        "peer",
        "peer_name",
        "streams",
        "transport",
        "usable",
    )

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
        self.bundles: Bundles | None = None
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.peer_name = b""  # what replicas are told of the peer (`wire.peer`)
        self.block: HeaderBlock | None = None  # the last request's headers, to know them again
        self.begun: Region | None = None  # where the server notes the calls that it begins,
        self.look: Look | None = None  # and where their client sees that
        # False once no new stream may be opened here: GOAWAY was received, or the connection is closing.
        self.usable = True
        self.loop = loop
        self._is_server = accept is not None
        self._accept = accept or _no_requests
        self._on_made = on_made
        self._on_lost = on_lost
        # For limits on connections (`net.sweeper`): the peer's SETTINGS have come, it has sent something, and the last
        # stream that it opened.
        self.established = False
        self.heard = False
        self.last_request = 0
        self._unusable: asyncio.Future[None] | None = None
        self._closed = False
        self._abort_timer: asyncio.TimerHandle | None = None
        self._draining = False
        self._pause: object | None = None  # while the transport is paused: stands for the bytes that wait
        self._flush_due = False
        self._over = 0  # the last stream that was over before it had a handler
        self._wrote_early = False  # since the last flush, which hears what the engine says to it
        self._unacknowledged = 0
        self._calls_queued = 0
        self._peer_guard = PeerGuard(limits, loop.time, server=self._is_server)
        self._last_call: LastCall | None = None
        self.backlog = Backlog(self.http2)
        # A part of it that calls ask for, so that these pay no detour.
        self._owed = self.backlog.owed

    # --- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer = self.peer or peer_name(self.transport.get_extra_info("peername"))
        self.peer_name = self.peer.encode()
        if self._on_made is not None and not self._on_made(self):
            self.transport.abort()
            return
        size_buffers(self.transport)
        # A server's greeting leaves with its answer to the client's, which waits for nothing (RFC 9113, section 3.4).
        if not self._is_server:
            self.flush()

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        self.heard = True
        # What handlers queue below is written by a flush that is due anyhow, or here, not by a callback of its own.
        due, self._flush_due = self._flush_due, True
        try:
            self.http2.receive(data)
        except Http2Error as error:
            self._dispatch()
            logger.info("Closing connection of %s: %s", self.peer or "peer", error)
            self.close()
            return
        self._dispatch()
        if not due:
            self._flush_if_needed()

    def _flush_if_needed(self) -> None:
        """Most of what is received has nothing to be written: requests wait for replicas, bundles for their turn."""
        http2 = self.http2
        unheard = self._wrote_early or self._draining or http2.untold
        if unheard or http2.want_write or not self.backlog.empty:
            self.flush()
        else:
            self._flush_due = False

    def eof_received(self) -> None:
        self._fail(peer_gone=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._fail(peer_gone=True)
        for waits in (self._abort_timer, self._last_call):
            if waits is not None:
                waits.cancel()

    def pause_writing(self) -> None:
        self._pause = object()

    def resume_writing(self) -> None:
        self._pause = None
        self.flush()

    # --- sending ---------------------------------------------------------------------------------------------------

    def open_stream(self, headers: Headers, handler: StreamHandler, *, end_stream: bool = False) -> int:
        """Send a request's headers (client role). Returns the stream's id. A header list above this side's own limit is
        not sent: its stream ends with INTERNAL_ERROR.

        Raises:
            Http2Error: the connection takes no new streams; `usable` is False then.
            TooManyStreams: it takes none before another one ends.
        """
        if not self.usable:
            raise Http2Error("The connection is closing or closed.")
        if self._calls_queued >= CALLS_PER_WRITE:
            self.write_early()
        self._calls_queued += 1
        try:
            stream_id = self.http2.send_request(headers, end_stream=end_stream)
        except TooManyStreams:
            raise
        except Http2Error:
            # Above all when the stream ids have run out (a busy link uses up its 2^30 within a day): a new connection
            # takes over, and this one closes when its last stream has ended.
            self.loop.call_soon(self.drain)
            self._stop_using()
            raise
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
        """Send body bytes, when there is credit for them."""
        try:
            self.http2.send_data(stream_id, data, end_stream=end_stream)
        except StreamGone:
            if not self._owed:
                return
            # The flush pays what is owed for the data.
        if not self._flush_due:
            self._schedule_flush()

    def send_now(self, stream_id: int, data: bytes) -> None:
        """`send_data`, written at once; of a stream that goes on."""
        transport, http2 = self.transport, self.http2
        if transport is None or self._pause is not None:
            self.send_data(stream_id, data)
            return
        try:
            written = http2.send_at_once(stream_id, data, WRITE_SIZE)
        except StreamGone:
            return
        # A stream that goes on has nothing to say to this. Others, whose parts leave with it, have a flush due.
        self._wrote_early = self._wrote_early or self._flush_due
        if written:
            transport.write(written)
        # What was sent may have ended the last call, for which closing waits.
        if not self._flush_due and (self._draining or http2.want_write):
            self._schedule_flush()

    def forward_data(self, stream_id: int, data: bytes, end_stream: bool, source: CreditSource, source_id: int) -> None:
        """`send_data`, and acknowledge `data` to the stream that it came from when it has left this process."""
        self._owed.owe(stream_id, source, source_id, len(data))
        self.send_data(stream_id, data, end_stream=end_stream)

    def send_trailers(self, stream_id: int, headers: Headers) -> None:
        """End the stream with trailers, after its body."""
        try:
            self.http2.send_trailers(stream_id, headers)
        except StreamGone:
            return
        if not self._flush_due:
            self._schedule_flush()

    def respond(
        self,
        stream_id: int,
        headers: Headers,
        body: bytes | None,
        trailers: Headers,
        last: tuple[bytes, bytes] | None = None,
    ) -> None:
        """Send a whole response (server role), `last` being one trailer more, which no other response has; without a
        body, all in one header block. A stream that is over by that has no `on_closed`."""
        try:
            over = self.http2.respond(stream_id, headers, body, trailers, last)
        except StreamGone:
            return
        if over and self.streams.pop(stream_id, None) is None:
            # Its handler is being made just now.
            self._over = stream_id
        self._calls_queued += 1
        if not self._flush_due:
            self._schedule_flush()
        elif self._calls_queued >= ANSWERS_PER_WRITE:
            self.write_early()

    def end_stream(self, stream_id: int) -> None:
        """End this side of the stream without trailers."""
        try:
            self.http2.end_stream(stream_id)
        except StreamGone:
            return
        if not self._flush_due:
            self._schedule_flush()

    def reset(self, stream_id: int, error_code: int = ErrorCode.CANCEL) -> None:
        """Abandon the stream, with what waits of its body."""
        try:
            self.http2.reset_stream(stream_id, error_code)
        except StreamGone:
            return
        if not self._flush_due:
            self._schedule_flush()

    def acknowledge(self, stream_id: int, amount: int) -> None:
        """Give the peer credit for `amount` received bytes of the stream."""
        if self._closed:
            return
        self._unacknowledged -= amount
        if self.http2.acknowledge(amount, stream_id) and not self._flush_due:
            self._schedule_flush()

    def give_credit(self, stream_id: int, amount: int) -> None:
        """`acknowledge`, whose credit is written by the next flush."""
        if not self._closed:
            self._unacknowledged -= amount
            self.http2.acknowledge(amount, stream_id)

    def send_credit(self) -> None:
        """The engine sends credit when enough has come together; see that it gets written then."""
        if not self._closed and not self._flush_due and self._pause is None and self.http2.want_write:
            self._schedule_flush()

    def end_early(self, stream_id: int) -> None:
        """Close a stream whose request is still open, once the response has been written (RFC 9113, section 8.1)."""
        self.when_drained(stream_id, lambda: self.reset(stream_id, ErrorCode.NO_ERROR))

    def mark_begun(self, stream_id: int) -> None:
        """The call of this stream begins: should this process die, its client must not make it again (server role)."""
        if self.begun is not None:
            self.begun.mark(stream_id)

    def unsent(self, stream_id: int) -> int:
        """Bytes of the stream's body that wait to be written."""
        return self.http2.queued_body_size(stream_id)

    def when_drained(self, stream_id: int, callback: Callable[[], None]) -> None:
        """Call `callback` once, when nothing of the stream's body waits any more or the stream is gone."""
        self.backlog.callbacks.setdefault(stream_id, []).append(callback)
        if not self._flush_due:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        self._flush_due = True
        self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is queued, as far as the transport takes it, and settle what that frees."""
        self._flush_due = False
        if self.transport is None or self._closed:
            return
        self._calls_queued = 0
        self._wrote_early = False
        backlog = self.backlog
        progress = True
        try:
            while progress:
                self._flush_due = True
                progress = self._write()
                progress |= self._dispatch()
                if not backlog.empty:
                    progress |= backlog.settle()
                # What was queued just now, or waits for a stream that has turned out to be gone, must not wait for
                # somebody else's flush.
                progress = progress and self._pause is None and (self.http2.want_write or not backlog.empty)
        finally:
            self._flush_due = False
        # The last call is over when its end is queued, which may wait for the transport.
        if self._draining and self.idle and not self.http2.want_write:
            self.close()

    @property
    def idle(self) -> bool:
        """No call is under way. The bundle stream lasts as long as its connection."""
        bundles = self.bundles
        return not self.streams or (bundles is not None and len(self.streams) == 1 and bundles.idle)

    def _write(self) -> bool:
        """True when there was something to write."""
        transport, http2 = self.transport, self.http2
        wrote = False
        while transport is not None and self._pause is None and not self._closed:
            data = http2.data_to_send(WRITE_SIZE)
            if data:
                transport.write(data)
                wrote = True
            if len(data) < WRITE_SIZE:
                break
        return wrote

    def write_early(self) -> None:
        """Write before the turn's end. What the engine says to it is heard by the flush that is due."""
        self._calls_queued = 0
        self._wrote_early = True
        self._write()

    # --- receiving -------------------------------------------------------------------------------------------------

    def _dispatch(self) -> bool:
        """Hand the engine's events to their handlers; True when there were any. Written out: it runs for each frame."""
        streams = self.streams
        accept = self._accept
        events = self.http2.events()
        for event in events:
            kind = event[0]
            try:
                if kind == WHOLE_REQUEST:
                    _, stream_id, headers, data = event
                    self._unacknowledged += len(data)
                    self.last_request = stream_id
                    if self._closed:
                        break
                    handler = None  # who owes credit for the data, should this fail
                    handler = accept(self, stream_id, headers, False)
                    if handler is None:
                        self.acknowledge(stream_id, len(data))
                        continue
                    if self._over != stream_id:
                        streams[stream_id] = handler
                    handler.on_data(data, True)
                elif kind == BODY:
                    _, stream_id, data, end_stream = event
                    size = len(data)
                    self._unacknowledged += size
                    if size < PREFIX_SIZE and not end_stream:
                        self._count(kind)
                    handler = streams.get(stream_id)
                    if handler is not None:
                        handler.on_data(data, end_stream)
                    else:
                        self.acknowledge(stream_id, size)
                elif kind == REQUEST:
                    _, stream_id, headers, end_stream = event
                    self.last_request = stream_id
                    if self._closed:
                        break
                    handler = accept(self, stream_id, headers, end_stream)
                    if handler is not None and self._over != stream_id:
                        streams[stream_id] = handler
                elif kind == CLOSED:
                    handler = streams.pop(event[1], None)
                    if handler is not None:
                        handler.on_closed(event[2])
                elif kind == TRAILERS:
                    handler = streams.get(event[1])
                    if handler is not None:
                        handler.on_trailers(event[2])
                elif kind == RESPONSE:
                    _, stream_id, headers, end_stream = event
                    handler = streams.get(stream_id)
                    if handler is not None:
                        handler.on_headers(headers, end_stream)
                else:
                    self._on_control(event)
            except Exception:
                # One call's failure must not lose the events of the others.
                logger.exception("Handling an event of kind %d failed", kind)
                if kind == WHOLE_REQUEST and handler is None:
                    self.acknowledge(stream_id, len(data))
                # Also a request that no handler was made for: its client would wait for ever.
                if kind in (BODY, WHOLE_REQUEST, REQUEST, TRAILERS, RESPONSE):
                    self.reset(event[1], ErrorCode.INTERNAL_ERROR)
        if self._closed and streams:
            # An acceptor has closed the connection, and made a handler all the same.
            self._end_streams(CONNECTION_LOST)
        return bool(events)

    def _on_control(self, event: Event) -> None:
        """A frame that no stream's handler hears of."""
        kind = event[0]
        self._count(kind)
        if kind == SETTINGS:
            self.established = True
        elif kind == PONG:
            if self._last_call is not None:
                self._last_call.ping_acknowledged(event[1])
        elif kind == GOAWAY:
            self._stop_using()
            self._draining = True

    def _count(self, kind: int) -> None:
        """Count a frame that costs more than it carries."""
        why = self._peer_guard.strike(kind, len(self.streams))
        if why is not None:
            self._hang_up(why)

    def _hang_up(self, why: bytes) -> None:
        if self._closed:
            return  # thousands more may have come with the frame that was too many
        logger.info("Closing connection of %s: it floods (%s)", self.peer or "peer", why.decode())
        self.http2.go_away(ErrorCode.ENHANCE_YOUR_CALM, why)
        self.close()

    # --- ending ----------------------------------------------------------------------------------------------------

    async def wait_unusable(self) -> None:
        """Wait until the connection takes no new streams."""
        if self.usable:
            self._unusable = self._unusable or self.loop.create_future()
            await asyncio.shield(self._unusable)

    def _stop_using(self) -> None:
        self.usable = False
        if self._unusable is not None and not self._unusable.done():
            self._unusable.set_result(None)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def unacknowledged(self) -> int:
        """Received bytes that handlers hold, or have passed on and that have not left yet."""
        return self._unacknowledged

    def drain(self) -> None:
        """Ask the peer to open no more streams; the connection closes when the last one ends."""
        if self._closed or self._draining or self._last_call is not None:
            return
        if not self._is_server:
            self._stop_using()
            self._draining = True
            self.flush()
            return
        self._last_call = LastCall(self.loop, self.http2, self._finish_drain)
        self.flush()

    def _finish_drain(self) -> None:
        if self._closed or self._draining:
            return
        if self._last_call is not None:
            self._last_call.cancel()
        self._draining = True
        self._stop_using()
        self.http2.go_away()
        self.flush()

    def close(self, error_code: int = CONNECTION_LOST) -> None:
        """Write what is queued and close. Streams that still run end with `error_code`."""
        if self._closed:
            return
        self._draining = False
        self._write()
        if self._pause is not None and self.transport is not None:
            # Answers are in memory already, and few; bodies may be many.
            self.transport.write(self.http2.data_to_send(0))
        self._fail(error_code)

    def _fail(self, error_code: int = CONNECTION_LOST, *, peer_gone: bool = False) -> None:
        if self._closed:
            return
        self._closed = True
        self._stop_using()
        if self.transport is not None:
            self.transport.close()
            # A peer that does not read would keep the socket open for what is still to be written.
            self._abort_timer = self.loop.call_later(_CLOSE_TIMEOUT_S, self.transport.abort)
        self._owed.pay()
        if self.look is not None:
            self.look.settle(final=peer_gone)
        if self.streams:
            self._end_streams(error_code)
        self.backlog.drop()
        if self._on_lost is not None:
            self._on_lost(self)

    def _end_streams(self, error_code: int) -> None:
        look, streams = self.look, self.streams.copy()
        self.streams.clear()
        # A handler may ask for `unsent` bytes: a request that has not left completely can be made elsewhere.
        never_began = (look is not None and look.never_began(stream_id) for stream_id in streams)
        end_all(zip((handler.on_closed for handler in streams.values()), never_began, strict=True), error_code)
