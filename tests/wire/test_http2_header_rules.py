"""What makes a request, a response or trailers malformed (RFC 9113, sections 8.1.1, 8.2 and 8.3)."""

import pytest
from http2_lab import (
    OK,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    TRAILERS,
    WHOLE,
    answered,
    begin,
    client,
    headers,
    next_id,
    resets,
    server,
    told,
    warm,
)

from swerve.wire.events import BODY, CLOSED, IGNORED, REQUEST, RESET, RESPONSE
from swerve.wire.events import TRAILERS as TOLD_TRAILERS
from swerve.wire.frames import ErrorCode
from tests.net.raw_http2 import DATA, END_HEADERS, END_STREAM, PADDED, frame

PSEUDO, FIELDS = REQUEST_HEADERS[:4], REQUEST_HEADERS[4:]


def without(name):
    return tuple(field for field in REQUEST_HEADERS if field[0] != name)


def with_value(name, value):
    return tuple((name, value) if field[0] == name else field for field in REQUEST_HEADERS)


BAD_FIELDS = {
    # Section 8.2.1.
    "upper case": (b"Name", b"x"),
    "empty name": (b"", b"x"),
    "space in a name": (b"na me", b"x"),
    "colon in a name": (b"na:me", b"x"),
    "control character in a name": (b"na\x00me", b"x"),
    "DEL in a name": (b"na\x7fme", b"x"),
    "high bytes in a name": (b"na\xffme", b"x"),
    "line feed after a name": (b"name\n", b"x"),
    "NUL in a value": (b"name", b"a\x00b"),
    "line feed in a value": (b"name", b"a\nb"),
    "carriage return in a value": (b"name", b"a\rb"),
    "line feed at a value's end": (b"name", b"a\n"),
    "NUL beside a space at an edge": (b"name", b" a\x00b"),
    # Section 8.2.2.
    "connection": (b"connection", b"close"),
    "keep-alive": (b"keep-alive", b"timeout=5"),
    "proxy-connection": (b"proxy-connection", b"close"),
    "transfer-encoding": (b"transfer-encoding", b"chunked"),
    "upgrade": (b"upgrade", b"h2c"),
    "te": (b"te", b"gzip"),
    # Section 8.3.
    "pseudo-header field after others": (b":path", b"/again"),
    "unknown pseudo-header field": (b":unknown", b"x"),
    "empty pseudo-header field": (b":", b"x"),
    "content-length of letters": (b"content-length", b"x"),
    "negative content-length": (b"content-length", b"-1"),
    "signed content-length": (b"content-length", b"+1"),
    "empty content-length": (b"content-length", b""),
}
GOOD_FIELDS = {
    "empty value": (b"name", b""),
    "all kinds of characters in a name": (b"!#$%&'*+-.^_`|~09az", b"x"),
    "tab in a value": (b"name", b"a\tb"),
    "high bytes in a value": (b"name", b"\xe4\xff"),
    "te": (b"te", b"trailers"),
    "te in upper case": (b"te", b"Trailers"),
    "content-length": (b"content-length", b"0"),
}
# What stands for a value with spaces at its edges.
SPACES = {
    "space before": (b" a", b"a"),
    "space after": (b"a ", b"a"),
    "tabs": (b"\ta\t\t", b"a"),
    "within": (b" a b\tc ", b"a b\tc"),
    "nothing else": (b" \t ", b""),
}
spaces = pytest.mark.parametrize(("sent", "told_as"), SPACES.values(), ids=SPACES)


def param(fields):
    return pytest.mark.parametrize("field", fields.values(), ids=fields)


def assert_malformed(engine, fields, flags=WHOLE):
    """The request is refused, and no more of it is told."""
    stream_id = next_id(engine)
    assert told(engine, headers(stream_id, fields, flags)) == [(RESET, stream_id)]
    assert resets(engine, frame(DATA, END_STREAM, stream_id, b"x")) == {stream_id: ErrorCode.PROTOCOL_ERROR}


# --- requests --------------------------------------------------------------------------------------------------------


@param(BAD_FIELDS)
def test_a_request_with_a_bad_field_is_refused(served, field):
    assert_malformed(served, (*REQUEST_HEADERS, field))


@param(BAD_FIELDS)
def test_a_request_with_a_bad_field_in_the_middle_is_refused(field):
    assert_malformed(server(), (*PSEUDO, field, *FIELDS))


@param(GOOD_FIELDS)
def test_a_request_with_a_good_field_is_served(served, field):
    begin(served, (*without(b"te"), field), end_stream=True)


@spaces
def test_spaces_at_the_edges_of_a_requests_values_are_stripped(served, sent, told_as):
    """grpcio sends what its users give it; gRPC allows to strip them."""
    for _ in range(3):
        stream_id = next_id(served)
        data = headers(stream_id, (*REQUEST_HEADERS, (b"a", sent), (b"b", b"x")))
        assert told(served, data) == [(REQUEST, stream_id, (*REQUEST_HEADERS, (b"a", told_as), (b"b", b"x")), False)]
        served.reset_stream(stream_id)
        told(served, b"")


@pytest.mark.parametrize("name", [b":method", b":scheme", b":path", b":authority"])
@pytest.mark.parametrize("value", [b"%s ", b" %s"])
def test_spaces_at_the_edges_of_a_pseudo_header_field_are_not(served, name, value):
    assert_malformed(served, with_value(name, value % dict(PSEUDO)[name]))


@pytest.mark.parametrize("name", [b":method", b":scheme", b":path"])
def test_a_request_without_a_field_that_it_needs_is_refused(served, name):
    assert_malformed(served, without(name))


def test_a_request_needs_no_authority(served):
    begin(served, without(b":authority"))


@pytest.mark.parametrize("name", [b":method", b":scheme", b":path", b":authority"])
def test_a_request_with_a_pseudo_header_field_twice_is_refused(served, name):
    assert_malformed(served, (*PSEUDO, (name, dict(PSEUDO)[name]), *FIELDS))


def test_a_request_without_a_path_is_refused(served):
    assert_malformed(served, with_value(b":path", b""))


@pytest.mark.parametrize("value", [b"/a b ", b"/a\nb", b"/\x00"])
def test_a_request_with_bad_characters_in_its_path_is_refused(value):
    assert_malformed(server(), with_value(b":path", value))


def test_a_request_with_a_status_is_refused(served):
    assert_malformed(served, ((b":status", b"200"), *REQUEST_HEADERS))


@pytest.mark.parametrize(
    "fields",
    [
        ((b":method", b"CONNECT"), (b":authority", b"x")),
        with_value(b":method", b"CONNECT"),
        (*with_value(b":method", b"CONNECT")[:4], (b":protocol", b"websocket")),
    ],
    ids=["plain", "with a path", "extended"],
)
def test_connect_is_refused(fields):
    assert_malformed(server(), fields)


def test_a_protocol_is_refused_where_extended_connect_was_not_offered():
    """RFC 8441, section 4."""
    assert_malformed(server(), (*PSEUDO, (b":protocol", b"websocket"), *FIELDS))


def test_a_request_without_headers_is_refused(served):
    assert_malformed(served, ())


def test_the_rest_of_a_refused_request_is_ignored(served):
    stream_id = next_id(served)
    told(served, headers(stream_id, without(b":path"), END_HEADERS))
    assert told(served, frame(DATA, 0, stream_id, b"x") + headers(stream_id, TRAILERS, WHOLE)) == [(IGNORED,)] * 2


def test_a_list_is_good_again_after_a_bad_one():
    engine = warm(server())
    assert_malformed(engine, without(b":path"))
    begin(engine)
    assert_malformed(engine, without(b":path"))


# --- responses -------------------------------------------------------------------------------------------------------


def assert_malformed_response(fields):
    engine = client()
    stream_id = begin(engine)
    assert resets(engine, headers(stream_id, fields)) == {stream_id: ErrorCode.PROTOCOL_ERROR}


@param(BAD_FIELDS)
def test_a_response_with_a_bad_field_breaks_its_stream_off(field):
    assert_malformed_response((*RESPONSE_HEADERS, field))


@param(GOOD_FIELDS)
def test_a_response_with_a_good_field_is_told(field):
    engine = client()
    answered(engine, begin(engine), (*OK, field))


@spaces
def test_spaces_at_the_edges_of_a_responses_values_are_stripped(sent, told_as):
    engine = client()
    stream_id = begin(engine)
    data = headers(stream_id, (*OK, (b"a", sent))) + headers(stream_id, (*TRAILERS, (b"b", sent)), WHOLE)
    assert told(engine, data) == [
        (RESPONSE, stream_id, (*OK, (b"a", told_as)), False),
        (TOLD_TRAILERS, stream_id, (*TRAILERS, (b"b", told_as))),
    ]


@pytest.mark.parametrize("status", [b"", b"20", b"2000", b"0200", b"099", b"abc", b"20 ", b"+20"])
def test_a_response_with_a_bad_status_breaks_its_stream_off(status):
    assert_malformed_response(((b":status", status),))


@pytest.mark.parametrize(
    "fields",
    [(), ((b"a", b"b"),), ((b"a", b"b"), *OK), (*OK, *OK), (*OK, (b":path", b"/"))],
    ids=["empty", "no status", "late status", "two", "a request's field"],
)
def test_a_response_without_one_status_at_its_start_breaks_its_stream_off(fields):
    assert_malformed_response(fields)


@pytest.mark.parametrize("status", [b"200", b"404", b"503", b"599", b"999"])
def test_a_response_may_have_any_final_status(status):
    engine = client()
    answered(engine, begin(engine), ((b":status", status),))


# --- trailers --------------------------------------------------------------------------------------------------------


@param({**BAD_FIELDS, "pseudo-header field": (b":status", b"200"), "path": (b":path", b"/")})
@pytest.mark.parametrize("make", [server, client])
def test_trailers_with_a_bad_field_break_their_stream_off(make, field):
    engine = make()
    stream_id = begin(engine)
    if make is client:
        answered(engine, stream_id)
    data = headers(stream_id, (*TRAILERS, field), WHOLE)
    assert resets(engine, data) == {stream_id: ErrorCode.PROTOCOL_ERROR}


# --- content-length (section 8.1.1) ----------------------------------------------------------------------------------


def of_length(length):
    return (*REQUEST_HEADERS, (b"content-length", b"%d" % length))


@pytest.fixture(params=["new", "known"])
def measured(request):
    """A server that has seen no request with a length of 4, and one that has seen several."""
    engine = server()
    for _ in range(3 if request.param == "known" else 0):
        engine.reset_stream(begin(engine, of_length(4)))
        engine.data_to_send(1000)
        engine.events()
    return engine


def test_a_body_of_its_length_is_served(measured):
    stream_id = begin(measured, of_length(4))
    data = frame(DATA, 0, stream_id, b"ab") + frame(DATA, END_STREAM | PADDED, stream_id, b"\x01cd\0")
    assert told(measured, data) == [(BODY, stream_id, b"ab", False), (BODY, stream_id, b"cd", True)]


def test_a_body_of_its_length_may_end_later(measured):
    stream_id = begin(measured, of_length(4))
    data = frame(DATA, 0, stream_id, b"abcd") + frame(DATA, END_STREAM, stream_id)
    assert told(measured, data)[-1] == (BODY, stream_id, b"", True)


def test_a_body_of_its_length_may_have_trailers(measured):
    stream_id = begin(measured, of_length(4))
    data = frame(DATA, 0, stream_id, b"abcd") + headers(stream_id, TRAILERS, WHOLE)
    assert len(told(measured, data)) == 2


@pytest.mark.parametrize(
    "body",
    [
        lambda stream_id: frame(DATA, 0, stream_id, b"abcde"),
        lambda stream_id: frame(DATA, END_STREAM, stream_id, b"abc"),
        lambda stream_id: frame(DATA, END_STREAM, stream_id),
        lambda stream_id: frame(DATA, 0, stream_id, b"abcd") + frame(DATA, END_STREAM, stream_id, b"e"),
        lambda stream_id: frame(DATA, 0, stream_id, b"abc") + headers(stream_id, TRAILERS, WHOLE),
    ],
    ids=["longer", "shorter", "empty", "longer at the end", "shorter with trailers"],
)
def test_a_body_of_another_length_breaks_its_stream_off(measured, body):
    stream_id = begin(measured, of_length(4))
    assert resets(measured, body(stream_id)) == {stream_id: ErrorCode.PROTOCOL_ERROR}


def test_a_request_that_announces_a_body_and_ends_is_broken_off_and_not_told(measured):
    stream_id = next_id(measured)
    measured.receive(headers(stream_id, of_length(4), WHOLE))
    assert REQUEST not in [event[0] for event in measured.events()]
    assert resets(measured, b"") == {stream_id: ErrorCode.PROTOCOL_ERROR}


def test_a_request_that_announces_no_body_may_end(served):
    begin(served, of_length(0), end_stream=True)


@pytest.mark.parametrize("lengths", [(b"4", b"4"), (b"4", b"5"), (b"4, 4",)])
def test_a_length_that_comes_twice_is_malformed(lengths):
    """Which one holds could depend on who reads it."""
    fields = tuple((b"content-length", length) for length in lengths)
    assert_malformed(server(), (*REQUEST_HEADERS, *fields), END_HEADERS)


def test_a_response_of_its_length_is_told():
    engine = client()
    stream_id = begin(engine, end_stream=True)
    fields = (*OK, (b"content-length", b"2"))
    data = headers(stream_id, fields) + frame(DATA, END_STREAM, stream_id, b"ab")
    assert told(engine, data) == [
        (RESPONSE, stream_id, fields, False),
        (BODY, stream_id, b"ab", True),
        (CLOSED, stream_id, ErrorCode.NO_ERROR),
    ]


@pytest.mark.parametrize("flags", [END_HEADERS, WHOLE], ids=["with a body", "without"])
def test_a_response_of_another_length_breaks_its_stream_off(flags):
    engine = client()
    stream_id = begin(engine)
    data = headers(stream_id, (*OK, (b"content-length", b"2")), flags)
    if flags == END_HEADERS:
        data += frame(DATA, END_STREAM, stream_id, b"abc")
    assert resets(engine, data) == {stream_id: ErrorCode.PROTOCOL_ERROR}
