"""Cutting DATA into gRPC messages."""

import itertools
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerve.wire.message import (
    DEFLATE,
    GZIP,
    IDENTITY,
    MessageReader,
    check_encoding,
    frame,
    frame_compressed,
    frame_in_parts,
    prefix,
    whole_message,
)
from swerve.wire.status import RpcError, StatusCode

LIMIT = 1 << 20


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the positions `cuts`."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(
    st.lists(st.binary(max_size=300), max_size=8),
    st.lists(st.integers(0, 2500), max_size=30),
    st.sampled_from([None, GZIP, DEFLATE]),
)
def test_any_chunking_gives_the_same_messages(messages, cuts, encoding):
    wire = b"".join(frame(m) if encoding is None else frame_compressed(m, encoding) for m in messages)
    reader = MessageReader(LIMIT, encoding or IDENTITY)
    read = [message for chunk in chunks(wire, cuts) for message in reader.feed(chunk)]
    assert read == messages
    assert not reader.pending


@given(st.binary(min_size=1, max_size=50), st.integers(1, 54))
def test_pending_is_true_exactly_inside_a_message(message, cut):
    wire = frame(message)
    reader = MessageReader(LIMIT)
    cut = min(cut, len(wire))
    reader.feed(wire[:cut])
    assert reader.pending == (cut < len(wire))


def test_a_prefix_in_pieces_is_read():
    reader = MessageReader(LIMIT)
    wire = frame(b"abc")
    assert [reader.feed(wire[i : i + 1]) for i in range(len(wire))][-1] == [b"abc"]


def test_prefix_and_body_make_a_frame():
    assert prefix(3) + b"abc" == frame(b"abc")


@given(st.lists(st.integers(0, 300_000), max_size=4), st.lists(st.integers(0, 1_200_000), max_size=30))
def test_large_messages_framed_in_parts_arrive_whole_in_any_pieces(sizes, cuts):
    messages = [(bytes([index]) + b"ab") * (size // 3) for index, size in enumerate(sizes)]
    wire = b"".join(b"".join(as_list(frame_in_parts(message))) for message in messages)
    assert wire == b"".join(map(frame, messages))
    reader = MessageReader(LIMIT)
    assert [message for chunk in chunks(wire, cuts) for message in reader.feed(chunk)] == messages
    assert not reader.pending


def as_list(framed):
    return framed if isinstance(framed, list) else [framed]


def test_of_a_large_message_only_the_beginning_is_copied_to_frame_it():
    message = bytes(10 << 20)
    first, rest = frame_in_parts(message)
    assert len(first) <= 64 * 1024
    assert rest.obj is message


def test_a_message_at_the_limit_passes():
    assert MessageReader(10).feed(frame(bytes(10))) == [bytes(10)]


def test_a_message_over_the_limit_is_refused_at_its_prefix():
    with pytest.raises(RpcError) as raised:
        MessageReader(10).feed(frame(bytes(11))[:5])
    assert raised.value.status.code == StatusCode.RESOURCE_EXHAUSTED
    assert raised.value.status.details == "Received message larger than max (11 vs. 10)."


@pytest.mark.parametrize("encoding", [GZIP, DEFLATE])
def test_a_compressed_message_at_the_limit_passes(encoding):
    assert MessageReader(1000, encoding).feed(frame_compressed(bytes(1000), encoding)) == [bytes(1000)]


@pytest.mark.parametrize("encoding", [GZIP, DEFLATE])
def test_a_decompression_bomb_is_refused(encoding):
    bomb = frame_compressed(bytes(50_000_000), encoding)
    assert len(bomb) < 100_000
    with pytest.raises(RpcError) as raised:
        MessageReader(100_000, encoding).feed(bomb)
    assert raised.value.status.code == StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("wire", "encoding"),
    [
        (b"\x02\x00\x00\x00\x01a", IDENTITY),
        (b"\x01\x00\x00\x00\x01a", IDENTITY),
        (b"\x01\x00\x00\x00\x03abc", GZIP),
        (b"\x01\x00\x00\x00\x00", GZIP),
        (b"\x01\x00\x00\x00\x0a" + zlib.compress(b"something long", wbits=31)[:10], GZIP),
    ],
    ids=["bad flag", "compressed without an encoding", "no gzip", "empty gzip", "gzip cut short"],
)
def test_a_message_that_cannot_be_read_is_internal(wire, encoding):
    with pytest.raises(RpcError) as raised:
        MessageReader(LIMIT, encoding).feed(wire)
    assert raised.value.status.code == StatusCode.INTERNAL


def test_an_unknown_encoding_is_unimplemented():
    with pytest.raises(RpcError) as raised:
        check_encoding(b"snappy")
    assert raised.value.status.code == StatusCode.UNIMPLEMENTED
    assert "snappy" in raised.value.status.details


@pytest.mark.parametrize("encoding", [IDENTITY, GZIP, DEFLATE])
def test_known_encodings_pass_the_check(encoding):
    check_encoding(encoding)


def test_a_body_in_tiny_pieces_takes_little_more_memory_than_it_is_long():
    reader = MessageReader(LIMIT)
    wire = frame(bytes(range(256)) * 400)
    tracemalloc.start()
    try:
        for start in range(0, len(wire) - 2, 2):
            reader.feed(wire[start : start + 2])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * len(wire)
    assert reader.feed(wire[start + 2 :]) == [wire[5:]]


@given(st.binary(max_size=300))
def test_a_whole_message_is_recognized(message):
    assert whole_message(frame(message), LIMIT) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        frame(b"a")[:-1],
        frame(b"a") + b"b",
        frame(b"a") + frame(b"b"),
        frame_compressed(b"a", GZIP),
        frame(bytes(9)),
    ],
    ids=["nothing", "too short", "too long", "two", "compressed", "over the limit"],
)
def test_anything_else_is_left_to_a_reader(data):
    assert whole_message(data, 8) is None
