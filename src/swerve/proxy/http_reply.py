"""The proxy's side of an answer to an HTTP request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from swerve.generated.http_pb2 import HttpField

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Fields: TypeAlias = list[tuple[bytes, bytes]]

_TEXT = b"text/plain; charset=utf-8"
_REQUEST_ID = b"x-request-id"


def pairs(fields: Iterable[HttpField]) -> Fields:
    """Header fields as ASGI has them."""
    return [(field.name, field.value) for field in fields]


class Reply:
    """The response to one request. `status` is 0 until there is one."""

    __slots__ = ("_send", "complete", "request_id", "status")

    # The ASGI events of a response start so.
    events = "http.response"

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status = 0
        self.complete = False

    async def start(self, status: int, headers: Fields) -> None:
        """Send the head, with the request's id as its `X-Request-ID`."""
        self.status = status
        await self._send({"type": f"{self.events}.start", "status": status, "headers": self.identified(headers)})

    def identified(self, headers: Fields) -> Fields:
        """`headers` with the request's id."""
        others = [field for field in headers if field[0].lower() != _REQUEST_ID]
        return [*others, (_REQUEST_ID, self.request_id.encode("latin-1"))]

    async def body(self, data: bytes, *, more: bool) -> None:
        self.complete = not more
        await self._send({"type": f"{self.events}.body", "body": data, "more_body": more})

    async def whole(self, status: int, data: bytes, content_type: bytes, extra: Fields | None = None) -> None:
        """Answer with `data`."""
        length = str(len(data)).encode()
        await self.start(status, [(b"content-type", content_type), (b"content-length", length), *(extra or [])])
        await self.body(data, more=False)

    async def text(self, status: int, text: str, extra: Fields | None = None) -> None:
        """Answer with plain text."""
        await self.whole(status, text.encode("utf-8", "replace"), _TEXT, extra)

    async def fail(self, status: int, text: str, extra: Fields | None = None) -> None:
        """Answer with an error; if the head has left already, the response stays incomplete and the server hangs up,
        so that no client takes it for whole."""
        if self.status:
            self.status = status
        else:
            await self.text(status, text, extra)
