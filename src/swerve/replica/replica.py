"""A replica: one instance of the user's class, the calls that it serves, and its life from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from typing import TYPE_CHECKING, Any

import cloudpickle

from swerve import multiplex
from swerve.context import ReplicaContext, ReplicaRank, set_replica_context
from swerve.generated import control_pb2
from swerve.http_ingress import is_ingress
from swerve.net.bundles import BundleServer
from swerve.net.connection import Connection
from swerve.net.mailbox import Mailbox
from swerve.net.server_call import CallSide, ServerCall
from swerve.net.streams import Acceptor, Headers, StreamHandler
from swerve.net.timers import TimerWheel
from swerve.replica.errors import stack_trace
from swerve.replica.grpc_call import GrpcCall, GrpcHead
from swerve.replica.handle_call import CALL, STREAM, HandleCall
from swerve.replica.observer import ReplicaObserver
from swerve.replica.slots import Slots
from swerve.replica.threads import ThreadPool
from swerve.replica.user_call import UserCall
from swerve.replica.user_code import UserCode
from swerve.routing.options import BUILT_IN
from swerve.servicers import ServedMethod, Servicers
from swerve.servicers import load as load_servicers
from swerve.wire import bundle
from swerve.wire.frames import ErrorCode
from swerve.wire.known_headers import SharedHeaders
from swerve.wire.message import MAX_MESSAGE_SIZE
from swerve.wire.status import Status, StatusCode

if TYPE_CHECKING:
    from swerve.replica.asgi_app import AsgiApp

logger = logging.getLogger("swerve.replica")

Phase = control_pb2.ReplicaState

_UNKNOWN_METHOD = Status(
    StatusCode.UNIMPLEMENTED,
    "The replica cannot import the servicer function of this method; the controller's log says why.",
)
_PRIVATE_PREFIX = b"/swerve.control.v1.Replica/"
# Where a proxy sends HTTP requests and WebSockets.
_HTTP = b"/swerve.control.v1.Http/Request"
_WEBSOCKET = b"/swerve.control.v1.Http/WebSocket"

# State changes reach the controller at most this often (Ray Serve pushes model ids as often).
_PUBLISH_INTERVAL_S = 0.1
# Ray Serve asks for the user's own metrics as often by default, and waits as long for them.
_STATS_INTERVAL_S = 2.0
_STATS_TIMEOUT_S = 10.0
# They are in each view that each caller gets.
_MAX_ROUTING_STATS = 16 * 1024
# A class's finalizer may not hold up the end of its replica for longer.
_DESTROY_TIMEOUT_S = 5.0


class Replica:
    """Serves calls while RUNNING and below `max_ongoing_requests`; turns others away before user code sees them."""

    def __init__(
        self, spec: control_pb2.ReplicaSpec, loop: asyncio.AbstractEventLoop, observer: ReplicaObserver
    ) -> None:
        config: dict[str, Any] = json.loads(spec.config_json)
        self.app = spec.app
        self.deployment = spec.deployment
        self.loop = loop
        self.mailbox = Mailbox(loop)
        self.pool = ThreadPool(int(config["max_ongoing_requests"]))
        self.timers = TimerWheel(loop)
        self.user_code: UserCode = UserCode(_not_loaded, (), {})
        self.asgi_app: AsgiApp | None = None
        self.max_message_size: int
        self.keep_status_on_exception: bool
        self._take_limits(spec.grpc_options_json)
        self.slots = Slots(int(config["max_ongoing_requests"]))
        # Takes the calls of the replica's private service; set before it listens.
        self.private: Acceptor
        # All that lead here; those of the listener.
        self.connections: Collection[Connection] = ()
        self._spec = spec
        self._config = config
        self._observer = observer
        self._phase = Phase.INITIALIZING
        self._message = ""
        self._methods: dict[bytes, ServedMethod] = {}
        self._file_descriptors: frozenset[bytes] = frozenset()
        # Methods that the gRPC port serves and that this process could not learn.
        self._unknown: frozenset[bytes] = frozenset()
        self._stats: dict[str, float] = {}
        self._routing_stats_json = ""
        self._recording: list[asyncio.Task[None]] = []
        # How often the state has changed, so that each watcher sees each change; the event is set for a moment then.
        self._version = 0
        self._changed = asyncio.Event()
        # Set when a call of a draining replica has ended.
        self._ended = asyncio.Event()
        self.stopped = asyncio.Event()

    # --- calls -----------------------------------------------------------------------------------------------------

    def accept(
        self, connection: Connection, stream_id: int, headers: Headers, end_stream: bool
    ) -> StreamHandler | None:
        """An `Acceptor`. Calls of user code come only while it runs; the controller's always."""
        shared = SharedHeaders(headers)
        path = shared.fields[b":path"]
        if path.startswith(_PRIVATE_PREFIX) and path not in self._methods:
            if path == bundle.PATH:
                return BundleServer(connection, stream_id, self._accept_call, self._observer.pace)
            return self.private(connection, stream_id, headers, end_stream)
        return self._accept_call(connection, stream_id, shared, (), end_stream)

    def _accept_call(
        self, side: CallSide, number: int, shared: SharedHeaders, added: Headers, end_stream: bool
    ) -> StreamHandler | None:
        """A `BundleAcceptor`, also of calls with streams of their own. A call takes its slot when its request has come,
        see `Slots`."""
        if not self.slots.is_open:
            side.reset(number, ErrorCode.REFUSED_STREAM)
            return None
        path = shared.fields[b":path"]
        method = self._methods.get(path)
        if method is not None:
            head: GrpcHead | None = shared.verdict
            if head is None:
                head = shared.verdict = GrpcHead(shared.fields)
            call = GrpcCall(side, number, shared.headers + added, head, added, method, self)
            if end_stream or method.client_streaming:
                call.begin(end_stream)
            return call
        headers = shared.headers + added
        fields = shared.fields | dict(added) if added else shared.fields
        if path in (CALL, STREAM):
            return HandleCall(side, number, headers, fields, self)
        if path == _HTTP:
            # Only a replica that gets HTTP pays for Starlette.
            from swerve.replica.http_call import HttpCall

            return HttpCall(side, number, headers, fields, self)
        if path == _WEBSOCKET:
            from swerve.replica.websocket_call import WebSocketCall

            return WebSocketCall(side, number, headers, fields, self)
        if path in self._unknown:
            refused = ServerCall(side, number, headers, self.max_message_size)
            refused.finish(_UNKNOWN_METHOD, ((b"request_id", fields.get(b"request_id", b"")),))
            return refused
        # A method that is new, and that this replica has not been told of yet.
        side.reset(number, ErrorCode.REFUSED_STREAM)
        return None

    @property
    def ongoing(self) -> int:
        """Calls that run or stand in line here."""
        return self.slots.taken + self.slots.waiting

    def call_finished(self, call: UserCall) -> None:
        """Part of `Runtime`: `call` has ended, and its user code."""
        self._observer.ended(call)
        if call.has_slot:
            self.slots.release()
        if not self.slots.is_open:
            self._ended.set()

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load and construct user code. Never raises: what went wrong becomes the state FAILED with the traceback."""
        try:
            await self._construct()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._set_phase(Phase.FAILED, stack_trace(error))
            logger.error("Starting failed:\n%s", self._message)
        else:
            self._set_phase(Phase.RUNNING)
            logger.info("Started")
            if self.user_code.has_autoscaling_stats:
                self._recording.append(self.loop.create_task(self._record_stats()))
            if self.user_code.has_routing_stats:
                self._recording.append(self.loop.create_task(self._record_routing_stats()))

    async def _construct(self) -> None:
        spec = self._spec
        if spec.is_ingress and spec.grpc_servicer_functions:
            self._learn(load_servicers(spec.grpc_servicer_functions))
        code = cloudpickle.loads(spec.code)
        self.user_code = UserCode(code.target, code.init_args, code.init_kwargs)
        # The constructor may ask for its replica's context; the instance is in it as soon as there is one.
        self._set_context(spec.rank, spec.world_size)
        await self.user_code.construct()
        self._set_context(spec.rank, spec.world_size)
        if is_ingress(self.user_code.instance):
            from swerve.replica.asgi_app import AsgiApp

            self.asgi_app = await AsgiApp.start(self.user_code.instance)
        multiplex.on_models_changed = self._state_changed
        if self._config.get("user_config") is not None:
            await self.user_code.reconfigure(self._config["user_config"], spec.rank)
        await self.user_code.check_health()

    def _set_context(self, rank: int, world_size: int) -> None:
        set_replica_context(
            ReplicaContext(
                app_name=self.app,
                deployment=self.deployment,
                replica_tag=self._spec.replica_id,
                servable_object=self.user_code.instance,
                _deployment_config=self._config,
                rank=ReplicaRank(rank, 0, rank),
                world_size=world_size,
                code_version=self._spec.code_version,
            )
        )

    async def reconfigure(self, config: Mapping[str, Any], rank: int, world_size: int) -> None:
        """Take over a new configuration in place; what the user's `reconfigure` raises passes through."""
        previous = self._config.get("user_config")
        self._config = dict(config)
        # The pool first: calls that a new slot lets in need their threads.
        self.pool.size = int(config["max_ongoing_requests"])
        self.slots.limit = self.pool.size
        self._set_context(rank, world_size)
        # Whether its load is to be told may have changed.
        self._state_changed()
        if config.get("user_config") is not None and config["user_config"] != previous:
            await self.user_code.reconfigure(config["user_config"], rank)

    def _learn(self, servicers: Servicers) -> None:
        """What was learnt before stays: no proxy sends what is not served any more."""
        self._methods = self._methods | {path.encode(): method for path, method in servicers.methods.items()}
        self._file_descriptors |= frozenset(servicers.file_descriptors)

    def _take_limits(self, grpc_options_json: str) -> None:
        options: dict[str, Any] = json.loads(grpc_options_json or "{}")
        self.max_message_size = int(options.get("max_message_size", MAX_MESSAGE_SIZE))
        self.keep_status_on_exception = bool(options.get("keep_status_on_exception", False))

    async def take_options(self, request: control_pb2.TakeOptionsRequest) -> control_pb2.TakeOptionsResponse:
        """Learn the methods of servicer functions, then go by the limits, if the request has any.

        What has been imported stays as it is in a process: a method that was added to a module since cannot be learnt.
        """
        answer = control_pb2.TakeOptionsResponse()
        if not all(map(self._knows_method, request.methods)) or not self._has_files(request):
            sys.path += [entry for entry in request.sys_path if entry not in sys.path]
            try:
                # In a thread: calls go on meanwhile.
                self._learn(await asyncio.to_thread(load_servicers, request.grpc_servicer_functions))
            except Exception as error:
                answer.error = str(error)
        answer.unknown.extend(method.path for method in request.methods if not self._knows_method(method))
        answer.outdated = not self._has_files(request)
        if request.grpc_options_json:
            self._take_limits(request.grpc_options_json)
            self._unknown = frozenset(path.encode() for path in answer.unknown)
        return answer

    def _has_files(self, request: control_pb2.TakeOptionsRequest) -> bool:
        return self._file_descriptors.issuperset(request.file_descriptors)

    def _knows_method(self, asked: control_pb2.GrpcMethod) -> bool:
        method = self._methods.get(asked.path.encode())
        kinds = (asked.client_streaming, asked.server_streaming)
        return method is not None and (method.client_streaming, method.server_streaming) == kinds

    async def check_health(self) -> None:
        """Raise if the user's `check_health` does."""
        await self.user_code.check_health()

    async def stop(self, timeout_s: float) -> None:
        """Take no more calls, give those that run `timeout_s` seconds, destroy the user's object."""
        if self._phase == Phase.DRAINING:
            await self.stopped.wait()
            return
        self._set_phase(Phase.DRAINING)
        for recording in self._recording:
            recording.cancel()
        for call in self._not_begun():
            if call.repeatable:
                call.turn_away()
        try:
            async with asyncio.timeout(timeout_s):
                while self.ongoing or self._not_begun():
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            logger.warning("Stopping with %d calls still running after %s s", self.ongoing, timeout_s)
        try:
            async with asyncio.timeout(_DESTROY_TIMEOUT_S):
                await multiplex.unload_all()
                if self.asgi_app is not None:
                    await self.asgi_app.stop()
                await self.user_code.destroy()
        except Exception:
            logger.exception("Destroying the deployment's object failed")
        self.stopped.set()

    def _not_begun(self) -> list[UserCall]:
        """Calls whose user code has not begun: their requests are incomplete, or they wait for a slot."""
        calls: list[object] = []
        for connection in self.connections:
            calls += connection.streams.values()
            if isinstance(connection.bundles, BundleServer):
                calls += connection.bundles.calls.values()
        return [call for call in calls if isinstance(call, UserCall) and not call.has_slot and not call.done]

    # --- state -----------------------------------------------------------------------------------------------------

    def _set_phase(self, phase: control_pb2.ReplicaState.Phase, message: str = "") -> None:
        self._phase = phase
        self._message = message
        self.slots.is_open = phase == Phase.RUNNING
        self._state_changed()

    def _state_changed(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed.clear()

    def state(self) -> control_pb2.ReplicaState:
        """What the controller sees."""
        return control_pb2.ReplicaState(
            phase=self._phase,
            message=self._message,
            ongoing=self.ongoing,
            multiplexed_model_ids=multiplex.loaded_model_ids(),
            pid=os.getpid(),
            autoscaling_stats=self._stats,
            routing_stats_json=self._routing_stats_json,
        )

    async def watch(self) -> AsyncIterator[control_pb2.ReplicaState]:
        """The state now, and again after each change; changes of the load are looked for while that matters."""
        while True:
            version = self._version
            state = self.state()
            yield state
            while self._version == version and not (self._is_autoscaled and self.ongoing != state.ongoing):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PUBLISH_INTERVAL_S if self._is_autoscaled else None):
                        await self._changed.wait()
            changed = self._version != version
            await asyncio.sleep(_PUBLISH_INTERVAL_S if changed and self._phase == Phase.RUNNING else 0)

    @property
    def _is_autoscaled(self) -> bool:
        return self._config.get("autoscaling_config") is not None

    async def _record_stats(self) -> None:
        """Ask the user's object for its own metrics, again and again."""
        while True:
            if self._is_autoscaled:
                try:
                    async with asyncio.timeout(_STATS_TIMEOUT_S):
                        stats = await self.user_code.autoscaling_stats()
                except Exception:
                    logger.exception("record_autoscaling_stats failed")
                else:
                    if stats != self._stats:
                        self._stats = stats
                        self._state_changed()
            await asyncio.sleep(_STATS_INTERVAL_S)

    async def _record_routing_stats(self) -> None:
        """Ask the user's object what request routers should know of it, again and again. No built-in router looks."""
        while True:
            router = self._config["request_router_config"]
            if router["request_router_class"] not in BUILT_IN:
                try:
                    async with asyncio.timeout(router["request_routing_stats_timeout_s"]):
                        stats = _json_of(await self.user_code.routing_stats())
                except Exception:
                    logger.exception("record_routing_stats failed")
                else:
                    if stats != self._routing_stats_json:
                        self._routing_stats_json = stats
                        self._state_changed()
            await asyncio.sleep(router["request_routing_stats_period_s"])


def _json_of(stats: Any) -> str:
    if not isinstance(stats, dict):
        raise TypeError(f"record_routing_stats must return a dict, got: {stats!r:.100}.")
    text = json.dumps(stats)
    if len(text) > _MAX_ROUTING_STATS:
        raise ValueError(
            f"record_routing_stats returned {len(text)} characters of JSON; callers get {_MAX_ROUTING_STATS} at most."
        )
    return text


def _not_loaded() -> None:
    raise RuntimeError("user code is not loaded yet")
