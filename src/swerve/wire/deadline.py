"""`grpc-timeout`: read from and written to the wire.

Source: the gRPC over HTTP/2 protocol description, "Timeout": at most eight digits and a unit.
"""

from __future__ import annotations

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_DIGITS = 8
_MAX_VALUE = 10**_MAX_DIGITS - 1


def parse_timeout(value: bytes) -> float | None:
    """Seconds of a `grpc-timeout` value; None when it is malformed."""
    unit = _UNITS.get(value[-1:])
    digits = value[:-1]
    if unit is None or len(digits) > _MAX_DIGITS or not digits.isdigit():
        return None
    return int(digits) * unit


def format_timeout(seconds: float) -> bytes:
    """`seconds` as a `grpc-timeout` value, in the finest unit that eight digits hold. Never longer than `seconds`."""
    if seconds <= 0:
        return b"0n"
    for form, per_second in ((b"%du", 1e6), (b"%dm", 1e3), (b"%dS", 1.0)):
        value = seconds * per_second
        if value <= _MAX_VALUE:
            return form % value
    return b"%dH" % min(int(seconds / 3600), _MAX_VALUE)
