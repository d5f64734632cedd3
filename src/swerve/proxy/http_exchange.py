"""The two directions of a request that a replica serves: the client's body there, the response back."""

from __future__ import annotations

from swerve.generated.http_pb2 import HttpEvent
from swerve.proxy.http_call import HttpCall
from swerve.proxy.http_reply import Receive, Reply, pairs
from swerve.wire.status import RpcError, Status, StatusCode


async def upload_body(receive: Receive, call: HttpCall, *, detached: bool) -> None:
    """Pass the client's body on, then watch for its going away, which cancels the call unless it is `detached`."""
    complete = False
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            if not (detached and complete):
                call.cancel()
            return
        complete = not event.get("more_body", False)
        body = event.get("body", b"")
        if body or complete:
            await call.write(HttpEvent(body=body) if body else None, last=complete)


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
