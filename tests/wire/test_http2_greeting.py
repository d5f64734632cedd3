"""How a connection begins, and SETTINGS (RFC 9113, sections 3.4 and 6.5)."""

import pytest
from http2_lab import (
    ENABLE_PUSH,
    EVERYTHING,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    REQUEST_HEADERS,
    begin,
    client,
    fault,
    headers,
    new_client,
    new_server,
    sent,
    server,
    told,
)

from swerve.wire.events import IGNORED, REQUEST, SETTINGS
from swerve.wire.frames import ErrorCode
from swerve.wire.http2 import Http2, TooManyStreams
from swerve.wire.limits import Http2Limits
from tests.net import raw_http2
from tests.net.raw_http2 import ACK, PREFACE, WINDOW_UPDATE, frame, frames_in, settings_of

LARGEST = (1 << 31) - 1
ACKNOWLEDGED = (raw_http2.SETTINGS, ACK, 0, b"")


def settings_in(data: bytes) -> dict[int, int]:
    first = next(frames_in(data))
    assert first[:3] == (raw_http2.SETTINGS, 0, 0)
    payload = first.payload
    return {
        int.from_bytes(payload[at : at + 2], "big"): int.from_bytes(payload[at + 2 : at + 6], "big")
        for at in range(0, len(payload), 6)
    }


# --- section 3.4: the preface ----------------------------------------------------------------------------------------


def test_a_client_begins_with_the_preface_and_settings():
    data = Http2(server=False, limits=Http2Limits(max_concurrent_streams=0)).data_to_send(EVERYTHING)
    assert data.startswith(PREFACE)
    assert settings_in(data) == {
        MAX_CONCURRENT_STREAMS: 0,
        INITIAL_WINDOW_SIZE: 1 << 20,
        MAX_FRAME_SIZE: 16_384,
        MAX_HEADER_LIST_SIZE: 256 * 1024,
        ENABLE_PUSH: 0,
    }


def test_a_server_begins_with_its_settings():
    limits = Http2Limits(
        max_concurrent_streams=7, stream_window=100_000, max_frame_size=20_000, max_header_list_size=5000
    )
    data = Http2(server=True, limits=limits).data_to_send(EVERYTHING)
    found = settings_in(data)
    # RFC 9218, section 2.1: priorities of the old kind are not looked at.
    assert found.pop(9) == 1
    assert found == {
        MAX_CONCURRENT_STREAMS: 7,
        INITIAL_WINDOW_SIZE: 100_000,
        MAX_FRAME_SIZE: 20_000,
        MAX_HEADER_LIST_SIZE: 5000,
    }


@pytest.mark.parametrize("is_server", [True, False])
def test_a_larger_window_of_the_connection_is_said_at_once(is_server):
    engine = Http2(server=is_server, limits=Http2Limits(connection_window=100_000))
    *_, last = sent(engine)
    assert last == (WINDOW_UPDATE, 0, 0, (100_000 - 65_535).to_bytes(4, "big"))


def test_the_default_window_of_the_connection_is_not_said():
    engine = Http2(server=True, limits=Http2Limits(connection_window=65_535))
    assert [kind for kind, *_ in sent(engine)] == [raw_http2.SETTINGS]


def test_settings_behind_the_preface_are_acknowledged():
    engine = new_server()
    assert told(engine, PREFACE + settings_of({MAX_CONCURRENT_STREAMS: 5})) == [(SETTINGS,)]
    assert sent(engine) == [ACKNOWLEDGED]


def test_settings_of_a_server_are_acknowledged():
    engine = new_client()
    assert told(engine, settings_of()) == [(SETTINGS,)]
    assert sent(engine) == [ACKNOWLEDGED]


def test_a_greeting_may_come_byte_by_byte():
    engine = new_server()
    data = PREFACE + settings_of({INITIAL_WINDOW_SIZE: 10})
    events = [event for at in range(len(data)) for event in told(engine, data[at : at + 1])]
    assert events == [(SETTINGS,)]


@pytest.mark.parametrize("at", range(len(PREFACE)))
def test_a_preface_that_is_wrong_anywhere_ends_the_connection(at):
    wrong = PREFACE[:at] + bytes((PREFACE[at] ^ 1,)) + PREFACE[at + 1 :]
    assert fault(new_server(), wrong + settings_of()) == ErrorCode.PROTOCOL_ERROR


def test_a_wrong_preface_is_not_waited_for():
    assert fault(new_server(), b"GET") == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "first",
    [headers(1), frame(raw_http2.PING, 0, 0, bytes(8)), frame(raw_http2.SETTINGS, ACK, 0), frame(0xFA, 0, 0)],
    ids=["headers", "ping", "acknowledgement", "unknown"],
)
def test_another_first_frame_than_settings_ends_the_connection(first):
    assert fault(new_server(), PREFACE + first) == ErrorCode.PROTOCOL_ERROR
    assert fault(new_client(), first) == ErrorCode.PROTOCOL_ERROR


def test_a_server_that_speaks_http_1_ends_the_connection():
    assert fault(new_client(), b"HTTP/1.1 400 Bad Request\r\n\r\n") == ErrorCode.PROTOCOL_ERROR


def test_a_client_need_not_wait_for_the_servers_settings():
    engine = new_server()
    events = told(engine, PREFACE + settings_of() + headers(1))
    assert events == [(SETTINGS,), (REQUEST, 1, REQUEST_HEADERS, False)]


def test_a_request_may_leave_before_the_servers_settings_have_come():
    engine = new_client()
    assert engine.send_request(REQUEST_HEADERS) == 1
    assert [kind for kind, *_ in sent(engine)] == [raw_http2.HEADERS]


# --- section 6.5: SETTINGS -------------------------------------------------------------------------------------------


@pytest.fixture(params=[server, client], ids=["server", "client"])
def engine(request):
    return request.param()


def test_an_acknowledgement_asks_for_nothing(engine):
    assert told(engine, frame(raw_http2.SETTINGS, ACK, 0)) == [(IGNORED,)]
    assert not engine.want_write


def test_an_acknowledgement_with_a_payload_ends_the_connection(engine):
    assert fault(engine, frame(raw_http2.SETTINGS, ACK, 0, bytes(6))) == ErrorCode.FRAME_SIZE_ERROR


@pytest.mark.parametrize("size", [1, 5, 7, 11])
def test_settings_of_another_size_than_six_bytes_each_end_the_connection(engine, size):
    assert fault(engine, frame(raw_http2.SETTINGS, 0, 0, bytes(size))) == ErrorCode.FRAME_SIZE_ERROR


def test_settings_of_a_stream_end_the_connection(engine):
    assert fault(engine, frame(raw_http2.SETTINGS, 0, 1)) == ErrorCode.PROTOCOL_ERROR


def test_empty_settings_are_acknowledged(engine):
    assert told(engine, settings_of()) == [(SETTINGS,)]
    assert sent(engine) == [ACKNOWLEDGED]


def test_each_settings_are_acknowledged_once(engine):
    told(engine, settings_of({INITIAL_WINDOW_SIZE: 10}) + settings_of({MAX_FRAME_SIZE: 20_000}))
    assert sent(engine) == [ACKNOWLEDGED, ACKNOWLEDGED]


@pytest.mark.parametrize("unknown", [0, 0x7, 0x8, 0x9, 0xFFFF])
def test_an_unknown_setting_is_ignored(engine, unknown):
    assert told(engine, settings_of({unknown: LARGEST})) == [(SETTINGS,)]


def test_flags_that_settings_do_not_have_are_ignored(engine):
    assert told(engine, frame(raw_http2.SETTINGS, 0xFE, 0)) == [(SETTINGS,)]
    assert sent(engine) == [ACKNOWLEDGED]


@pytest.mark.parametrize("value", [2, 1 << 31])
def test_enable_push_is_0_or_1(engine, value):
    assert fault(engine, settings_of({ENABLE_PUSH: value})) == ErrorCode.PROTOCOL_ERROR


def test_a_client_may_say_that_it_takes_pushes():
    assert told(server(), settings_of({ENABLE_PUSH: 1})) == [(SETTINGS,)]


def test_a_server_may_not_say_that_it_takes_pushes():
    assert fault(client(), settings_of({ENABLE_PUSH: 1})) == ErrorCode.PROTOCOL_ERROR
    assert told(client(), settings_of({ENABLE_PUSH: 0})) == [(SETTINGS,)]


@pytest.mark.parametrize("value", [LARGEST + 1, (1 << 32) - 1])
def test_a_window_above_the_largest_ends_the_connection(engine, value):
    assert fault(engine, settings_of({INITIAL_WINDOW_SIZE: value})) == ErrorCode.FLOW_CONTROL_ERROR


def test_the_largest_window_is_taken(engine):
    assert told(engine, settings_of({INITIAL_WINDOW_SIZE: LARGEST})) == [(SETTINGS,)]


@pytest.mark.parametrize("value", [0, 16_383, 1 << 24])
def test_a_frame_size_out_of_its_range_ends_the_connection(engine, value):
    assert fault(engine, settings_of({MAX_FRAME_SIZE: value})) == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("value", [16_384, (1 << 24) - 1])
def test_a_frame_size_in_its_range_is_taken(engine, value):
    assert told(engine, settings_of({MAX_FRAME_SIZE: value})) == [(SETTINGS,)]


@pytest.mark.parametrize("setting", [HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE])
@pytest.mark.parametrize("value", [0, (1 << 32) - 1])
def test_other_settings_may_have_any_value(engine, setting, value):
    assert told(engine, settings_of({setting: value})) == [(SETTINGS,)]


def test_of_a_setting_that_comes_twice_the_last_one_holds():
    engine = client()
    twice = settings_of({MAX_CONCURRENT_STREAMS: 0})[9:] + settings_of({MAX_CONCURRENT_STREAMS: 1})[9:]
    told(engine, frame(raw_http2.SETTINGS, 0, 0, twice))
    assert engine.send_request(REQUEST_HEADERS) == 1
    with pytest.raises(TooManyStreams):
        engine.send_request(REQUEST_HEADERS)


def test_of_a_window_that_comes_twice_the_last_one_holds():
    engine = server()
    stream_id = begin(engine)
    twice = settings_of({INITIAL_WINDOW_SIZE: 100})[9:] + settings_of({INITIAL_WINDOW_SIZE: 3})[9:]
    told(engine, frame(raw_http2.SETTINGS, 0, 0, twice))
    engine.send_data(stream_id, b"12345")
    engine.data_to_send(EVERYTHING)
    assert engine.queued_body_size(stream_id) == 2
