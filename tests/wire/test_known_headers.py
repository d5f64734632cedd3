"""What a receiver of bundles remembers of headers."""

import pytest

from swerve.wire.bundle import pack_headers
from swerve.wire.known_headers import KnownHeaders


def test_a_packed_block_is_known_again():
    known = KnownHeaders()
    first, other = ((b"who", b"ada"), (b"who", b"eve")), ((b"who", b"bob"),)
    found = known.find(pack_headers(first))
    assert (found.headers, found.fields) == (first, {b"who": b"eve"})
    assert known.find(pack_headers(other)).headers == other
    assert known.find(pack_headers(first)) is found
    assert known.find(pack_headers(first)) is found


def test_what_is_no_packed_block_is_a_value_error():
    known = KnownHeaders()
    for _ in range(2):
        with pytest.raises(ValueError, match=r".*"):
            known.find(b"\xc1")


def test_the_memory_of_packed_blocks_is_bounded():
    known = KnownHeaders()
    for number in range(2000):
        headers = ((b"who", b"%d" % number),)
        assert known.find(pack_headers(headers)).headers == headers
        assert len(known) <= 256
