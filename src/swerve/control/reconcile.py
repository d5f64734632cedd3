"""The controller's decisions as one pure function: (state, event) -> (state, commands)."""

from __future__ import annotations

from dataclasses import replace

from swerve.control import canary, deploy, scale
from swerve.control.converge import PROXY_START_TIMEOUT_S, converge, drain_time
from swerve.control.draft import EXIT_GRACE_S, PROXY_CHECK_PERIOD_S, Draft, backoff, slow_start_due
from swerve.control.events import (
    Command,
    Delete,
    Deploy,
    Event,
    HealthChecked,
    Kill,
    Phase,
    ProcessEnded,
    ProcessStarted,
    PromoteCanary,
    ProxyChecked,
    ProxyReported,
    Reconfigured,
    Recovered,
    ReplicaReported,
    RollBackCanary,
    Scale,
    Shutdown,
    StartCanary,
    Tick,
    WeighCanary,
)
from swerve.control.model import Proxy, Replica, State
from swerve.control.options import num_proxies
from swerve.statuses import ProxyStatus, ReplicaState

# Health checks that must fail one after the other before a replica or a proxy is replaced (Ray Serve: 3).
STRIKES = 3
# A proxy that said why it cannot listen ends by itself; it is helped after this long.
_PROXY_EXIT_S = 5.0
_PROXY_BACKOFF_S = 0.1
_UNHEALTHY = "The replica failed {n} health checks in a row. {message}"
_BLOCKED = "The proxy's event loop did not answer {n} times in a row. An interceptor that blocks, most likely."


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """What `event` leads to.

    Raises:
        Rejected: a Deploy or a StartCanary that cannot be applied. The state stays as it is.
    """
    if isinstance(event, Deploy):
        deploy.check(state, event)
    elif isinstance(event, StartCanary):
        deploy.check_canary(state, event.canary)
    draft = Draft(state, event.now)
    _apply(draft, event)
    converge(draft)
    return draft.finish()


def next_wakeup(state: State, now: float) -> float | None:
    """When a Tick is due next; None: when something happens."""
    times: list[float | None] = [state.proxy_not_before]
    for replica in state.replicas.values():
        times += (replica.kill_at, replica.check_at, replica.stable_at)
    for deployment in state.deployments.values():
        times += (deployment.start_not_before, slow_start_due(deployment, state.replicas_of(deployment.key)))
    for proxy in state.proxies.values():
        times += (proxy.kill_at, proxy.check_at)
    # What was due at `now` has been done.
    return min((time for time in times if time is not None and time > now), default=None)


def _apply(draft: Draft, event: Event) -> None:
    match event:
        case Deploy():
            deploy.apply(draft, event)
        case Delete(names=names):
            for name in names:
                if name in draft.applications:
                    deploy.delete(draft, name)
        case StartCanary(canary=new):
            canary.start(draft, new)
        case WeighCanary():
            canary.weigh(draft, event)
        case PromoteCanary():
            canary.promote(draft, event)
        case RollBackCanary():
            canary.roll_back(draft, event)
        case Scale():
            scale.apply(draft, event)
        case Shutdown():
            draft.state = replace(draft.state, stopping=True)
        case Recovered():
            _recover(draft, event)
        case ProcessStarted(id=process_id, pid=pid, started_s=started_s):
            if (replica := draft.replicas.get(process_id)) is not None:
                draft.replicas[process_id] = replace(replica, pid=pid, started_s=started_s)
            elif (proxy := draft.proxies.get(process_id)) is not None:
                draft.proxies[process_id] = replace(proxy, pid=pid)
        case ProcessEnded(id=process_id, reason=reason):
            if (replica := draft.replicas.pop(process_id, None)) is not None:
                _replica_ended(draft, replica, reason)
            elif (proxy := draft.proxies.pop(process_id, None)) is not None:
                _proxy_ended(draft, proxy, reason)
        case ReplicaReported():
            _replica_reported(draft, event)
        case Reconfigured():
            _reconfigured(draft, event)
        case HealthChecked():
            _health_checked(draft, event)
        case ProxyReported():
            _proxy_reported(draft, event)
        case ProxyChecked():
            _proxy_checked(draft, event)
        case Tick():
            pass


# ---------------------------------------------------------------------------------------------------------------------
# Replicas


def _is_unproven(replica: Replica) -> bool:
    """Whether the end of this replica counts as a failed start."""
    return not replica.serves or replica.stable_at is not None


def _replica_ended(draft: Draft, replica: Replica, reason: str) -> None:
    if replica.state is ReplicaState.STOPPING:
        return
    draft.say_unhealthy(replica, reason)
    if _is_unproven(replica):
        draft.count_failure(replica, reason)


def _fail(draft: Draft, replica: Replica, error: str) -> None:
    """A replica that runs is no good: count it, end it."""
    draft.say_unhealthy(replica, error)
    # During a rolling update every failure of the new version counts, however long it had served.
    if _is_unproven(replica) or replica.state is ReplicaState.UPDATING or draft.is_rolling_update(replica.key):
        draft.count_failure(replica, error)
    draft.stop_replica(replica)


def _replica_reported(draft: Draft, event: ReplicaReported) -> None:
    replica = draft.replicas.get(event.id)
    if replica is None or replica.state is ReplicaState.STOPPING:
        return
    replica = replace(replica, model_ids=event.model_ids, routing_stats_json=event.routing_stats_json)
    draft.replicas[replica.id] = replica
    starting = replica.state in (ReplicaState.STARTING, ReplicaState.RECOVERING)
    match event.phase:
        case Phase.RUNNING if starting:
            draft.replica_runs(replica)
        case Phase.INITIALIZING if starting:
            since = replica.starting_since if replica.state is ReplicaState.STARTING else draft.now
            draft.replicas[replica.id] = replace(
                replica, state=ReplicaState.STARTING, serves=False, starting_since=since
            )
        case Phase.FAILED:
            _fail(draft, replica, event.message)
        case Phase.DRAINING:
            # Somebody else told it to stop. It takes no calls; a new one takes its place.
            draft.stop_replica(replica)


def _reconfigured(draft: Draft, event: Reconfigured) -> None:
    replica = draft.replicas.get(event.id)
    if replica is None or replica.state is not ReplicaState.UPDATING:
        return
    if event.error:
        _fail(draft, replica, event.error)
        return
    draft.replicas[replica.id] = replace(
        replica,
        state=ReplicaState.RUNNING,
        config_version=event.config_version,
        max_ongoing_requests=event.max_ongoing_requests,
    )


def _health_checked(draft: Draft, event: HealthChecked) -> None:
    replica = draft.replicas.get(event.id)
    if replica is None or not replica.checking or replica.state is ReplicaState.STOPPING:
        return
    strikes = 0 if event.healthy else replica.strikes + 1
    if strikes < STRIKES:
        draft.check_later(replica, strikes)
    else:
        _fail(draft, replica, _UNHEALTHY.format(n=strikes, message=event.message))


# ---------------------------------------------------------------------------------------------------------------------
# Proxies


def _proxy_ended(draft: Draft, proxy: Proxy, reason: str) -> None:
    if draft.state.stopping or proxy.state is ProxyStatus.DRAINING:
        return
    # One that served is replaced at once; one that never did, ever more slowly.
    failures = 0 if proxy.state is ProxyStatus.HEALTHY else draft.state.proxy_failures + 1
    wait = backoff(failures, _PROXY_BACKOFF_S) if failures else 0.0
    draft.state = replace(
        draft.state,
        proxy_failures=failures,
        proxy_not_before=draft.now + wait,
        proxy_message=proxy.message or reason,
    )


def _proxy_reported(draft: Draft, event: ProxyReported) -> None:
    proxy = draft.proxies.get(event.id)
    if proxy is None or proxy.state is ProxyStatus.DRAINING:
        return
    if event.draining:
        kill_at = draft.now + _drain_time_with_successor(draft)
        draft.proxies[proxy.id] = replace(proxy, state=ProxyStatus.DRAINING, message="", kill_at=kill_at)
        return
    if event.error and not (event.grpc_address or event.http_address):
        kill_at = draft.now + _PROXY_EXIT_S
        draft.proxies[proxy.id] = replace(proxy, state=ProxyStatus.UNHEALTHY, message=event.error, kill_at=kill_at)
        return
    if not event.error:
        draft.state = replace(draft.state, proxy_failures=0, proxy_message="")
    # With an error it serves on as before, and tries again.
    draft.proxies[proxy.id] = replace(
        proxy,
        state=ProxyStatus.UNHEALTHY if event.error else ProxyStatus.HEALTHY,
        grpc_address=event.grpc_address,
        http_address=event.http_address,
        message=event.error,
        kill_at=None,
        check_at=draft.now + PROXY_CHECK_PERIOD_S,
        strikes=proxy.strikes if event.error else 0,
    )


def _drain_time_with_successor(draft: Draft) -> float:
    """How long a proxy may take to end that waits for its successor first."""
    return PROXY_START_TIMEOUT_S + drain_time(draft.state) + EXIT_GRACE_S


def _proxy_checked(draft: Draft, event: ProxyChecked) -> None:
    proxy = draft.proxies.get(event.id)
    # One that ends, or has listened anew meanwhile, is none of this check's.
    if proxy is None or proxy.state is ProxyStatus.DRAINING or proxy.kill_at is not None or proxy.check_at is not None:
        return
    strikes = 0 if event.answered else proxy.strikes + 1
    if strikes < STRIKES:
        draft.proxies[proxy.id] = replace(proxy, strikes=strikes, check_at=draft.now + PROXY_CHECK_PERIOD_S)
        return
    # A loop that is blocked hears no SIGTERM either.
    draft.proxies[proxy.id] = replace(
        proxy, state=ProxyStatus.UNHEALTHY, message=_BLOCKED.format(n=strikes), strikes=strikes, kill_at=draft.now
    )


# ---------------------------------------------------------------------------------------------------------------------
# After a restart of the controller


def _recover(draft: Draft, event: Recovered) -> None:
    """Take over what still runs; what has ended meanwhile is replaced; what nobody knows is ended."""
    draft.state = replace(draft.state, options=event.options, num_proxies=num_proxies(event.options.in_force))
    for replica in tuple(draft.replicas.values()):
        if replica.id not in event.running:
            del draft.replicas[replica.id]
            continue
        pid, started_s = event.running[replica.id]
        replica = replace(replica, pid=pid, started_s=started_s)
        if replica.state is ReplicaState.STOPPING:
            # The order may not have arrived; stopping twice does no harm.
            draft.replicas[replica.id] = replace(replica, state=ReplicaState.RECOVERING, serves=True)
            draft.stop_replica(draft.replicas[replica.id])
        else:
            draft.check_later(replace(replica, state=ReplicaState.RECOVERING), strikes=0)
    for proxy in tuple(draft.proxies.values()):
        if proxy.id not in event.running:
            del draft.proxies[proxy.id]
            continue
        proxy = replace(proxy, pid=event.running[proxy.id][0])
        if proxy.state is ProxyStatus.DRAINING:
            draft.stop_proxy(proxy, _drain_time_with_successor(draft))
        else:
            draft.proxies[proxy.id] = replace(proxy, kill_at=draft.now + PROXY_START_TIMEOUT_S)
    for process_id in event.running.keys() - draft.replicas.keys() - draft.proxies.keys():
        draft.commands.append(Kill(process_id))
