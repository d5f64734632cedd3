"""Arguments that are responses of other handle calls: each is replaced by its result before the call is sent."""

from __future__ import annotations

import functools
from typing import Any

from swerve.caller import codec
from swerve.caller.response import DeploymentResponse, DeploymentResponseGenerator
from swerve.caller.seams import Caller, PendingCall

_RESPONSES = (DeploymentResponse, DeploymentResponseGenerator)


def has_responses(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """True when an argument, by position or by name, is a response."""
    for value in args:
        if isinstance(value, _RESPONSES):
            return True
    return bool(kwargs) and has_responses(tuple(kwargs.values()), {})


class Resolution:
    """Waits for the responses among a call's arguments, then submits the call; fails it with the first of their errors.

    `post` brings a function to the loop of the call.
    """

    def __init__(
        self,
        call: PendingCall,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        caller: Caller,
    ) -> None:
        self._call = call
        self._args = args
        self._kwargs = kwargs
        self._caller = caller

    def start(self) -> None:
        self._call.start()
        values = (*self._args, *self._kwargs.values())
        if any(isinstance(value, DeploymentResponseGenerator) for value in values):
            self._call.fail(
                RuntimeError(
                    "Streaming deployment handle results cannot be passed to downstream handle calls. "
                    "Iterate over them and pass the items."
                )
            )
            return
        self._pending = [value for value in values if isinstance(value, DeploymentResponse)]
        self._advance()

    def _advance(self) -> None:
        while self._pending:
            response = self._pending[-1]
            if not response._when_done(functools.partial(self._caller.post, self._advance)):
                return
            self._pending.pop()
        try:
            args = tuple(map(_result, self._args))
            kwargs = {name: _result(value) for name, value in self._kwargs.items()}
            message = codec.encode((args, kwargs), self._caller.lend)
        except Exception as error:
            self._call.fail(error)
        else:
            self._call.submit(message)


def _result(value: Any) -> Any:
    return value._outcome() if isinstance(value, DeploymentResponse) else value
