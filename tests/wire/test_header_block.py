"""What is remembered of a client's headers."""

import msgpack

from swerve.wire.header_block import HeaderBlock

HEADERS = ((b":path", b"/t.Lab/Echo"), (b"who", b"a"), (b"who", b"b"))
# The same, in other objects, as it comes with the next request.
AGAIN = tuple((bytes(bytearray(name)), bytes(bytearray(value))) for name, value in HEADERS)


def test_the_last_value_of_a_name_counts():
    assert HeaderBlock(HEADERS).fields == {b":path": b"/t.Lab/Echo", b"who": b"b"}


def test_a_block_that_comes_again_is_the_same_and_packed():
    first = HeaderBlock.of(HEADERS, None)
    assert first.packed is None
    second = HeaderBlock.of(AGAIN, first)
    assert second is first
    assert msgpack.unpackb(second.packed, use_list=False) == HEADERS


def test_a_block_that_differs_in_one_value_is_another():
    first = HeaderBlock.of(HEADERS, None)
    second = HeaderBlock.of((*HEADERS[:2], (b"who", b"c")), first)
    assert second.headers[-1] == (b"who", b"c")
    assert second.packed is None
