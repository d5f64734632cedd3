"""The errors that users and clients see, with Ray Serve's names where it has one.

How each maps to a gRPC status is in `swerve.replica.errors`; nothing else decides it.
"""

from __future__ import annotations

from collections.abc import Iterable


def does_not_exist(what: str, available: Iterable[str]) -> str:
    """The message for a name that nothing has, with those that there are."""
    names = ", ".join(f"'{name}'" for name in sorted(available))
    return f"{what} does not exist. Available: {names or 'none'}."


class RayServeException(Exception):
    """Base of the errors that Swerve raises to users, by Ray Serve's name, so that `except` clauses keep working."""


class BackPressureError(RayServeException):
    """A call was shed because `max_queued_requests` calls were already waiting. RESOURCE_EXHAUSTED on the wire."""

    def __init__(
        self,
        num_queued_requests: int = 0,
        max_queued_requests: int = 0,
        status_code: int = 503,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(num_queued_requests, max_queued_requests, status_code, retry_after_s)
        self.num_queued_requests = num_queued_requests
        self.max_queued_requests = max_queued_requests
        self.status_code = status_code
        self.retry_after_s = retry_after_s

    @property
    def message(self) -> str:
        return (
            f"Request dropped due to backpressure (num_queued_requests={self.num_queued_requests}, "
            f"max_queued_requests={self.max_queued_requests})."
        )

    def __str__(self) -> str:
        return self.message


class RequestCancelledError(RayServeException):
    """The call was cancelled before its result was there. CANCELLED on the wire."""

    def __init__(self, request_id: str | None = None) -> None:
        super().__init__(request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return f"Request {self.request_id} was cancelled." if self.request_id else "Request was cancelled."


class DeploymentUnavailableError(RayServeException):
    """The deployment failed to deploy and nothing of it runs. UNAVAILABLE on the wire."""

    def __init__(self, deployment: str, app: str = "") -> None:
        super().__init__(deployment, app)
        self.deployment = deployment
        self.app = app

    def __str__(self) -> str:
        return f"Deployment(name='{self.deployment}', app='{self.app}') is unavailable because it failed to deploy."


class ReplicaUnavailableError(RayServeException):
    """The replica that had the call died or could not be reached before it answered. UNAVAILABLE on the wire.

    `retry_after_s`: when to try again, None where that is not known.
    """

    def __init__(self, message: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s)
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


class InterceptorError(RayServeException):
    """An interceptor that is named in the gRPC options and cannot be used; the message says which and why."""


class gRPCStatusError(RayServeException):
    """A call that ended with a status that user code chose (`grpc_context.abort`)."""

    def __init__(
        self, original_exception: BaseException | None = None, grpc_code: object = None, grpc_details: str | None = None
    ) -> None:
        super().__init__(original_exception, grpc_code, grpc_details)
        self.original_exception = original_exception
        self.grpc_code = grpc_code
        self.grpc_details = grpc_details

    def __str__(self) -> str:
        return self.grpc_details or str(self.original_exception or "")
