"""`grpc-timeout` values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerve.wire.deadline import format_timeout, parse_timeout


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"4m", 0.004),
        (b"5u", 5e-6),
        (b"6n", 6e-9),
        (b"99999999H", 99999999 * 3600),
    ],
)
def test_every_unit_is_read(value, seconds):
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"123456789S", b"-1S", b"1.5S", b" 1S", b"1s", b"\xb2S", b"1_0S"])
def test_a_malformed_value_is_none(value):
    assert parse_timeout(value) is None


@given(st.binary(max_size=12))
def test_reading_never_fails(value):
    seconds = parse_timeout(value)
    assert seconds is None or seconds >= 0


@given(st.floats(0, 1e12))
def test_a_timeout_survives_the_wire_and_never_grows(seconds):
    value = format_timeout(seconds)
    assert len(value) <= 9
    back = parse_timeout(value)
    assert back is not None
    assert back <= seconds * (1 + 1e-12)
    unit = {b"n": 1e-6, b"u": 1e-6, b"m": 1e-3, b"S": 1.0, b"H": 3600.0}[value[-1:]]
    assert seconds - back <= unit * (1 + 1e-9) or value == b"99999999H"


def test_a_passed_deadline_is_no_time():
    assert format_timeout(-1.0) == b"0n"
