"""One HTTP/2 connection as a state machine: bytes in, events out. The only module that imports the engine, `ngh2`.

The engine's events are passed on as they are (a copy would cost as much as the engine itself), so another engine has to
bring these classes, with these fields:

    RequestReceived, ResponseReceived (stream_id, headers, end_stream)      TrailersReceived (stream_id, headers)
    DataReceived (stream_id, data, end_stream)                              StreamClosed (stream_id, error_code,
        local_error)
    SettingsReceived, PingReceived, GoAwayReceived (last_stream_id, error_code), ConnectionClosed

Rules that the caller keeps:
  - one event loop thread per connection, never from `__del__` or a signal handler: the engine must not be re-entered;
  - after `receive`, handle every event of `events()`, flush, and take `events()` again: a flush closes streams too;
  - a stream ends with `StreamClosed`, or with its connection: a lost connection makes no events for its streams;
  - every DATA byte received is acknowledged once, also on streams that are closed by then.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import IntEnum

import ngh2
from ngh2 import (
    ConnectionClosed,
    DataReceived,
    GoAwayReceived,
    PingAcknowledged,
    PingReceived,
    RequestReceived,
    ResponseReceived,
    SettingsReceived,
    StreamClosed,
    TrailersReceived,
)

__all__ = [
    "ConnectionClosed",
    "DataReceived",
    "ErrorCode",
    "GoAwayReceived",
    "Http2",
    "Http2Error",
    "Http2Limits",
    "OversizedHeaders",
    "PingAcknowledged",
    "PingReceived",
    "RequestReceived",
    "ResponseReceived",
    "SettingsReceived",
    "StreamClosed",
    "StreamGone",
    "TrailersReceived",
]

Headers = tuple[tuple[bytes, bytes], ...]

# The engine's error for the whole connection, and for a stream that ended meanwhile, also with its connection: the last
# DATA and a GOAWAY may come in one read.
Http2Error = ngh2.NGH2Error
# A stream's `local_error` when its headers were larger than may be sent: another connection would not take them either.
OversizedHeaders = ngh2.StreamProtocolError
StreamGone = (ngh2.StreamProtocolError, ngh2.ConnectionStateError, KeyError)


class ErrorCode(IntEnum):
    """RFC 9113, section 7: those of the codes of RST_STREAM and GOAWAY that are sent or looked for."""

    NO_ERROR = 0x0
    INTERNAL_ERROR = 0x2
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    ENHANCE_YOUR_CALM = 0xB


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """What one connection takes from its peer. Windows are in bytes."""

    max_concurrent_streams: int = 1000
    # Bounds the bytes of one call that wait in this process, whatever the size of its messages.
    stream_window: int = 1 << 20
    # Bounds the same over all calls of the connection. It is more than the windows of all streams, for with less, calls
    # whose bytes wait here would take the credit that calls need which run, and neither could end.
    connection_window: int = 1 << 30
    # Bytes of one header list by RFC 9113's measure (section 6.5.2). A peer that sends more loses the connection, so it
    # stands well above the limit that is kept per call.
    max_header_list_size: int = 256 * 1024
    # Streams that a client resets, each of which made this side begin a call ("rapid reset", CVE-2023-44487). A burst
    # of ten times as many is borne. The engine's own default (1,000, then 33 a second) ends connections of honest
    # clients that cancel a lot.
    max_resets_per_s: int = 2_000
    # PING and SETTINGS, and DATA shorter than a message's prefix; ten WINDOW_UPDATE count as one of them. Clients that
    # measure the path's delay ping once a round trip, at most some thousand times a second on loopback.
    max_control_frames_per_s: int = 10_000


_SETTING_ENABLE_PUSH = 0x2
_SETTING_MAX_CONCURRENT_STREAMS = 0x3
_SETTING_INITIAL_WINDOW_SIZE = 0x4
_SETTING_MAX_HEADER_LIST_SIZE = 0x6
_SETTING_NO_RFC7540_PRIORITIES = 0x9

# The link from a proxy or a handle to a replica is shared by everybody's calls: no header list that a public port lets
# in, with the fields that the proxy appends, comes near this.
PRIVATE_HEADER_LIST_SIZE = 1 << 20
# Between processes of an instance: a link that ended for what one client does would end the calls of all, and each
# client is held to its limits at the public port.
PRIVATE_LIMITS = Http2Limits(
    max_concurrent_streams=100_000,
    max_header_list_size=PRIVATE_HEADER_LIST_SIZE,
    max_resets_per_s=10_000_000,
    max_control_frames_per_s=10_000_000,
)
# RFC 9113, section 6.5.2: no frame is larger unless its receiver allows it.
_FRAME_SIZE = 16 * 1024


@functools.cache
def _configuration(max_header_list_size: int, max_resets_per_s: int) -> ngh2.Configuration:
    return ngh2.Configuration(
        auto_window_update=False,
        stream_reset_rate_limit=(10 * max_resets_per_s, max_resets_per_s),
        # Frames that HTTP/2 lets a receiver ignore or forgive, above all those of streams that were reset meanwhile.
        glitch_rate_limit=(10 * max_resets_per_s, max_resets_per_s // 2),
        max_inbound_header_list_size=max_header_list_size,
        max_inbound_header_count=max_header_list_size // 64,
        max_continuations=2 * max_header_list_size // _FRAME_SIZE,
        # What is larger ends its stream (INTERNAL_ERROR) and is not sent. The engine counts 12 bytes a field where the
        # receiver, with the same limit, counts 32: so much less never ends the connection there.
        max_send_header_block_length=max_header_list_size * 12 // 32,
    )


# RFC 9113, section 6.9.1.
_MAX_WINDOW = (1 << 31) - 1
_INCREMENTAL = ngh2.Priority(urgency=3, incremental=True)


class Http2:
    """An HTTP/2 connection of either role, without I/O.

    The engine's methods are bound to slots, so that the calls of the hot path go straight to it:
    `receive(data)`, `events()`, `data_to_send(amount)`, `send_request(headers, end_stream=)` -> stream id,
    `send_response(stream_id, headers, end_stream=)`, `send_data(stream_id, data, end_stream=)`,
    `send_trailers(stream_id, headers)`, `reset_stream(stream_id, error_code)`, `acknowledge(amount, stream_id)`,
    `queued_body_size(stream_id=None)`, `ping(opaque_data)`. The first and third raise `Http2Error` when the connection
    is beyond repair; those that name a stream raise one of `StreamGone` when the stream or its connection has ended.
    """

    __slots__ = (
        "_engine",
        "_limits",
        "_nominal_window",
        "acknowledge",
        "data_to_send",
        "end_stream",
        "events",
        "ping",
        "queued_body_size",
        "receive",
        "reset_stream",
        "send_data",
        "send_request",
        "send_response",
        "send_trailers",
    )

    def __init__(self, *, server: bool, limits: Http2Limits) -> None:
        engine = ngh2.Connection(
            ngh2.Role.SERVER if server else ngh2.Role.CLIENT,
            _configuration(limits.max_header_list_size, limits.max_resets_per_s),
        )
        self._engine = engine
        self._limits = limits
        self._nominal_window = limits.connection_window
        self.receive = engine.receive_data
        self.events = engine.events
        self.data_to_send = engine.data_to_send
        self.send_request = engine.send_request
        self.send_response = engine.send_response
        self.send_data = engine.send_data
        self.send_trailers = engine.send_trailers
        self.end_stream = engine.end_stream
        self.reset_stream = engine.reset_stream
        self.acknowledge = engine.acknowledge_received_data
        self.queued_body_size = engine.queued_body_size
        self.ping = engine.ping
        settings = {
            _SETTING_MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
            _SETTING_INITIAL_WINDOW_SIZE: limits.stream_window,
            _SETTING_MAX_HEADER_LIST_SIZE: limits.max_header_list_size,
        }
        if server:
            settings[_SETTING_NO_RFC7540_PRIORITIES] = 1
        else:
            settings[_SETTING_ENABLE_PUSH] = 0
        engine.initiate_connection(settings)
        engine.set_local_window_size(limits.connection_window)

    @property
    def want_write(self) -> bool:
        return self._engine.want_write

    def interleave(self, stream_id: int) -> None:
        """Send this response's body in turns with others; by default the engine sends one whole body after another."""
        self._engine.set_stream_priority(stream_id, _INCREMENTAL, ignore_client_signal=True)

    def may_receive(self, stream_id: int) -> bool:
        """Whether the peer has credit on the stream."""
        try:
            return self._engine.stream_local_window_size(stream_id) > 0
        except StreamGone:
            return False

    def repair_window(self) -> bool:
        """Give back connection window that local resets in the middle of a DATA frame lost in the engine.

        To be called when every received byte has been acknowledged. False when the window cannot grow any more: the
        connection is worn out and should be replaced.
        """
        window, nominal = self._limits.connection_window, self._nominal_window
        missing = nominal - self._engine.local_window_size
        # The engine gives credit when half of the nominal window has been acknowledged, so that much may be missing.
        # The new size leaves the peer room to get that far again, whatever part of what is missing was lost.
        if missing > nominal // 2 + window // 4:
            self._nominal_window = min(window + 2 * missing, _MAX_WINDOW)
            if self._nominal_window <= nominal:
                return False
            self._engine.set_local_window_size(self._nominal_window)
        return True

    def announce_shutdown(self) -> None:
        """First stage of a graceful close: the peer should open no new streams (RFC 9113, section 6.8)."""
        self._engine.send_shutdown_notice()

    def go_away(self, error_code: int = ErrorCode.NO_ERROR, why: bytes = b"") -> None:
        """Second stage: streams that the peer opened up to now are served, later ones are not. `why` is for the peer's
        log."""
        self._engine.send_goaway(error_code, debug_data=why)
