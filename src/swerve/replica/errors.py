"""The one table from exceptions to gRPC statuses: Ray Serve's `get_grpc_response_status`, without its faults."""

from __future__ import annotations

import asyncio
import traceback

from swerve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
    gRPCStatusError,
)
from swerve.grpc_util import status_code
from swerve.wire.status import RpcError, Status, StatusCode, truncate_details

TIMED_OUT = "Request timed out."


def status_for(error: BaseException) -> Status:
    """The status of a call that user code ended with `error`. What the table does not name is INTERNAL, with the stack
    trace as plain text; so is an error of the table's that has no usable code."""
    try:
        status = _in_table(error)
    except (TypeError, ValueError) as unusable:
        return Status(StatusCode.INTERNAL, truncate_details(f"{stack_trace(error)}\n{unusable}", keep_end=True))
    return status or Status(StatusCode.INTERNAL, truncate_details(stack_trace(error), keep_end=True))


def _in_table(error: BaseException) -> Status | None:
    match error:
        case gRPCStatusError() if error.grpc_code is not None:
            return Status(status_code(error.grpc_code), str(error))
        case RpcError():
            return error.status
        case BackPressureError():
            return Status(StatusCode.RESOURCE_EXHAUSTED, error.message)
        case DeploymentUnavailableError() | ReplicaUnavailableError():
            return Status(StatusCode.UNAVAILABLE, str(error))
        case RequestCancelledError() | asyncio.CancelledError():
            return Status(StatusCode.CANCELLED, str(error) or "The call was cancelled.")
        case TimeoutError():
            return Status(StatusCode.DEADLINE_EXCEEDED, TIMED_OUT)
    return None


def is_expected(error: BaseException, overdue: bool) -> bool:
    """Whether the status of a call that ended with `error` says all that there is to know: what is not gets logged.

    A `TimeoutError` does in a call whose deadline has passed (`overdue`); in another it is user code's own.
    """
    if isinstance(error, TimeoutError):
        return overdue
    try:
        return _in_table(error) is not None
    except (TypeError, ValueError):
        return False


def retry_delay_s(error: BaseException) -> float | None:
    """When a call that ended with `error` may be made again, None where nothing says so."""
    return error.retry_after_s if isinstance(error, BackPressureError | ReplicaUnavailableError) else None


def stack_trace(error: BaseException) -> str:
    """The traceback of user code's exception, without the frames of the runtime that called it."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith("swerve.replica."):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()
