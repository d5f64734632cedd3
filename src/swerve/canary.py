"""Canaries from Python: a new version of an application beside it, for a part of the calls.

    from swerve import canary

    canary.start(NewModel.bind(), name="shop", options={"weight": 5, "match": {"x-version": "new"}})
    canary.set_weight("shop", 50)
    canary.promote("shop")

Handles call the version that is the application; only calls that come in by the proxies are split.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import ValidationError

from swerve.application import Application
from swerve.build import BuildOptions, build
from swerve.config import CanaryOptions, LoggingConfig, explain
from swerve.exceptions import RayServeException
from swerve.generated import control_pb2
from swerve.instances import current_state_dir, required
from swerve.status_overview import CanaryStatusOverview, ServeStatus
from swerve.statuses import CanaryPhase

__all__ = ["CanaryOptions", "promote", "rollback", "set_weight", "start", "status"]

# How often `status` is asked while waiting: a local exchange costs less than a millisecond.
_POLL_S = 0.02


def start(
    target: Application,
    name: str = "default",
    options: CanaryOptions | dict[str, Any] | None = None,
    logging_config: LoggingConfig | None = None,
    _blocking: bool = True,
) -> None:
    """Starts `target` as the canary of the application `name` and returns when it takes calls. One that runs already
    is replaced.

    Raises:
        TypeError, ValueError: an argument is wrong.
        RayServeException: no instance runs, or no application has this name.
        RuntimeError: the canary failed to deploy, or was rolled back meanwhile.
    """
    try:
        checked = options if isinstance(options, CanaryOptions) else CanaryOptions.model_validate(options or {})
    except ValidationError as error:
        raise ValueError(explain(error)) from error
    connection = required()
    packages = current_state_dir() / "packages"
    built = build(target, BuildOptions(name=name, logging_config=logging_config, packages=packages))
    message = control_pb2.Canary(application=built, options_json=checked.model_dump_json())
    connection.call(lambda client: client.start_canary(message))
    while _blocking:
        present = status(name)
        if present is None:
            raise RuntimeError(f"The canary of application '{name}' was withdrawn before it ran.")
        if present.phase is CanaryPhase.ROLLED_BACK:
            raise RuntimeError(f"The canary of application '{name}' was rolled back: {present.message}")
        if present.phase is CanaryPhase.RUNNING:
            connection.call(lambda client: client.status(when_seen=True))
            return
        time.sleep(_POLL_S)


def set_weight(name: str, weight: float) -> None:
    """Gives the canary of an application `weight` percent of the calls that do not match; returns when they go so.

    Raises:
        RayServeException: no instance or canary runs, or the weight is not from 0 to 100.
    """
    _change(control_pb2.ChangeCanaryRequest(app=name, weight=weight))


def promote(name: str) -> None:
    """Makes the canary the application: its replicas go on, those of the other version drain.

    Raises:
        RayServeException: no instance or canary runs, or none of the canary's replicas serves.
    """
    _change(control_pb2.ChangeCanaryRequest(app=name, promote=True))


def rollback(name: str) -> None:
    """Ends the canary: its replicas drain.

    Raises:
        RayServeException: no instance or canary runs.
    """
    _change(control_pb2.ChangeCanaryRequest(app=name, rollback=True))


def status(name: str) -> CanaryStatusOverview | None:
    """How the canary of an application does; None if there is none.

    Raises:
        RayServeException: no instance runs, or no application has this name.
    """
    app = ServeStatus.from_proto(required().status()).applications.get(name)
    if app is None:
        raise RayServeException(f"Application '{name}' does not exist.")
    return app.canary


def _change(request: control_pb2.ChangeCanaryRequest) -> None:
    required().call(lambda client: client.change_canary(request))
