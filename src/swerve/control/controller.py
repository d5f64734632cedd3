"""The controller's shell: feeds events to the decisions, stores what they lead to, carries out their commands."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from swerve.control import proxy_health, specs
from swerve.control.analysis import Analysis
from swerve.control.autoscaler import Autoscaler
from swerve.control.certificates import renew_certificates
from swerve.control.converge import shutdown_time
from swerve.control.counts import Counts
from swerve.control.deploy import Rejected
from swerve.control.events import (
    CheckHealth,
    CheckProxy,
    Command,
    Event,
    Finish,
    HealthChecked,
    Kill,
    Phase,
    ProcessEnded,
    ProcessStarted,
    ProxyChecked,
    ProxyReported,
    Reconfigured,
    ReconfigureReplica,
    Recovered,
    ReplicaReported,
    RollBackCanary,
    Shutdown,
    StartProxy,
    StartReplica,
    StopProxy,
    StopReplica,
    TellOptions,
    TellWorldSize,
    Tick,
    Warn,
)
from swerve.control.links import ReplicaLink
from swerve.control.model import DeploymentKey, Ended, State
from swerve.control.options import resume
from swerve.control.ports import PortError, check_ports
from swerve.control.publisher import Publisher
from swerve.control.reconcile import next_wakeup, step
from swerve.control.scaling import ScalingLoop
from swerve.control.scrape import scrape
from swerve.control.store import Store, StoreError
from swerve.control.view import status, view
from swerve.engine.base import Engine, EngineError, ProcessExit, ProcessSpec
from swerve.engine.layout import Layout
from swerve.generated import control_pb2 as pb
from swerve.statuses import ProxyStatus
from swerve.wire.status import RpcError

logger = logging.getLogger("swerve.control")

_PROXY_POLL_S = 0.01
# How often it is decided whether canaries may stay.
_ANALYSIS_INTERVAL_S = 0.5
# How long a deploy request waits for the proxies to know of it.
_SEEN_TIMEOUT_S = 2.0
# How much of a process's last output goes into the message about its end.
_OUTPUT_TAIL = 4000


class Controller:
    """Runs one instance, from the stored `state` on. Its tasks belong to `tasks`; made on the loop that it runs on."""

    def __init__(
        self,
        layout: Layout,
        options: pb.InstanceOptions,
        store: Store,
        state: State,
        engine: Engine,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._started = options
        self.publisher = Publisher()
        self._layout = layout
        self._store = store
        self._engine = engine
        self._state = state
        self._keeps_state = True
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._autoscaler = Autoscaler()
        self._counts = Counts()
        self._analysis = Analysis()
        self._analysis_timer: asyncio.TimerHandle | None = None
        self._scaling = ScalingLoop(self._autoscaler, lambda: self._state, store.code, self._apply_or_end, tasks)
        self._links: dict[str, tuple[ReplicaLink, asyncio.Task[None]]] = {}
        self._proxy_watches: dict[str, asyncio.Task[None]] = {}
        self._announces = False
        self._publishing = False
        self._timer: asyncio.TimerHandle | None = None
        self._finished: asyncio.Future[None] = self._loop.create_future()

    @property
    def state(self) -> State:
        return self._state

    async def recover(self) -> None:
        """Take over what runs, and begin to work towards what is stored.

        Raises:
            EngineError: the engine does not answer.
        """
        self._loop.add_signal_handler(signal.SIGTERM, self._terminated)
        await self._engine.open(self._process_exited, self._engine_lost)
        running = {process.id: (process.pid, process.started_s) for process in await self._engine.list()}
        # Of what ended while no controller watched.
        self._layout.remove_files_of_others(running)
        self.apply(Recovered(self._now(), running, resume(self._state.options, self._started)))

    async def until_finished(self) -> None:
        """Wait for the instance's end. To be called when the controller's service listens."""
        self._announces = True
        self._announce()
        await self._finished
        self.publisher.close()

    def apply(self, event: Event, code: Mapping[str, bytes] | None = None) -> None:
        """Let an event have its effect: decide, store, then act.

        Raises:
            Rejected: a Deploy that cannot be applied; nothing has changed.
        """
        state, commands = step(self._state, event)
        state = self._analysis.concluded(state, event.now)
        if self._keeps_state:
            self._store.save(self._state, state, code)
        self._state = state
        self._publish_soon()
        self._follow_processes()
        for command in commands:
            self._carry_out(command)
        self._announce()
        self._set_timer()
        self._autoscaler.follow(state, event.now)
        self._scaling.wake()
        self._analysis.follow(state)
        self._wake_analysis()

    async def prepare(self, options: pb.InstanceOptions) -> frozenset[DeploymentKey]:
        """See that these options can be served, and let replicas learn the services that are new to them.

        Returns:
            The ingress deployments with replicas that cannot learn them.

        Raises:
            Rejected: a port cannot be served.
        """
        present = self._state.options.in_force
        try:
            await asyncio.to_thread(check_ports, options, present)
        except PortError as error:
            raise Rejected(str(error)) from error
        if _services(options) == _services(present):
            return frozenset()
        replicas = [item for item in self._state.replicas.values() if item.serves and self._is_ingress(item.key)]
        learnt = await asyncio.gather(*(self._can_learn(replica.id, options) for replica in replicas))
        return frozenset(replica.key for replica, can in zip(replicas, learnt, strict=True) if not can)

    def _is_ingress(self, key: DeploymentKey) -> bool:
        return self._state.deployments[key].goal.target.is_ingress

    async def _can_learn(self, replica_id: str, options: pb.InstanceOptions) -> bool:
        request = specs.options_request(options)
        request.ClearField("grpc_options_json")
        try:
            answer = await self._link(replica_id).take_options(request)
        except (RpcError, KeyError) as error:
            # It is ending or does not answer: it is told again when the options are in force.
            logger.info("replica %s was not asked about the new services: %s", replica_id, error)
            return True
        if answer.unknown or answer.outdated:
            logger.info("replica %s cannot learn the new services and is replaced: %s", replica_id, answer.error)
            return False
        return True

    async def until_seen(self) -> None:
        """Wait, for a short time at most, until all proxies route by the present state and serve its options."""
        # What has just been applied is published in the next turn of the loop.
        await asyncio.sleep(0)
        await self.publisher.until_seen(self._staying_proxies, _SEEN_TIMEOUT_S)

    def _staying_proxies(self) -> list[str]:
        staying = (ProxyStatus.STARTING, ProxyStatus.HEALTHY)
        return [proxy.id for proxy in self._state.proxies.values() if proxy.state in staying]

    def proxy_reported(self, proxy_id: str) -> None:
        """A proxy has written what it has to say."""
        if said := _read_ready(self._layout.of_process(proxy_id, "ready")):
            self.apply(
                ProxyReported(
                    self._now(),
                    proxy_id,
                    grpc_address=said.get("grpc") or "",
                    http_address=said.get("http") or "",
                    error=said.get("error") or "",
                    draining=bool(said.get("draining")),
                )
            )

    def queues_reported(self, kind: str, ident: str, queues: Mapping[DeploymentKey, int]) -> None:
        """So many calls wait in a proxy, a replica or a program."""
        self._autoscaler.caller_reported(kind, ident, queues, self._now())

    def calls_ended(self, app: str, release: str, ended: Ended) -> None:
        """So many calls of an application with a canary have ended in a proxy."""
        self._analysis.ended(app, release, ended, self._now())

    async def shutdown(self, *, forget: bool) -> None:
        """Begin to end the instance; `forget` what was deployed, or keep it for the next start."""
        await self._engine.ending(shutdown_time(self._state))
        if forget:
            self._keeps_state = False
            try:
                self._store.clear()
            except StoreError as error:
                logger.warning("%s It is removed instead.", error)
                self._layout.remove_store()
        if not self._state.stopping:
            logger.info("shutting down")
            self.apply(Shutdown(self._now()))

    def status(self) -> pb.InstanceStatus:
        answer = status(self._state, self._analysis.counts(self._now()))
        answer.controller_pid = os.getpid()
        answer.agent_pid = int(self._layout.lock.read_text() or 0)
        return answer

    async def renew_certificates(self) -> pb.RenewCertificatesResponse:
        """Have every proxy read the files of its certificates."""
        return await renew_certificates(self._state, self._layout.address_of)

    async def metrics(self) -> str:
        """The series of every process, in Prometheus' text format."""
        return await scrape(self._state, self._counts, self._layout.address_of)

    def _now(self) -> float:
        return self._loop.time()

    def _apply_or_end(self, event: Event) -> None:
        """For the loop's callbacks, whose exceptions end nothing: a fault ends this process, the agent restarts it."""
        try:
            self.apply(event)
        except Exception as error:
            if not self._finished.done():
                self._finished.set_exception(error)

    def _engine_lost(self, error: EngineError) -> None:
        if not self._finished.done():
            self._finished.set_exception(error)

    def _terminated(self) -> None:
        self._tasks.create_task(self.shutdown(forget=False))

    # -- after each event ---------------------------------------------------------------------------------------------

    def _publish_soon(self) -> None:
        """Once a turn of the loop, however many events come in it."""
        if not self._publishing:
            self._publishing = True
            self._loop.call_soon(self._publish)

    def _publish(self) -> None:
        self._publishing = False
        self.publisher.publish(view(self._state, self._layout.address_of, self._store.code))

    def _follow_processes(self) -> None:
        """Connect to each replica that has started, drop what is gone."""
        for replica in self._state.replicas.values():
            if replica.pid and replica.id not in self._links:
                address = self._layout.address_of(replica.id)
                link = ReplicaLink(replica.id, address, self._replica_reported, self._load_reported)
                self._links[replica.id] = (link, self._tasks.create_task(link.watch()))
        for replica_id in self._links.keys() - self._state.replicas.keys():
            self._links.pop(replica_id)[1].cancel()
        for proxy in self._state.proxies.values():
            if proxy.pid and proxy.id not in self._proxy_watches:
                self._proxy_watches[proxy.id] = self._tasks.create_task(self._watch_proxy(proxy.id))
        for proxy_id in self._proxy_watches.keys() - self._state.proxies.keys():
            self._proxy_watches.pop(proxy_id).cancel()

    def _announce(self) -> None:
        """Tell who started the instance that it serves, or cannot."""
        if not self._announces:
            return
        proxies = self._state.proxies.values()
        messages = [proxy.message for proxy in proxies if proxy.message]
        healthy = sum(proxy.state is ProxyStatus.HEALTHY for proxy in proxies)
        if messages or healthy == self._state.num_proxies:
            self._announces = False
            part = self._layout.ready.with_suffix(".part")
            part.write_text(json.dumps({"error": messages[0] if messages else None}))
            part.rename(self._layout.ready)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = next_wakeup(self._state, self._now())
        self._timer = None if due is None else self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._apply_or_end(Tick(self._now()))

    def _wake_analysis(self) -> None:
        if self._analysis_timer is None and self._analysis.active:
            self._analysis_timer = self._loop.call_later(_ANALYSIS_INTERVAL_S, self._analyse)

    def _analyse(self) -> None:
        """Roll back the canaries that fail too often."""
        self._analysis_timer = None
        now = self._now()
        for app, release, reason in self._analysis.decide(now):
            self._apply_or_end(RollBackCanary(now, app, reason, release))
        self._wake_analysis()

    # -- commands -----------------------------------------------------------------------------------------------------

    def _carry_out(self, command: Command) -> None:
        match command:
            case StartReplica():
                logger.info("replica %s of %s:%s starts", command.id, command.key.app, command.key.name)
                self._counts.replica_started(command.key)
                code = self._store.code(command.target.code_digest)
                self._run(self._start(specs.replica_process(self._layout, self._state.options.in_force, command, code)))
            case StopReplica():
                logger.info("replica %s stops", command.id)
                self._run(self._stop_replica(command))
            case ReconfigureReplica():
                logger.info("replica %s is reconfigured", command.id)
                self._run(self._reconfigure(command))
            case TellWorldSize():
                self._run(self._tell_world_size(command))
            case TellOptions():
                self._run(self._tell_options(command))
            case Warn():
                logger.warning(command.message)
            case CheckHealth():
                self._run(self._check_health(command))
            case CheckProxy():
                self._run(self._check_proxy(command))
            case StartProxy():
                self._run(self._start(specs.proxy_process(self._layout, command)))
            case StopProxy():
                self._run(self._signal(self._engine.stop(command.id)))
            case Kill():
                logger.warning("%s is killed", command.id)
                self._run(self._signal(self._engine.kill(command.id)))
            case Finish():
                self._finished.set_result(None)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.create_task(work)

    async def _start(self, spec: ProcessSpec) -> None:
        try:
            process = await self._engine.start(spec)
        except EngineError as error:
            logger.error("%s cannot be started: %s", spec.id, error)
            self.apply(ProcessEnded(self._now(), spec.id, f"The process cannot be started: {error}"))
        else:
            self.apply(ProcessStarted(self._now(), process.id, process.pid, process.started_s))

    async def _signal(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except EngineError as error:
            logger.error("a process could not be signalled: %s", error)

    async def _stop_replica(self, command: StopReplica) -> None:
        try:
            await self._link(command.id).stop(command.timeout_s)
        except (RpcError, KeyError):
            # It does not listen, perhaps not yet; SIGTERM means the same to it.
            await self._signal(self._engine.stop(command.id))
        # It answered and ends once its connections have: it should not wait for this one.
        if command.id in self._links:
            self._links[command.id][1].cancel()

    async def _reconfigure(self, command: ReconfigureReplica) -> None:
        target = command.target
        try:
            error = await self._link(command.id).reconfigure(_reconfigure_request(command))
        except (RpcError, KeyError) as failure:
            error = f"The replica could not be reconfigured: {failure}"
        ongoing = target.options.max_ongoing_requests
        self.apply(Reconfigured(self._now(), command.id, target.config_version, ongoing, error))

    async def _tell_world_size(self, command: TellWorldSize) -> None:
        try:
            await self._link(command.id).reconfigure(_reconfigure_request(command))
        except (RpcError, KeyError) as error:
            # It is ending, or its health check will tell; it serves as well without knowing.
            logger.info("replica %s was not told that there are %d: %s", command.id, command.world_size, error)

    async def _tell_options(self, command: TellOptions) -> None:
        try:
            answer = await self._link(command.id).take_options(specs.options_request(self._state.options.in_force))
        except (RpcError, KeyError) as error:
            logger.warning("replica %s was not told the new options: %s", command.id, error)
        else:
            if answer.unknown:
                services = ", ".join(answer.unknown)
                logger.error("replica %s cannot serve %s: %s", command.id, services, answer.error)

    async def _check_health(self, command: CheckHealth) -> None:
        replica, began = self._state.replicas.get(command.id), self._now()
        try:
            answer = await self._link(command.id).check_health(command.timeout_s)
            healthy, message = answer.healthy, answer.message
        except (RpcError, KeyError) as error:
            healthy, message = False, str(error)
        if not healthy:
            logger.warning("replica %s failed a health check: %s", command.id, message)
        if replica is not None:
            self._counts.health_checked(replica.key, self._now() - began, healthy=healthy)
        self.apply(HealthChecked(self._now(), command.id, healthy, message))

    async def _check_proxy(self, command: CheckProxy) -> None:
        answered = await proxy_health.answers(self._layout.address_of(command.id), command.timeout_s)
        if not answered:
            logger.warning("proxy %s did not answer within %g s", command.id, command.timeout_s)
        self.apply(ProxyChecked(self._now(), command.id, answered))

    def _link(self, replica_id: str) -> ReplicaLink:
        return self._links[replica_id][0]

    # -- reports ------------------------------------------------------------------------------------------------------

    def _replica_reported(self, replica_id: str, phase: Phase, report: pb.ReplicaState) -> None:
        if phase is Phase.FAILED:
            logger.error("replica %s failed to start: %s", replica_id, report.message)
        models = tuple(report.multiplexed_model_ids)
        stats = report.routing_stats_json
        self.apply(ReplicaReported(self._now(), replica_id, phase, report.message, models, stats))

    def _load_reported(self, replica_id: str, report: pb.ReplicaState) -> None:
        stats = report.autoscaling_stats
        self._autoscaler.replica_reported(self._state, replica_id, report.ongoing, stats, self._now())

    def _process_exited(self, exit_: ProcessExit) -> None:
        reason = _reason(exit_.code)
        if (replica := self._state.replicas.get(exit_.id)) is not None:
            if not replica.serves and replica.kill_at is None:
                reason += _tail(self._layout.output(exit_.id))
            if replica.kill_at is None:
                logger.warning("replica %s: %s", exit_.id, reason)
        ready = self._layout.of_process(exit_.id, "ready")
        if (proxy := self._state.proxies.get(exit_.id)) is not None and proxy.state is not ProxyStatus.DRAINING:
            reason = _read_ready(ready).get("error") or reason + _tail(self._layout.output(exit_.id))
            logger.warning("proxy %s: %s", exit_.id, reason)
        ready.unlink(missing_ok=True)
        self._apply_or_end(ProcessEnded(self._now(), exit_.id, reason))

    async def _watch_proxy(self, proxy_id: str) -> None:
        """Wait for the proxy to say where it listens; a file is all that a proxy and its engine need to share."""
        path = self._layout.of_process(proxy_id, "ready")
        while not _read_ready(path):  # noqa: ASYNC110 (the event is another process's)
            await asyncio.sleep(_PROXY_POLL_S)
        self.proxy_reported(proxy_id)


def _reconfigure_request(command: ReconfigureReplica | TellWorldSize) -> pb.ReconfigureRequest:
    return pb.ReconfigureRequest(
        config_json=command.target.config_json, rank=command.rank, world_size=command.world_size
    )


def _services(options: pb.InstanceOptions) -> tuple[object, ...]:
    return list(options.grpc_methods), list(options.file_descriptors)


def _read_ready(path: Path) -> dict[str, Any]:
    """What a proxy wrote into its ready file, empty while it has not."""
    try:
        said: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return said


def _reason(code: int | None) -> str:
    if code is None:
        return "The process ended."
    if code < 0:
        return f"The process was ended by {signal.Signals(-code).name}."
    return f"The process ended with exit code {code}."


def _tail(path: Path) -> str:
    try:
        text = path.read_bytes()[-_OUTPUT_TAIL:].decode(errors="replace").strip()
    except OSError:
        return ""
    return f" Its last output:\n{text}" if text else ""
