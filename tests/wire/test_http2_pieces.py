"""What comes to the HTTP/2 engine in any pieces means the same, and whatever comes does no harm."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import pytest
from http2_lab import (
    EVERYTHING,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    TRAILERS,
    Fields,
    block,
    client,
    headers,
    new_client,
    new_server,
    next_id,
    sent,
    server,
    warm,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from swerve.wire import events as kinds
from swerve.wire.events import BODY, IGNORED, REQUEST, SETTINGS, WHOLE_REQUEST, Event
from swerve.wire.http2 import Http2, Http2Error
from tests.net.raw_http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    WINDOW_UPDATE,
    Frame,
    frame,
    frames_in,
    goaway,
    reset,
    settings_of,
    window_update,
)

LIMITS = {
    "max_concurrent_streams": 4,
    "stream_window": 70_000,
    "connection_window": 100_000,
    "max_header_list_size": 4000,
}
# The streams that engines below have had, and those that a client has open.
FIRST, OPEN = 7, 3
SIZES = (0, 1, 5, 100, 4095, 4096, 4097, 10_000, 16_384)
PIECES = st.lists(st.sampled_from([1, 2, 8, 9, 10, 100, 4096, 4105, 5000, 20_000]), min_size=1, max_size=8)
RANDOM = st.randoms(use_true_random=False)


def some_headers(random: Random, stream_id: int, fields: Fields, flags: int) -> bytes:
    if random.random() < 0.8:
        return headers(stream_id, fields, END_HEADERS | flags)
    fragment = block(fields)
    at = random.randint(0, len(fragment))
    more = frame(CONTINUATION, END_HEADERS, stream_id, fragment[at:])
    return frame(HEADERS, flags, stream_id, fragment[:at]) + more


def some_data(random: Random, stream_id: int, flags: int) -> bytes:
    data = bytes((random.randrange(256),)) * random.choice(SIZES)
    if random.random() < 0.7:
        return frame(DATA, flags, stream_id, data)
    padding = random.choice((0, 5))
    return frame(DATA, flags | PADDED, stream_id, bytes((padding,)) + data[: 16_384 - 6] + bytes(padding))


def some_other(random: Random, stream_id: int) -> bytes:
    return random.choice(
        (
            frame(PING, 0, 0, b"12345678"),
            frame(PING, ACK, 0, b"12345678"),
            frame(PRIORITY, 0, 1, bytes(5)),
            frame(0xFA, 0, 0, b"unknown"),
            settings_of({4: random.choice((0, 10, 1 << 20))}),
            window_update(random.choice((0, stream_id)), random.choice((1, 1000))),
        )
    )


def some_wrong(random: Random, stream_id: int) -> bytes:
    return random.choice(
        (
            headers(stream_id, TRAILERS),
            headers(stream_id, (*REQUEST_HEADERS, (b"Bad", b"x"))),
            some_data(random, stream_id + 2, 0),
            window_update(random.choice((0, stream_id)), 1 << 30),
            frame(PING, 0, 0, b"short"),
            goaway(3),
        )
    )


def conversation(random: Random, is_server: bool) -> bytes:
    """What a peer sends that is mostly right."""
    sent = []
    streams = [] if is_server else [FIRST + 2 * number for number in range(OPEN)]
    begun: list[int] = []
    for _ in range(random.randint(0, 20)):
        chance = random.random()
        flags = END_STREAM if random.random() < 0.3 else 0
        if is_server:
            streams = [(begun[-1] if begun else FIRST - 2) + 2]
        if chance < 0.35 and streams:
            stream_id = streams.pop(0)
            begun.append(stream_id)
            usual = REQUEST_HEADERS if is_server else RESPONSE_HEADERS
            fields = usual if random.random() < 0.8 else (*usual, (b"content-length", b"4096"))
            sent.append(some_headers(random, stream_id, fields, flags))
            continue
        stream_id = random.choice(begun[-3:]) if begun else FIRST
        if chance < 0.75 and begun:
            sent.append(some_data(random, stream_id, flags))
        elif chance < 0.8 and begun:
            sent.append(some_headers(random, stream_id, TRAILERS, END_STREAM))
        elif chance < 0.84 and begun:
            sent.append(reset(stream_id))
        elif chance < 0.97:
            sent.append(some_other(random, stream_id))
        else:
            sent.append(some_wrong(random, stream_id))
    return b"".join(sent)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` in pieces of these sizes, over and over."""
    pieces = []
    while data:
        for size in sizes:
            pieces.append(data[:size])
            data = data[size:]
    return [piece for piece in pieces if piece]


def engine_of(is_server: bool) -> Http2:
    """An engine that knows the usual headers. A client has some requests under way."""
    engine = warm((server if is_server else client)(**LIMITS))
    assert next_id(engine) == FIRST
    for _ in range(0 if is_server else OPEN):
        engine.send_request(REQUEST_HEADERS)
    engine.data_to_send(EVERYTHING)
    return engine


class Outcome(NamedTuple):
    """What became of a conversation: what was told but for bodies, these by stream with whether they ended, and what is
    sent but for credit."""

    told: list[Event]
    bodies: dict[int, tuple[bytes, bool]]
    answers: list[Frame]

    @property
    def broken_off(self) -> set[int]:
        """Streams whose last DATA may have been told in part before it was found wrong; 0 stands for all of them."""
        return {
            0 if kind == GOAWAY else stream_id for kind, _, stream_id, _ in self.answers if kind in (GOAWAY, RST_STREAM)
        }


def outcome(engine: Http2, pieces: list[bytes]) -> Outcome:
    told: list[Event] = []
    bodies: dict[int, tuple[bytes, bool]] = {}
    for piece in pieces:
        try:
            engine.receive(piece)
        except Http2Error:
            assert engine.failed
        for event in engine.events():
            if event[0] == WHOLE_REQUEST:
                _, stream_id, fields, data = event
                told.append((REQUEST, stream_id, fields, False))
                bodies[stream_id] = data, True
            elif event[0] == BODY:
                _, stream_id, data, end_stream = event
                before, ended = bodies.get(stream_id, (b"", False))
                assert not ended
                bodies[stream_id] = before + data, end_stream
            elif event[0] != IGNORED:
                told.append(event)
    return Outcome(told, bodies, [frame for frame in sent(engine) if frame.kind != WINDOW_UPDATE])


@pytest.mark.parametrize("is_server", [True, False], ids=["server", "client"])
@settings(max_examples=300, deadline=None)
@given(random=RANDOM, sizes=PIECES)
def test_any_pieces_mean_the_same(is_server, random, sizes):
    said = conversation(random, is_server)
    whole, pieces = outcome(engine_of(is_server), [said]), outcome(engine_of(is_server), cut(said, sizes))
    assert pieces.told == whole.told
    assert pieces.answers == whole.answers
    for stream_id in whole.bodies.keys() | pieces.bodies.keys():
        one, other = whole.bodies.get(stream_id, (b"", False)), pieces.bodies.get(stream_id, (b"", False))
        if whole.broken_off & {0, stream_id}:
            assert other[0].startswith(one[0])
        else:
            assert one == other


@pytest.mark.parametrize("is_server", [True, False], ids=["server", "client"])
@settings(deadline=None)
@given(sizes=PIECES)
def test_a_greeting_in_any_pieces_means_the_same(is_server, sizes):
    engine = (new_server if is_server else new_client)()
    greeting = (PREFACE if is_server else b"") + settings_of({4: 100}) + frame(PING, 0, 0, bytes(8))
    assert [event[0] for event in outcome(engine, cut(greeting, sizes)).told] == [SETTINGS, kinds.PING]


def check_harmless(engine: Http2, pieces: list[bytes]) -> None:
    """Nothing but Http2Error is raised, the peer hears why, and what is kept is bounded."""
    for piece in pieces:
        try:
            engine.receive(piece)
        except Http2Error:
            *_, last = frames_in(engine.data_to_send(EVERYTHING))
            assert (last.kind, last.stream_id) == (GOAWAY, 0)
            assert not engine.want_write
            return
        engine.events()
        engine.data_to_send(EVERYTHING)
        reader = engine._reader
        assert len(reader._rest) < 9 + 16_384
        assert reader._block is None or sum(map(len, reader._block[2])) <= 16_384 + LIMITS["max_header_list_size"]
        assert len(engine._streams) <= LIMITS["max_concurrent_streams"]
        assert engine.queued_body_size() == 0


CHANGES = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), max_size=6)


@pytest.mark.parametrize("is_server", [True, False], ids=["server", "client"])
@settings(max_examples=300, deadline=None)
@given(random=RANDOM, changes=CHANGES, sizes=PIECES)
def test_a_conversation_with_bytes_changed_does_no_harm(is_server, random, changes, sizes):
    said = conversation(random, is_server)
    for place, new in changes:
        at = int(place * len(said))
        said = said[:at] + new + said[at + len(new) :]
    check_harmless(engine_of(is_server), cut(said, sizes))


KINDS = st.one_of(st.integers(0, 9), st.integers(0, 255))
ANY_FRAME = st.builds(frame, KINDS, st.integers(0, 255), st.integers(0, 15), st.binary(max_size=40))


@pytest.mark.parametrize("is_server", [True, False], ids=["server", "client"])
@settings(max_examples=500, deadline=None)
@given(frames=st.lists(ANY_FRAME, max_size=8).map(b"".join), sizes=PIECES)
def test_frames_with_anything_in_them_do_no_harm(is_server, frames, sizes):
    check_harmless(engine_of(is_server), cut(frames, sizes))


@pytest.mark.parametrize("make", [new_server, new_client])
@given(data=st.binary(max_size=100), greets=st.booleans())
def test_any_bytes_do_no_harm(make, data, greets):
    greeting = (PREFACE if make is new_server else b"") + settings_of({})
    check_harmless(make(**LIMITS), [greeting + data if greets else data])
