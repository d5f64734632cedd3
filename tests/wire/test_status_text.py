"""Status codes and `grpc-message` on the wire."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swerve.wire.status import (
    CODE_BYTES,
    MAX_DETAILS_LENGTH,
    RpcError,
    Status,
    StatusCode,
    code_for_http_status,
    decode_code,
    decode_message,
    encode_message,
    truncate_details,
)

valid_text = st.text(st.characters(exclude_categories=["Cs"]))


@given(valid_text)
def test_details_survive_the_wire(details):
    assert decode_message(encode_message(details)) == details


@given(st.text())
def test_encoded_details_are_a_valid_field_value(details):
    value = encode_message(details)
    assert re.fullmatch(rb"[\x20-\x7e]*", value)
    assert value == value.strip(b" ")


@given(st.binary(max_size=100))
def test_decoding_details_never_fails(value):
    assert isinstance(decode_message(value), str)


@pytest.mark.parametrize("value", [b"100%", b"%zz", b"%4"])
def test_what_is_no_escape_is_kept(value):
    assert decode_message(value) == value.decode()


def test_edge_spaces_are_escaped_because_http2_forbids_them():
    assert encode_message(" a b ") == b"%20a b%20"


def test_a_lone_surrogate_is_spelled_out():
    assert decode_message(encode_message("a\udc80b")) == "a\\udc80b"


@pytest.mark.parametrize("code", list(StatusCode))
def test_every_code_survives_the_wire(code):
    assert decode_code(CODE_BYTES[code]) is code


@pytest.mark.parametrize("value", [b"17", b"-1", b"", b"abc", b"1.0", b"9" * 5000])
def test_what_is_no_code_is_unknown(value):
    assert decode_code(value) is StatusCode.UNKNOWN


@given(st.binary(max_size=20))
def test_decoding_a_code_never_fails(value):
    assert decode_code(value) in StatusCode


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(1, 400), st.booleans())
def test_truncated_details_fit_a_trailer(text, times, keep_end):
    cut = truncate_details(text * times, keep_end=keep_end)
    assert len(cut) <= MAX_DETAILS_LENGTH
    assert len(encode_message(cut)) <= 6 * 1024


def test_short_details_are_not_cut():
    assert truncate_details("x" * MAX_DETAILS_LENGTH) == "x" * MAX_DETAILS_LENGTH


def test_long_details_are_marked_at_their_end():
    assert truncate_details("begin" + "x" * 5000).startswith("begin")
    assert truncate_details("begin" + "x" * 5000).endswith("... [truncated]")


def test_the_end_of_a_traceback_can_be_kept():
    cut = truncate_details("x" * 5000 + "ValueError: end", keep_end=True)
    assert cut.startswith("... [truncated]")
    assert cut.endswith("ValueError: end")


def test_four_byte_characters_fit_a_trailer():
    assert len(encode_message(truncate_details("\N{PILE OF POO}" * 4096))) <= 6 * 1024


def test_an_error_says_code_and_details():
    assert str(RpcError(Status(StatusCode.NOT_FOUND, "no such app"))) == "NOT_FOUND: no such app"


@pytest.mark.parametrize(
    ("http", "code"), [(404, StatusCode.UNIMPLEMENTED), (503, StatusCode.UNAVAILABLE), (418, StatusCode.UNKNOWN)]
)
def test_http_statuses_stand_for_codes(http, code):
    assert code_for_http_status(http) == code
