"""HPACK's two directions against each other, and each against another implementation, nghttp2's."""

from collections.abc import Iterator

import ngh2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerve.wire import hpack
from swerve.wire.hpack import Decoder, HeaderListTooLarge, Headers, HpackError
from swerve.wire.hpack_encoder import Encoder
from tests.net.raw_http2 import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    frame,
    frames_in,
    settings_of,
)

HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS = 0x1, 0x3
REQUEST = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/t.Lab/Echo"), (b":authority", b"x"))


def blocks_in(data: bytes) -> Iterator[bytes]:
    """The header blocks in frames without padding and priority."""
    block = b""
    for kind, flags, _, payload in frames_in(data):
        if kind in (HEADERS, CONTINUATION):
            assert not flags & 0x28
            block += payload
            if flags & END_HEADERS:
                yield block
                block = b""


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


class Sender:
    """nghttp2's encoder."""

    def __init__(self) -> None:
        self._client = ngh2.Connection(ngh2.Role.CLIENT, ngh2.Configuration(auto_window_update=False))
        self._client.initiate_connection({})
        self.set({MAX_CONCURRENT_STREAMS: 1_000_000})

    def set(self, settings: dict[int, int]) -> None:
        self._client.receive_data(settings_of(settings))
        self._client.events()
        self._client.data_to_send()

    def encode(self, headers: Headers) -> bytes:
        self._client.send_request(headers, end_stream=True)
        (block,) = blocks_in(self._client.data_to_send())
        return block


class Receiver:
    """nghttp2's decoder."""

    def __init__(self) -> None:
        self._server = ngh2.Connection(ngh2.Role.SERVER, ngh2.Configuration(auto_window_update=False))
        self._server.initiate_connection({})
        self._server.data_to_send()
        self._server.receive_data(PREFACE + settings_of({}) + SETTINGS_ACK)
        self._server.events()
        self._stream_id = -1

    def set(self, table_size: int) -> None:
        """Have the peer take over a setting, and hear so."""
        self._server.update_settings({HEADER_TABLE_SIZE: table_size})
        self._server.data_to_send()
        self._server.receive_data(SETTINGS_ACK)

    def decode(self, block: bytes) -> Headers:
        self._stream_id += 2
        self._server.receive_data(frame(HEADERS, END_STREAM | END_HEADERS, self._stream_id, block))
        (request,) = [event for event in self._server.events() if isinstance(event, ngh2.RequestReceived)]
        self._server.reset_stream(self._stream_id)
        self._server.data_to_send()
        self._server.events()
        return request.headers


def field_in_request(field: tuple[bytes, bytes]) -> Headers:
    """A request with that field; `:status` stands in for another pseudo-header, which an encoder does not mind."""
    name, _ = field
    if name[:1] != b":":
        return (*REQUEST, field)
    replaced = name if name in dict(REQUEST) else b":path"
    return tuple(field if other[0] == replaced else other for other in REQUEST)


@pytest.mark.parametrize("index", range(1, 62))
def test_an_index_of_the_static_table_is_the_same_for_nghttp2(index):
    field = hpack.STATIC_TABLE[index - 1]
    headers = field_in_request(field)
    block = Sender().encode(headers)
    assert Decoder(1 << 20).decode(block) == headers
    # nghttp2 has these two by the index of their name.
    by_name = field[0] in (b"authorization", b"cookie")
    assert (bytes((0x1F, index - 0x0F, 0)) if by_name else bytes((0x80 | index,))) in block


@pytest.mark.parametrize("byte", range(256))
def test_the_huffman_code_of_a_byte_is_the_same_for_nghttp2(byte):
    # Long enough, of short codes, that the whole is shorter in the code.
    value = b"a" * 20 + bytes((byte,)) + b"a" * 10
    headers = (*REQUEST, (b"x", value))
    block = Sender().encode(headers)
    assert value not in block
    assert Decoder(1 << 20).decode(block) == headers


NAMES = (b"a", b"x-model", b"content-type", b"grpc-timeout", b"user-agent", b"authorization", b"long" * 40)
VALUES = (b"", b"1", b"2", b"application/grpc", b'~!"|<{}', b"v" * 127, b"v" * 257, b"w" * 1000)
# Few fields, so that they come again.
RECURRING = st.sampled_from([(name, value) for name in NAMES for value in VALUES])
TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=8).map(str.encode)
FIELDS = st.one_of(RECURRING, RECURRING, st.tuples(st.sampled_from(NAMES), TEXT))
LISTS = st.lists(FIELDS, max_size=6).map(tuple)
TABLE_SIZES = st.one_of(st.sampled_from([0, 1, 33, 100, 300, 4096, 65_536]), st.integers(0, 5000))


@st.composite
def steps(draw: st.DrawFn) -> list[Headers | int]:
    """Header lists, many of which come again, and sizes of the table."""
    lists = draw(st.lists(LISTS, min_size=1, max_size=4))
    return draw(st.lists(st.one_of(st.sampled_from(lists), st.sampled_from(lists), LISTS, TABLE_SIZES), max_size=20))


@given(steps())
def test_what_the_encoder_makes_the_decoder_understands(steps):
    encoder, decoder = Encoder(1 << 20), Decoder(1 << 20)
    for step in steps:
        if isinstance(step, int):
            encoder.set_max_table_size(step)
        else:
            assert decoder.decode(encoder.encode(step)) == step


@given(steps())
def test_what_the_encoder_makes_nghttp2_understands(steps):
    encoder, receiver = Encoder(1 << 20), Receiver()
    for step in steps:
        if isinstance(step, int):
            receiver.set(step)
            encoder.set_max_table_size(step)
        else:
            headers = (*REQUEST, *step)
            assert receiver.decode(encoder.encode(headers)) == headers


@given(steps())
def test_what_nghttp2_makes_the_decoder_understands(steps):
    sender, decoder = Sender(), Decoder(1 << 20)
    for step in steps:
        if isinstance(step, int):
            sender.set({HEADER_TABLE_SIZE: min(step, 4096)})
        else:
            headers = (*REQUEST, *step)
            assert decoder.decode(sender.encode(headers)) == headers


def test_a_table_that_grows_beyond_4096_bytes_is_followed():
    sender, decoder = Sender(), Decoder(1 << 20, 65_536)
    sender.set({HEADER_TABLE_SIZE: 65_536})
    fields = tuple((b"name-%d" % number, b"v%d" % number) for number in range(300))
    for _ in range(3):
        assert decoder.decode(sender.encode((*REQUEST, *fields))) == (*REQUEST, *fields)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_whatever_comes_is_a_list_or_an_error(blocks):
    decoder = Decoder(2000)
    for block in blocks:
        try:
            headers = decoder.decode(block)
        except (HpackError, HeaderListTooLarge):
            return
        assert sum(len(name) + len(value) + 32 for name, value in headers) <= 2000
        assert decoder._used <= decoder._capacity
        # A memory that lies would show here.
        assert decoder._used == sum(size for _, size in decoder._table[62:])


@given(steps(), st.randoms(use_true_random=False))
def test_a_decoder_that_remembers_says_what_one_says_that_does_not(steps, random):
    """Blocks in any order, those that change the table among them, as no encoder would send them."""
    sender = Encoder(1 << 20)
    blocks = [sender.encode(step) for step in steps if not isinstance(step, int)]
    remembering, forgetful = Decoder(1 << 20), Decoder(1 << 20)
    for block in random.choices(blocks, k=30) if blocks else ():
        forgetful.known_blocks.clear()
        try:
            expected = forgetful.decode(block)
        except HpackError:
            with pytest.raises(HpackError):
                remembering.decode(block)
            return
        assert remembering.decode(block) == expected
