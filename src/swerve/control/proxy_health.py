"""Whether a proxy's event loop runs: what blocks it, an interceptor above all, leaves the process alive."""

from __future__ import annotations

from swerve.generated import control_pb2 as pb
from swerve.net.client import Channel
from swerve.wire.status import RpcError

_PATH = "/swerve.control.v1.Proxy/CheckHealth"


async def answers(address: str, timeout_s: float) -> bool:
    """Ask the proxy at this private address."""
    channel = Channel(address)
    try:
        await channel.unary(_PATH, pb.CheckHealthRequest().SerializeToString(), timeout=timeout_s)
    except RpcError:
        return False
    finally:
        await channel.close()
    return True
