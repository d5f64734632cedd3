"""What a user is told whose port cannot be served."""

from __future__ import annotations

import errno
import os

from swerve.net.address import Address

_ADVICE = {
    errno.EADDRINUSE: " End what listens there, or name another port (`port` of {section}, {flag}-port).",
    errno.EACCES: " The system keeps the ports below 1024; name another (`port` of {section}, {flag}-port).",
    errno.EADDRNOTAVAIL: " This machine has no such address; name another (`host` of {section}, {flag}-host).",
}


def cannot_be_bound(protocol: str, host: str, port: int, error: OSError) -> str:
    """What is wrong with the port of this protocol ("gRPC", "HTTP"), and what to do where that is known."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    name = protocol.lower()
    advice = _ADVICE.get(error.errno or 0, "").format(section=f"{name}_options", flag=f"--{name}")
    return f"The {protocol} port {Address(host=host or '*', port=port)} cannot be bound: {reason}.{advice}"
