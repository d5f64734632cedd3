"""Two connections joined in memory, on a loop that the test turns by hand."""

import heapq
import itertools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from swerve.net.connection import Connection
from swerve.net.streams import Headers
from swerve.wire.limits import Http2Limits

REQUEST: Headers = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/probe.Probe/Call"),
    (b":authority", b"test"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
RESPONSE: Headers = ((b":status", b"200"), (b"content-type", b"application/grpc"))
TRAILERS: Headers = ((b"grpc-status", b"0"),)


class Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualLoop:
    """The part of an event loop that connections and timers use. Time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._soon: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now

    def call_soon(self, callback, *args) -> None:
        self._soon.append(lambda: callback(*args))

    def call_later(self, delay, callback, *args) -> Timer:
        timer = Timer(lambda: callback(*args))
        heapq.heappush(self._timers, (self.now + delay, next(self._order), timer))
        return timer

    @property
    def armed(self) -> int:
        return sum(not timer.cancelled for _, _, timer in self._timers)

    def turn(self) -> bool:
        """Run what is due. False when nothing was."""
        due = len(self._soon)
        for _ in range(due):
            self._soon.popleft()()
        return due > 0

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        while self._timers and self._timers[0][0] <= self.now:
            _, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                timer.callback()


class Transport:
    """One end of the pair; what is written waits until the test moves it. Pauses its writer above `high` bytes."""

    def __init__(self, owner: Connection, high: int) -> None:
        self.owner = owner
        self.high = high
        self.buffer = bytearray()
        self.closed = False
        self.paused = False

    def write(self, data) -> None:
        assert not self.closed, "written to a closed transport"
        self.buffer += data
        if len(self.buffer) > self.high and not self.paused:
            self.paused = True
            self.owner.pause_writing()

    def take(self, amount: int) -> bytes:
        data = bytes(self.buffer[:amount])
        del self.buffer[:amount]
        if self.paused and not self.buffer:
            self.paused = False
            self.owner.resume_writing()
        return data

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def set_write_buffer_limits(self, high) -> None:
        pass

    def get_extra_info(self, name):
        return ("127.0.0.1", 5000) if name == "peername" else None

    def close(self) -> None:
        self.closed = True

    abort = close


class Failures(logging.Handler):
    """Connections log what handlers raise, so that one call's failure does not lose the others."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


@dataclass
class Recorder:
    """A stream's handler that keeps what came. `credit` says whether data is acknowledged as it comes."""

    connection: Connection | None = None
    stream_id: int = 0
    credit: bool = True
    headers: list[Headers] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    owed: int = 0
    ended: bool = False
    trailers: Headers | None = None
    closed: list[int] = field(default_factory=list)

    def on_headers(self, headers, end_stream):
        assert not self.closed
        self.headers.append(headers)
        self.ended |= end_stream

    def on_data(self, data, end_stream):
        assert not self.closed
        self.data += data
        self.ended |= end_stream
        self.owed += len(data)
        if self.credit:
            self.pay()

    def on_trailers(self, headers):
        assert not self.closed
        self.trailers = headers
        self.ended = True

    def on_closed(self, error_code):
        self.closed.append(error_code)
        self.pay()

    def pay(self) -> None:
        owed, self.owed = self.owed, 0
        self.connection.acknowledge(self.stream_id, owed)


class Pair:
    """A client and a server connection. `on_request(recorder)` may answer; `served` lists all requests."""

    def __init__(
        self, *, high: int = 1 << 20, limits: Http2Limits | None = None, client_limits=None, accept=None, loop=None
    ) -> None:
        self.loop = loop or ManualLoop()
        self.served: list[Recorder] = []
        self.credit = True
        self.on_request: Callable[[Recorder], None] = lambda recorder: None
        self.lost: list[Connection] = []
        self.client = Connection(self.loop, client_limits or Http2Limits(max_concurrent_streams=0))
        self.server = Connection(
            self.loop, limits or Http2Limits(), accept=accept or self._accept, on_lost=self.lost.append
        )
        self.up = Transport(self.client, high)
        self.down = Transport(self.server, high)
        self.client.connection_made(self.up)
        self.server.connection_made(self.down)
        self.run()

    def _accept(self, connection, stream_id, headers, end_stream):
        recorder = Recorder(connection, stream_id, self.credit, [headers], ended=end_stream)
        self.served.append(recorder)
        self.on_request(recorder)
        return recorder

    def call(self, *, end_stream: bool = False, credit: bool = True) -> Recorder:
        recorder = Recorder(self.client, credit=credit)
        recorder.stream_id = self.client.open_stream(REQUEST, recorder, end_stream=end_stream)
        return recorder

    def move(self, source: Transport, amount: int) -> bool:
        """Carry up to `amount` bytes to the other end. False when there was nothing."""
        sink = self.server if source is self.up else self.client
        data = source.take(amount)
        if data and not sink.closed:
            sink.data_received(data)
        if source.closed and not source.buffer and not sink.closed:
            sink.eof_received()
        return bool(data)

    def run(self, amount: int = 1 << 18) -> None:
        """Go on until nothing moves."""
        while self.step(amount):
            pass

    def step(self, amount: int = 1 << 18) -> bool:
        """One turn of the loop, and up to `amount` bytes each way. False when nothing moved."""
        return self.loop.turn() | self.move(self.up, amount) | self.move(self.down, amount)

    def check_settled(self) -> None:
        """After all streams have ended nothing of them is left."""
        for connection in (self.client, self.server):
            assert connection.streams == {}
            assert connection.backlog.empty
            assert connection._unacknowledged == 0


def answer(recorder: Recorder, body: bytes = b"", trailers=TRAILERS) -> None:
    recorder.connection.send_headers(recorder.stream_id, RESPONSE)
    if body:
        recorder.connection.send_data(recorder.stream_id, body)
    recorder.connection.send_trailers(recorder.stream_id, trailers)
