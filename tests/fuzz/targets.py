"""What is fuzzed. Each target takes any bytes and returns; what it raises is a fault.

The promises are written down as assertions: only the documented errors, every stream's handler gets one `on_closed`,
nothing is left of a connection that has ended, memory is bounded by the limits that were given.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from swerve.net.connection import Connection
from swerve.net.limits import ConnectionLife, ConnectionLimits
from swerve.net.server_call import ServerCall
from swerve.net.streams import Headers
from swerve.net.sweeper import Sweeper, WatchedConnection
from swerve.proxy.request_ids import is_usable
from swerve.schema import ConfigError, parse_config
from swerve.wire import bundle, deadline, events, metadata, status
from swerve.wire.http2 import Http2, Http2Error, StreamGone, TooManyStreams
from swerve.wire.limits import Http2Limits
from swerve.wire.message import DEFLATE, GZIP, IDENTITY, MessageReader, check_encoding
from swerve.wire.status import OK, RpcError, Status
from tests.net import raw_http2
from tests.net.net_support import REQUEST, RESPONSE, TRAILERS, Failures, ManualLoop, Transport

GREETING = raw_http2.PREFACE + raw_http2.settings_of()
MAX_MESSAGE = 4096
# A long input that comes byte by byte takes as long as thousands of others, and shows no more than its start does.
MAX_PIECES = 250


# ---------------------------------------------------------------------------------------------------------------------
# A server's connection


class _Call(ServerCall):
    """Answers each message with itself."""

    __slots__ = ("closed",)

    def __init__(self, connection: Connection, stream_id: int, headers: Headers) -> None:
        encoding = metadata.get(headers, b"grpc-encoding") or IDENTITY
        super().__init__(connection, stream_id, headers, MAX_MESSAGE, encoding)
        self.closed = 0
        try:
            check_encoding(encoding)
        except RpcError as error:
            self.refuse(error.status)

    def message_received(self, message: bytes) -> None:
        assert len(message) <= MAX_MESSAGE
        self.send_message(message)

    def half_closed(self) -> None:
        self.finish(OK)

    def cancelled(self) -> None:
        pass

    def on_closed(self, error_code: int) -> None:
        self.closed += 1
        super().on_closed(error_code)


def connection(data: bytes) -> None:
    """Bytes from a client. The first says how they come: behind a preface, in which pieces, how fast, and whether the
    client reads."""
    how, data = (data[0], data[1:]) if data else (0, data)
    size = (1 << 20, 1, 9, 100)[how & 3]
    greets, slow, reads = how & 4, how & 8, not how & 16
    loop, calls, failures = ManualLoop(), [], Failures()

    def accept(made: Connection, stream_id: int, headers: Headers, end_stream: bool) -> ServerCall:
        metadata.decode(headers)
        deadline.parse_timeout(metadata.get(headers, b"grpc-timeout") or b"")
        call = _Call(made, stream_id, headers)
        calls.append(call)
        if end_stream:
            call.end_of_request()
        return call

    limits = Http2Limits(max_concurrent_streams=10, stream_window=64 * 1024, max_header_list_size=64 * 1024)
    server = Connection(loop, limits, accept=accept)
    transport = Transport(server, high=1 << 16)
    lives = ConnectionLimits(
        handshake_timeout_s=5, keepalive_time_s=5, max_connection_idle_s=9, max_connection_age_s=20, stall_timeout_s=3
    )
    watched = {server: WatchedConnection(ConnectionLife(lives, loop.time(), 1.0))}
    logging.getLogger("swerve.net").addHandler(failures)
    try:
        server.connection_made(transport)
        Sweeper(loop, watched, lives).start()
        if greets:
            data = GREETING + data
        size = max(size, len(data) // MAX_PIECES)
        for at in range(0, len(data), size):
            if transport.closed:
                break
            server.data_received(data[at : at + size])
            loop.turn()
            if reads:
                transport.take(1 << 20)
            if slow:
                loop.pass_time(1.0)
        while loop.turn():
            pass
        assert server.closed or not server.unacknowledged, "bytes that nobody will give credit for"
        server.eof_received()
        server.connection_lost(None)
        watched.clear()
        loop.pass_time(60.0)
        while loop.turn():
            pass
    finally:
        logging.getLogger("swerve.net").removeHandler(failures)
    assert not failures.seen, failures.seen[0].getMessage()
    assert all(call.closed == 1 for call in calls)
    assert all(call.done for call in calls)
    assert not server.streams
    assert server.backlog.empty
    assert not loop.armed, "a timer is left"


# ---------------------------------------------------------------------------------------------------------------------
# The HTTP/2 engine


ENGINE_LIMITS = Http2Limits(
    max_concurrent_streams=4, stream_window=70_000, connection_window=100_000, max_header_list_size=4096
)


class _User:
    """Answers what an engine tells, and keeps to what it asks of whoever uses it."""

    def __init__(self, engine: Http2) -> None:
        self.engine = engine
        self.open: set[int] = set()

    def request(self) -> None:
        with contextlib.suppress(TooManyStreams):
            self.open.add(self.engine.send_request(REQUEST))

    def hear(self) -> None:
        for event in self.engine.events():
            with contextlib.suppress(StreamGone):
                self._answer(event)

    def _answer(self, event: events.Event) -> None:
        engine = self.engine
        match event:
            case (events.REQUEST, stream_id, _, _):
                assert stream_id not in self.open
                self.open.add(stream_id)
                engine.send_response(stream_id, RESPONSE)
            case (events.WHOLE_REQUEST, stream_id, _, data):
                assert stream_id not in self.open
                self.open.add(stream_id)
                engine.acknowledge(len(data), stream_id)
                if engine.respond(stream_id, RESPONSE, data, TRAILERS):
                    self.open.remove(stream_id)
            case (events.BODY, stream_id, data, end_stream):
                assert stream_id in self.open
                engine.acknowledge(len(data), stream_id)
                engine.send_data(stream_id, data, end_stream=end_stream)
            case (events.TRAILERS, stream_id, headers):
                assert stream_id in self.open
                engine.send_trailers(stream_id, headers)
            case (events.CLOSED, stream_id, _):
                # Some were broken off before they were told.
                self.open.discard(stream_id)

    def write(self, amount: int) -> list[int]:
        """The kinds of the frames that are written, which are whole."""
        wants = self.engine.want_write
        data = self.engine.data_to_send(amount)
        assert bool(data) == wants
        self.hear()
        return [frame.kind for frame in raw_http2.frames_in(data)]


def frames_from(data: bytes) -> bytes:
    """Frames with right heads: of each a byte says the kind, then the flags, the stream, how long it is, and what is in
    it follows. The kind's highest bit makes it a long one."""
    found = []
    while len(data) >= 4:
        kind, flags, stream_id, size = data[:4]
        payload, data = data[4 : 4 + size], data[4 + size :]
        found.append(raw_http2.frame(kind & 0x7F, flags, stream_id, payload * 64 if kind & 0x80 else payload))
    return b"".join(found)


def http2(data: bytes) -> None:
    """Frames with anything in them. The first byte says for which role, in which pieces, and how much is written."""
    how, data = (data[0], data[1:]) if data else (0, data)
    is_server = bool(how & 1)
    size, amount = (1 << 20, 1, 9, 5000)[how >> 1 & 3], 1 << 20 if how & 8 else 100
    engine = Http2(server=is_server, limits=ENGINE_LIMITS)
    user = _User(engine)
    engine.data_to_send(1)
    data = (GREETING if is_server else raw_http2.settings_of()) + frames_from(data)
    size = max(size, len(data) // MAX_PIECES)
    for at in range(0, len(data), size):
        if not is_server and at % 1000 == 0:
            user.request()
        try:
            engine.receive(data[at : at + size])
        except Http2Error:
            user.hear()
            assert raw_http2.GOAWAY in user.write(amount)
            break
        user.hear()
        user.write(amount)
        reader = engine._reader
        assert len(reader._rest) < 9 + 16 * 1024
        assert len(engine._streams) <= ENGINE_LIMITS.max_concurrent_streams or not is_server
        assert engine._streams.keys() == user.open
    for stream_id in user.open.copy():
        engine.reset_stream(stream_id)
    user.hear()
    assert not user.open
    assert not engine._streams
    assert not engine.queued_body_size()
    user.write(amount)
    assert not engine.want_write


# ---------------------------------------------------------------------------------------------------------------------
# Messages and fields


def messages(data: bytes) -> None:
    """The body of a call. The first byte says how it is compressed and cut; cut otherwise it must give the same."""
    how, data = (data[0], data[1:]) if data else (0, data)
    encoding = (IDENTITY, GZIP, DEFLATE, b"snappy")[how & 3]
    size = 1 + (how >> 2)
    whole = _read(encoding, [data])
    pieces = _read(encoding, [data[at : at + size] for at in range(0, len(data), size)])
    assert whole == pieces


def _read(encoding: bytes, parts: list[bytes]) -> tuple[list[bytes], Status | bool]:
    reader = MessageReader(MAX_MESSAGE, encoding)
    read: list[bytes] = []
    for part in parts:
        try:
            read += reader.feed(part)
        except RpcError as error:
            # Messages before a bad one count only if they came apart from it.
            return [], error.status
        held = sum(map(len, reader._body)) + len(reader._head)
        assert held <= MAX_MESSAGE + 5
        assert all(len(message) <= MAX_MESSAGE for message in read)
    return read, reader.pending


def fields(data: bytes) -> None:
    """Header values, one a line, as each of the decoders has them; and what was read must be written again."""
    lines = data.split(b"\n")
    for line in lines:
        seconds = deadline.parse_timeout(line)
        if seconds is not None:
            again = deadline.parse_timeout(deadline.format_timeout(seconds))
            assert again is not None
            assert 0 <= again <= seconds + 1e-6
        text = status.decode_message(line)
        wire = status.encode_message(text)
        assert status.decode_message(wire) == text
        assert not wire.startswith(b" ")
        assert not wire.endswith(b" ")
        assert wire.isascii()
        cut = status.truncate_details(text)
        assert len(cut) <= status.MAX_DETAILS_LENGTH
        assert isinstance(status.decode_code(line), status.StatusCode)
        metadata.decode_binary(line)
        is_usable(line)
        with contextlib.suppress(ValueError):
            bundle.unpack(line)
    headers = tuple(zip(lines[::2], lines[1::2], strict=False))
    assert metadata.size_of(headers) >= sum(len(name) + len(value) for name, value in headers)
    for key, value in metadata.decode(headers):
        try:
            encoded = metadata.encode([(key, value)])
        except (ValueError, TypeError):
            continue
        assert metadata.decode(encoded) == [(key, value)]


# ---------------------------------------------------------------------------------------------------------------------
# The configuration file


def config(data: bytes) -> None:
    """The text of a configuration file: it is refused with one clear message, or can be passed on."""
    try:
        made = parse_config(data.decode("utf-8", "replace"), "fuzzed.yaml")
    except ConfigError as error:
        message = str(error)
        assert message.startswith("The config file ")
        assert "Traceback" not in message
        assert len(message) < 100 * 1024
        return
    made.model_dump_json(exclude_unset=True)
    made.grpc_options.model_dump_json()
    for app in made.applications:
        app.model_dump_json(exclude_unset=True)
        for deployment in app.deployments:
            deployment.overrides()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "connection": connection,
    "http2": http2,
    "messages": messages,
    "fields": fields,
    "config": config,
}
