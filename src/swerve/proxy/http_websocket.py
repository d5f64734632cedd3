"""The two directions of a WebSocket that a replica serves."""

from __future__ import annotations

import asyncio

from swerve.generated.http_pb2 import HttpEvent, WebSocketAccept, WebSocketClose
from swerve.proxy.http_call import HttpCall
from swerve.proxy.http_reply import Fields, Message, Receive, Reply, Send, pairs
from swerve.wire.websocket import INTERNAL_ERROR, NO_STATUS

# RFC 6455, section 5.5: bytes of a reason.
_MAX_REASON = 123
# A handler whose client has closed may go on for this long.
_LINGER_S = 10.0


class WebSocketReply(Reply):
    """What the client of a WebSocket gets: the connection, or a response that denies it. `status` is the code that it
    was closed with in the end."""

    __slots__ = ("_accepted", "_gone")

    # A denial's events (the ASGI extension "websocket.http.response").
    events = "websocket.http.response"

    def __init__(self, send: Send, request_id: str) -> None:
        super().__init__(send, request_id)
        self._accepted = self._gone = False

    async def accept(self, accept: WebSocketAccept) -> None:
        self._accepted = True
        headers = self.identified(pairs(accept.headers))
        await self.send({"type": "websocket.accept", "subprotocol": accept.subprotocol or None, "headers": headers})

    async def send(self, message: Message) -> None:
        """Send an event, to nobody when the client has gone: its handler hears of that by itself."""
        if not self._gone:
            try:
                await self._send(message)
            except OSError:
                self._gone = True

    async def close(self, code: int, reason: str) -> None:
        self.closed(code)
        await self.send({"type": "websocket.close", "code": code, "reason": reason})

    def closed(self, code: int) -> None:
        """Either side has closed the connection; the first one counts."""
        self.status = self.status or code
        self.complete = True

    async def fail(self, status: int, text: str, extra: Fields | None = None) -> None:
        if not self._accepted:
            await super().fail(status, text, extra)
        elif not self.complete:
            await self.close(INTERNAL_ERROR, text.encode()[:_MAX_REASON].decode("utf-8", "ignore"))


async def upload_messages(receive: Receive, call: HttpCall, reply: WebSocketReply) -> None:
    """Pass the client's messages and its closing on."""
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            break
        if event["type"] == "websocket.receive":
            text = event.get("text")
            await call.write(HttpEvent(data=event["bytes"]) if text is None else HttpEvent(text=text))
    code = event.get("code") or NO_STATUS
    reply.closed(code)
    await call.write(HttpEvent(close=WebSocketClose(code=code, reason=event.get("reason") or "")), last=True)
    await asyncio.sleep(_LINGER_S)
    call.cancel()


async def relay_websocket(call: HttpCall, reply: WebSocketReply, limit: asyncio.Timeout) -> None:
    """Pass the replica's events on. `limit` covers the opening only.

    Raises:
        RpcError: the call ended before the WebSocket did.
    """
    while (event := await call.read()) is not None:
        match event.WhichOneof("event"):
            case "accept":
                limit.reschedule(None)
                await reply.accept(event.accept)
            case "text":
                await reply.send({"type": "websocket.send", "text": event.text})
            case "data":
                await reply.send({"type": "websocket.send", "bytes": event.data})
            case "close":
                await reply.close(event.close.code, event.close.reason)
            case "response":
                await reply.start(event.response.status, pairs(event.response.headers))
            case _:
                await reply.body(event.body, more=True)
    if not reply.complete:
        await reply.body(b"", more=False)
