"""The life of a canary: it starts, gets calls, and is promoted or rolled back.

A canary is a release of its application with deployments of its own. Promotion makes it the application and retires the
other release; rolling back retires the canary. No replica is touched by a change of roles: those of the retired release
drain, and callers turn to what the view names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from swerve.control import release
from swerve.control.draft import Draft
from swerve.control.events import NewCanary, PromoteCanary, RollBackCanary, Warn, WeighCanary
from swerve.control.model import DECLARATIVE, Application, Canary, State
from swerve.exceptions import does_not_exist
from swerve.statuses import CanaryPhase, DeploymentStatus

BY_COMMAND = "It was rolled back by command."


class CanaryRefused(Exception):
    """The change is not possible now; the message says why."""


class CanaryNotFound(CanaryRefused):
    """The application is not there, or has no canary."""


def check_change(state: State, event: WeighCanary | PromoteCanary | RollBackCanary) -> None:
    """Refuse what cannot be done with the canary that there is.

    Raises:
        CanaryNotFound: there is none.
        CanaryRefused: it is not in the right phase.
    """
    application = state.applications.get(event.app)
    if application is None or application.deleting:
        raise CanaryNotFound(does_not_exist(f"Application '{event.app}'", state.staying_applications))
    canary = state.canaries.get(event.app)
    if canary is None:
        raise CanaryNotFound(f"Application '{event.app}' has no canary.")
    if not canary.active:
        raise CanaryRefused(f"The canary of application '{event.app}' was rolled back already. {canary.message}")
    if state.stopping:
        raise CanaryRefused("The instance is shutting down.")
    if isinstance(event, PromoteCanary) and not takes_calls(state, canary):
        raise CanaryRefused(
            f"The canary of application '{event.app}' has no replica that serves, so it cannot be promoted yet."
        )


def takes_calls(state: State, canary: Canary) -> bool:
    """Whether calls may go to the canary: it has been up, and its ingress has a replica, or is one that calls wake."""
    if canary.phase is not CanaryPhase.RUNNING:
        return False
    key = canary.application.key(canary.application.ingress)
    ingress = state.deployments[key]
    # Calls that made autoscaling start the first replica wait for it.
    wakes = ingress.goal.num_replicas == 0 or ingress.status is DeploymentStatus.UPSCALING
    return wakes or any(item.serves for item in state.replicas_of(key))


# ---------------------------------------------------------------------------------------------------------------------
# Beginning


def start(draft: Draft, new: NewCanary, *, declared: bool = False) -> None:
    """Begin a canary. One that runs is replaced, or merely treated as the new options say if its code is the same."""
    name = new.application.name
    content = _content(new)
    present = draft.canaries.get(name)
    if present is not None and present.active and present.content == content:
        draft.canaries[name] = replace(
            present, options_json=new.options_json, weight=new.weight, declared=declared or present.declared
        )
        return
    if present is not None and present.active:
        release.retire(draft, present.application)
    application = replace(new.application, release=draft.new_id())
    draft.canaries[name] = Canary(application, new.options_json, new.weight, content, declared)
    release.apply(draft, application, new.targets, same_capacity=True)


def follow_file(draft: Draft, application: Application, new: NewCanary | None, *, same_capacity: bool) -> None:
    """A configuration file with the application was applied; `new` is the canary that it names.

    What became of the canary since (another weight, rolled back) stays while the file says the same of it.
    """
    present = draft.canaries.get(application.name)
    if new is None:
        if present is not None and present.declared:
            withdraw(draft, application.name)
    elif present is not None and (present.content, present.options_json) == (_content(new), new.options_json):
        draft.canaries[application.name] = replace(present, declared=True)
        if present.active and not same_capacity:
            release.apply(draft, present.application, new.targets, same_capacity=False)
    else:
        start(draft, new, declared=True)


def _content(new: NewCanary) -> str:
    targets = [
        (name, target.version, target.config_json, target.policy_digest) for name, target in sorted(new.targets.items())
    ]
    text = json.dumps([new.application.ingress, new.application.policy_digest, targets])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Changes


def weigh(draft: Draft, event: WeighCanary) -> None:
    """The canary gets another share of the calls."""
    canary = draft.canaries.get(event.app)
    if canary is not None and canary.active:
        draft.canaries[event.app] = replace(canary, weight=event.weight)


def promote(draft: Draft, event: PromoteCanary) -> None:
    """The canary's release becomes the application's. What the application is called by stays."""
    canary = draft.canaries.get(event.app)
    if canary is None or not canary.active:
        return
    old = draft.applications[event.app]
    from_file = old.source == canary.application.source == DECLARATIVE
    del draft.canaries[event.app]
    release.retire(draft, old)
    draft.applications[event.app] = replace(
        canary.application,
        route_prefix=old.route_prefix,
        external_scaler_enabled=old.external_scaler_enabled,
        source=canary.application.source if from_file else "imperative",
    )
    if from_file:
        draft.state = replace(draft.state, config_json=_config_with(draft.state.config_json, canary.application))


def roll_back(draft: Draft, event: RollBackCanary) -> None:
    """The canary ends: its release drains, and what is left says why. An event about another release came too late."""
    canary = draft.canaries.get(event.app)
    if canary is None or not canary.active or event.release not in ("", canary.application.release):
        return
    release.retire(draft, canary.application)
    draft.canaries[event.app] = replace(canary, phase=CanaryPhase.ROLLED_BACK, message=event.reason)
    draft.commands.append(Warn(f"The canary of application '{event.app}' is rolled back. {event.reason}"))


def withdraw(draft: Draft, name: str) -> None:
    """Forget an application's canary; one that runs drains."""
    canary = draft.canaries.pop(name, None)
    if canary is not None and canary.active:
        release.retire(draft, canary.application)


def _config_with(config_json: str, application: Application) -> str:
    """The applied configuration file as if it had named what was promoted."""
    config: dict[str, Any] = json.loads(config_json)
    for index, entry in enumerate(config["applications"]):
        if entry.get("name", "default") == application.name:
            config["applications"][index] = _entry(entry, json.loads(application.source_json))
    return json.dumps(config)


def _entry(old: Mapping[str, Any], promoted: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: old[name] for name in ("name", "route_prefix", "external_scaler_enabled") if name in old}
    return {**promoted, **kept}


# ---------------------------------------------------------------------------------------------------------------------
# What follows from how its replicas do


def roll_back_failed(draft: Draft) -> None:
    """A canary that failed to deploy ends."""
    for name, canary in tuple(draft.canaries.items()):
        if not canary.active or draft.state.stopping:
            continue
        keys = [canary.application.key(deployment) for deployment in canary.application.deployments]
        failed = [draft.deployments[key] for key in keys if draft.deployments[key].failed]
        if failed:
            reasons = "\n".join(f"{item.key.name}: {item.message}" for item in failed)
            roll_back(draft, RollBackCanary(draft.now, name, f"It failed to deploy.\n{reasons}"))


def begin_to_serve(draft: Draft) -> None:
    """A canary gets calls when all its deployments have come up."""
    for name, canary in tuple(draft.canaries.items()):
        keys = [canary.application.key(deployment) for deployment in canary.application.deployments]
        if canary.phase is CanaryPhase.STARTING and all(draft.deployments[key].reached for key in keys):
            draft.canaries[name] = replace(canary, phase=CanaryPhase.RUNNING)
