"""Applying a deploy request: checked as a whole, then all of it or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from swerve.control import autoscale, scale
from swerve.control.draft import Draft
from swerve.control.events import Deploy
from swerve.control.model import DECLARATIVE, Application, Deployment, DeploymentKey, Goal, State
from swerve.control.target import DeploymentTarget
from swerve.statuses import DeploymentStatus, DeploymentStatusTrigger


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


def apply(draft: Draft, event: Deploy) -> None:
    """Make the checked request the new goal."""
    for name in _leaving(draft.state, event):
        delete(draft, name)
    before = draft.state.target_capacity
    if event.declarative:
        draft.state = replace(draft.state, config_json=event.config_json, target_capacity=event.target_capacity)
    for application, targets in event.applications:
        _apply_application(draft, application, targets, same_capacity=draft.state.target_capacity == before)


def delete(draft: Draft, name: str) -> None:
    """Begin to drain and remove an application."""
    draft.applications[name] = replace(draft.applications[name], deleting=True)
    for key, deployment in draft.deployments.items():
        if key.app == name:
            draft.deployments[key] = _marked_deleted(deployment)


def _apply_application(
    draft: Draft, application: Application, targets: Mapping[str, DeploymentTarget], *, same_capacity: bool
) -> None:
    draft.applications[application.name] = application
    capacity = draft.state.target_capacity if application.source == DECLARATIVE else None
    for name in application.deployments:
        key = DeploymentKey(application.name, name)
        target = targets[name]
        old = draft.deployments.get(key)
        goal = Goal(target, _num_replicas(target, old, capacity, same_capacity=same_capacity))
        draft.deployments[key] = Deployment(key, goal) if old is None else _updated(old, goal)
    for key, deployment in tuple(draft.deployments.items()):
        if key.app == application.name and key.name not in targets:
            draft.deployments[key] = _marked_deleted(deployment)


def _num_replicas(
    target: DeploymentTarget, old: Deployment | None, capacity: float | None, *, same_capacity: bool
) -> int:
    """How many replicas to run; what autoscaling or somebody outside has set stays if nothing else changes."""
    current = 0 if old is None or old.deleting else old.goal.num_replicas
    changed = old is None or old.deleting or not _is_same(old.goal.target, target)
    if target.scaling is not None:
        limits = autoscale.bounds(target.scaling, capacity)
        return autoscale.initial_replicas(target.scaling, limits, current, changed=changed)
    if not changed and same_capacity:
        return current
    return autoscale.at_capacity(target.num_replicas, capacity)


def _is_same(one: DeploymentTarget, other: DeploymentTarget) -> bool:
    return (one.version, one.config_json) == (other.version, other.config_json)


def _updated(old: Deployment, goal: Goal) -> Deployment:
    before = old.goal
    updated = Deployment(old.key, goal, previous=None if old.deleting else before if old.reached else old.previous)
    same = (before.target.version, before.target.config_version) == (goal.target.version, goal.target.config_version)
    if not same or goal.num_replicas == before.num_replicas:
        return updated
    healthy = replace(updated, status=DeploymentStatus.HEALTHY)
    return scale.transition(healthy, before.num_replicas, goal.num_replicas, autoscaling=False)


def _marked_deleted(deployment: Deployment) -> Deployment:
    return replace(
        deployment,
        deleting=True,
        status=DeploymentStatus.UPDATING,
        trigger=DeploymentStatusTrigger.DELETING,
        message="",
    )
