"""Whatever becomes of a forwarded call, both of its connections get their credit back, and its replica its slot."""

import logging
from types import SimpleNamespace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from swerve.net.bundles import BundleCaller, BundleServer
from swerve.net.client_call import request_headers
from swerve.net.connection import Connection
from swerve.net.pace import Pace
from swerve.net.streams import HUNG_UP
from swerve.proxy.forward import CLIENT_WINDOW, CallKind, ForwardedCall
from swerve.proxy.routes import Method
from swerve.routing.calls import Shed
from swerve.wire import bundle
from swerve.wire.frames import ErrorCode
from swerve.wire.header_block import HeaderBlock
from swerve.wire.limits import Http2Limits
from swerve.wire.status import StatusCode
from tests.net.net_support import RESPONSE, TRAILERS, Failures, ManualLoop, Pair, Recorder

UNARY, STREAMING = request_headers("/t.Lab/Echo", "test"), request_headers("/t.Lab/Chat", "test")
# At the edges of a frame, of what a bundle takes, of a window, and of what is kept for another replica.
SIZES = st.sampled_from([0, 1, 100, 16_000, 17_000, 150_000, CLIENT_WINDOW - 200, 600_000])
HIGH_WATER = st.sampled_from([1 << 10, 1 << 20])
PICK = st.integers(0, 9)
# 0 is what happens rarely.
RARELY = st.integers(0, 9)


class Target:
    """The calls that wait for the replica, and how many it has."""

    app = "app"

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.link: Connection | None = None
        self.waiting: list[ForwardedCall] = []
        self.taken = 0
        self.router = SimpleNamespace(withdraw=self.withdraw, retry_after_s=lambda: 1.0)

    def submit(self, call):
        if self.taken < self.slots:
            self.place(call)
        else:
            self.waiting.append(call)

    def place(self, call):
        self.taken += 1
        call.send(SimpleNamespace(link=self.link))

    def withdraw(self, call):
        if call in self.waiting:
            self.waiting.remove(call)

    def release(self, replica, call):
        self.taken -= 1

    def refused(self, replica, call):
        self.taken -= 1
        self.waiting.insert(0, call)


class ForwardedCalls(RuleBasedStateMachine):
    """A client, the proxy's two connections with calls between them, and a replica that does anything."""

    @initialize(bundles=st.booleans(), high=HIGH_WATER, eager=st.booleans(), slots=st.integers(0, 5))
    def start(self, bundles, high, eager, slots):
        self.bundles = bundles
        self.eager = eager
        self.high = high
        self.loop = ManualLoop()
        self.target = Target(slots)
        self.failures = Failures()
        logging.getLogger("swerve.net").addHandler(self.failures)
        self.calls: list[ForwardedCall] = []
        self.ends: list[int] = []
        self.series = SimpleNamespace(ended=lambda request_id, code, seconds: self.ends.append(code))
        self.asked: list[Recorder] = []
        self.served: list[Recorder] = []
        self.connect_client()
        self.connect_replica()

    def connect(self, accept):
        return Pair(
            loop=self.loop,
            high=self.high,
            limits=Http2Limits(stream_window=CLIENT_WINDOW),
            client_limits=Http2Limits(max_concurrent_streams=0, stream_window=100_000),
            accept=accept,
        )

    def connect_client(self):
        self.front = self.connect(self.accept)

    def connect_replica(self):
        self.back = self.connect(self.serve)
        self.target.link = self.back.client
        if self.bundles:
            BundleCaller(self.back.client)
            self.run()

    def run(self):
        while self.front.step() | self.back.step():
            pass

    def accept(self, connection, stream_id, headers, end_stream):
        """As the ingress does."""
        streaming = headers == STREAMING
        kind = CallKind.of(Method(dict(headers)[b":path"], streaming, not streaming), dict(headers), connection)
        connection.block = block = HeaderBlock.of(headers, connection.block)
        call = ForwardedCall(connection, stream_id, block, kind, self.target, self.series)
        self.calls.append(call)
        if end_stream or not call.incomplete:
            call.open(end_stream)
        return call

    def serve(self, connection, stream_id, headers, end_stream):
        if (b":path", bundle.PATH) in headers:
            return BundleServer(connection, stream_id, self.serve_bundled, Pace())
        return self.serve_call(connection, stream_id, end_stream)

    def serve_bundled(self, side, number, shared, added, end_stream):
        return self.serve_call(side, number, end_stream)

    def serve_call(self, side, number, end_stream):
        self.served.append(Recorder(side, number, credit=False, ended=end_stream))
        return self.served[-1]

    # --- the client ------------------------------------------------------------------------------------------------

    @rule(headers=st.sampled_from([UNARY, STREAMING]), size=SIZES, end=st.booleans())
    def begin(self, headers, size, end):
        call = Recorder(self.front.client, credit=False)
        call.stream_id = self.front.client.open_stream(headers, call)
        self.front.client.send_data(call.stream_id, bytes(size), end_stream=end)
        self.asked.append(call)

    @precondition(lambda self: self.asked)
    @rule(pick=PICK, size=SIZES, end=st.booleans())
    def send(self, pick, size, end):
        call = self.asked[-1 - pick % len(self.asked)]
        self.front.client.send_data(call.stream_id, bytes(size), end_stream=end)

    @precondition(lambda self: self.asked)
    @rule(pick=PICK, how=st.sampled_from(["reset", "trailers", "read"]))
    def client_acts(self, pick, how):
        call = self.asked[-1 - pick % len(self.asked)]
        match how:
            case "reset":
                self.front.client.reset(call.stream_id)
            case "trailers":
                self.front.client.send_trailers(call.stream_id, TRAILERS)
            case "read":
                call.pay()

    # --- the proxy -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.target.waiting)
    @rule()
    def place(self):
        self.target.place(self.target.waiting.pop(0))

    @precondition(lambda self: self.target.waiting)
    @rule(shed=st.booleans())
    def give_up_waiting(self, shed):
        call = self.target.waiting.pop(0)
        if shed:
            call.shed(Shed(1, 1, 1.0))
        else:
            call.fail(StatusCode.UNAVAILABLE, "nobody serves it")

    @precondition(lambda self: self.calls)
    @rule(pick=PICK)
    def expire(self, pick):
        call = self.calls[-1 - pick % len(self.calls)]
        if not call.done:
            call.give_up(StatusCode.DEADLINE_EXCEEDED, "too late")

    # --- the replica -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.served)
    @rule(
        pick=PICK,
        size=SIZES,
        how=st.sampled_from(["headers", "data", "whole", "end", "read", "refuse", "reset", "nonsense"]),
    )
    def replica_acts(self, pick, size, how):
        call = self.served[-1 - pick % len(self.served)]
        side, number = call.connection, call.stream_id
        match how:
            case "headers":
                self.answer(call)
            case "data":
                self.answer(call)
                side.send_data(number, bytes(size))
            case "whole" if not call.headers:
                call.headers.append(RESPONSE)
                side.respond(number, RESPONSE, bytes(size), TRAILERS)
                side.end_early(number)
            case "end" | "nonsense":
                self.answer(call)
                side.send_trailers(number, TRAILERS if how == "end" else ((b"grpc-status", b"x"),))
                side.end_early(number)
            case "read":
                call.pay()
            case "refuse":
                side.reset(number, ErrorCode.REFUSED_STREAM)
            case "reset":
                side.reset(number, ErrorCode.INTERNAL_ERROR)

    def answer(self, call):
        if not call.headers:
            call.headers.append(RESPONSE)
            call.connection.send_headers(call.stream_id, RESPONSE)

    # --- what happens ----------------------------------------------------------------------------------------------

    @rule(steps=st.integers(1, 4), amount=st.sampled_from([100, 10_000, 1 << 18]))
    def go_on(self, steps, amount):
        for _ in range(steps):
            self.front.step(amount)
            self.back.step(amount)

    @invariant()
    def settle(self):
        if self.eager:
            self.run()

    @precondition(lambda self: self.served)
    @rule(by_replica=st.booleans(), chance=RARELY)
    def lose_replica(self, by_replica, chance):
        """As a target does, which makes a new connection."""
        if chance:
            return
        (self.back.server if by_replica else self.back.client).close()
        self.run()
        self.served.clear()
        self.connect_replica()

    @precondition(lambda self: self.asked)
    @rule(by_client=st.booleans(), chance=RARELY)
    def lose_client(self, by_client, chance):
        if chance:
            return
        if by_client:
            self.front.client.close()
        else:
            self.front.server.close(HUNG_UP)
        self.run()
        self.asked.clear()
        self.connect_client()

    def teardown(self):
        if not hasattr(self, "front"):
            return
        logging.getLogger("swerve.net").removeHandler(self.failures)
        self.run()
        while self.target.waiting:
            self.target.waiting.pop().fail(StatusCode.UNAVAILABLE, "the end")
        for call in self.asked:
            if not call.ended:
                self.front.client.end_stream(call.stream_id)
        for _ in range(3):
            self.run()
            for call in self.served:
                call.connection.reset(call.stream_id, ErrorCode.INTERNAL_ERROR)
            while any(call.owed for call in (*self.asked, *self.served)):
                for call in (*self.asked, *self.served):
                    call.pay()
                self.run()
            while self.target.waiting:
                self.target.waiting.pop().fail(StatusCode.UNAVAILABLE, "the end")
        assert not self.failures.seen, self.failures.seen[0].getMessage()
        assert all(call.done for call in self.calls)
        assert len(self.ends) == len(self.calls)
        assert self.target.taken == 0
        for connection in (self.front.server, self.back.client):
            self.check_nothing_left(connection)

    def check_nothing_left(self, connection: Connection):
        assert connection.streams.keys() <= {getattr(connection.bundles, "stream_id", None)}
        assert connection.idle
        assert connection.unacknowledged == 0
        assert connection.backlog.empty


ForwardedCalls.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
test_forwarded_calls = ForwardedCalls.TestCase


def test_what_a_client_sends_after_the_answer_that_it_does_not_read_is_credited():
    history = ForwardedCalls()
    history.start(bundles=False, high=1 << 20, eager=True, slots=1)
    history.begin(STREAMING, 100, end=False)
    history.run()
    history.replica_acts(0, 150_000, "whole")
    history.run()
    (call,) = history.calls
    assert call.done
    history.send(0, 100, end=False)
    history.run()
    assert call in history.front.server.streams.values()
    history.teardown()
