"""HPACK by RFC 7541's own examples and rules. What other engines make of it is in test_hpack_peers.py."""

import pytest

from swerve.wire import hpack, hpack_encoder, huffman
from swerve.wire.hpack import Decoder, HeaderListTooLarge, HpackError
from swerve.wire.hpack_encoder import Encoder
from swerve.wire.metadata import size_of

PLENTY = 1 << 20

# RFC 7541, appendix C: the blocks of one connection, each with its list.
GET = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com"))
GET_HTTPS = ((b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), GET[3])
REQUESTS = (GET, (*GET, (b"cache-control", b"no-cache")), (*GET_HTTPS, (b"custom-key", b"custom-value")))
PRIVATE = (b"cache-control", b"private")
DATE = (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT")
LOCATION = (b"location", b"https://www.example.com")
RESPONSES = (
    ((b":status", b"302"), PRIVATE, DATE, LOCATION),
    ((b":status", b"307"), PRIVATE, DATE, LOCATION),
    (
        (b":status", b"200"),
        PRIVATE,
        (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT"),
        LOCATION,
        (b"content-encoding", b"gzip"),
        (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
    ),
)
# The examples of C.5 and C.6 have a table of 256 bytes.
TO_256 = "3fe101"
EXAMPLES = {
    "C.2.1": (["400a637573746f6d2d6b65790d637573746f6d2d686561646572"], [((b"custom-key", b"custom-header"),)]),
    "C.2.2": (["040c2f73616d706c652f70617468"], [((b":path", b"/sample/path"),)]),
    "C.2.3": (["100870617373776f726406736563726574"], [((b"password", b"secret"),)]),
    "C.2.4": (["82"], [((b":method", b"GET"),)]),
    "C.3": (
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        REQUESTS,
    ),
    "C.4": (
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
        REQUESTS,
    ),
    "C.5": (
        [
            TO_256 + "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
            "6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d41"
            "53444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
        ],
        RESPONSES,
    ),
    "C.6": (
        [
            TO_256 + "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff"
            "6e919d29ad171863c78f0b97c8e9ae82ae43d3",
            "4883640effc1c0bf",
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd"
            "5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ],
        RESPONSES,
    ),
}

# `a: 1` with incremental indexing, then as the newest entry; `a: 1` without indexing.
ADD_A = b"\x40\x01a\x011"
NEWEST = b"\xbe"
LITERAL_A = b"\x00\x01a\x011"
A = ((b"a", b"1"),)


def decoder(max_list_size: int = PLENTY, max_table_size: int = 4096) -> Decoder:
    return Decoder(max_list_size, max_table_size)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_rfc_decodes(example):
    blocks, lists = EXAMPLES[example]
    receiver = decoder()
    assert [receiver.decode(bytes.fromhex(block)) for block in blocks] == list(lists)


def test_the_examples_leave_the_table_that_the_rfc_shows():
    receiver = decoder()
    for block in EXAMPLES["C.5"][0]:
        receiver.decode(bytes.fromhex(block))
    table = (RESPONSES[2][5], RESPONSES[2][4], RESPONSES[2][2])
    assert receiver.decode(b"\xbe\xbf\xc0") == table
    with pytest.raises(HpackError):
        receiver.decode(b"\xc1")


def test_an_empty_block_is_an_empty_list():
    assert decoder().decode(b"") == ()


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80\x01a\x011", id="index 0"),
        pytest.param(b"\xbe", id="an index behind the static table"),
        pytest.param(b"\xff\x80\x01", id="an index far behind the tables"),
        pytest.param(b"\x7e\x011", id="a name's index behind the static table"),
        pytest.param(b"\x0f\x2f\x011", id="a literal's name behind the static table"),
        pytest.param(b"\xff", id="an index is cut off"),
        pytest.param(b"\xff\x80", id="an index is cut off in the middle"),
        pytest.param(b"\x40", id="no name"),
        pytest.param(b"\x40\x02a", id="a name is cut off"),
        pytest.param(b"\x40\x01a", id="no value"),
        pytest.param(b"\x40\x01a\x021", id="a value is cut off"),
        pytest.param(b"\x00\x01a\x82\x07", id="a Huffman code is cut off"),
        pytest.param(b"\x00\x01a\x7f\x80\x01" + b"1" * 254, id="a long value is cut off"),
        pytest.param(b"\xff\xff\xff\xff\xff\x07", id="an integer beyond 31 bits"),
        pytest.param(b"\x00\x01a\x7f\x80\x80\x80\x80\x80\x00" + b"1" * 127, id="an integer of too many bytes"),
        pytest.param(b"\x00\x01a\x7f\xff\xff\xff\xff\x7f", id="a length beyond 31 bits"),
        pytest.param(b"\x82\x20", id="a size update after a field"),
        pytest.param(b"\x20\x20\x20", id="three size updates"),
        pytest.param(b"\x3f\xe2\x1f", id="a table larger than allowed"),
        pytest.param(b"\x3f", id="a size update is cut off"),
        # "1" is 00001, "0" is 00000; EOS is thirty ones.
        pytest.param(b"\x00\x01a\x82\x0f\xff", id="padding of more than 7 bits"),
        pytest.param(b"\x00\x01a\x81\xff", id="nothing but padding of 8 bits"),
        pytest.param(b"\x00\x01a\x81\x08", id="padding of zeros"),
        pytest.param(b"\x00\x01a\x81\x0e", id="padding that is not all ones"),
        pytest.param(b"\x00\x01a\x84\xff\xff\xff\xff", id="EOS"),
        pytest.param(b"\x00\x01a\x85\x0f\xff\xff\xff\xff", id="EOS after a symbol"),
    ],
)
def test_a_block_against_the_rules_is_an_error(block):
    with pytest.raises(HpackError):
        decoder().decode(block)


def test_a_huffman_code_may_end_with_up_to_7_ones():
    # "a" has five bits, 00011, and "X" eight, 11111100: 7, 4 and no bits are left.
    assert huffman.decode(bytes.fromhex("18c631ff")) == b"aaaaa"
    assert huffman.decode(bytes.fromhex("18c63f")) == b"aaaa"
    assert huffman.decode(b"\xfc") == b"X"


def test_an_empty_huffman_code_is_an_empty_string():
    assert decoder().decode(b"\x00\x01a\x80") == ((b"a", b""),)


def test_a_huffman_code_decodes_again_from_memory():
    receiver = decoder()
    blocks = [b"\x00\x01" + name + b"\x8c" + bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff") for name in (b"a", b"b")]
    assert [receiver.decode(block)[0][1] for block in blocks] == [b"www.example.com"] * 2


def test_the_memory_of_huffman_codes_is_bounded():
    for number in range(huffman._MAX_STRINGS + 1):
        # Four symbols of five bits, of which the first ten are in use, and ones as padding.
        bits = "".join(f"{int(digit):05b}" for digit in f"{number:04}")
        huffman.decode(int(bits + "1111", 2).to_bytes(3, "big"))
    assert len(huffman._strings) <= huffman._MAX_STRINGS
    huffman.decode(b"\x00" * 65)
    assert b"\x00" * 65 not in huffman._strings


def test_codes_against_the_rules_leave_nothing_behind():
    with pytest.raises(ValueError, match="EOS"):
        huffman.decode(b"\xff" * 1000)
    assert len(huffman._STATES) <= 256


def test_strings_of_127_bytes_and_more_have_a_length_of_several_bytes():
    for length in (126, 127, 128, 300, 20_000):
        value = b"v" * length
        encoded = Encoder(1 << 20).encode(((b"a", value),))
        assert decoder().decode(encoded) == ((b"a", value),)


def test_a_name_by_an_index_of_two_bytes():
    # 31 is "content-type": 15 in the first byte, 16 in the second.
    assert decoder().decode(b"\x0f\x10\x01t") == ((b"content-type", b"t"),)


def test_a_field_by_an_index_of_two_bytes():
    receiver = decoder()
    receiver.decode(b"".join(b"\x40\x01" + bytes((byte,)) + b"\x00" for byte in range(100)))
    # 62 is the newest, 127 + 34 the oldest.
    assert receiver.decode(b"\xbe\xff\x22") == ((bytes((99,)), b""), (b"\x00", b""))


def test_an_entry_that_needs_room_evicts_the_oldest():
    receiver = decoder()
    receiver.decode(b"\x3f\x25" + ADD_A + b"\x40\x01b\x012")  # 68 bytes: room for two
    assert receiver.decode(b"\xbe\xbf") == ((b"b", b"2"), (b"a", b"1"))
    receiver.decode(b"\x40\x01c\x013")
    assert receiver.decode(b"\xbe\xbf") == ((b"c", b"3"), (b"b", b"2"))
    with pytest.raises(HpackError):
        receiver.decode(b"\xc0")


def test_a_name_may_come_from_the_entry_that_is_evicted():
    receiver = decoder()
    receiver.decode(b"\x3f\x03" + ADD_A)  # 34 bytes: room for one
    assert receiver.decode(b"\x7e\x019") == ((b"a", b"9"),)
    assert receiver.decode(NEWEST) == ((b"a", b"9"),)


def test_an_entry_larger_than_the_table_empties_it():
    receiver = decoder()
    receiver.decode(b"\x3f\x03" + ADD_A)
    assert receiver.decode(b"\x40\x01b\x0222") == ((b"b", b"22"),)
    assert receiver.decode(b"\xbd" + ADD_A) == ((b"www-authenticate", b""), *A)
    assert receiver.decode(b"\xbd\xbe") == ((b"www-authenticate", b""), *A)
    receiver.decode(b"\x40\x01b\x0222")
    with pytest.raises(HpackError):
        receiver.decode(NEWEST)


def test_size_updates_empty_the_table_and_let_it_grow_again():
    receiver = decoder()
    receiver.decode(ADD_A)
    assert receiver.decode(b"\x20\x3f\xe1\x1f") == ()
    with pytest.raises(HpackError):
        receiver.decode(NEWEST)
    receiver.decode(ADD_A)
    assert receiver.decode(NEWEST) == A


def test_the_table_has_4096_bytes_until_the_peer_changes_that():
    receiver = decoder(max_table_size=0)
    receiver.decode(ADD_A)
    assert receiver.decode(NEWEST) == A
    receiver.decode(b"\x20")
    with pytest.raises(HpackError):
        receiver.decode(b"\x21")


def test_a_list_of_the_limit_is_taken_and_a_larger_one_is_not():
    assert decoder(max_list_size=34).decode(LITERAL_A) == A
    with pytest.raises(HeaderListTooLarge):
        decoder(max_list_size=33).decode(LITERAL_A)


def test_many_references_to_one_large_entry_count_each():
    receiver = decoder(max_list_size=10_000)
    receiver.decode(b"\x40\x01a\x7f\xb9\x16" + b"v" * 3000)
    assert len(receiver.decode(NEWEST * 3)) == 3
    with pytest.raises(HeaderListTooLarge):
        receiver.decode(NEWEST * 4)


def test_a_name_by_index_counts_too():
    receiver = decoder(max_list_size=4000)
    receiver.decode(b"\x40\x7f\xb9\x16" + b"n" * 3000 + b"\x00")
    with pytest.raises(HeaderListTooLarge):
        receiver.decode(b"\x0f\x2f\x00" * 2)


def test_a_string_above_the_limit_is_refused_by_its_length_alone():
    with pytest.raises(HeaderListTooLarge):
        decoder(max_list_size=1000).decode(b"\x00\x01a\x7f\x80\x80\x01")


def test_a_huffman_code_counts_as_what_it_decodes_to():
    assert len(decoder(max_list_size=193).decode(b"\x00\x01a\xe4" + b"\x00" * 100)[0][1]) == 160
    with pytest.raises(HeaderListTooLarge):
        decoder(max_list_size=192).decode(b"\x00\x01a\xe4" + b"\x00" * 100)


def test_a_block_of_indexed_fields_decodes_to_the_same_object():
    receiver = decoder()
    receiver.decode(ADD_A)
    first = receiver.decode(b"\x82\xbe")
    assert receiver.decode(bytes(bytearray(b"\x82\xbe"))) is first


def test_a_block_with_a_literal_is_remembered_when_it_comes_twice():
    receiver = decoder()
    receiver.decode(LITERAL_A)
    second = receiver.decode(bytes(bytearray(LITERAL_A)))
    receiver.decode(b"\x00\x01b\x012")
    assert receiver.decode(bytes(bytearray(LITERAL_A))) is second


def test_blocks_that_come_once_push_no_remembered_one_out():
    receiver = decoder()
    first = receiver.decode(b"\x82")
    for byte in range(200):
        receiver.decode(b"\x00\x01a\x01" + bytes((byte,)))
    assert receiver.decode(b"\x82") is first


def test_the_memory_of_blocks_is_bounded():
    receiver = decoder()
    blocks = [b"\x82" * 90 + b"\x00\x01n\x02%02d" % number for number in range(64)]
    for block in blocks:
        receiver.decode(block)
        receiver.decode(block)
    known = receiver.known_blocks
    assert len(known) > 1
    assert sum(len(block) + size_of(headers) for block, headers in known.items()) <= hpack._MAX_ALL_KNOWN


def test_many_small_blocks_are_remembered():
    receiver = decoder()
    blocks = [b"\x82" * 10 + b"\x00\x01n\x02%02d" % number for number in range(50)]
    for block in blocks:
        receiver.decode(block)
        receiver.decode(block)
    assert list(receiver.known_blocks) == blocks


@pytest.mark.parametrize("block", [b"\x82" * 100, b"\x00\x01n\x7f\x81\x1f" + bytes(4096)], ids=["short", "long"])
def test_a_large_list_is_not_remembered(block):
    receiver = decoder()
    for _ in range(3):
        receiver.decode(block)
    assert not receiver.known_blocks
    assert receiver._start[2] + len(receiver._last_literal) == 0


def test_blocks_that_start_alike_and_end_in_other_literals_decode_each_to_its_own():
    receiver = decoder(max_list_size=185)
    receiver.decode(ADD_A)
    status = (b":status", b"200")
    for block, fields in [
        (b"\x88\xbe\x00\x01b\x011", (status, *A, (b"b", b"1"))),
        (b"\x88\xbe\x00\x01b\x012", (status, *A, (b"b", b"2"))),
        (b"\x88\xbe\x88\x00\x01b\x013", (status, *A, status, (b"b", b"3"))),
        (b"\x88\x00\x01b\x014\xbe", (status, (b"b", b"4"), *A)),
        (b"\x88\x00\x01b\x015", (status, (b"b", b"5"))),
        (b"\x88", (status,)),
        (b"\x00\x01b\x016", ((b"b", b"6"),)),
        (b"\x88\x00\x01b\x017", (status, (b"b", b"7"))),
    ]:
        assert receiver.decode(block) == fields
    with pytest.raises(HeaderListTooLarge):
        receiver.decode(b"\x88\xbe\x88\xbe\x00\x01b\x018")


def test_the_start_of_a_block_means_something_else_once_an_entry_is_added():
    receiver = decoder()
    receiver.decode(ADD_A)
    for value in (b"1", b"2"):
        assert receiver.decode(NEWEST + b"\x00\x01b\x01" + value) == (*A, (b"b", value))
    receiver.decode(b"\x40\x01c\x013")
    assert receiver.decode(NEWEST + b"\x00\x01b\x014") == ((b"c", b"3"), (b"b", b"4"))


@pytest.mark.parametrize("block", [NEWEST, b"\x0f\x2f\x011"], ids=["indexed", "a name by index"])
def test_a_block_means_something_else_once_an_entry_is_added(block):
    receiver = decoder()
    receiver.decode(ADD_A)
    for _ in range(3):
        assert receiver.decode(block) == A
    receiver.decode(b"\x40\x01b\x011")
    assert receiver.decode(block) == ((b"b", b"1"),)


def test_a_block_that_adds_an_entry_adds_one_each_time():
    receiver = decoder()
    for _ in range(3):
        receiver.decode(ADD_A)
    assert receiver.decode(b"\xbe\xbf\xc0") == A * 3


def test_a_block_means_nothing_once_the_table_is_emptied():
    receiver = decoder()
    receiver.decode(ADD_A)
    receiver.decode(NEWEST)
    receiver.decode(b"\x20")
    with pytest.raises(HpackError):
        receiver.decode(NEWEST)


def test_a_block_is_forgotten_when_too_large_an_entry_empties_the_table():
    receiver = decoder()
    receiver.decode(ADD_A)
    receiver.decode(NEWEST)
    receiver.decode(b"\x40\x01b\x7f\x81\x1f" + b"v" * 4096)
    with pytest.raises(HpackError):
        receiver.decode(NEWEST)


def test_a_size_update_is_heeded_each_time_that_it_comes():
    receiver = decoder()
    for _ in range(2):
        receiver.decode(ADD_A)
        receiver.decode(b"\x20\x3f\xe1\x1f\x82")
        with pytest.raises(HpackError):
            receiver.decode(NEWEST)


def test_fields_of_the_static_table_are_their_index():
    assert Encoder(1 << 20).encode(((b":status", b"200"), (b":method", b"POST"))) == b"\x88\x83"


def test_a_field_is_a_literal_first_then_added_then_its_index():
    sender = Encoder(1 << 20)
    field = ((b"x-model", b"m"),)
    assert sender.encode(field) == b"\x00\x07x-model\x01m"
    assert sender.encode(field) == b"\x40\x07x-model\x01m"
    assert sender.encode(field) == b"\xbe"
    assert sender.encode(field) == b"\xbe"


def test_a_field_that_all_calls_have_is_added_at_once():
    sender = Encoder(1 << 20)
    field = ((b"grpc-status", b"0"),)
    assert sender.encode(field) == b"\x40\x0bgrpc-status\x010"
    assert sender.encode(field) == b"\xbe"


def test_a_field_that_all_calls_have_stays_a_literal_without_a_table():
    sender = Encoder(1 << 20)
    sender.set_max_table_size(0)
    field = ((b"grpc-status", b"0"),)
    assert sender.encode(field) == b"\x20\x00\x0bgrpc-status\x010"
    assert sender.encode(field) == b"\x00\x0bgrpc-status\x010"


def test_a_literal_has_its_name_by_index_where_one_exists():
    sender = Encoder(1 << 20)
    assert sender.encode(((b"content-type", b"t"),)) == b"\x0f\x10\x01t"
    for _ in range(2):
        sender.encode(((b"a", b"1"),))
    assert sender.encode(((b"a", b"2"),)) == b"\x0f\x2f\x012"
    assert sender.encode(((b"a", b"2"),)) == b"\x7e\x012"
    # The newest entry with that name.
    assert sender.encode(((b"a", b"3"),)) == b"\x0f\x2f\x013"


def test_indices_move_when_an_entry_is_added():
    sender = Encoder(1 << 20)
    old, new = (b"a", b"1"), (b"b", b"2")
    for _ in range(3):
        assert sender.encode((old,)) != sender.encode(((b":status", b"200"),))
    assert sender.encode((old,)) == b"\xbe"
    assert sender.encode(((b"a", b"9"),)) == b"\x0f\x2f\x019"
    sender.encode((new,))
    sender.encode((new, old))
    assert sender.encode((old,)) == b"\xbf"
    assert sender.encode((new,)) == b"\xbe"
    assert sender.encode(((b"a", b"8"),)) == b"\x0f\x30\x018"


def test_a_value_that_differs_each_time_stays_a_literal():
    sender = Encoder(1 << 20)
    sizes = {len(sender.encode(((b"request_id", b"%04d" % number),))) for number in range(1000)}
    assert sizes == {len(b"\x00\x0arequest_id\x040000")}


def test_a_field_that_recurs_gets_in_between_others_that_do_not():
    sender = Encoder(1 << 20)
    for number in range(100):
        block = sender.encode(((b"request_id", b"%d" % number), (b"a", b"1")))
    assert block.endswith(b"\xbe")


@pytest.mark.parametrize("value", [b"s", b""])
@pytest.mark.parametrize("name", [b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"])
def test_a_secret_is_never_indexed(name, value):
    sender = Encoder(1 << 20)
    for _ in range(3):
        block = sender.encode(((name, value),))
        assert block[0] & 0xF0 == 0x10
        assert block.endswith(bytes((len(value),)) + value)
        assert decoder().decode(block) == ((name, value),)


def test_a_large_value_never_gets_in():
    sender = Encoder(1 << 20)
    blocks = {sender.encode(((b"a", b"v" * 257),)) for _ in range(4)}
    assert {block[0] for block in blocks} == {0x00}


def test_a_full_table_takes_nothing_more_and_keeps_what_it_has():
    sender, receiver = Encoder(1 << 20), decoder()
    fields = [(b"name-%d" % number, b"v" * 100) for number in range(60)]
    for _ in range(3):
        for field in fields:
            assert receiver.decode(sender.encode((field,))) == (field,)
    indexed = [field for field in fields if len(sender.encode((field,))) <= 2]
    assert indexed == fields[: len(indexed)]
    # Entries of 138 and 139 bytes in 4096.
    assert len(indexed) == 29


def test_a_smaller_table_is_announced_once_and_empty():
    sender, receiver = Encoder(1 << 20), decoder()
    for _ in range(3):
        receiver.decode(sender.encode(A))
    sender.set_max_table_size(100)
    block = sender.encode(A)
    assert block == b"\x20\x3f\x45" + LITERAL_A
    assert receiver.decode(block) == A
    assert sender.encode(A) == ADD_A
    assert sender.encode(A) == NEWEST


@pytest.mark.parametrize(("size", "last"), [(34, NEWEST), (33, LITERAL_A)])
def test_a_field_gets_in_when_it_fits_to_the_byte(size, last):
    sender = Encoder(1 << 20)
    sender.set_max_table_size(size)
    for _ in range(3):
        block = sender.encode(A)
    assert block == last


def test_a_list_of_indexed_fields_is_encoded_once():
    sender = Encoder(1 << 20)
    headers = ((b":status", b"200"), (b":method", b"POST"))
    assert sender.encode(headers) is sender.encode(headers)


def test_a_table_of_no_bytes_takes_nothing():
    sender = Encoder(1 << 20)
    sender.set_max_table_size(0)
    assert sender.encode(A) == b"\x20" + LITERAL_A
    assert [sender.encode(A) for _ in range(3)] == [LITERAL_A] * 3


def test_a_table_that_shrinks_and_grows_before_the_next_block_is_announced():
    sender = Encoder(1 << 20)
    for _ in range(3):
        sender.encode(A)
    sender.set_max_table_size(0)
    sender.set_max_table_size(65_536)
    assert sender.encode(((b":status", b"200"),)) == b"\x20\x3f\xe1\x1f\x88"
    assert sender.encode(((b":status", b"200"),)) == b"\x88"


def test_a_table_larger_than_the_protocols_is_not_used_nor_announced():
    sender = Encoder(1 << 20)
    sender.set_max_table_size(65_536)
    assert sender.encode(((b":status", b"200"),)) == b"\x88"


def test_the_memories_of_the_encoder_are_bounded():
    sender, receiver = Encoder(1 << 20), decoder()
    for number in range(300):
        headers = ((b":status", b"200"),) * number + ((b"name-%d" % number, b""),)
        assert receiver.decode(sender.encode(headers)) == headers
        assert receiver.decode(sender.encode(headers[:-1])) == headers[:-1]
    assert len(sender._blocks) <= hpack_encoder._MAX_LISTS
    assert max(map(len, sender._blocks.values())) <= hpack_encoder._MAX_SIZE
    assert len(sender._starts) <= hpack_encoder._MAX_NAMES
    assert len(sender._once) <= hpack_encoder._MAX_NAMES
    for number in range(100):
        sender.encode(((b"a", b"%d" % number), (b"n" * 257, b"")))
    assert len(sender._once[b"a"]) <= hpack_encoder._MAX_VALUES
    assert b"n" * 257 not in sender._starts
    assert b"n" * 257 not in sender._once


@pytest.mark.parametrize("broken", [(b"x-a", "text"), (b"x-a", None), (b"x-a",)])
def test_a_list_that_is_none_of_bytes_leaves_both_tables_alike(broken):
    sender, receiver = Encoder(1 << 20), Decoder(1 << 20)
    common = ((b"content-type", b"application/grpc"), (b"grpc-status", b"0"))
    with pytest.raises((TypeError, ValueError)):
        sender.encode((*common, broken))
    for _ in range(3):
        assert receiver.decode(sender.encode(common)) == common
