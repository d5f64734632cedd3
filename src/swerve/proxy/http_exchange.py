"""The two directions of a request that a replica serves: the client's body there, the response back."""

from __future__ import annotations

import asyncio

from swerve.generated.http_pb2 import HttpEvent
from swerve.net.stalls import PROGRESS
from swerve.proxy.http_call import HttpCall
from swerve.proxy.http_reply import Receive, Reply, pairs
from swerve.wire.status import RpcError, Status, StatusCode

# How a call ends whose client does not go on with its request. No replica ends one so.
STALLED = StatusCode.ABORTED


async def upload_body(
    receive: Receive, call: HttpCall, *, detached: bool, stall_timeout_s: float | None = None
) -> None:
    """Pass the client's body on, then watch for its going away, which cancels the call unless it is `detached`.

    With `stall_timeout_s` the call ends STALLED when less than `net.stalls.PROGRESS` bytes of the body, or of its rest,
    came within so many seconds. Time in which the replica does not take them does not count.
    """
    try:
        complete = await _pass_on(receive, call, stall_timeout_s)
    except TimeoutError:
        details = f"The request was not complete, and nothing of it came for {stall_timeout_s} s (stall_timeout_s)."
        call.give_up(STALLED, details)
        return
    if complete:
        while (await receive())["type"] != "http.disconnect":
            pass
    if not (detached and complete):
        call.cancel()


async def _pass_on(receive: Receive, call: HttpCall, stall_timeout_s: float | None) -> bool:
    """Pass the body on. False when the client went away before its end.

    Raises:
        TimeoutError: it did not go on with it.
    """
    clock = asyncio.get_running_loop().time
    left_s, progress = stall_timeout_s, 0
    while True:
        began = clock()
        async with asyncio.timeout(left_s):
            event = await receive()
        if event["type"] == "http.disconnect":
            return False
        complete = not event.get("more_body", False)
        body = event.get("body", b"")
        if left_s is not None:
            progress += len(body)
            left_s -= clock() - began
            if progress >= PROGRESS:
                left_s, progress = stall_timeout_s, 0
        if body or complete:
            await call.write(HttpEvent(body=body) if body else None, last=complete)
        if complete:
            return True


async def relay_response(call: HttpCall, reply: Reply) -> None:
    """Pass the replica's response on.

    Raises:
        RpcError: the call ended without a complete response.
    """
    head = await call.read()
    if head is None:
        raise RpcError(Status(StatusCode.INTERNAL, "The replica ended the call without a response."))
    await reply.start(head.response.status, pairs(head.response.headers))
    while not reply.complete:
        event = None if call.exhausted else await call.read()
        if event is None:
            await reply.body(b"", more=False)
        else:
            await reply.body(event.body, more=not call.exhausted)
