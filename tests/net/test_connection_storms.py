"""Connections under random histories: credit never leaks, never raises, and no stream is forgotten."""

import logging
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from net_support import RESPONSE, TRAILERS, Pair

from swerve.net.backlog import WRITE_SIZE
from swerve.net.streams import CONNECTION_LOST
from swerve.wire.frames import DEFAULT_FRAME_SIZE, ErrorCode
from swerve.wire.limits import Http2Limits

SMALL = Http2Limits(max_concurrent_streams=50, stream_window=1 << 16, connection_window=1 << 18)
SMALL_CLIENT = Http2Limits(max_concurrent_streams=0, stream_window=1 << 16, connection_window=1 << 18)


@pytest.fixture
def no_errors(caplog):
    """Nothing may be logged as an error: connections log what handlers raise."""
    with caplog.at_level(logging.ERROR):
        yield
    assert not caplog.records


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_history_of_sends_and_resets_settles(random):
    pair = Pair(high=50_000, limits=SMALL, client_limits=SMALL_CLIENT)
    pair.credit = False
    calls, answered, ended = [], set(), set()
    sizes = [0, 1, 10, 5000, DEFAULT_FRAME_SIZE, DEFAULT_FRAME_SIZE + 1, WRITE_SIZE, 300_000]
    for _ in range(random.randint(1, 120)):
        step = random.randint(0, 9)
        if step == 0 and len(calls) < 40:
            calls.append(pair.call(end_stream=random.random() < 0.3, credit=random.random() < 0.5))
        elif step == 1 and calls:
            call = random.choice(calls)
            if not call.closed:
                pair.client.send_data(call.stream_id, bytes(random.choice(sizes)))
        elif step == 2 and calls:
            call = random.choice(calls)
            if call.stream_id not in ended:
                ended.add(call.stream_id)
                pair.client.end_stream(call.stream_id)
        elif step == 3 and pair.served:
            served = random.choice(pair.served)
            if served.stream_id not in answered:
                answered.add(served.stream_id)
                pair.server.send_headers(served.stream_id, RESPONSE)
                pair.server.send_data(served.stream_id, bytes(random.choice(sizes)))
                pair.server.send_trailers(served.stream_id, TRAILERS)
                if random.random() < 0.3:
                    pair.server.end_early(served.stream_id)
        elif step == 4 and calls:
            pair.client.reset(random.choice(calls).stream_id)
        elif step == 5 and pair.served:
            pair.server.reset(random.choice(pair.served).stream_id, ErrorCode.INTERNAL_ERROR)
        elif step == 6 and calls + pair.served:
            random.choice(calls + pair.served).pay()
        elif step == 7:
            pair.move(pair.up, random.choice([1, 100, 20_000, 1 << 18]))
        elif step == 8:
            pair.move(pair.down, random.choice([1, 100, 20_000, 1 << 18]))
        else:
            pair.loop.turn()
    for recorder in (*calls, *pair.served):
        recorder.credit = True
        recorder.pay()
    pair.run()
    for call in calls:
        pair.client.reset(call.stream_id)
    pair.run()
    assert all(len(recorder.closed) == 1 for recorder in (*calls, *pair.served))
    assert not pair.client.closed
    assert not pair.server.closed
    pair.check_settled()


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 400_000))
def test_a_connection_cut_anywhere_ends_every_stream_once(random, cut):
    pair = Pair(high=50_000)
    pair.on_request = lambda served: (
        pair.server.send_headers(served.stream_id, RESPONSE),
        pair.server.send_data(served.stream_id, bytes(100_000)),
        pair.server.send_trailers(served.stream_id, TRAILERS),
    )
    calls = [pair.call(credit=random.random() < 0.5) for _ in range(5)]
    for call in calls:
        pair.client.send_data(call.stream_id, bytes(20_000), end_stream=random.random() < 0.5)
    while cut > 0 and pair.loop.turn() | pair.move(pair.up, 4096) | pair.move(pair.down, 4096):
        cut -= 4096
    pair.client.connection_lost(None)
    pair.server.connection_lost(None)
    assert all(call.closed in ([0], [CONNECTION_LOST]) for call in calls)
    assert all(len(served.closed) == 1 for served in pair.served)
    assert pair.server.streams == pair.client.streams == {}


@pytest.mark.parametrize("side", ["client", "server"])
def test_two_thousand_cancels_in_the_middle_of_data_do_not_stall_the_connection(side, no_errors):
    """The credit of what comes for streams that are over is given back."""
    # Some 16 MiB come so: many times the window.
    limits = Http2Limits(max_concurrent_streams=100, connection_window=1 << 20)
    pair = Pair(limits=limits, client_limits=limits)
    random_ = random.Random(4)
    if side == "client":
        # The client cancels while the response comes.
        pair.on_request = lambda served: (
            pair.server.send_headers(served.stream_id, RESPONSE),
            pair.server.send_data(served.stream_id, bytes(40_000)),
            pair.server.send_trailers(served.stream_id, TRAILERS),
        )
    for _ in range(2000):
        call = pair.call(end_stream=side == "client")
        if side == "server":
            pair.client.send_data(call.stream_id, bytes(40_000), end_stream=True)
        pair.loop.turn()
        pair.move(pair.up, 1 << 20 if side == "client" else random_.randrange(1000, 30_000))
        pair.loop.turn()
        if side == "client":
            pair.move(pair.down, random_.randrange(1000, 30_000))
            pair.client.reset(call.stream_id)
        else:
            pair.server.reset(pair.served[-1].stream_id)
        pair.run()
        assert len(call.closed) == 1
    pair.check_settled()
    pair.on_request = lambda served: (
        pair.server.send_headers(served.stream_id, RESPONSE),
        pair.server.send_data(served.stream_id, bytes(50_000_000)),
        pair.server.send_trailers(served.stream_id, TRAILERS),
    )
    after = pair.call()
    pair.client.send_data(after.stream_id, bytes(50_000_000), end_stream=True)
    pair.run()
    assert len(after.data) == 50_000_000
    assert len(pair.served[-1].data) == 50_000_000


def test_credit_of_cancelled_streams_comes_back_beside_credit_that_is_outstanding(no_errors):
    limits = Http2Limits(max_concurrent_streams=0, connection_window=1 << 17)
    pair = Pair(client_limits=limits)
    pair.on_request = lambda served: (
        pair.server.send_headers(served.stream_id, RESPONSE),
        pair.server.send_data(served.stream_id, bytes(16_384)),
        pair.server.send_trailers(served.stream_id, TRAILERS),
    )
    holder = pair.call(end_stream=True, credit=False)
    holder.pay = lambda: None
    pair.run()
    for _ in range(7):
        call = pair.call(end_stream=True)
        pair.loop.turn()
        pair.move(pair.up, 1 << 20)
        pair.loop.turn()
        pair.move(pair.down, 400)
        pair.client.reset(call.stream_id)
        pair.run()
    pair.client.acknowledge(holder.stream_id, 16_384)
    pair.run()
    after = [pair.call(end_stream=True, credit=False) for _ in range(7)]
    pair.run()
    assert [len(call.data) for call in after] == [16_384] * 7


def test_a_connection_that_cannot_write_lets_the_loop_sleep():
    """After a reset, with a peer that reads nothing: what waits goes when the peer reads again."""
    pair = Pair(high=1000)
    stalled, cancelled = pair.call(credit=False), pair.call()
    pair.run()
    pair.client.send_data(stalled.stream_id, bytes(200_000))
    pair.loop.turn()
    pair.client.reset(cancelled.stream_id)
    turns = 0
    while turns < 50 and pair.loop.turn():
        turns += 1
    assert turns < 10
