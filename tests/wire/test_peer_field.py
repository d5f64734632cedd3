"""What replicas are told of a client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerve.wire.peer import (
    INSECURE,
    MAX_SIZE,
    PEER_FIELD,
    auth_context_of,
    call_field,
    carried_fields,
    encode_peer,
    identity_key,
    peer_address,
)

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


# As a client that forges, and its proxy, make it.
CALL = (
    (b"x-tenant", b"first"),
    (PEER_FIELD, b'ipv4:6.6.6.6:1 {"user":["root"]}'),
    (b"x-tenant", b"acme"),
    (PEER_FIELD, encode_peer(ADDRESS, {"user": ["Ädä".encode(), b"other"], "odd key:\n": [b"\xff"]})),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-tenant", "acme"),
        ("nothing", ""),
        ("auth:user", "Ädä"),
        ("auth:nothing", ""),
        ("auth:odd key:\n", "\udcff"),
        ("auth:transport_security_type", ""),
    ],
)
def test_a_field_of_a_call_is_of_its_metadata_or_of_what_the_proxy_knows(name, value):
    assert call_field(CALL, name.encode()) == value


def test_without_a_proxy_s_word_there_is_no_property():
    assert call_field(((b"x-tenant", b"a"),), b"auth:user") == ""


def test_a_call_carries_on_what_is_named_and_nothing_else():
    names = [b"x-tenant", b"auth:user", b"auth:nothing", b"auth:odd key:\n"]
    carried = carried_fields(CALL, names)
    assert [name for name, _ in carried] == [b"x-tenant", PEER_FIELD]
    assert auth_context_of(dict(carried)[PEER_FIELD].decode()) == {"user": ["Ädä".encode()], "odd key:\n": [b"\xff"]}
    assert carried_fields(carried, names) == carried
    assert carried_fields(CALL, []) == ()
