"""The metrics of the whole instance: every process is asked for its own at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swerve.control.counts import Counts, state_lines
from swerve.control.model import State
from swerve.generated import control_pb2 as pb
from swerve.net.client import Channel
from swerve.observe.metrics import merge, text_of
from swerve.wire.status import RpcError

_PROXY = "/swerve.control.v1.Proxy/Metrics"
_REPLICA = "/swerve.control.v1.Replica/Metrics"
# Who does not answer within this time is left out. Prometheus waits 10 s for everything, by default.
_TIMEOUT_S = 1.0


async def scrape(state: State, counts: Counts, address_of: Callable[[str], str]) -> str:
    """Everyone's series in Prometheus' text format. Processes that do not answer are left out, and counted."""
    asked = [("proxy", _PROXY, proxy.id) for proxy in state.proxies.values() if proxy.pid]
    asked += [("replica", _REPLICA, replica.id) for replica in state.replicas.values() if replica.pid]
    answers = await asyncio.gather(*(_ask(address_of(ident), path) for _, path, ident in asked))
    for (kind, _, _), answer in zip(asked, answers, strict=True):
        counts.unanswered[kind] += answer is None
    own = text_of((*state_lines(state), *counts.lines(state)))
    return merge([own, *(answer for answer in answers if answer is not None)])


async def _ask(address: str, path: str) -> str | None:
    channel = Channel(address)
    try:
        answer = await channel.unary(path, pb.MetricsRequest().SerializeToString(), timeout=_TIMEOUT_S)
    except RpcError:
        return None
    finally:
        await channel.close()
    return pb.MetricsResponse.FromString(answer).text
