"""From the instance's options to the limits of the gRPC port."""

import resource
from dataclasses import fields

import pytest

from swerve.config import gRPCOptions
from swerve.net.limits import ConnectionLimits
from swerve.proxy import client_limits


def test_every_limit_of_a_connection_is_an_option():
    options = gRPCOptions().model_dump(mode="json")
    assert {field.name for field in fields(ConnectionLimits)} <= options.keys()
    assert {field.name for field in fields(client_limits.RequestLimits)} <= options.keys()


def test_the_options_are_what_the_port_keeps():
    options = gRPCOptions(
        max_connections=5, max_connections_per_client=2, max_concurrent_streams=7, max_connection_age_s=60,
        stall_timeout_s=None, max_resets_per_s=9, max_buffered_request_bytes=1000,
    ).model_dump(mode="json")  # fmt: skip
    made = client_limits.listen_options(options)
    assert (made.max_connections, made.max_connections_per_client) == (5, 2)
    assert (made.limits.max_concurrent_streams, made.limits.max_resets_per_s) == (7, 9)
    assert made.connection_limits.max_connection_age_s == 60
    assert made.connection_limits.stall_timeout_s is None
    assert made.connection_limits.keepalive_time_s == 60
    assert client_limits.request_limits(options) == client_limits.RequestLimits(None, 1000)


@pytest.mark.parametrize("most", [0, 1 << 31])
def test_no_more_calls_at_a_time_may_be_asked_for_than_a_connection_can_have(most):
    with pytest.raises(ValueError, match="max_concurrent_streams"):
        gRPCOptions(max_concurrent_streams=most)


@pytest.fixture
def files(monkeypatch):
    """What the system lets this process open: the soft and the hard limit."""
    allowed = {"now": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: allowed["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: allowed.update(now=pair))
    client_limits.room_for.cache_clear()
    yield allowed
    client_limits.room_for.cache_clear()


def test_the_process_makes_room_for_its_connections(files):
    assert client_limits.room_for(2000, 1000) == (2000, 1000)
    assert files["now"] == (3256, 4096)


def test_more_connections_than_the_system_allows_are_shared_out(files, caplog):
    assert client_limits.room_for(10_000, 10_000) == (1920, 1920)
    assert files["now"] == (4096, 4096)
    assert "ulimit -n" in caplog.text


def test_a_port_that_is_off_needs_no_room(files):
    assert client_limits.room_for(10_000, 0) == (3840, 0)


def test_a_limit_that_is_high_enough_stays(files):
    assert client_limits.room_for(100, 100) == (100, 100)
    assert files["now"] == (1024, 4096)
