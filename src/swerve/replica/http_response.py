"""What a plain handler returned or raised, as a Starlette response. Ray Serve's conversions."""

from __future__ import annotations

import inspect
from typing import Any

import pydantic_core
from starlette.responses import Response

from swerve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from swerve.replica.errors import retry_delay_s
from swerve.wire.retry import retry_after


def as_response(value: Any) -> Response:
    """A response as it is, text and bytes as plain text, everything else as JSON.

    Raises:
        TypeError: `value` is a bare generator.
        ValueError: `value` has no JSON form.
    """
    if isinstance(value, Response):
        return value
    if isinstance(value, bytes):
        response = Response(value)
        response.headers["content-type"] = "text/plain"
        return response
    if isinstance(value, str):
        return Response(value, media_type="text/plain")
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        raise TypeError("A handler that streams over HTTP returns a starlette.responses.StreamingResponse.")
    return Response(pydantic_core.to_json(value, fallback=_plain), media_type="application/json")


def _plain(value: Any) -> Any:
    """Arrays and scalars of numerical libraries as lists and numbers."""
    for name in ("tolist", "item"):
        method = getattr(value, name, None)
        if callable(method):
            return method()
    raise TypeError(f"A value of the type '{type(value).__qualname__}' cannot be sent as JSON.")


def error_response(error: BaseException) -> Response:
    """The answer to a request whose handler raised `error`."""
    status, text = 500, "Internal Server Error"
    if isinstance(error, BackPressureError):
        status, text = error.status_code, error.message
    elif isinstance(error, DeploymentUnavailableError | ReplicaUnavailableError):
        status, text = 503, str(error)
    delay_s = retry_delay_s(error)
    headers = None if delay_s is None else {"retry-after": retry_after(delay_s)}
    return Response(text, status, headers, media_type="text/plain")
