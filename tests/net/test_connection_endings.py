"""Two connections joined in memory: how they and their streams end, and what ends them."""

import pytest
from net_support import REQUEST, RESPONSE, TRAILERS, Pair, Recorder, answer

from swerve.net.streams import CONNECTION_LOST
from swerve.wire.frames import ErrorCode
from swerve.wire.http2 import Http2Error
from swerve.wire.limits import Http2Limits

BIG = bytes(range(256)) * (3 << 12)  # 3 MiB


@pytest.mark.parametrize("end", ["lost", "eof", "close"])
def test_every_stream_of_a_connection_that_ends_is_closed_once(pair, end):
    calls = [pair.call() for _ in range(3)]
    pair.run()
    if end == "lost":
        pair.client.connection_lost(OSError("gone"))
        pair.server.connection_lost(None)
    elif end == "eof":
        pair.client.eof_received()
        pair.server.eof_received()
    else:
        pair.client.close()
        pair.run()
    assert [call.closed for call in calls] == [[CONNECTION_LOST]] * 3
    assert [served.closed for served in pair.served] == [[CONNECTION_LOST]] * 3
    assert pair.lost == [pair.server]
    pair.client.connection_lost(None)
    pair.server.connection_lost(None)
    assert pair.loop.armed == 0


def test_a_lost_connection_takes_no_stream(pair):
    pair.client.connection_lost(None)
    assert not pair.client.usable
    with pytest.raises(Http2Error):
        pair.call()


def test_who_waits_for_a_large_body_of_a_stream_that_is_gone_is_called(pair):
    call = pair.call()
    pair.run()
    pair.client.reset(call.stream_id)
    pair.run()
    stream_id, called = pair.served[0].stream_id, []
    pair.server.send_data(stream_id, bytes(200_000))
    pair.server.when_drained(stream_id, lambda: called.append(True))
    pair.run()
    assert called == [True]


def test_what_is_sent_after_a_stream_or_connection_ended_goes_nowhere(pair):
    call = pair.call()
    pair.run()
    served = pair.served[0]
    pair.client.reset(call.stream_id)
    pair.run()
    for connection, stream_id in ((pair.server, served.stream_id), (pair.client, call.stream_id)):
        for _ in range(2):
            connection.send_headers(stream_id, RESPONSE) if connection is pair.server else None
            connection.send_data(stream_id, b"x")
            connection.send_data(stream_id, bytes(200_000))
            connection.send_trailers(stream_id, TRAILERS)
            connection.end_stream(stream_id)
            connection.reset(stream_id)
            connection.end_early(stream_id)
            pair.run()
            connection.connection_lost(None)


def test_requests_that_come_with_garbage_behind_them_end_with_the_connection(pair):
    pair.on_request = lambda recorder: answer(recorder, b"too late")
    pair.call()
    pair.loop.turn()
    data = pair.up.take(1 << 20)
    pair.server.data_received(data + b"\xff" * 100)
    pair.loop.turn()
    assert pair.server.closed
    assert pair.served[0].closed == [CONNECTION_LOST]
    assert pair.lost == [pair.server]


def test_a_drained_server_serves_what_runs_and_then_closes(pair):
    call = pair.call()
    pair.run()
    pair.server.drain()
    pair.run()
    assert not pair.client.usable
    assert not pair.server.closed
    pair.loop.pass_time(1)
    pair.run()
    answer(pair.served[0], b"done")
    pair.client.end_stream(call.stream_id)
    pair.run()
    assert (call.data, call.closed) == (b"done", [0])
    assert pair.server.closed
    assert pair.client.closed


def test_a_request_that_crossed_the_shutdown_notice_is_served(pair):
    pair.on_request = lambda recorder: answer(recorder, b"served")
    call = pair.call(end_stream=True)
    pair.server.drain()
    pair.run()
    assert (call.data, call.closed) == (b"served", [0])


def test_a_drained_client_opens_no_streams_and_closes_after_the_last(pair):
    call = pair.call(end_stream=True)
    pair.run()
    pair.client.drain()
    with pytest.raises(Http2Error):
        pair.call()
    answer(pair.served[0])
    pair.run()
    assert call.closed == [0]
    assert pair.client.closed


def test_an_idle_connection_that_is_drained_closes(pair):
    pair.server.drain()
    pair.run()
    pair.loop.pass_time(1)
    pair.run()
    assert pair.server.closed
    assert pair.client.closed


def test_answers_that_a_paused_transport_holds_up_are_written_before_a_drained_server_closes():
    pair = Pair(high=100)
    call = pair.call(end_stream=True)
    pair.run()
    pair.server.drain()
    pair.run()
    pair.loop.pass_time(1)
    pair.server.pause_writing()
    answer(pair.served[0])
    pair.loop.turn()
    assert not pair.server.closed
    pair.server.resume_writing()
    pair.run()
    assert (call.trailers, call.closed) == (TRAILERS, [0])
    assert pair.server.closed


def test_a_connection_that_is_closed_writes_what_is_said_though_its_transport_is_paused(pair):
    calls = [pair.call(end_stream=True) for _ in range(2)]
    pair.run()
    pair.server.pause_writing()
    answer(pair.served[0])
    pair.server.http2.go_away(ErrorCode.ENHANCE_YOUR_CALM, b"why")
    pair.server.close()
    assert b"why" in pair.down.buffer
    pair.run()
    assert [call.closed for call in calls] == [[0], [CONNECTION_LOST]]


# --- floods ----------------------------------------------------------------------------------------------------------


def test_a_ping_flood_ends_the_connection_and_its_streams(pair):
    call = pair.call()
    pair.run()
    for _ in range(25):
        for _ in range(1000):
            pair.client.http2.ping(b"12345678")
        pair.client.flush()
        pair.run()
    pair.run()
    assert pair.server.closed
    assert call.closed
    assert pair.served[0].closed == [CONNECTION_LOST]


def test_keepalive_pings_of_a_long_stream_end_nothing(pair):
    call = pair.call()
    for _ in range(25_000):
        pair.client.http2.ping(b"12345678")
        pair.client.flush()
        pair.run()
        pair.loop.now += 0.01
    assert not pair.server.closed
    assert not call.closed


def test_a_flood_of_one_byte_data_ends_the_connection(pair):
    call = pair.call()
    for _ in range(25_000):
        if pair.client.closed:
            break
        pair.client.send_data(call.stream_id, b"x")
        pair.client.flush()
        pair.move(pair.up, 1 << 20)
    pair.run()
    assert pair.server.closed


def test_a_stream_of_small_messages_is_no_flood(pair):
    call = pair.call()
    for _ in range(25_000):
        pair.client.send_data(call.stream_id, b"\0\0\0\0\0")
        pair.client.flush()
        pair.move(pair.up, 1 << 20)
    pair.run()
    assert not pair.server.closed


def test_a_connection_whose_stream_ids_have_run_out_is_replaced_and_ends_what_runs(pair):
    running = pair.call(end_stream=True)
    pair.run()

    pair.client.http2._last_id = (1 << 31) - 1
    with pytest.raises(Http2Error):
        pair.call()
    assert not pair.client.usable
    pair.run()
    answer(pair.served[0], b"done")
    pair.run()
    assert (running.data, running.closed) == (b"done", [0])
    assert pair.client.closed


def test_a_header_list_too_large_to_send_ends_its_call_alone(pair):
    other = pair.call()
    pair.run()
    call = Recorder(pair.client)
    fields = tuple((b"n", b"") for _ in range(2 * Http2Limits().max_header_list_size // 33))
    call.stream_id = pair.client.open_stream((*REQUEST, *fields), call, end_stream=True)
    pair.run()
    assert call.closed == [ErrorCode.INTERNAL_ERROR]
    assert (len(pair.served), other.closed) == (1, [])
    assert pair.client.usable


def test_everybody_who_waits_for_a_stream_to_drain_is_called(pair):
    call = pair.call()
    pair.run()
    (served,) = pair.served
    called = []
    pair.server.send_headers(served.stream_id, RESPONSE)
    pair.server.send_data(served.stream_id, BIG)
    for name in ("one", "two"):
        pair.server.when_drained(served.stream_id, lambda name=name: called.append(name))
    pair.run()
    assert called == ["one", "two"]
    assert call.data == BIG
