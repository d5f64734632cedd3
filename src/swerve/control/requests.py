"""Deploy requests as they come over the wire, made into events."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from swerve.control.analysis import Limits
from swerve.control.deploy import Rejected
from swerve.control.events import Deploy, NewCanary
from swerve.control.model import Application
from swerve.control.target import DeploymentTarget
from swerve.generated import control_pb2 as pb


def deploy_event(request: pb.DeployRequest, now: float, time_s: float) -> tuple[Deploy, dict[str, bytes]]:
    """The event, and the code that it speaks of by digest. `time_s` is the time of day.

    Raises:
        Rejected: a deployment's configuration cannot be read.
    """
    code: dict[str, bytes] = {}
    applications = []
    canaries = []
    for app in request.applications:
        applications.append(_read(app, time_s, code))
        if app.HasField("canary"):
            canary, its_code = new_canary(app.canary, time_s)
            canaries.append(canary)
            code |= its_code
    event = Deploy(
        now,
        tuple(applications),
        request.declarative,
        request.config_json,
        target_capacity=request.target_capacity if request.HasField("target_capacity") else None,
        canaries=tuple(canaries),
        options=request.options if request.HasField("options") else None,
        base_options=request.base_options if request.HasField("base_options") else None,
    )
    return event, code


def new_canary(canary: pb.Canary, time_s: float) -> tuple[NewCanary, dict[str, bytes]]:
    """The canary that a message asks for, and the code that it speaks of by digest.

    Raises:
        Rejected: its options, or a deployment's configuration, cannot be read.
    """
    code: dict[str, bytes] = {}
    application, targets = _read(canary.application, time_s, code)
    try:
        # Read here once, so that what cannot be published or judged by is refused before it is stored.
        options = json.loads(canary.options_json)
        weight = float(options["weight"])
        pb.CanaryView(match=options["match"], sticky_key=options["sticky_key"] or "")
        Limits.of(canary.options_json)
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected(f'The options of the canary of "{application.name}" are not complete: {error}.') from error
    return NewCanary(application, targets, canary.options_json, weight), code


def _read(
    app: pb.Application, time_s: float, code: dict[str, bytes]
) -> tuple[Application, Mapping[str, DeploymentTarget]]:
    """An application and its targets; the code that they speak of is added to `code`."""
    targets = {deployment.name: _target(app, deployment) for deployment in app.deployments}
    code.update((targets[deployment.name].code_digest, deployment.code) for deployment in app.deployments)
    policies = (app.autoscaling_policy, *(deployment.autoscaling_policy for deployment in app.deployments))
    routers = [deployment.request_router for deployment in app.deployments]
    code.update((_digest(extra), extra) for extra in (*policies, *routers) if extra)
    return _application(app, time_s), targets


def _application(app: pb.Application, time_s: float) -> Application:
    return Application(
        name=app.name,
        route_prefix=app.route_prefix if app.HasField("route_prefix") else None,
        ingress=app.ingress,
        deployments=tuple(deployment.name for deployment in app.deployments),
        source=app.source,
        source_json=app.source_json,
        docs_path=app.docs_path,
        last_deployed_time_s=time_s,
        external_scaler_enabled=app.external_scaler_enabled,
        policy_digest=_digest(app.autoscaling_policy),
    )


def _target(app: pb.Application, deployment: pb.Deployment) -> DeploymentTarget:
    target = DeploymentTarget(
        code_digest=_digest(deployment.code),
        code_version=deployment.code_version,
        config_json=deployment.config_json,
        sys_path=tuple(app.sys_path),
        runtime_env_json=app.runtime_env_json,
        logging_config_json=app.logging_config_json,
        is_ingress=deployment.name == app.ingress,
        policy_digest=_digest(deployment.autoscaling_policy),
        router_digest=_digest(deployment.request_router),
    )
    try:
        # Read here once, so that what cannot be read is refused before it is applied.
        _ = (target.options, target.scaling, target.version, target.config_version)
        _ = (target.num_replicas, target.env_vars, target.working_dir)
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected(
            f'The configuration of deployment "{deployment.name}" in application "{app.name}" is not complete: {error}.'
        ) from error
    return target


def _digest(code: bytes) -> str:
    """What code is stored by; "" for none."""
    return hashlib.blake2b(code, digest_size=16).hexdigest() if code else ""
