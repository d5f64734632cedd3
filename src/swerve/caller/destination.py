"""What a handle calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from swerve.context import RequestContext
from swerve.net.client_call import request_headers
from swerve.net.streams import Headers
from swerve.routing.calls import CallDescription

CALL_PATH = "/swerve.control.v1.Handle/Call"
STREAM_PATH = "/swerve.control.v1.Handle/Stream"

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Destination:
    """What a handle calls, and how; `headers` are what its calls have in common."""

    app: str
    deployment: str
    method: str = "__call__"
    model_id: str = ""
    session_id: str = ""
    stream: bool = False
    headers: Headers = ()

    @classmethod
    def make(cls, app: str, deployment: str, method: str, model_id: str, session_id: str, stream: bool) -> Destination:
        extra = [(b"swerve-method", method.encode())]
        if model_id:
            extra.append((b"multiplexed_model_id", model_id.encode()))
        if session_id:
            extra.append((b"session_id", session_id.encode()))
        headers = request_headers(STREAM_PATH if stream else CALL_PATH, "swerve", extra)
        return cls(app, deployment, method, model_id, session_id, stream, headers)


def describe(destination: Destination, origin: RequestContext, arguments: Callable[[], Arguments]) -> CallDescription:
    """A handle's call as a user's request router sees it."""
    return CallDescription(
        origin.request_id, destination.method, destination.app, arguments, origin.route, destination.stream
    )
