"""What clients are told about trying again, read back with Google's own messages."""

import base64

import pytest
from google.rpc import error_details_pb2, status_pb2

from swerve.wire.retry import retry_after, retry_trailers
from swerve.wire.status import Status, StatusCode, encode_message, truncate_details


def rich_status(trailers) -> status_pb2.Status:
    value = dict(trailers)[b"grpc-status-details-bin"]
    return status_pb2.Status.FromString(base64.b64decode(value + b"=" * (-len(value) % 4)))


@pytest.mark.parametrize("seconds", [0, 0.001, 0.25, 1, 1.5, 30, 86_400.125])
def test_the_delay_is_in_both_forms(seconds):
    trailers = retry_trailers(Status(StatusCode.RESOURCE_EXHAUSTED, "full"), seconds)
    info = error_details_pb2.RetryInfo()
    assert rich_status(trailers).details[0].Unpack(info)
    assert info.retry_delay.ToTimedelta().total_seconds() == seconds
    assert dict(trailers)[b"grpc-retry-pushback-ms"] == str(round(seconds * 1000)).encode()


@pytest.mark.parametrize("text", ["", "full", "größer", "x" * 127, "x" * 128, "é" * 20_000, "\ud800"])
def test_code_and_message_are_those_of_the_call(text):
    status = rich_status(retry_trailers(Status(StatusCode.UNAVAILABLE, text), 1))
    assert status.code == 14
    assert encode_message(status.message) == encode_message(truncate_details(text))


@pytest.mark.parametrize(("seconds", "text"), [(0, "0"), (0.2, "1"), (1, "1"), (1.5, "2")])
def test_http_is_told_whole_seconds(seconds, text):
    assert retry_after(seconds) == text
