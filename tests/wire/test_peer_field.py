"""What replicas are told of a client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerve.wire.peer import INSECURE, MAX_SIZE, auth_context_of, encode_peer, identity_key, peer_address

ADDRESS = "ipv6:%5B::1%5D:5000"
contexts = st.dictionaries(st.text(min_size=1), st.lists(st.binary(), max_size=3), min_size=1)


@given(contexts)
def test_any_auth_context_fits_a_header_field_and_comes_back(context):
    field = encode_peer(ADDRESS, context)
    assert all(0x20 <= byte < 0x7F for byte in field)
    assert auth_context_of(field.decode()) == context
    assert peer_address(field.decode()) == ADDRESS


def test_without_tls_the_field_is_the_address_alone():
    assert encode_peer(ADDRESS) == ADDRESS.encode()
    assert auth_context_of(ADDRESS) == {key: list(values) for key, values in INSECURE.items()}
    assert identity_key(INSECURE) is None


def test_the_field_has_a_bound():
    assert len(encode_peer(ADDRESS, {"key": [b"x" * 60_000]})) < MAX_SIZE
    with pytest.raises(ValueError, match="65536 are allowed"):
        encode_peer(ADDRESS, {"key": [b"x" * MAX_SIZE]})
