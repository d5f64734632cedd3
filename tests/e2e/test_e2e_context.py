"""Statuses, details and metadata: what a handler says by its context and its exceptions, and what its client gets."""

import json
import zlib

import grpc
import pytest
from e2e_support import failure_of, raw_call, read, trailer
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from swerve.wire.status import decode_message

UNARY = pytest.mark.parametrize("method", ["Script", "ScriptPlain"])
STREAMING = pytest.mark.parametrize("method", ["ScriptStream", "ScriptGenerator"])


def script_failure(client, *steps, **options) -> grpc.RpcError:
    return failure_of(lambda: client.script(*steps, **options))


def stream_failure(client, *steps, **options):
    """The notes' texts, and the error after them."""
    stream = client.script_stream(*steps, **options)
    received = []
    return received, failure_of(lambda: received.extend(note.text for note in stream))


# --- unary: set and return -------------------------------------------------------------------------------------------


@UNARY
def test_a_code_that_is_set_ends_the_call_with_it_and_drops_the_message(client, world, method):
    error = script_failure(
        client, ["code", 3], ["details", "not found, adding"], ["trailing", [["num", "0"]]], method=method
    )

    assert (error.code().name, error.details()) == ("INVALID_ARGUMENT", "not found, adding")
    assert trailer(error, "num") == "0"
    assert trailer(error, "request_id")
    steps = json.dumps([["code", 3]])
    raw = raw_call(
        world.port,
        f"/lab.v1.Lab/{method}",
        client.note(steps).SerializeToString(),
        [(b"application", b"lab")],
    )
    assert raw.body == b""


@UNARY
def test_a_code_without_details_has_empty_details(client, method):
    error = script_failure(client, ["code", 5], method=method)

    assert (error.code().name, error.details()) == ("NOT_FOUND", "")


@UNARY
def test_details_of_an_ok_status_are_on_the_wire(client, world, method):
    steps = json.dumps([["details", "foo found."], ["return", "body"]])

    raw = raw_call(
        world.port, f"/lab.v1.Lab/{method}", client.note(steps).SerializeToString(), [(b"application", b"lab")]
    )

    assert raw.trailer(b"grpc-status") == b"0"
    assert raw.trailer(b"grpc-message") == b"foo found."
    assert b"body" in raw.body


def test_an_ok_code_that_is_set_keeps_the_message(client):
    response, call = client.script(["code", 0], ["return", "kept"])

    assert response.text == "kept"
    assert call.code().name == "OK"


def test_the_last_trailing_metadata_replace_the_earlier(client):
    _, call = client.script(["trailing", [["a", "1"]]], ["trailing", [["b", "2"], ["b", "3"]]])

    assert trailer(call, "a") == []
    assert trailer(call, "b") == ["2", "3"]
    assert trailer(call, "request_id")


def test_a_handler_cannot_replace_the_request_id_trailer(client):
    _, call = client.script(["trailing", [["request_id", "forged"], ["a", "1"]]], request_id="mine")

    assert trailer(call, "request_id") == "mine"


@UNARY
def test_initial_metadata_reach_the_client(client, method):
    _, call = client.script(["initial", [["early", "yes"]]], method=method)

    assert ("early", "yes") in [tuple(pair) for pair in call.initial_metadata()]


def test_initial_metadata_arrive_before_the_handler_ends(client):
    call = client.lab.ScriptStream(
        client.note(json.dumps([["initial", [["early", "yes"]]], ["sleep", 30]])),
        metadata=(("application", "lab"),),
        timeout=30,
    )

    assert ("early", "yes") in [tuple(pair) for pair in call.initial_metadata()]
    assert call.is_active()
    call.cancel()


@pytest.mark.parametrize("pairs", [[["Upper", "x"]], [["grpc-status", "0"]], [["key", "line\nbreak"]]])
def test_metadata_that_gRPC_cannot_carry_are_refused_with_their_name(client, pairs):
    error = script_failure(client, ["trailing", pairs])

    assert error.code().name == "INTERNAL"
    assert "ValueError" in error.details()
    assert "Metadata" in error.details()


# --- unary: raise ----------------------------------------------------------------------------------------------------


@UNARY
def test_an_unhandled_exception_is_internal_with_its_plain_stack_trace(client, method):
    error = script_failure(client, ["raise", "ValueError", "boom"], method=method)

    assert error.code().name == "INTERNAL"
    assert error.details().startswith("Traceback (most recent call last):")
    assert error.details().endswith("ValueError: boom")
    assert "e2e_lab.py" in error.details()
    assert "\x1b" not in error.details()
    assert "swerve/replica" not in error.details()


@UNARY
def test_code_and_details_do_not_outlive_an_exception_but_trailing_metadata_do(client, method):
    error = script_failure(
        client,
        ["code", 3],
        ["details", "mine"],
        ["trailing", [["num", "7"]]],
        ["raise", "ValueError", "boom"],
        method=method,
        request_id="id-1",
    )

    assert error.code().name == "INTERNAL"
    assert "ValueError: boom" in error.details()
    assert trailer(error, "num") == "7"
    assert trailer(error, "request_id") == "id-1"


def test_an_ok_code_does_not_hide_an_exception(client):
    error = script_failure(client, ["code", 0], ["raise", "ValueError", "boom"])

    assert error.code().name == "INTERNAL"


def test_a_long_stack_trace_is_cut_and_keeps_its_end(client):
    error = script_failure(client, ["raise", "ValueError", "x" * 20_000 + " the end"])

    assert error.code().name == "INTERNAL"
    assert len(error.details()) <= 4096
    assert "[truncated]" in error.details()
    assert error.details().endswith(" the end")


def test_a_stack_trace_that_is_not_ascii_arrives_whole_if_short(client):
    error = script_failure(client, ["raise", "ValueError", "größer als 猫 🐈 100 %41"])

    assert error.details().endswith("ValueError: größer als 猫 🐈 100 %41")


def test_a_long_stack_trace_that_is_not_ascii_fits_the_trailers(client, world):
    steps = json.dumps([["raise", "ValueError", "猫" * 5000]])

    raw = raw_call(world.port, "/lab.v1.Lab/Script", client.note(steps).SerializeToString(), [(b"application", b"lab")])
    error = script_failure(client, ["raise", "ValueError", "猫" * 5000])

    assert sum(len(name) + len(value) + 32 for name, value in raw.trailers or raw.headers) < 8192
    assert "\ufffd" not in decode_message(raw.trailer(b"grpc-message"))
    assert error.code().name == "INTERNAL"
    assert error.details().endswith("猫")


def test_long_details_are_cut_to_4096_characters(client):
    error = script_failure(client, ["code", 3], ["details", "d" * 10_000])

    assert len(error.details()) == 4096
    assert error.details().endswith("... [truncated]")


@UNARY
def test_abort_ends_the_call_with_its_status(client, method):
    error = script_failure(client, ["abort", 7, "not yours", [["why", "policy"]]], method=method)

    assert (error.code().name, error.details()) == ("PERMISSION_DENIED", "not yours")
    assert trailer(error, "why") == "policy"
    assert trailer(error, "request_id")


def test_abort_with_ok_is_refused(client):
    error = script_failure(client, ["abort", 0, "fine"])

    assert error.code().name == "INTERNAL"
    assert "abort needs a status other than OK" in error.details()


@UNARY
@pytest.mark.parametrize(
    ("raised", "code", "details"),
    [
        (["TimeoutError"], "DEADLINE_EXCEEDED", "Request timed out."),
        (
            ["BackPressureError", 3, 2],
            "RESOURCE_EXHAUSTED",
            "Request dropped due to backpressure (num_queued_requests=3, max_queued_requests=2).",
        ),
        (
            ["DeploymentUnavailableError", "D", "a"],
            "UNAVAILABLE",
            "Deployment(name='D', app='a') is unavailable because it failed to deploy.",
        ),
        (["RequestCancelledError", "r1"], "CANCELLED", "Request r1 was cancelled."),
    ],
)
def test_exceptions_of_the_table_have_their_status(client, method, raised, code, details):
    error = script_failure(client, ["raise", *raised], method=method)

    assert (error.code().name, error.details()) == (code, details)
    assert trailer(error, "request_id")


@UNARY
def test_backpressure_that_a_handler_passes_on_says_when_to_try_again(client, method):
    """As when a call that it made through a handle was shed."""
    error = script_failure(client, ["raise", "BackPressureError", 3, 2, 503, 1.5], method=method)

    info = error_details_pb2.RetryInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == 1500
    assert trailer(error, "grpc-retry-pushback-ms") == "1500"


@UNARY
@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_an_exception_meant_for_the_process_ends_the_call_and_not_the_replica(client, method, kind):
    before = json.loads(client.ask("Describe").text)["pid"]

    error = script_failure(client, ["raise", kind], method=method)

    assert error.code().name == "INTERNAL"
    assert kind in error.details()
    assert json.loads(client.ask("Describe").text)["pid"] == before


@UNARY
@pytest.mark.parametrize("step", [["details", 5], ["code", "NOPE"], ["code", 99], ["abort", 5, 5]])
def test_a_status_that_is_none_is_internal_and_says_what_is_wrong(client, method, step):
    error = script_failure(client, step, method=method)

    assert error.code().name == "INTERNAL"
    assert "TypeError: " in error.details() or "ValueError: 99" in error.details()


# --- streams ---------------------------------------------------------------------------------------------------------


@STREAMING
def test_status_and_trailers_set_after_the_last_message_count(client, method):
    received, error = stream_failure(
        client,
        ["return", "one"],
        ["return", "two"],
        ["sleep", 0.05],
        ["code", 9],
        ["details", "afterwards"],
        ["trailing", [["late", "yes"]]],
        method=method,
    )

    assert received == ["one", "two"]
    assert (error.code().name, error.details()) == ("FAILED_PRECONDITION", "afterwards")
    assert trailer(error, "late") == "yes"
    assert trailer(error, "request_id")


@STREAMING
def test_a_code_set_between_messages_does_not_stop_the_stream(client, method):
    received, error = stream_failure(client, ["return", "one"], ["code", 9], ["return", "two"], method=method)

    assert received == ["one", "two"]
    assert error.code().name == "FAILED_PRECONDITION"


@STREAMING
def test_an_exception_in_a_stream_comes_after_its_messages(client, method):
    received, error = stream_failure(
        client, ["trailing", [["a", "1"]]], ["return", "one"], ["raise", "ValueError", "boom"], method=method
    )

    assert received == ["one"]
    assert error.code().name == "INTERNAL"
    assert error.details().endswith("ValueError: boom")
    assert trailer(error, "a") == "1"
    assert trailer(error, "request_id")


@STREAMING
def test_an_exception_before_the_first_message_has_the_request_id(client, method):
    received, error = stream_failure(client, ["raise", "ValueError", "boom"], method=method, request_id="first")

    assert received == []
    assert trailer(error, "request_id") == "first"


@STREAMING
def test_an_empty_stream_is_ok_with_the_request_id(client, method):
    stream = client.script_stream(method=method, request_id="empty")

    assert read(stream) == []
    assert stream.code().name == "OK"
    assert trailer(stream, "request_id") == "empty"


@STREAMING
def test_abort_in_a_stream_ends_it(client, method):
    received, error = stream_failure(client, ["return", "one"], ["abort", 10, "enough"], method=method)

    assert received == ["one"]
    assert (error.code().name, error.details()) == ("ABORTED", "enough")


# --- compression -----------------------------------------------------------------------------------------------------


def raw_script(world, client, method, steps, *extra):
    message = client.note(json.dumps(steps)).SerializeToString()
    return raw_call(world.port, f"/lab.v1.Lab/{method}", message, [(b"application", b"lab"), *extra])


@pytest.mark.parametrize("method", ["Script", "ScriptPlain", "ScriptStream"])
def test_set_compression_compresses_for_a_client_that_accepts_it(client, world, method):
    steps = [["compression", int(grpc.Compression.Gzip)], ["return", "small", 50_000]]

    raw = raw_script(world, client, method, steps, (b"grpc-accept-encoding", b"identity, deflate, gzip"))

    assert dict(raw.headers)[b"grpc-encoding"] == b"gzip"
    assert raw.body[0] == 1
    assert len(raw.body) < 1000
    assert len(client.pb.Note.FromString(zlib.decompress(raw.body[5:], 31)).payload) == 50_000


def test_set_compression_sends_plain_messages_to_a_client_that_does_not_accept_it(client, world):
    raw = raw_script(world, client, "Script", [["compression", int(grpc.Compression.Gzip)], ["return", "s", 5000]])

    assert b"grpc-encoding" not in dict(raw.headers)
    assert raw.body[0] == 0


def test_compressed_responses_are_read_by_grpcio(client):
    response, _ = client.script(["compression", int(grpc.Compression.Deflate)], ["return", "s", 50_000])

    assert len(response.payload) == 50_000


def test_compressed_requests_are_understood(client):
    response = client.lab.Plain(
        client.note("zipped", payload=b"y" * 50_000),
        metadata=(("application", "lab"),),
        compression=grpc.Compression.Gzip,
        timeout=20,
    )

    assert response.payload == b"y" * 50_000


# --- what a handler can read -----------------------------------------------------------------------------------------


def test_the_context_is_empty_at_the_start(client):
    said = json.loads(client.ask("Describe").text)

    assert said["code"] is None
    assert said["details"] == ""
    assert said["trailing"] == [["request_id", said["request_id"]]]
    assert said["left"] is not None
    assert said["identities"] is None
    assert said["identity_key"] is None
    assert said["auth"] == {"transport_security_type": ["insecure"], "security_level": ["TSI_SECURITY_NONE"]}
    assert said["peer"].startswith(("ipv4:127.0.0.1:", "ipv6:%5B::1%5D:"))


def test_the_invocation_metadata_are_the_client_s(client):
    note = client.note()
    metadata = (("application", "lab"), ("color", "red"), ("color", "blue"), ("data-bin", bytes(range(256))))

    said = json.loads(client.lab.Describe(note, metadata=metadata, timeout=20).text)

    sent = [(key, value) for key, value in said["metadata"] if key != "user-agent"]
    assert ("color", "red") in sent
    assert ("color", "blue") in sent
    assert ("data-bin", list(range(256))) in sent
    assert "user-agent" in [key for key, _ in said["metadata"]]
    assert not [key for key, _ in sent if key.startswith((":", "grpc-", "swerve-")) or key in ("te", "content-type")]


def test_the_time_that_remains_is_the_client_s(client):
    said = json.loads(client.ask("Describe", timeout=9).text)

    assert 5 < said["left"] <= 9.5


def test_a_call_without_a_deadline_has_no_time_that_remains(client):
    note = client.note()

    said = json.loads(client.lab.Describe(note, metadata=(("application", "lab"),)).text)

    assert said["left"] is None


# --- keep_status_on_exception ----------------------------------------------------------------------------------------


def test_with_keep_status_on_exception_the_handler_s_status_outlives_its_exception(tuned):
    error = script_failure(tuned.client, ["code", 3], ["details", "mine"], ["raise", "ValueError", "boom"])

    assert (error.code().name, error.details()) == ("INVALID_ARGUMENT", "mine")


def test_with_keep_status_on_exception_the_exception_s_text_stands_for_missing_details(tuned):
    error = script_failure(tuned.client, ["code", 3], ["raise", "ValueError", "boom"])

    assert (error.code().name, error.details()) == ("INVALID_ARGUMENT", "boom")


@pytest.mark.parametrize("steps", [[["code", 0]], [["details", "mine"]], []])
def test_with_keep_status_on_exception_an_exception_without_a_code_is_internal(tuned, steps):
    error = script_failure(tuned.client, *steps, ["raise", "ValueError", "boom"])

    assert error.code().name == "INTERNAL"
    assert error.details().endswith("ValueError: boom")
