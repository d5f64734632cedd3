"""A state while one event is applied to it: working copies, the commands so far, and the steps of a replica's life."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import replace

from swerve.control.events import (
    CheckHealth,
    CheckProxy,
    Command,
    Kill,
    ReconfigureReplica,
    StartProxy,
    StartReplica,
    StopProxy,
    StopReplica,
    TellOptions,
    TellWorldSize,
    Warn,
)
from swerve.control.model import Application, Deployment, DeploymentKey, Goal, Proxy, Replica, State, owner
from swerve.statuses import DeploymentStatus, DeploymentStatusTrigger, ProxyStatus, ReplicaState

# A replica that served this long was no failed start; see Draft.count_failure.
STABLE_AFTER_S = 10.0
# What a process may take to end beyond the time that its calls have.
EXIT_GRACE_S = 2.0
# SIGKILL is sent again when a process is still there after this long.
KILL_AGAIN_S = 5.0
BACKOFF_FIRST_S = 0.2
BACKOFF_LAST_S = 10.0
# A replica that has been starting for so long is told of, again and again.
SLOW_START_S = 30.0
# How often a proxy's event loop is asked whether it runs, and how long it may take to answer: Ray Serve's values.
PROXY_CHECK_PERIOD_S, PROXY_CHECK_TIMEOUT_S = 10.0, 10.0
# Health checks spread by this share of their period either way, so that replicas are not checked in step.
JITTER = 0.1

UNHEALTHY = (
    "A replica's health check failed. This deployment will be UNHEALTHY until the replica recovers or a new deploy "
    "happens."
)
LAST_REASON = "The last replica that ended or failed:\n{reason}"
STARTUP_RETRY = "A replica failed to start with exception. Retrying {n} more time(s). Error:\n{error}"
STARTUP_FAILED = (
    "The deployment failed to start {n} times in a row. This may be due to a problem with its constructor or initial "
    "health check failing. See controller logs for details. Error:\n{error}"
)
SLOW_START = (
    "Deployment '{name}' in application '{app}' has {n} replicas that have taken more than {s:.0f}s to initialize.\n"
    "This may be caused by a slow __init__ or reconfigure method."
)
ROLLOUT_STOPPED = "The rolling update was stopped and the replicas of the previous version keep serving. "


def backoff(failures: int, first: float = BACKOFF_FIRST_S) -> float:
    """Seconds to wait before the next start after so many failures one after the other."""
    return min(first * 2.0 ** min(failures - 1, 30), BACKOFF_LAST_S)


def slow_start_due(deployment: Deployment, replicas: Iterable[Replica]) -> float | None:
    """When it is time to tell that replicas of a deployment take long to start; None: none is starting."""
    since = [replica.starting_since for replica in replicas if replica.state is ReplicaState.STARTING]
    if not since:
        return None
    told = deployment.slow_start_told_at
    due = min(since) + SLOW_START_S
    return due if told is None else max(due, told + SLOW_START_S)


class Draft:
    """The state that an event leads to, being made."""

    def __init__(self, state: State, now: float) -> None:
        self.state = state
        self.now = now
        self.applications = dict(state.applications)
        self.canaries = dict(state.canaries)
        self.retired = dict(state.retired)
        self.deployments = dict(state.deployments)
        self.replicas = dict(state.replicas)
        self.proxies = dict(state.proxies)
        self.commands: list[Command] = []

    def finish(self) -> tuple[State, tuple[Command, ...]]:
        state = replace(
            self.state,
            applications=self.applications,
            canaries=self.canaries,
            retired=self.retired,
            deployments=self.deployments,
            replicas=self.replicas,
            proxies=self.proxies,
        )
        return state, tuple(self.commands)

    def owner(self, key: DeploymentKey) -> Application | None:
        """The release that a deployment belongs to."""
        return owner(key, self.applications, self.canaries, self.retired)

    def replicas_of(self, key: DeploymentKey) -> list[Replica]:
        return [replica for replica in self.replicas.values() if replica.key == key]

    def new_id(self) -> str:
        """Eight letters and digits, never the same twice in an instance's life."""
        self.state = replace(self.state, serial=self.state.serial + 1)
        digest = hashlib.blake2b(f"{self.state.seed}:{self.state.serial}".encode(), digest_size=5).digest()
        return base64.b32encode(digest).decode().lower()

    # -- replicas -----------------------------------------------------------------------------------------------------

    def start_replica(self, key: DeploymentKey, goal: Goal) -> None:
        taken = {replica.rank for replica in self.replicas_of(key) if replica.state is not ReplicaState.STOPPING}
        rank = next(rank for rank in range(len(taken) + 1) if rank not in taken)
        target = goal.target
        replica = Replica(
            id=self.new_id(),
            key=key,
            version=target.version,
            config_version=target.config_version,
            rank=rank,
            max_ongoing_requests=target.options.max_ongoing_requests,
            starting_since=self.now,
            world_size=goal.num_replicas,
            options_version=self.state.options.version,
        )
        self.replicas[replica.id] = replica
        self.commands.append(StartReplica(replica.id, key, target, rank, goal.num_replicas))

    def stop_replica(self, replica: Replica, *, holds_place: bool = False) -> None:
        """Drain and end a replica; one that does not serve has nothing to drain."""
        if replica.state is ReplicaState.STOPPING:
            return
        timeout_s = 0.0
        if replica.serves:
            timeout_s = self.deployments[replica.key].goal.target.options.graceful_shutdown_timeout_s
        self.replicas[replica.id] = replace(
            replica,
            state=ReplicaState.STOPPING,
            serves=False,
            holds_place=holds_place,
            check_at=None,
            stable_at=None,
            kill_at=self.now + timeout_s + EXIT_GRACE_S,
        )
        self.commands.append(StopReplica(replica.id, timeout_s))

    def reconfigure_replica(self, replica: Replica, goal: Goal) -> None:
        self.replicas[replica.id] = replace(replica, state=ReplicaState.UPDATING, world_size=goal.num_replicas)
        self.commands.append(ReconfigureReplica(replica.id, goal.target, replica.rank, goal.num_replicas))

    def tell_world_size(self, key: DeploymentKey, goal: Goal) -> None:
        """Tell the replicas that run how many there are to be, unless they know."""
        for replica in self.replicas_of(key):
            current = (replica.version, replica.config_version) == (goal.target.version, goal.target.config_version)
            if current and replica.state is ReplicaState.RUNNING and replica.world_size != goal.num_replicas:
                self.replicas[replica.id] = replace(replica, world_size=goal.num_replicas)
                self.commands.append(TellWorldSize(replica.id, goal.target, replica.rank, goal.num_replicas))

    def tell_options(self, key: DeploymentKey, goal: Goal) -> None:
        """Tell the replicas of an ingress that run which options are in force, unless they know."""
        version = self.state.options.version
        for replica in self.replicas_of(key) if goal.target.is_ingress else ():
            current = replica.version == goal.target.version and replica.state is ReplicaState.RUNNING
            if current and replica.options_version != version:
                self.replicas[replica.id] = replace(replica, options_version=version)
                self.commands.append(TellOptions(replica.id))

    def replica_runs(self, replica: Replica) -> None:
        """A replica has started, or was found again."""
        self.replicas[replica.id] = replace(
            replica,
            state=ReplicaState.RUNNING,
            serves=True,
            stable_at=self.now + STABLE_AFTER_S,
            check_at=self.now + self._check_period(replica),
            strikes=0,
        )

    def _check_period(self, replica: Replica) -> float:
        period = self.deployments[replica.key].goal.target.options.health_check_period_s
        spread = int.from_bytes(hashlib.blake2b(f"{replica.id}:{self.now}".encode(), digest_size=4).digest()) / 2**32
        return period * (1 - JITTER + 2 * JITTER * spread)

    def check_later(self, replica: Replica, strikes: int) -> None:
        check_at = self.now + self._check_period(replica)
        self.replicas[replica.id] = replace(replica, checking=False, strikes=strikes, check_at=check_at)

    def run_timers(self) -> None:
        """Do what is due for each replica and proxy."""
        for replica in tuple(self.replicas.values()):
            if replica.kill_at is not None and replica.kill_at <= self.now:
                self.replicas[replica.id] = replace(replica, kill_at=self.now + KILL_AGAIN_S)
                self.commands.append(Kill(replica.id))
            elif replica.check_at is not None and replica.check_at <= self.now:
                timeout_s = self.deployments[replica.key].goal.target.options.health_check_timeout_s
                replica = replace(replica, checking=True, check_at=None)
                self.replicas[replica.id] = replica
                self.commands.append(CheckHealth(replica.id, timeout_s))
            if replica.stable_at is not None and replica.stable_at <= self.now:
                self.replicas[replica.id] = replace(self.replicas[replica.id], stable_at=None)
                if not self.is_rolling_update(replica.key):
                    self.deployments[replica.key] = replace(self.deployments[replica.key], failures=0)
        for deployment in tuple(self.deployments.values()):
            self._warn_of_slow_start(deployment)
        for proxy in tuple(self.proxies.values()):
            if proxy.kill_at is not None and proxy.kill_at <= self.now:
                self.proxies[proxy.id] = replace(proxy, kill_at=self.now + KILL_AGAIN_S)
                self.commands.append(Kill(proxy.id))
            elif proxy.check_at is not None and proxy.check_at <= self.now:
                self.proxies[proxy.id] = replace(proxy, check_at=None)
                self.commands.append(CheckProxy(proxy.id, PROXY_CHECK_TIMEOUT_S))

    def _warn_of_slow_start(self, deployment: Deployment) -> None:
        replicas = self.replicas_of(deployment.key)
        due = slow_start_due(deployment, replicas)
        if due is None or due > self.now:
            return
        slow = sum(
            item.state is ReplicaState.STARTING and item.starting_since + SLOW_START_S <= self.now for item in replicas
        )
        key = deployment.key
        message = SLOW_START.format(name=key.name, app=key.app, n=slow, s=SLOW_START_S)
        troubled = deployment.status in (DeploymentStatus.UNHEALTHY, DeploymentStatus.DEPLOY_FAILED)
        self.deployments[key] = replace(
            deployment,
            slow_start_told_at=self.now,
            message=deployment.message if troubled else message,
        )
        self.commands.append(Warn(message))

    # -- failures -----------------------------------------------------------------------------------------------------

    def is_rolling_update(self, key: DeploymentKey) -> bool:
        """Whether a new version takes the place of one that served, and has not yet."""
        deployment = self.deployments[key]
        return deployment.previous is not None and not deployment.reached and not deployment.failed

    def say_unhealthy(self, replica: Replica, reason: str) -> None:
        """A replica is lost without having been told to stop: its deployment says why until it has its number again."""
        deployment = self.deployments[replica.key]
        settled = deployment.status in (DeploymentStatus.HEALTHY, DeploymentStatus.UNHEALTHY)
        if settled and not deployment.deleting and not self.state.stopping:
            trouble = LAST_REASON.format(reason=reason)
            self.deployments[replica.key] = replace(
                deployment,
                status=DeploymentStatus.UNHEALTHY,
                trigger=DeploymentStatusTrigger.HEALTH_CHECK_FAILED,
                message=f"{UNHEALTHY} {trouble}",
                trouble=trouble,
            )

    def count_failure(self, replica: Replica, error: str) -> None:
        """A replica failed to start, or failed before it had served for STABLE_AFTER_S.

        While the goal has not been reached, `threshold` of them in a row are terminal (Ray Serve's rule). Afterwards
        the deployment goes on trying, ever more slowly.
        """
        deployment = self.deployments[replica.key]
        goal = deployment.serving_goal
        if goal is None or replica.version != goal.target.version:
            return
        failures = deployment.failures + 1
        deployment = replace(deployment, failures=failures, start_not_before=self.now + backoff(failures))
        left = _threshold(goal) - failures
        if not deployment.reached and not deployment.failed:
            message = STARTUP_RETRY.format(n=left, error=error)
            if left <= 0:
                stopped = ROLLOUT_STOPPED if deployment.previous is not None else ""
                message = stopped + STARTUP_FAILED.format(n=failures, error=error)
            deployment = deployment.with_failure(message, terminal=left <= 0)
        elif left <= 0 and deployment.status in (DeploymentStatus.UPSCALING, DeploymentStatus.UNHEALTHY):
            # It has run before, if only with no replicas: it is tried on, and its calls wait.
            serving = any(item.serves and item.version == replica.version for item in self.replicas_of(replica.key))
            if not serving:
                trouble = STARTUP_FAILED.format(n=failures, error=error)
                deployment = replace(
                    deployment,
                    status=DeploymentStatus.UNHEALTHY,
                    trigger=DeploymentStatusTrigger.REPLICA_STARTUP_FAILED,
                    message=trouble,
                    trouble=trouble,
                )
        self.deployments[replica.key] = deployment

    # -- proxies ------------------------------------------------------------------------------------------------------

    def start_proxy(self, kill_after_s: float) -> None:
        proxy_id = f"proxy-{self.new_id()}"
        message = self.state.proxy_message
        shares_ports = bool(self.proxies) or self.state.num_proxies > 1
        self.proxies[proxy_id] = Proxy(proxy_id, message=message, kill_at=self.now + kill_after_s)
        self.commands.append(StartProxy(proxy_id, shares_ports))

    def stop_proxy(self, proxy: Proxy, within_s: float) -> None:
        self.proxies[proxy.id] = replace(proxy, state=ProxyStatus.DRAINING, kill_at=self.now + within_s)
        self.commands.append(StopProxy(proxy.id))


def _threshold(goal: Goal) -> int:
    """How many failures in a row end a deployment: three a replica, `max_constructor_retry_count` at most."""
    return min(goal.target.options.max_constructor_retry_count, max(goal.num_replicas, 1) * 3)
