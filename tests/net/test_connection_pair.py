"""Two connections joined in memory: bodies, credit, order, endings."""

from collections.abc import Iterator

import pytest
from net_support import REQUEST, RESPONSE, TRAILERS, ManualLoop, Pair, Recorder, Transport, answer

from swerve.net.backlog import WRITE_SIZE
from swerve.net.client_call import ClientCall
from swerve.net.connection import Connection
from swerve.net.streams import CONNECTION_LOST
from swerve.wire import frames
from swerve.wire.frames import DEFAULT_FRAME_SIZE, ErrorCode
from swerve.wire.http2 import TooManyStreams
from swerve.wire.limits import Http2Limits
from swerve.wire.message import frame

FRAME = DEFAULT_FRAME_SIZE
# Where a body ends: at the edges of a frame, and of a write.
EDGES = [0, FRAME - 1, FRAME, FRAME + 1, WRITE_SIZE - 1, WRITE_SIZE, WRITE_SIZE + 1, 3 * WRITE_SIZE + 5]
BIG = bytes(range(256)) * (3 << 12)  # 3 MiB


def test_a_call_goes_there_and_back(pair):
    pair.on_request = lambda recorder: answer(recorder, b"world")
    call = pair.call()
    pair.client.send_data(call.stream_id, b"hello", end_stream=True)
    pair.run()
    assert (pair.served[0].data, pair.served[0].ended) == (b"hello", True)
    assert (call.headers[0], call.data, call.trailers, call.closed) == (RESPONSE, b"world", TRAILERS, [0])
    pair.check_settled()


@pytest.mark.parametrize("count", [15, 16, 17, 32])
def test_calls_that_come_together_end_whichever_write_their_answers_leave_in(pair, count):
    pair.on_request = answer
    calls = [pair.call(end_stream=True) for _ in range(count)]
    pair.run()
    assert [served.closed for served in pair.served] == [[0]] * count
    assert [call.closed for call in calls] == [[0]] * count
    pair.check_settled()


@pytest.mark.parametrize("amount", [1, 7, 1000, 100_000])
def test_bytes_may_come_in_any_pieces(pair, amount):
    pair.on_request = lambda recorder: answer(recorder, b"x" * 3000)
    call = pair.call()
    pair.client.send_data(call.stream_id, b"y" * 3000, end_stream=True)
    pair.run(amount)
    assert (len(pair.served[0].data), len(call.data), call.trailers) == (3000, 3000, TRAILERS)


def test_a_body_larger_than_every_window_arrives_whole_and_in_order(pair):
    pair.on_request = lambda recorder: answer(recorder, BIG)
    call = pair.call()
    pair.client.send_data(call.stream_id, BIG, end_stream=True)
    pair.run()
    assert pair.served[0].data == BIG
    assert call.data == BIG
    assert call.trailers == TRAILERS
    pair.check_settled()


@pytest.mark.parametrize("size", EDGES)
def test_trailers_follow_all_of_the_body(pair, size):
    pair.on_request = lambda recorder: answer(recorder, bytes(size))
    call = pair.call(end_stream=True)
    pair.run()
    assert (len(call.data), call.trailers, call.closed) == (size, TRAILERS, [0])


@pytest.mark.parametrize("size", EDGES)
def test_an_early_answer_arrives_whole_before_its_stream_is_reset(pair, size):
    """RFC 9113, section 8.1: the reset must not overtake the response."""

    def refuse(recorder):
        answer(recorder, bytes(size))
        recorder.connection.end_early(recorder.stream_id)

    pair.on_request = refuse
    call = pair.call()
    pair.run()
    assert (len(call.data), call.trailers, call.closed) == (size, TRAILERS, [ErrorCode.NO_ERROR])
    assert pair.served[0].closed == [ErrorCode.NO_ERROR]


def test_a_body_that_nobody_reads_stops_at_its_window_and_the_other_streams_go_on():
    pair = Pair(client_limits=Http2Limits(max_concurrent_streams=0, stream_window=100_000))
    pair.on_request = lambda recorder: answer(recorder, BIG)
    stuck = [pair.call(end_stream=True, credit=False) for _ in range(20)]
    pair.run()
    assert [len(call.data) for call in stuck] == [100_000] * 20
    moving = pair.call(end_stream=True)
    pair.run()
    assert moving.data == BIG
    for call in stuck:
        call.credit = True
        call.pay()
    pair.run()
    assert all(call.data == BIG and call.closed == [0] for call in stuck)
    pair.check_settled()


def test_a_server_greets_who_has_greeted_and_answers_in_the_same_write(monkeypatch):
    server = Connection(ManualLoop(), Http2Limits(), accept=lambda *request: None)
    down, writes = Transport(server, 1 << 20), []
    monkeypatch.setattr(down, "write", writes.append)
    server.connection_made(down)
    assert writes == []
    server.data_received(frames.PREFACE + frames.settings({}))
    acknowledgement = frames.frame(frames.SETTINGS, frames.ACK, 0, b"")
    (written,) = writes
    assert frames.read_head(written, 0)[2] == frames.SETTINGS << 8
    assert written.endswith(acknowledgement)


def test_a_paused_transport_is_not_filled_and_loses_nothing():
    pair = Pair(high=10_000)
    pair.on_request = lambda recorder: answer(recorder, BIG)
    call = pair.call(end_stream=True)
    while pair.loop.turn() | pair.move(pair.up, 50_000) | pair.move(pair.down, 50_000):
        assert len(pair.down.buffer) <= 600_000
    assert call.data == BIG
    pair.check_settled()


def test_streams_take_turns_so_that_a_small_answer_overtakes_a_big_one(pair):
    sizes = iter([len(BIG), 100])
    pair.on_request = lambda recorder: answer(recorder, BIG[: next(sizes)])
    big, small = pair.call(end_stream=True), pair.call(end_stream=True)
    pair.loop.turn()
    while not small.closed:
        assert pair.loop.turn() | pair.move(pair.up, 1 << 16) | pair.move(pair.down, 1 << 16)
    assert len(big.data) < len(BIG) / 2


def test_a_body_that_is_alone_leaves_in_large_writes(pair):
    pair.on_request = lambda recorder: answer(recorder, BIG)
    writes = []
    write = pair.down.write
    pair.down.write = lambda data: (writes.append(len(data)), write(data))
    call = pair.call(end_stream=True)
    pair.run()
    assert call.data == BIG
    assert len([size for size in writes if size > 100]) <= len(BIG) / WRITE_SIZE + 2


def test_small_parts_after_one_that_waits_stay_in_order(pair):
    def parts(recorder):
        recorder.connection.send_headers(recorder.stream_id, RESPONSE)
        for part in (BIG[:200_000], b"one", b"two", BIG[:70_000], b"three"):
            recorder.connection.send_data(recorder.stream_id, part)
        recorder.connection.send_trailers(recorder.stream_id, TRAILERS)

    pair.on_request = parts
    call = pair.call(end_stream=True)
    pair.run()
    assert call.data == BIG[:200_000] + b"onetwo" + BIG[:70_000] + b"three"


def test_unsent_counts_what_has_not_left():
    pair = Pair(client_limits=Http2Limits(max_concurrent_streams=0, stream_window=1000))
    call = pair.call(end_stream=True, credit=False)
    pair.run()
    served = pair.served[0]
    pair.server.send_headers(served.stream_id, RESPONSE)
    pair.server.send_data(served.stream_id, BIG)
    pair.server.send_data(served.stream_id, b"tail")
    assert pair.server.unsent(served.stream_id) == len(BIG) + 4
    pair.run()
    assert pair.server.unsent(served.stream_id) == len(BIG) + 4 - 1000
    pair.client.reset(call.stream_id)
    pair.run()
    assert pair.server.unsent(served.stream_id) == 0


def test_drained_is_called_once_and_when_the_body_has_left():
    pair = Pair(client_limits=Http2Limits(max_concurrent_streams=0, stream_window=1000))
    call = pair.call(end_stream=True, credit=False)
    pair.run()
    served, drained = pair.served[0], []
    pair.server.send_headers(served.stream_id, RESPONSE)
    pair.server.send_data(served.stream_id, bytes(2000))
    pair.server.when_drained(served.stream_id, lambda: drained.append(pair.server.unsent(served.stream_id)))
    pair.run()
    assert drained == []
    call.pay()
    pair.run()
    assert drained == [0]


def test_drained_is_called_when_the_stream_ends_first():
    pair = Pair(client_limits=Http2Limits(max_concurrent_streams=0, stream_window=1000))
    call = pair.call(end_stream=True, credit=False)
    pair.run()
    served, drained = pair.served[0], []
    pair.server.send_headers(served.stream_id, RESPONSE)
    pair.server.send_data(served.stream_id, bytes(2000))
    pair.server.when_drained(served.stream_id, lambda: drained.append(True))
    pair.run()
    pair.client.reset(call.stream_id)
    pair.run()
    assert drained == [True]


# --- forwarding ------------------------------------------------------------------------------------------------------


def test_forwarded_bytes_are_credited_when_they_have_left_and_not_before():
    """Memory of a forwarded call is bounded by a window: a stuck reader stops the writer."""
    front = Pair(client_limits=Http2Limits(max_concurrent_streams=0, stream_window=50_000))
    back = Pair(client_limits=Http2Limits(max_concurrent_streams=0, stream_window=100_000))
    back.loop.now = front.loop.now

    class Forwarder(Recorder):
        def on_data(self, data, end_stream):
            front.server.forward_data(front.served[0].stream_id, data, end_stream, back.client, self.stream_id)

    def run():
        for _ in range(200):
            front.run()
            back.run()

    reader = front.call(end_stream=True, credit=False)
    front.run()
    front.server.send_headers(front.served[0].stream_id, RESPONSE)
    back.on_request = lambda recorder: answer(recorder, BIG)
    leg = Forwarder(back.client)
    leg.stream_id = back.client.open_stream(REQUEST, leg, end_stream=True)
    run()
    assert len(reader.data) == 50_000
    assert back.server.unsent(back.served[0].stream_id) >= len(BIG) - 200_000
    reader.credit = True
    reader.pay()
    run()
    assert reader.data == BIG
    assert back.client._unacknowledged == 0


class Forgetful(Recorder):
    """Leaves it to the forwarder to acknowledge."""

    def pay(self):
        pass


def test_forwarded_bytes_are_credited_by_the_write_that_takes_all_of_them():
    """Also when so many came at once that what might follow would have had to wait; and nobody says anything more."""
    front, back = Pair(client_limits=Http2Limits(max_concurrent_streams=0, stream_window=2 * len(BIG))), Pair()
    front.call(end_stream=True)
    front.run()
    writer = Forgetful(back.client)
    part = bytes(FRAME)
    count = WRITE_SIZE // len(part) + 1
    back.on_request = lambda recorder: answer(recorder, part * count)
    writer.stream_id = back.client.open_stream(REQUEST, writer, end_stream=True)
    back.run()
    assert back.client._unacknowledged == len(part) * count
    stream_id = front.served[0].stream_id
    front.server.send_headers(stream_id, RESPONSE)
    for _ in range(count):
        front.server.forward_data(stream_id, part, False, back.client, writer.stream_id)
    front.loop.turn()
    assert front.server.http2.queued_body_size() == 0
    assert back.client._unacknowledged == 0


def test_forwarded_bytes_are_credited_when_the_reader_is_gone():
    front, back = Pair(), Pair()
    reader = front.call(end_stream=True)
    front.run()
    writer = Forgetful(back.client)
    back.on_request = lambda recorder: answer(recorder, bytes(1000))
    writer.stream_id = back.client.open_stream(REQUEST, writer, end_stream=True)
    back.run()
    assert back.client._unacknowledged == 1000
    front.client.reset(reader.stream_id)
    front.run()
    front.server.forward_data(front.served[0].stream_id, bytes(1000), False, back.client, writer.stream_id)
    front.run()
    assert back.client._unacknowledged == 0


def test_forwarded_bytes_that_have_to_wait_are_credited_when_the_reader_has_gone_before():
    front, back = Pair(), Pair()
    front.call(end_stream=True)
    front.run()
    writer = Forgetful(back.client)
    back.on_request = lambda recorder: answer(recorder, BIG)
    writer.stream_id = back.client.open_stream(REQUEST, writer, end_stream=True)
    back.run()
    owed = back.client._unacknowledged
    assert owed > WRITE_SIZE
    stream_id = front.served[0].stream_id
    front.server.reset(stream_id)
    front.run()
    front.server.forward_data(stream_id, bytes(owed), False, back.client, writer.stream_id)
    front.loop.turn()
    assert back.client._unacknowledged == 0


def test_forwarded_bytes_are_credited_when_the_connection_is_lost():
    front, back = Pair(high=10), Pair()
    reader = front.call(end_stream=True, credit=False)
    front.run()
    writer = Forgetful(back.client)
    back.on_request = lambda recorder: answer(recorder, bytes(1000))
    writer.stream_id = back.client.open_stream(REQUEST, writer, end_stream=True)
    back.run()
    front.server.pause_writing()
    front.server.send_headers(front.served[0].stream_id, RESPONSE)
    front.server.forward_data(front.served[0].stream_id, bytes(1000), False, back.client, writer.stream_id)
    front.loop.turn()
    assert back.client._unacknowledged == 1000
    front.server.connection_lost(None)
    assert back.client._unacknowledged == 0
    assert not reader.closed


def test_what_is_queued_when_a_body_has_left_is_written_at_once(pair):
    call = pair.call(end_stream=True)
    pair.run()
    stream_id = pair.served[0].stream_id
    pair.server.when_drained(stream_id, lambda: pair.server.send_headers(stream_id, RESPONSE, end_stream=True))
    pair.run()
    assert call.headers == [RESPONSE]


# --- handlers --------------------------------------------------------------------------------------------------------


def test_what_a_handler_queues_while_a_flush_ends_streams_is_written_at_once(pair):
    """As when the slot of a cancelled call goes to one that waits: the reset, the next request, no other traffic."""
    waiting: list[Recorder] = []

    class Next(Recorder):
        def on_closed(self, error_code):
            waiting.append(pair.call(end_stream=True))

    first = Next(pair.client)
    first.stream_id = pair.client.open_stream(REQUEST, first)
    pair.run()
    pair.client.reset(first.stream_id)
    pair.run()
    assert len(waiting) == 1
    assert len(pair.served) == 2


def test_a_reset_after_an_early_answer_is_written_at_once(pair):
    pair.on_request = lambda recorder: (answer(recorder), recorder.connection.end_early(recorder.stream_id))
    call = pair.call()
    pair.run()
    assert call.closed == [0]
    assert pair.served[0].closed == [0]


def requests(pair: Pair, *, whole: bool = True) -> Iterator[Recorder]:
    """Calls with the same headers, of whose requests a server is told at once when both ends know these."""
    for _ in range(6):
        call = pair.call()
        pair.client.send_data(call.stream_id, b"body", end_stream=whole)
        pair.run()
        yield call


class Failing(Recorder):
    """Takes what comes, then fails."""

    def on_data(self, data, end_stream):
        self.owed += len(data)
        raise RuntimeError("a bug")


def test_a_failing_handler_ends_its_stream_and_no_other(pair):
    pair.on_request = lambda recorder: answer(recorder, b"body")
    broken = Failing(pair.client)
    broken.stream_id = pair.client.open_stream(REQUEST, broken, end_stream=True)
    fine = pair.call(end_stream=True)
    pair.run()
    assert fine.data == b"body"
    assert len(broken.closed) == 1
    pair.check_settled()


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_failing_handler_took_is_credited_once(whole):
    """By it, when its stream ends."""
    pair = Pair(accept=lambda connection, stream_id, *_: Failing(connection, stream_id))
    for call in requests(pair, whole=whole):
        assert call.closed == [ErrorCode.INTERNAL_ERROR]
        pair.check_settled()


def test_what_a_handler_took_that_answers_and_then_fails_is_credited_once():
    class Answering(Recorder):
        def on_data(self, data, end_stream):
            super().on_data(data, end_stream)
            self.connection.respond(self.stream_id, RESPONSE, b"body", TRAILERS)
            raise RuntimeError("a bug")

    pair = Pair(accept=lambda connection, stream_id, *_: Answering(connection, stream_id))
    for call in requests(pair):
        assert (call.data, call.closed) == (b"body", [0])
        pair.check_settled()


def test_what_came_with_a_request_that_an_acceptor_failed_at_is_credited():
    def fail(*request):
        raise RuntimeError("a bug")

    pair = Pair(accept=fail)
    for call in requests(pair):
        assert call.closed == [ErrorCode.INTERNAL_ERROR]
        pair.check_settled()


def test_what_a_failing_call_received_is_credited(pair):
    class Broken(ClientCall):
        def message_received(self, message):
            raise RuntimeError("a bug")

        def ended(self, status, trailers):
            pass

    pair.on_request = lambda recorder: answer(recorder, frame(b"body"))
    Broken().begin(pair.client, REQUEST, ())
    pair.run()
    pair.check_settled()


def test_a_failing_callback_keeps_nobody_else_waiting(pair):
    """And the connection goes on writing."""
    call = pair.call(end_stream=True)
    pair.run()
    (served,) = pair.served
    called = []

    def fail():
        called.append(False)
        raise RuntimeError("a bug")

    pair.server.send_headers(served.stream_id, RESPONSE)
    for callback in (fail, lambda: called.append(True)):
        pair.server.when_drained(served.stream_id, callback)
    pair.run()
    assert called == [False, True]
    pair.server.send_trailers(served.stream_id, TRAILERS)
    pair.run()
    assert call.closed == [0]


def test_requests_behind_one_whose_handler_closes_the_connection_are_not_served():
    class Closing(Recorder):
        def on_data(self, data, end_stream):
            super().on_data(data, end_stream)
            self.connection.close()

    served = []

    def accept(connection, stream_id, *_):
        served.append(Closing(connection, stream_id))
        return served[-1]

    pair = Pair(accept=accept)
    first = pair.call()
    pair.client.send_data(first.stream_id, b"x")
    pair.client.flush()
    others = [pair.call(end_stream=True), pair.call()]
    pair.client.send_data(others[1].stream_id, b"x", end_stream=True)
    pair.client.flush()
    pair.run()
    assert [call.closed for call in served] == [[CONNECTION_LOST]]
    assert [call.closed for call in (first, *others)] == [[CONNECTION_LOST]] * 3
    assert pair.server.streams == {}


@pytest.mark.parametrize("whole", [True, False])
def test_a_handler_whose_acceptor_closed_the_connection_hears_of_its_end(pair, whole):
    pair.on_request = lambda recorder: recorder.connection.close()
    call = pair.call()
    pair.client.send_data(call.stream_id, b"x", end_stream=whole)
    pair.run()
    assert [served.closed for served in pair.served] == [[CONNECTION_LOST]]
    assert call.closed == [CONNECTION_LOST]
    assert pair.server.streams == {}


def test_a_request_that_cannot_be_sent_ends_though_there_is_nothing_to_write(pair):
    """Not with the next traffic: there may be none."""
    refused = Recorder(pair.client)

    class Next(Recorder):
        def on_closed(self, error_code):
            refused.stream_id = pair.client.open_stream((*REQUEST, (b"n", bytes(300_000))), refused)

    first = Next(pair.client)
    first.stream_id = pair.client.open_stream(REQUEST, first, end_stream=True)
    pair.run()
    answer(pair.served[0])
    pair.run()
    assert refused.closed == [ErrorCode.INTERNAL_ERROR]


def test_a_failing_acceptor_resets_the_request(pair):
    def fail(recorder):
        raise RuntimeError("a bug")

    pair.on_request = fail
    call = pair.call()
    pair.run()
    assert call.closed == [ErrorCode.INTERNAL_ERROR]
    pair.on_request = lambda recorder: answer(recorder, b"fine")
    assert not pair.server.closed
    again = pair.call(end_stream=True)
    pair.run()
    assert again.data == b"fine"


# --- limits of the peer ----------------------------------------------------------------------------------------------


def test_more_streams_than_the_peer_allows_are_not_opened_before_another_one_ends():
    pair = Pair(limits=Http2Limits(max_concurrent_streams=5))
    pair.run()
    calls = [pair.call(end_stream=True) for _ in range(5)]
    with pytest.raises(TooManyStreams):
        pair.call(end_stream=True)
    assert pair.client.usable
    pair.run()
    answer(pair.served[0])
    pair.run()
    assert calls[0].closed == [0]
    pair.call(end_stream=True)
    pair.run()
    assert len(pair.served) == 6


def test_a_header_block_too_large_to_send_ends_the_stream_only(pair):
    pair.on_request = lambda recorder: answer(recorder, b"", ((b"grpc-status", b"0"), (b"big", b"x" * 300_000)))
    call = pair.call(end_stream=True)
    pair.run()
    assert len(call.closed) == 1
    assert not pair.server.closed
    pair.on_request = lambda recorder: answer(recorder, b"fine")
    again = pair.call(end_stream=True)
    pair.run()
    assert again.data == b"fine"
