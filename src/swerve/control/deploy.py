"""Applying a deploy request: checked as a whole, then all of it or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from swerve.control.draft import Draft
from swerve.control.events import Deploy
from swerve.control.model import (
    Application,
    Deployment,
    DeploymentKey,
    DeploymentStatus,
    DeploymentStatusTrigger,
    Goal,
    State,
)
from swerve.control.target import DeploymentTarget

DECLARATIVE = "declarative"


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
    for application, _ in event.applications:
        if application.name in names:
            raise Rejected(
                f'Found multiple configs for application "{application.name}". Please remove all duplicates.'
            )
        names.add(application.name)
        _check_application(application)
        prefix = application.route_prefix
        if prefix is not None and prefix in prefixes:
            raise Rejected(
                f'Found duplicate applications for route prefix "{prefix}". '
                "Please ensure each application's route_prefix is unique."
            )
        prefixes.update(() if prefix is None else (prefix,))
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


def _check_application(application: Application) -> None:
    if not application.name:
        raise Rejected("Application names must be nonempty.")
    if len(set(application.deployments)) != len(application.deployments):
        raise Rejected(f'Application "{application.name}" has two deployments of one name.')
    if application.ingress not in application.deployments:
        raise Rejected(
            f'The ingress "{application.ingress}" of application "{application.name}" is none of its deployments.'
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


def apply(draft: Draft, event: Deploy) -> None:
    """Make the checked request the new goal."""
    for name in _leaving(draft.state, event):
        delete(draft, name)
    if event.declarative:
        draft.state = replace(draft.state, config_json=event.config_json)
    for application, targets in event.applications:
        _apply_application(draft, application, targets)


def delete(draft: Draft, name: str) -> None:
    """Begin to drain and remove an application."""
    draft.applications[name] = replace(draft.applications[name], deleting=True)
    for key, deployment in draft.deployments.items():
        if key.app == name:
            draft.deployments[key] = _marked_deleted(deployment)


def _apply_application(draft: Draft, application: Application, targets: Mapping[str, DeploymentTarget]) -> None:
    draft.applications[application.name] = application
    for name in application.deployments:
        key = DeploymentKey(application.name, name)
        target = targets[name]
        goal = Goal(target, target.options.num_replicas)
        old = draft.deployments.get(key)
        draft.deployments[key] = Deployment(key, goal) if old is None else _updated(old, goal)
    for key, deployment in tuple(draft.deployments.items()):
        if key.app == application.name and key.name not in targets:
            draft.deployments[key] = _marked_deleted(deployment)


def _updated(old: Deployment, goal: Goal) -> Deployment:
    status = DeploymentStatus.UPDATING
    before = old.goal
    if (before.target.version, before.target.config_version) == (goal.target.version, goal.target.config_version):
        if goal.num_replicas > before.num_replicas:
            status = DeploymentStatus.UPSCALING
        elif goal.num_replicas < before.num_replicas:
            status = DeploymentStatus.DOWNSCALING
    previous = old.previous
    if old.reached:
        previous = before
    return Deployment(old.key, goal, previous=None if old.deleting else previous, status=status)


def _marked_deleted(deployment: Deployment) -> Deployment:
    return replace(
        deployment,
        deleting=True,
        status=DeploymentStatus.UPDATING,
        trigger=DeploymentStatusTrigger.DELETING,
        message="",
    )
