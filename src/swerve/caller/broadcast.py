"""One call to every replica of a deployment (`DeploymentHandle.broadcast`)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from swerve.caller import waiting
from swerve.caller.codec import Encoded
from swerve.caller.destination import Destination
from swerve.caller.response import DeploymentResponse, refuse_in_event_loop
from swerve.caller.seams import Caller
from swerve.context import RequestContext
from swerve.exceptions import RayServeException

_POLL_S = 0.02
# How long a broadcast waits for replicas, as calls of an unknown deployment do.
_PATIENCE_S = 30.0


class DeploymentBroadcastResponse:
    """The results of a broadcast, one for each replica that ran when it was sent."""

    def __init__(self, caller: Caller, destination: Destination, origin: RequestContext, message: Encoded) -> None:
        self._caller = caller
        self._destination = destination
        self._origin = origin
        self._message = message
        self._responses: list[DeploymentResponse] = []
        self._sent = False
        self._error: BaseException | None = None
        self._waiters: waiting.Waiters = []
        self._began = time.monotonic()
        caller.post(self._send)

    def results(self, timeout_s: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """Wait for every replica's result, at most `timeout_s` seconds. With `return_exceptions` an error stands in the
        list in place of its result.

        Raises:
            TimeoutError: they were not all there in time.
            ValueError: `timeout_s` is negative.
            RuntimeError: called inside an event loop.
            Exception: the first error among the results.
        """
        _check_timeout(timeout_s)
        refuse_in_event_loop()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s

        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        if not waiting.on_thread(self._waiters, self._is_sent, left()):
            raise TimeoutError(_TIMED_OUT)
        for response in self._all():
            if not waiting.on_thread(response._waiters, response._is_done, left()):
                raise TimeoutError(_TIMED_OUT)
        return self._outcomes(return_exceptions)

    async def results_async(self, timeout_s: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """`results`, for event loops."""
        _check_timeout(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await waiting.Change(self._waiters, self._is_sent)
                for response in self._all():
                    await waiting.Change(response._waiters, response._is_done)
        except TimeoutError:
            raise TimeoutError(_TIMED_OUT) from None
        return self._outcomes(return_exceptions)

    def cancel(self) -> None:
        """Cancel the calls that have not ended."""
        self._caller.post(self._cancel)

    def _send(self) -> None:
        if self._sent:
            return
        if self._origin.cancelled:
            self._cancel()
            return
        replicas = self._caller.take_everyone(self._destination)
        if replicas is None:
            waited = time.monotonic() - self._began
            deadline = self._origin.deadline
            if waited > _PATIENCE_S or (deadline is not None and deadline <= time.monotonic()):
                self._end(
                    TimeoutError(
                        f"Deployment '{self._destination.deployment}' in application '{self._destination.app}' had no "
                        f"running replicas to broadcast to within {waited:.0f} s."
                    )
                )
            else:
                self._caller.loop.call_later(_POLL_S, self._send)
            return
        for replica in replicas:
            response = DeploymentResponse(self._origin.request_id)
            call = response._call = self._caller.call(self._destination, self._origin, response)
            self._responses.append(response)
            call.pin(replica)
            call.launch(self._message)
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self._sent = True
        self._message = []
        waiting.wake(self._waiters)

    def _cancel(self) -> None:
        if not self._sent:
            self._end(RayServeException("The broadcast was cancelled before it was sent."))
        for response in self._responses:
            response.cancel()

    def _is_sent(self) -> bool:
        return self._sent

    def _all(self) -> list[DeploymentResponse]:
        if self._error is not None:
            raise self._error
        return self._responses

    def _outcomes(self, return_exceptions: bool) -> list[Any]:
        outcomes = []
        for response in self._responses:
            try:
                outcomes.append(response._outcome())
            except Exception as error:
                if not return_exceptions:
                    raise
                outcomes.append(error)
        return outcomes


_TIMED_OUT = "Timed out waiting for broadcast results."


def _check_timeout(timeout_s: float | None) -> None:
    if timeout_s is not None and timeout_s < 0:
        raise ValueError("timeout_s must be None or non-negative.")
