"""What is remembered of a client's headers."""

import msgpack
import pytest

from swerve.wire.header_block import HeaderBlock
from swerve.wire.metadata import Headers

HEADERS = ((b":path", b"/t.Lab/Echo"), (b"who", b"a"), (b"who", b"b"))
# The same, in other objects, as it comes with the next request.
AGAIN = tuple((bytes(bytearray(name)), bytes(bytearray(value))) for name, value in HEADERS)


def test_the_last_value_of_a_name_counts():
    assert HeaderBlock(HEADERS).fields == {b":path": b"/t.Lab/Echo", b"who": b"b"}


def test_a_block_that_comes_again_is_the_same_and_packed():
    first = HeaderBlock.of(HEADERS, None)
    assert first.packed == HEADERS
    second = HeaderBlock.of(AGAIN, first)
    assert second is first
    assert [msgpack.unpackb(packed, use_list=False) for packed in second.packed] == [HEADERS]


def test_a_block_that_differs_in_one_value_is_another():
    first = HeaderBlock.of(HEADERS, None)
    second = HeaderBlock.of((*HEADERS[:2], (b"who", b"c")), first)
    assert second.headers[-1] == (b"who", b"c")
    assert second.packed == second.headers


def timed(value: bytes) -> Headers:
    return (HEADERS[0], (b"grpc-timeout", value), *HEADERS[1:])


def test_a_block_that_differs_in_its_time_alone_is_the_same_and_has_none():
    first = HeaderBlock.of(timed(b"100m"), None)
    second = HeaderBlock.of(timed(b"999u"), first)
    assert second is first
    assert second.timeout == b"999u"
    assert second.headers == HEADERS
    assert [msgpack.unpackb(packed, use_list=False) for packed in second.packed] == [HEADERS]
    assert b"grpc-timeout" not in second.fields


def test_a_block_has_the_timeout_of_the_request_that_came_last():
    one, other = timed(b"100m"), timed(b"999u")
    block = HeaderBlock.of(one, None)
    for headers in (other, one, one, other):
        block = HeaderBlock.of(headers, block)
        assert (b"grpc-timeout", block.timeout) in headers


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(timed(b"1000m"), id="longer"),
        pytest.param(HEADERS, id="none"),
        pytest.param((*HEADERS, (b"grpc-timeout", b"100m")), id="elsewhere"),
        pytest.param((*timed(b"100m"), (b"grpc-timeout", b"200m")), id="two"),
        pytest.param((*timed(b"100m")[:3], (b"who", b"c")), id="another-field"),
        pytest.param((HEADERS[0], (b"grpc-timeouts", b"100m"), *HEADERS[1:]), id="another-name"),
    ],
)
def test_a_block_with_another_form_of_time_is_another(headers):
    first = HeaderBlock.of(timed(b"100m"), None)
    assert HeaderBlock.of(headers, first) is not first


def test_of_two_times_the_last_one_counts_and_both_must_come_again():
    headers = (*timed(b"100m"), (b"grpc-timeout", b"200m"))
    first = HeaderBlock.of(headers, None)
    assert first.headers == HEADERS
    assert first.timeout == b"200m"
    assert HeaderBlock.of(headers, first) is first
    assert HeaderBlock.of((*timed(b"100m"), (b"grpc-timeout", b"300m")), first) is not first


def test_size_counts_the_time():
    assert HeaderBlock(timed(b"100m")).size == HeaderBlock(HEADERS).size + 32 + len(b"grpc-timeout100m")
