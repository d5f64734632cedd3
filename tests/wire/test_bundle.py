"""Records to bytes and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerve.wire.bundle import ANSWER, CALL, CREDIT, RESET, pack, unpack
from swerve.wire.message import MessageReader

number = st.integers(1, 2**64 - 1)
amount = st.integers(0, 2**31 - 1)
headers = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=5).map(tuple)
records = st.one_of(
    st.tuples(st.just(CALL), number, headers, st.binary()),
    st.tuples(st.just(ANSWER), number, st.none() | headers, st.none() | st.binary(), st.none() | headers),
    st.tuples(st.sampled_from([RESET, CREDIT]), number, amount),
)


@given(st.lists(st.lists(records), max_size=4), st.integers(1, 50))
def test_records_come_out_as_they_went_in_however_the_bytes_are_cut(bundles, step):
    sent = b"".join(pack(bundle) for bundle in bundles)
    reader = MessageReader(1 << 20)
    messages = [message for start in range(0, len(sent), step) for message in reader.feed(sent[start : start + step])]
    assert [list(unpack(message)) for message in messages] == bundles


def test_a_view_of_a_buffer_is_packed_like_bytes():
    packed = pack([(ANSWER, 1, None, memoryview(b"abcdef")[2:4], None)])
    assert unpack(packed[5:]) == ((ANSWER, 1, None, b"cd", None),)


@pytest.mark.parametrize("broken", [b"", b"\xc1", b"\x92\x01", b"\x90\x90"])
def test_what_is_no_bundle_is_a_value_error(broken):
    with pytest.raises(ValueError, match=r".*"):
        unpack(broken)
