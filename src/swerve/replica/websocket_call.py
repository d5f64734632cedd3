"""A client's WebSocket in the replica. Until it is accepted it is an HTTP request, and may get a response as one."""

from __future__ import annotations

from starlette.websockets import WebSocketDisconnect

from swerve.generated.http_pb2 import HttpEvent, HttpRequest, WebSocketAccept, WebSocketClose
from swerve.net.server_call import HIGH_WATER
from swerve.replica.asgi_app import Message
from swerve.replica.http_call import HttpCall, fields_of
from swerve.wire.status import OK
from swerve.wire.websocket import ABNORMAL_CLOSURE, INTERNAL_ERROR, NO_STATUS, NORMAL_CLOSURE

_DENIAL = "websocket.http.response."


class WebSocketCall(HttpCall):
    """One connection, from its opening handshake to its end."""

    __slots__ = ("_accepted", "_connected", "_left")

    def _begin(self, request: HttpRequest) -> None:
        self._accepted = self._connected = False
        # The client has closed: what is sent would reach nobody.
        self._left = False
        super()._begin(request)

    async def _asgi_receive(self) -> Message:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        while not self.done:
            if self._events:
                return self._received(self._next_event())
            if self._half_closed:
                return self._disconnect(NO_STATUS)
            await self._news.wait()
        return self._disconnect(ABNORMAL_CLOSURE)

    def _received(self, event: HttpEvent) -> Message:
        match event.WhichOneof("event"):
            case "text":
                return {"type": "websocket.receive", "text": event.text}
            case "data":
                return {"type": "websocket.receive", "bytes": event.data}
            case _:
                return self._disconnect(event.close.code, event.close.reason)

    def _disconnect(self, code: int, reason: str = "") -> Message:
        self._left = True
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    async def _asgi_send(self, message: Message) -> None:
        kind = str(message["type"])
        if self.done or self._left:
            raise OSError("The WebSocket is closed.")
        if kind == "websocket.accept":
            self._accepted = True
            accept = WebSocketAccept(subprotocol=message.get("subprotocol") or "", headers=fields_of(message))
            self._send_event(HttpEvent(accept=accept))
        elif kind == "websocket.send":
            text = message.get("text")
            self._send_event(HttpEvent(data=message["bytes"]) if text is None else HttpEvent(text=text))
            if self.connection.unsent(self.stream_id) > HIGH_WATER:
                await self.drained()
        elif kind == "websocket.close":
            self._close(message.get("code", NORMAL_CLOSURE), message.get("reason") or "")
        elif kind.startswith(_DENIAL):
            await super()._asgi_send({**message, "type": f"http.response.{kind.removeprefix(_DENIAL)}"})
        else:
            await super()._asgi_send(message)

    def _close(self, code: int, reason: str) -> None:
        self._send_event(HttpEvent(close=WebSocketClose(code=code, reason=reason)))
        self._end(OK)

    def _returned(self) -> None:
        if self._left:
            self._end(OK)
        elif self._accepted:
            self._close(NORMAL_CLOSURE, "")
        else:
            super()._returned()

    def _explains_itself(self, error: BaseException) -> bool:
        # Handlers need not catch what tells them that the client has gone.
        return super()._explains_itself(error) or (self._left and isinstance(error, WebSocketDisconnect | OSError))

    def _break_off(self) -> None:
        if self._left:
            self._end(OK)
        elif self._accepted:
            self._close(INTERNAL_ERROR, "")
        else:
            super()._break_off()

    async def _run_application(self, request: HttpRequest) -> None:
        if self.runtime.asgi_app is None:
            raise TypeError("Only a class with @serve.ingress serves WebSockets.")
        await super()._run_application(request)
