"""Applying a deploy request: checked as a whole, then all of it or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from swerve.control import canary, release
from swerve.control.draft import Draft
from swerve.control.events import Deploy, NewCanary
from swerve.control.model import DECLARATIVE, Application, State
from swerve.control.options import num_proxies, servicers_version
from swerve.control.target import DeploymentTarget
from swerve.exceptions import does_not_exist
from swerve.generated import control_pb2 as pb


class Rejected(Exception):
    """The request cannot be applied, and nothing of it was; the message says why. The texts are Ray Serve's."""


def check(state: State, event: Deploy) -> None:
    """Refuse a request that contradicts itself or what stays deployed.

    Raises:
        Rejected: with what is wrong.
    """
    if state.stopping:
        raise Rejected("The instance is shutting down; nothing can be deployed.")
    names: set[str] = set()
    prefixes: set[str] = set()
    for application, targets in event.applications:
        if application.name in names:
            raise Rejected(
                f'Found multiple configs for application "{application.name}". Please remove all duplicates.'
            )
        names.add(application.name)
        _check_application(application, targets)
        prefix = application.route_prefix
        if prefix is not None and prefix in prefixes:
            raise Rejected(
                f'Found duplicate applications for route prefix "{prefix}". '
                "Please ensure each application's route_prefix is unique."
            )
        prefixes.update(() if prefix is None else (prefix,))
    for new in event.canaries:
        _check_application(new.application, new.targets)
    leaving = set(_leaving(state, event))
    owners: dict[str | None, str] = {
        other.route_prefix: other.name
        for other in state.applications.values()
        if other.route_prefix is not None and not other.deleting and other.name not in names | leaving
    }
    for application, _ in event.applications:
        if (owner := owners.get(application.route_prefix)) is not None:
            raise Rejected(
                f'Prefix {application.route_prefix} is being used by application "{owner}". '
                f'Failed to deploy application "{application.name}".'
            )


def _check_application(application: Application, targets: Mapping[str, DeploymentTarget]) -> None:
    if not application.name:
        raise Rejected("Application names must be nonempty.")
    if len(set(application.deployments)) != len(application.deployments):
        raise Rejected(f'Application "{application.name}" has two deployments of one name.')
    if application.ingress not in application.deployments:
        raise Rejected(
            f'The ingress "{application.ingress}" of application "{application.name}" is none of its deployments.'
        )
    scaled = [name for name in application.deployments if targets[name].scaling is not None]
    if application.external_scaler_enabled and scaled:
        names = ", ".join(f'"{name}"' for name in scaled)
        raise Rejected(
            f"external_scaler_enabled is set to True, but the following deployment(s) have autoscaling configured: "
            f"{names}. When using an external autoscaler, Serve's built-in autoscaling must be disabled for all "
            "deployments in the application."
        )


def _leaving(state: State, event: Deploy) -> list[str]:
    """Applications of the last configuration file that this one does not name."""
    if not event.declarative:
        return []
    named = {application.name for application, _ in event.applications}
    return [
        application.name
        for application in state.applications.values()
        if application.source == DECLARATIVE and application.name not in named
    ]


def check_canary(state: State, new: NewCanary) -> None:
    """Refuse a canary that contradicts itself, or of an application that is not there.

    Raises:
        Rejected: with what is wrong.
    """
    if state.stopping:
        raise Rejected("The instance is shutting down; nothing can be deployed.")
    name = new.application.name
    application = state.applications.get(name)
    if application is None or application.deleting:
        there = does_not_exist(f"Application '{name}'", state.staying_applications)
        raise Rejected(f"{there} A canary is a new version of an application that runs.")
    promoted = replace(new.application, external_scaler_enabled=application.external_scaler_enabled)
    _check_application(promoted, new.targets)


def apply(draft: Draft, event: Deploy) -> None:
    """Make the checked request the new goal."""
    if event.options is not None:
        _apply_options(draft, event.options, event)
    for name in _leaving(draft.state, event):
        delete(draft, name)
    before = draft.state.target_capacity
    if event.declarative:
        draft.state = replace(draft.state, config_json=event.config_json, target_capacity=event.target_capacity)
    same_capacity = draft.state.target_capacity == before
    for application, targets in event.applications:
        old = draft.applications.get(application.name)
        application = application if old is None else replace(application, release=old.release)
        draft.applications[application.name] = application
        release.apply(draft, application, targets, same_capacity=same_capacity)
        if event.declarative:
            new = next((item for item in event.canaries if item.application.name == application.name), None)
            canary.follow_file(draft, application, new, same_capacity=same_capacity)


def _apply_options(draft: Draft, options: pb.InstanceOptions, event: Deploy) -> None:
    present = draft.state.options
    base = present.base if event.base_options is None else event.base_options
    served = replace(present, in_force=options, base=base, version=present.version + 1)
    draft.state = replace(draft.state, options=served, num_proxies=num_proxies(options))
    for key in event.outdated & draft.deployments.keys():
        deployment = draft.deployments[key]
        if not deployment.deleting:
            release.retarget(draft, key, replace(deployment.goal.target, servicers=servicers_version(options)))


def delete(draft: Draft, name: str) -> None:
    """Begin to drain and remove an application, and its canary."""
    canary.withdraw(draft, name)
    release.delete(draft, draft.applications[name])
