"""A user's request router in this process: loaded, told of replicas and calls, and asked, in a thread of its own.

User code may block or fail, and neither may hold up this process's event loop: questions go to the thread and answers
come back, and `routing.asked` decides what happens to a call meanwhile. Imported only where a deployment has one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import itertools
import json
import logging
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from swerve.caller.loop_thread import LoopThread
from swerve.deployment_id import DeploymentID
from swerve.net.mailbox import Mailbox
from swerve.request_router import PendingRequest, ReplicaID, RequestMetadata, RequestRouter, RunningReplica
from swerve.routing.asked import ANSWER_TIMEOUT_S, Asked
from swerve.routing.calls import CallDescription, RoutedCall
from swerve.routing.options import RouterOptions
from swerve.routing.replicas import Replica
from swerve.routing.sessions import SESSION_FIELD

logger = logging.getLogger("swerve.caller")


class UserRouter:
    """The side of the event loop that calls live on. `on_answer` is called there, soon after answers have come."""

    def __init__(
        self,
        app: str,
        deployment: str,
        code: bytes,
        sys_path: Sequence[str],
        options: RouterOptions,
        loop: asyncio.AbstractEventLoop,
        on_answer: Callable[[], None],
    ) -> None:
        # What the router knows each call as, from its first question to its end.
        self._pending: dict[RoutedCall, PendingRequest] = {}
        self.affinity: Asked[RoutedCall] = Asked(options, lambda call: self._pending.pop(call, None))
        self._id = DeploymentID(deployment, app)
        self._loop = loop
        self._on_answer = on_answer
        self._answering = False
        self._was_stuck = False
        self._numbers = itertools.count(1)
        self._thread = LoopThread("swerve-router", untrusted=True)
        self._inside = _Inside(self._id, Mailbox(loop), self)
        self._post(functools.partial(self._inside.load, code, list(sys_path), options))

    def close(self) -> None:
        """End the thread. Calls that are being decided go elsewhere."""
        self.affinity.fail()
        self._thread.abandon()

    def replicas_changed(self, replicas: Sequence[Replica]) -> None:
        self._post(functools.partial(self._inside.update, list(replicas)))

    def attend(self) -> None:
        """Pass on the questions that there are, and what became of the answers."""
        affinity = self.affinity
        for call, replica_id in affinity.placed:
            self._post(functools.partial(self._inside.routed, self._pending_of(call), replica_id))
        affinity.placed.clear()
        questions = [(call, self._pending_of(call)) for call in affinity.take_questions()]
        if questions:
            self._post(functools.partial(self._inside.ask, questions))
        if affinity.stuck and not self._was_stuck:
            logger.error(
                "The request router of %s took longer than %s s to choose: calls go by power of two choices until it "
                "answers",
                self._id,
                ANSWER_TIMEOUT_S,
            )
        self._was_stuck = affinity.stuck

    def completed(self, call: RoutedCall, replica: Replica) -> None:
        """A call at `replica` has ended."""
        pending = self._pending.pop(call, None)
        if pending is not None:
            request_id = pending.metadata.internal_request_id
            self._post(functools.partial(self._inside.completed, replica.info.replica_id, request_id))

    def answered(self, call: RoutedCall, ranks: Sequence[Sequence[str]] | None) -> None:
        """Called by way of the mailbox."""
        self.affinity.answered(call, ranks)
        if not self._answering:
            self._answering = True
            self._loop.call_soon(self._tell)

    def failed(self) -> None:
        """Called by way of the mailbox: there is no router."""
        self.affinity.fail()
        self._on_answer()

    def _tell(self) -> None:
        self._answering = False
        self._on_answer()

    def _pending_of(self, call: RoutedCall) -> PendingRequest:
        pending = self._pending.get(call)
        if pending is None:
            pending = self._pending[call] = _pending(call, call.describe(), next(self._numbers))
        return pending

    def _post(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # it was closed
            self._thread.loop.call_soon_threadsafe(function)


def _pending(call: RoutedCall, known: CallDescription, number: int) -> PendingRequest:
    metadata = RequestMetadata(
        request_id=known.request_id,
        internal_request_id=f"{known.request_id}-{number}",
        call_method=known.method,
        route=known.route,
        app_name=known.app,
        multiplexed_model_id=call.model_id,
        session_id=call.field(SESSION_FIELD),
        is_streaming=known.is_streaming,
    )
    return PendingRequest(metadata, time.time(), _arguments=known.arguments)


class _Inside:
    """The side of the router's thread. Its methods are called there, in order."""

    def __init__(self, deployment_id: DeploymentID, mailbox: Mailbox, outside: UserRouter) -> None:
        self._deployment_id = deployment_id
        self._mailbox = mailbox
        self._outside = outside
        self._router: RequestRouter | None = None
        self._replicas: dict[str, tuple[Replica, RunningReplica]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._hears_routed = self._hears_completed = False
        self._failure = ""

    def load(self, code: bytes, sys_path: Sequence[str], options: RouterOptions) -> None:
        # What the router's module imports is found where its application imports from.
        sys.path.extend(sys_path)
        try:
            cls = pickle.loads(code).target
            self._router = cls(deployment_id=self._deployment_id, handle_source="")
            self._router.initialize_state(**options.kwargs)
        except Exception:
            logger.exception("The request router of %s cannot be used", self._deployment_id)
            self._router = None
            self._mailbox.post(self._outside.failed)
            return
        finally:
            for folder in sys_path:
                sys.path.remove(folder)
        self._hears_routed = cls.on_request_routed is not RequestRouter.on_request_routed
        self._hears_completed = cls.on_request_completed is not RequestRouter.on_request_completed

    def update(self, replicas: Sequence[Replica]) -> None:
        known, self._replicas = self._replicas, {}
        for replica in replicas:
            info = replica.info
            source, running = known.get(info.replica_id, (None, None))
            if running is None or source is not replica:
                running = _running(replica, self._deployment_id)
            running.max_ongoing_requests = info.max_ongoing_requests
            running.multiplexed_model_ids = set(info.model_ids)
            running.routing_stats = json.loads(info.routing_stats_json or "{}")
            self._replicas[info.replica_id] = replica, running
        if self._router is not None:
            self._guarded(self._router.update_replicas, self._candidates())

    def ask(self, questions: Sequence[tuple[RoutedCall, PendingRequest]]) -> None:
        loop = asyncio.get_running_loop()
        for call, pending in questions:
            task = loop.create_task(self._choose(call, pending))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def routed(self, pending: PendingRequest, replica_id: str) -> None:
        if self._hears_routed and self._router is not None:
            replica = ReplicaID(replica_id, self._deployment_id)
            self._guarded(self._router.on_request_routed, pending, replica, None)

    def completed(self, replica_id: str, request_id: str) -> None:
        if self._hears_completed and self._router is not None:
            self._guarded(self._router.on_request_completed, ReplicaID(replica_id, self._deployment_id), request_id)

    async def _choose(self, call: RoutedCall, pending: PendingRequest) -> None:
        ranks: list[list[str]] | None = None
        if self._router is not None:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    chosen: Any = self._router.choose_replicas(self._candidates(), pending)
                    if inspect.isawaitable(chosen):
                        chosen = await chosen
                ranks = [[replica.replica_id.unique_id for replica in rank] for rank in chosen]
            except Exception as error:
                self._tell(error)
        self._mailbox.post(functools.partial(self._outside.answered, call, ranks))

    def _candidates(self) -> list[RunningReplica]:
        return [running for _, running in self._replicas.values()]

    def _guarded(self, method: Callable[..., Any], *args: Any) -> None:
        try:
            method(*args)
        except Exception as error:
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        """Log a failure of user code; the same one only once, for it may come with each call."""
        failure = f"{type(error).__name__}: {error}"
        if failure != self._failure:
            self._failure = failure
            logger.error("The request router of %s failed", self._deployment_id, exc_info=error)


def _running(replica: Replica, deployment_id: DeploymentID) -> RunningReplica:
    # Plain reads of another thread's integers.
    return RunningReplica(
        ReplicaID(replica.info.replica_id, deployment_id), lambda: replica.ongoing, lambda: replica.slot >= 0
    )
