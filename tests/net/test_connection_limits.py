"""What is due in the life of a connection, by a fake clock; and that it is done, on a connection in memory."""

import pytest
from net_support import ManualLoop, Pair, Recorder, Transport

from swerve.net.connection import Connection
from swerve.net.limits import Action, ConnectionLife, ConnectionLimits
from swerve.net.stalls import PROGRESS, StallWatch
from swerve.net.streams import CONNECTION_LOST, HUNG_UP
from swerve.net.sweeper import Sweeper, WatchedConnection
from swerve.wire.frames import ErrorCode
from swerve.wire.limits import PRIVATE_LIMITS, Http2Limits
from tests.net.raw_http2 import ACK, END_HEADERS, END_STREAM, HEADERS, PING, frame, goaway, settings_of, window_update


class Life:
    """A connection's life, asked once a second."""

    def __init__(self, *, jitter: float = 1.0, **limits) -> None:
        self.now = 100.0
        self.life = ConnectionLife(ConnectionLimits(**limits), self.now, jitter)
        self.calls = 0

    def seconds(self, count: int, *, established=True, heard=True, running=0, begun=0) -> list[tuple[int, Action]]:
        """What was due, and after how many seconds."""
        due = []
        for second in range(1, count + 1):
            self.now += 1
            self.calls += begun
            decision = self.life.decide(
                self.now, established=established, heard=heard, calls=self.calls, running=running
            )
            if decision.action is not Action.NOTHING:
                due.append((second, decision.action))
        return due


def test_a_peer_that_does_not_greet_is_closed():
    assert Life(handshake_timeout_s=5).seconds(5, established=False) == [(5, Action.CLOSE)]


def test_a_peer_that_greeted_in_time_stays():
    life = Life(handshake_timeout_s=5)
    assert life.seconds(4, established=False) + life.seconds(100) == []


def test_a_silent_peer_is_asked_and_closed_when_it_does_not_answer():
    life = Life(keepalive_time_s=10, keepalive_timeout_s=3)
    assert life.seconds(13, heard=False, running=1) == [(10, Action.PING), (13, Action.LOST)]


def test_a_peer_that_answers_is_asked_again_after_the_next_silence():
    life = Life(keepalive_time_s=10, keepalive_timeout_s=3)
    assert life.seconds(11, heard=False) == [(10, Action.PING)]
    assert life.seconds(1) == []
    assert life.seconds(10, heard=False) == [(10, Action.PING)]


def test_a_peer_that_talks_is_not_asked():
    assert Life(keepalive_time_s=10).seconds(100) == []


def test_a_connection_without_calls_is_asked_to_go():
    assert Life(max_connection_idle_s=10).seconds(20) == [(10, Action.DRAIN)]


@pytest.mark.parametrize("busy", [{"running": 1}, {"begun": 1}], ids=["a long call", "calls between two looks"])
def test_a_connection_with_calls_is_not_idle(busy):
    life = Life(max_connection_idle_s=10)
    assert life.seconds(30, **busy) == []
    assert life.seconds(10) == [(10, Action.DRAIN)]


def test_an_old_connection_is_asked_to_go_and_closed_after_the_grace():
    life = Life(max_connection_age_s=10, max_connection_age_grace_s=5)
    assert life.seconds(15, running=1) == [(10, Action.DRAIN), (15, Action.CLOSE)]


def test_without_a_grace_running_calls_of_an_old_connection_go_on():
    assert Life(max_connection_age_s=10).seconds(1000, running=1) == [(10, Action.DRAIN)]


def test_jitter_scales_the_age():
    assert Life(max_connection_age_s=10, jitter=0.9).seconds(9) == [(9, Action.DRAIN)]


def test_a_connection_that_has_had_its_calls_is_asked_to_go():
    assert Life(max_calls_per_connection=30).seconds(4, begun=10) == [(3, Action.DRAIN)]


def test_a_peer_that_vanishes_while_it_is_asked_to_go_is_noticed():
    life = Life(max_connection_age_s=5, keepalive_time_s=10, keepalive_timeout_s=3)
    assert life.seconds(13, heard=False, running=1) == [(5, Action.DRAIN), (10, Action.PING), (13, Action.LOST)]


def test_without_limits_nothing_is_ever_due():
    assert Life().seconds(10_000, heard=False, established=True) == []


# --- stalls ----------------------------------------------------------------------------------------------------------


def test_what_does_not_shrink_has_stalled():
    watch, these = StallWatch(), object()
    assert [watch.stalled(now, 3, {1: (500_000, these)}) for now in range(5)] == [[], [], [], [1], [1]]


def test_what_shrinks_by_a_frame_within_the_timeout_goes_on():
    watch, these = StallWatch(), object()
    for now in range(0, 100, 2):
        assert watch.stalled(now, 3, {1: (10_000_000 - now // 2 * PROGRESS, these)}) == []


def test_a_byte_at_a_time_is_no_progress():
    watch, these = StallWatch(), object()
    assert [watch.stalled(now, 3, {1: (500_000 - now, these)}) for now in range(4)] == [[], [], [], [1]]


def test_other_bytes_of_the_same_number_have_not_stalled():
    watch = StallWatch()
    assert all(watch.stalled(now, 3, {1: (1000, object())}) == [] for now in range(10))


def test_what_was_gone_for_a_while_begins_anew():
    watch, these = StallWatch(), object()
    watch.stalled(0, 3, {1: (1000, these)})
    watch.stalled(1, 3, {})
    assert watch.stalled(3, 3, {1: (1000, these)}) == []


# --- on a connection -------------------------------------------------------------------------------------------------


class Swept(Pair):
    """A pair of connections whose server has limits. While it is `silent` nothing gets from one to the other."""

    silent = False

    def __init__(self, *, limits: Http2Limits | None = None, client_limits=None, high=1 << 20, **connection_limits):
        super().__init__(limits=limits, client_limits=client_limits, high=high)
        options = ConnectionLimits(**connection_limits)
        life = ConnectionLife(options, self.loop.time(), 1.0)
        self.watched = {self.server: WatchedConnection(life)}
        Sweeper(self.loop, self.watched, options).start()

    def seconds(self, count: float) -> None:
        for _ in range(int(count * 10)):
            self.loop.pass_time(0.1)
            self.run()
            if self.server.closed:
                self.watched.clear()

    def move(self, source: Transport, amount: int) -> bool:
        return False if self.silent else super().move(source, amount)


def test_a_peer_that_is_there_answers_and_stays():
    pair = Swept(keepalive_time_s=10, keepalive_timeout_s=3)
    call = pair.call()
    pair.seconds(100)
    assert not pair.server.closed
    assert not call.closed


def test_a_peer_that_vanished_under_a_response_is_noticed():
    pair = Swept(keepalive_time_s=10, keepalive_timeout_s=3)
    pair.call()
    pair.run()
    pair.silent = True
    served = pair.served[0]
    served.connection.send_headers(served.stream_id, ((b":status", b"200"),))
    served.connection.send_data(served.stream_id, bytes(100_000))
    pair.seconds(12)
    assert not pair.server.closed
    pair.seconds(4)
    assert pair.server.closed
    assert served.closed == [CONNECTION_LOST]


def test_an_old_connection_lets_its_calls_finish():
    pair = Swept(max_connection_age_s=10, max_connection_age_grace_s=100)
    call = pair.call(end_stream=True)
    pair.seconds(15)
    assert not pair.client.usable
    served = pair.served[0]
    served.connection.send_headers(served.stream_id, ((b":status", b"200"),), end_stream=True)
    pair.seconds(1)
    assert call.closed == [0]
    assert pair.server.closed


def test_a_request_that_crosses_the_first_goaway_is_served():
    pair = Swept(max_connection_age_s=10)
    pair.call()
    pair.run()
    pair.silent = True
    pair.seconds(10.5)
    crossing = pair.call(end_stream=True)
    pair.silent = False
    pair.seconds(2)
    assert len(pair.served) == 2
    assert not crossing.closed


def test_calls_that_do_not_end_in_the_grace_end_with_their_connection():
    pair = Swept(max_connection_age_s=10, max_connection_age_grace_s=5)
    call = pair.call(end_stream=True)
    pair.seconds(13)
    assert not call.closed
    pair.seconds(4)
    assert call.closed == [CONNECTION_LOST]


def test_an_idle_connection_ends():
    pair = Swept(max_connection_idle_s=10)
    pair.seconds(9)
    assert not pair.server.closed
    pair.seconds(3)
    assert pair.server.closed


def forward(pair: Swept, size: int, call: Recorder) -> tuple[list[int], Recorder]:
    """Send `size` bytes to the client as what came from another connection. Returns what this one gets credited, and
    the call's stream at the server."""
    credited: list[int] = []

    class Source:
        def give_credit(self, stream_id, amount):
            credited.append(amount)

        def send_credit(self):
            pass

    pair.run()
    served = next(served for served in pair.served if served.stream_id == call.stream_id)
    served.connection.send_headers(served.stream_id, ((b":status", b"200"),))
    served.connection.forward_data(served.stream_id, bytes(size), False, Source(), 1)
    return credited, served


def test_a_response_that_is_not_read_is_ended_and_its_bytes_are_credited():
    pair = Swept(client_limits=Http2Limits(max_concurrent_streams=0, stream_window=1000), stall_timeout_s=10)
    unread, read = pair.call(credit=False), pair.call()
    credited, stuck = forward(pair, 200_000, unread)
    forward(pair, 200_000, read)
    pair.seconds(9)
    assert not stuck.closed
    pair.seconds(4)
    assert stuck.closed == unread.closed == [ErrorCode.ENHANCE_YOUR_CALM]
    assert sum(credited) == 200_000
    assert len(read.data) == 200_000
    assert not pair.server.closed


def test_a_whole_response_without_credit_is_ended_when_nobody_reads_it():
    pair = Swept(client_limits=Http2Limits(max_concurrent_streams=0, stream_window=0), stall_timeout_s=10)
    unread = pair.call(end_stream=True, credit=False)
    pair.run()
    (stuck,) = pair.served
    stuck.connection.respond(stuck.stream_id, ((b":status", b"200"),), bytes(10_000), ((b"grpc-status", b"0"),))
    pair.seconds(9)
    assert not stuck.closed
    pair.seconds(4)
    assert stuck.closed == unread.closed == [ErrorCode.ENHANCE_YOUR_CALM]
    assert pair.server.http2.queued_body_size() == 0


def test_a_whole_response_that_is_read_slowly_goes_on():
    pair = Swept(client_limits=Http2Limits(max_concurrent_streams=0, stream_window=PROGRESS), stall_timeout_s=3)
    call = pair.call(end_stream=True, credit=False)
    pair.run()
    (served,) = pair.served
    served.connection.respond(served.stream_id, ((b":status", b"200"),), bytes(500_000), ((b"grpc-status", b"0"),))
    for _ in range(10):
        call.pay()
        pair.seconds(2)
    assert not served.closed
    assert len(call.data) == 10 * PROGRESS


def test_a_connection_that_is_not_read_is_closed():
    pair = Swept(high=10_000, stall_timeout_s=10)
    call = pair.call()
    pair.run()
    pair.silent = True
    credited, served = forward(pair, 500_000, call)
    pair.seconds(9)
    assert not pair.server.closed
    pair.seconds(4)
    assert pair.server.closed
    assert served.closed == [HUNG_UP]
    assert sum(credited) == 500_000


def test_a_slow_reader_is_not_ended():
    pair = Swept(high=10_000, stall_timeout_s=10)
    call = pair.call()
    pair.run()
    pair.silent = True
    forward(pair, 500_000, call)
    for _ in range(20):
        pair.seconds(2)
        pair.client.data_received(pair.down.take(5_000))
    assert not pair.server.closed
    assert not call.closed


def test_a_peer_that_pings_too_often_is_told_so_and_closed():
    pair = Swept(limits=Http2Limits(max_control_frames_per_s=100))
    for _ in range(202):
        pair.client.http2.ping(b"12345678")
        pair.client.flush()
        pair.move(pair.up, 1 << 18)
    pair.loop.turn()
    said = bytes(pair.down.buffer)
    assert (0xB).to_bytes(4, "big") + b"too_many_pings" in said  # ENHANCE_YOUR_CALM
    assert pair.server.closed


LIGHT_FLOODS = {
    "WINDOW_UPDATE": window_update(0, 1),
    "PING answers": frame(PING, ACK, 0, b"12345678"),
    "GOAWAY": goaway(0),
}


@pytest.mark.parametrize("unit", LIGHT_FLOODS.values(), ids=LIGHT_FLOODS.keys())
def test_a_peer_that_floods_with_what_asks_for_nothing_is_closed_and_read_no_further(unit):
    pair = Swept(limits=Http2Limits(max_control_frames_per_s=10))
    pair.run()
    pair.server.data_received(unit * 202)
    assert pair.down.closed


def test_a_flood_is_logged_once_and_what_follows_it_is_not_served(caplog):
    pair = Pair(limits=Http2Limits(max_control_frames_per_s=10))
    call = pair.call(end_stream=True)
    pair.loop.turn()
    request = pair.up.take(1 << 18)
    with caplog.at_level("INFO", "swerve.net"):
        pair.server.data_received(LIGHT_FLOODS["GOAWAY"] * 1000 + request)
    assert len(caplog.records) == 1
    assert pair.served == []
    pair.run()
    assert call.closed == [CONNECTION_LOST]


def test_a_reader_may_update_its_windows_ten_times_as_often():
    pair = Swept(limits=Http2Limits(max_control_frames_per_s=10))
    pair.run()
    for _ in range(20):
        pair.server.data_received(LIGHT_FLOODS["WINDOW_UPDATE"] * 90)
        pair.seconds(1)
    assert not pair.server.closed


def test_a_peer_that_pings_as_often_as_it_may_is_served():
    pair = Swept(limits=Http2Limits(max_control_frames_per_s=100))
    for _ in range(500):
        pair.client.http2.ping(b"12345678")
        pair.client.flush()
        pair.seconds(0.1)
    assert not pair.server.closed


def reset_many(pair: Pair, count: int) -> None:
    """Begin and cancel calls."""
    while count > 0 and not pair.server.closed:
        calls = [pair.call() for _ in range(100)]
        pair.run()
        for call in calls:
            pair.client.reset(call.stream_id)
        pair.run()
        count -= 100


def test_a_client_that_cancels_too_often_is_closed():
    pair = Pair(limits=Http2Limits(max_resets_per_s=10))
    reset_many(pair, 1000)
    assert pair.server.closed


def malformed(stream_id: int) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, stream_id, b"\x82")


def test_a_client_whose_requests_are_malformed_too_often_is_closed():
    pair = Pair(limits=Http2Limits(max_resets_per_s=10))
    for stream_id in range(1, 199, 2):
        pair.server.data_received(malformed(stream_id))
        pair.loop.turn()
    assert not pair.server.closed
    for stream_id in range(199, 209, 2):
        pair.server.data_received(malformed(stream_id))
        pair.loop.turn()
    assert pair.server.closed
    assert pair.served == []


def test_a_client_that_opens_too_many_streams_too_often_is_closed():
    pair = Pair(limits=Http2Limits(max_resets_per_s=10, max_concurrent_streams=1))
    pair.client.http2._most_streams = 1000
    for _ in range(110):
        pair.call()
    pair.run()
    assert len(pair.served) == 1
    assert pair.server.closed


def starved(streams: int, **limits) -> Pair:
    """A server that has an answer for each stream, and a client that takes none of it."""
    pair = Pair(limits=Http2Limits(**limits), client_limits=Http2Limits(max_concurrent_streams=0, stream_window=0))
    pair.on_request = lambda served: pair.server.respond(
        served.stream_id, ((b":status", b"200"),), bytes(10_000), ((b"grpc-status", b"0"),)
    )
    for _ in range(streams):
        pair.call(end_stream=True)
    pair.run()
    return pair


def credit(streams: int, amount: int) -> bytes:
    """For as many streams."""
    return b"".join(window_update(2 * index + 1, amount) for index in range(streams))


@pytest.mark.parametrize(("amount", "closes"), [(1, True), (256, False)])
def test_a_client_that_takes_its_answers_byte_by_byte_is_closed(amount, closes):
    pair = starved(100, max_control_frames_per_s=1000)
    for _ in range(30):
        pair.server.data_received(credit(100, amount))
        pair.loop.turn()
    assert pair.server.closed == closes


def test_windows_that_grow_by_a_byte_count_for_each_stream():
    pair = starved(100, max_control_frames_per_s=1000)
    for size in range(1, 30):
        pair.server.data_received(settings_of({4: size}))
        pair.loop.turn()
    assert pair.server.closed


def test_links_of_an_instance_bear_what_all_its_clients_cancel():
    # More than one connection of a client may.
    pair = Pair(limits=PRIVATE_LIMITS)
    reset_many(pair, 11 * Http2Limits().max_resets_per_s)
    assert not pair.server.closed


def test_the_sweeper_stops_when_there_is_nothing_to_look_at():
    pair = Swept(handshake_timeout_s=10)
    pair.seconds(3)
    assert pair.loop.armed == 1
    pair.client.close()
    pair.run()
    pair.server.connection_lost(None)
    pair.seconds(3)
    assert pair.loop.armed <= 1  # what is left is the client's own


def test_without_limits_there_is_no_timer():
    loop = ManualLoop()
    connection = Connection(loop, Http2Limits(), accept=lambda *_: None)
    watched = {connection: WatchedConnection(ConnectionLife(ConnectionLimits(), 0.0, 1.0))}
    Sweeper(loop, watched, ConnectionLimits()).start()
    assert loop.armed == 0


def test_many_connections_are_looked_at_in_turns():
    loop = ManualLoop()
    options = ConnectionLimits(handshake_timeout_s=1)
    watched = {}
    for _ in range(1200):
        connection = Connection(loop, Http2Limits(), accept=lambda *_: None)
        watched[connection] = WatchedConnection(ConnectionLife(options, loop.time(), 1.0))
    Sweeper(loop, watched, options).start()
    for _ in range(3):
        loop.pass_time(0.25)
        while loop.turn():
            pass
    loop.pass_time(0.25)
    assert sum(connection.closed for connection in watched) == 500
    while loop.turn():
        pass
    assert all(connection.closed for connection in watched)
