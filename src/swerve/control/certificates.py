"""The certificates of all proxies, read again at the operator's word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swerve.control.model import State
from swerve.generated import control_pb2 as pb
from swerve.net.client import Channel
from swerve.wire.status import RpcError

_PATH = "/swerve.control.v1.Proxy/RenewCertificates"
# Each proxy reads six files at most, but may be busy.
_TIMEOUT_S = 2.0


async def renew_certificates(state: State, address_of: Callable[[str], str]) -> pb.RenewCertificatesResponse:
    """What the proxies say; what several say alike is there once. A proxy that does not answer is a fault."""
    proxies = [proxy.id for proxy in state.proxies.values() if proxy.pid]
    answers = await asyncio.gather(*(_ask(proxy, address_of(proxy)) for proxy in proxies))
    return pb.RenewCertificatesResponse(
        renewed=dict.fromkeys(line for answer in answers for line in answer.renewed),
        faults=dict.fromkeys(line for answer in answers for line in answer.faults),
    )


async def _ask(proxy_id: str, address: str) -> pb.RenewCertificatesResponse:
    channel = Channel(address)
    try:
        request = pb.RenewCertificatesRequest().SerializeToString()
        return pb.RenewCertificatesResponse.FromString(await channel.unary(_PATH, request, timeout=_TIMEOUT_S))
    except RpcError as error:
        return pb.RenewCertificatesResponse(faults=[f"Proxy {proxy_id} did not answer: {error.status.details}"])
    finally:
        await channel.close()
