"""What is said of a port that cannot be served."""

import errno

import pytest

from swerve.net.port_fault import cannot_be_bound


@pytest.mark.parametrize(
    ("protocol", "host", "error", "text"),
    [
        (
            "gRPC",
            "localhost",
            OSError(errno.EADDRINUSE, "x"),
            "The gRPC port localhost:80 cannot be bound: Address already in use. End what listens there, or name "
            "another port (`port` of grpc_options, --grpc-port).",
        ),
        (
            "HTTP",
            "",
            OSError(errno.EACCES, "x"),
            "The HTTP port *:80 cannot be bound: Permission denied. The system keeps the ports below 1024; name "
            "another (`port` of http_options, --http-port).",
        ),
        ("HTTP", "::1", OSError("no such host"), "The HTTP port [::1]:80 cannot be bound: no such host."),
    ],
)
def test_it_says_what_to_do_where_that_is_known(protocol, host, error, text):
    assert cannot_be_bound(protocol, host, 80, error) == text
