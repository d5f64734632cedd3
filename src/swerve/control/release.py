"""A release of an application: its deployments are applied together, and end together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from swerve.control import autoscale, scale
from swerve.control.draft import Draft
from swerve.control.model import DECLARATIVE, Application, Deployment, DeploymentKey, Goal
from swerve.control.target import DeploymentTarget
from swerve.statuses import DeploymentStatus, DeploymentStatusTrigger


def apply(
    draft: Draft, application: Application, targets: Mapping[str, DeploymentTarget], *, same_capacity: bool
) -> None:
    """Make `targets` the goals of the release's deployments; those that it had besides begin to end."""
    capacity = draft.state.target_capacity if application.source == DECLARATIVE else None
    for name in application.deployments:
        key = application.key(name)
        old = draft.deployments.get(key)
        target = targets[name] if old is None else replace(targets[name], servicers=old.goal.target.servicers)
        goal = Goal(target, _num_replicas(target, old, capacity, same_capacity=same_capacity))
        draft.deployments[key] = Deployment(key, goal) if old is None else _updated(old, goal)
    _mark_deleted(draft, application, kept=application.deployments)


def retire(draft: Draft, application: Application) -> None:
    """Begin to drain and remove a release whose place another one has: its ingress, then what that calls."""
    draft.retired[application.name, application.release] = replace(application, deleting=True)
    _mark_deleted(draft, application)


def delete(draft: Draft, application: Application) -> None:
    """Begin to drain and remove the release that is the application."""
    draft.applications[application.name] = replace(application, deleting=True)
    _mark_deleted(draft, application)


def retarget(draft: Draft, key: DeploymentKey, target: DeploymentTarget) -> None:
    """Give a deployment that stays another target, with as many replicas as before."""
    deployment = draft.deployments[key]
    draft.deployments[key] = _updated(deployment, replace(deployment.goal, target=target))


def _mark_deleted(draft: Draft, application: Application, kept: tuple[str, ...] = ()) -> None:
    for key, deployment in draft.deployments.items():
        if (key.app, key.release) == (application.name, application.release) and key.name not in kept:
            draft.deployments[key] = replace(
                deployment,
                deleting=True,
                status=DeploymentStatus.UPDATING,
                trigger=DeploymentStatusTrigger.DELETING,
                message="",
            )


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
