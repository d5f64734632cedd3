"""What an answer says about trying again: `google.rpc.RetryInfo` for programs, retry pushback for gRPC libraries, and
HTTP's `Retry-After`.

Sources: `google.rpc.Status` and `google.rpc.RetryInfo` (google/rpc/status.proto, google/rpc/error_details.proto), which
travel in `grpc-status-details-bin`; gRPC proposal A6 ("Pushback") for `grpc-retry-pushback-ms`. The messages are
written here, field by field: they are four small ones, and a library for them would be one more import of each proxy.
"""

from __future__ import annotations

import binascii
import math

from swerve.wire.metadata import Headers
from swerve.wire.status import Status, truncate_details

_RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"

# Tags: (field number << 3) | wire type, as protobuf's encoding has them.
_VARINT_1, _VARINT_2 = b"\x08", b"\x10"
_BYTES_1, _BYTES_2, _BYTES_3 = b"\x0a", b"\x12", b"\x1a"


def retry_trailers(status: Status, delay_s: float) -> Headers:
    """The trailers that tell a client to try again in `delay_s` seconds, beside those that carry `status`."""
    delay_ms = max(0, math.ceil(delay_s * 1000))
    duration = _VARINT_1 + _varint(delay_ms // 1000) + _VARINT_2 + _varint(delay_ms % 1000 * 1_000_000)
    info = _field(_BYTES_1, _RETRY_INFO) + _field(_BYTES_2, _field(_BYTES_1, duration))
    # Clients compare code and message with those of the call, so both are as `status_trailers` sends them.
    message = truncate_details(status.details).encode("utf-8", "backslashreplace")
    rich = _VARINT_1 + _varint(status.code) + _field(_BYTES_2, message) + _field(_BYTES_3, info)
    encoded = binascii.b2a_base64(rich, newline=False).rstrip(b"=")
    return ((b"grpc-status-details-bin", encoded), (b"grpc-retry-pushback-ms", str(delay_ms).encode()))


def retry_after(delay_s: float) -> str:
    """The value of HTTP's `Retry-After`, which is in whole seconds (RFC 9110, section 10.2.3)."""
    return str(math.ceil(delay_s))


def _field(tag: bytes, data: bytes) -> bytes:
    return tag + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
