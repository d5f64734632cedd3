"""Metadata between Python's form and the wire's."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerve.wire import metadata

keys = st.from_regex(r"[0-9a-z_.-]{1,20}", fullmatch=True).filter(
    lambda key: not key.startswith("grpc-") and key not in metadata._RESERVED and not key.endswith("-bin")
)
texts = st.from_regex(r"[\x21-\x7e]([\x20-\x7e]{0,20}[\x21-\x7e])?", fullmatch=True) | st.just("")
pairs = st.tuples(keys, texts) | st.tuples(keys.map(lambda key: key + "-bin"), st.binary(max_size=40))


@given(st.lists(pairs, max_size=6))
def test_metadata_survives_the_wire(sent):
    assert metadata.decode(metadata.encode(sent)) == sent


@given(st.lists(pairs, max_size=6))
def test_encoded_metadata_is_valid_http2(sent):
    for name, value in metadata.encode(sent):
        assert re.fullmatch(rb"[0-9a-z_.-]+", name)
        assert re.fullmatch(rb"[\x20-\x7e]*", value)
        assert value == value.strip()


@pytest.mark.parametrize("key", ["", "Upper", "a b", "ä", ":path", "a\n", "grpc-status"])
def test_a_bad_key_is_named(key):
    with pytest.raises(ValueError, match="Metadata key"):
        metadata.encode([(key, "v")])


@pytest.mark.parametrize(
    "key",
    ["connection", "te", "content-length", "content-type", "transfer-encoding", "host", "upgrade", "keep-alive"],
)
def test_a_key_of_the_protocols_is_refused(key):
    with pytest.raises(ValueError, match=f"Metadata key '{key}' is invalid: HTTP/2"):
        metadata.encode([(key, "v")])


@pytest.mark.parametrize("key", ["grpc-status-details-bin", "grpc-trace-bin", "grpc-tags-bin"])
def test_a_field_of_grpcs_that_is_made_for_applications_is_taken(key):
    assert metadata.encode([(key, b"rich")]) == ((key.encode(), b"cmljaA"),)


def test_pushback_for_retries_is_taken():
    assert metadata.encode([("grpc-retry-pushback-ms", "10")]) == ((b"grpc-retry-pushback-ms", b"10"),)


@pytest.mark.parametrize(("key", "value"), [("key", "v" * 16385), ("key-bin", bytes(16385))])
def test_a_value_that_no_client_takes_is_refused(key, value):
    with pytest.raises(ValueError, match=f"'{key}' is invalid: it is 16385 long"):
        metadata.encode([(key, value)])


@pytest.mark.parametrize("value", [" edge", "edge ", "line\r\nbreak", "nul\0", "ümlaut", "\N{PILE OF POO}", "tail\n"])
def test_a_bad_value_is_named(value):
    with pytest.raises(ValueError, match="Metadata value of 'key'"):
        metadata.encode([("key", value)])


@pytest.mark.parametrize(("key", "value"), [("key", 1), ("key", None), ("key-bin", "text"), (1, "v")])
def test_a_value_of_the_wrong_type_is_refused(key, value):
    with pytest.raises((TypeError, ValueError)):
        metadata.encode([(key, value)])


def test_bytes_are_taken_as_text_for_text_keys():
    assert metadata.encode([("key", b"value")]) == ((b"key", b"value"),)


def test_protocol_fields_are_not_metadata():
    headers = ((b":path", b"/a"), (b"te", b"trailers"), (b"grpc-timeout", b"1S"), (b"mine", b"yes"))
    assert metadata.decode(headers) == [("mine", "yes")]


def test_several_binary_values_in_one_field_are_split():
    assert metadata.decode(((b"k-bin", b"YQ,Yg=="),)) == [("k-bin", b"a"), ("k-bin", b"b")]


@pytest.mark.parametrize("value", [b"!!!!", b"YQ*=", b"Y"])
def test_a_binary_value_that_is_no_base64_is_passed_on_as_it_came(value):
    assert metadata.decode_binary(value) == value


def test_the_last_of_duplicate_fields_counts():
    assert metadata.get(((b"a", b"1"), (b"b", b"2"), (b"a", b"3")), b"a") == b"3"


def test_an_absent_field_is_none():
    assert metadata.get((), b"a") is None


def test_the_size_of_a_header_list_is_http2s():
    assert metadata.size_of(((b"ab", b"cde"), (b"f", b""))) == 32 * 2 + 6
