"""The proxy process: `python -m swerve.proxy.process <spec file>`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from swerve.caller.queue_metrics import queue_lines
from swerve.caller.queues import Queue, QueueReporter
from swerve.caller.target import Target
from swerve.control.client import ControllerClient
from swerve.engine.guard import PROXY_LOOKS, start_guard
from swerve.exceptions import InterceptorError
from swerve.generated import control_pb2
from swerve.net.allocator import keep_freed_memory
from swerve.net.server import MetadataDict, Unary, serve
from swerve.net.tls import TlsError
from swerve.observe.access import AccessLog
from swerve.observe.collector import settle
from swerve.observe.logs import configure
from swerve.observe.metrics import Labels, text_of, version_label
from swerve.proxy.call_reporter import CallReporter
from swerve.proxy.certificates import CHECK_S
from swerve.proxy.ingress import Ingress, ProxiedCall
from swerve.proxy.observer import ProxyObserver
from swerve.proxy.ports import Ports, has_grpc, has_ports
from swerve.proxy.routes import Upstream
from swerve.wire.status import RpcError

logger = logging.getLogger("swerve.proxy")

# What a proxy that cannot bind its port exits with; trying again is pointless.
EXIT_CANNOT_BIND = 3
# A port that cannot be bound beside those that are served is tried again so often.
_RETRY_S = 1.0
# How long a proxy that stops waits for its successor, which starts within half a second.
_SUCCESSION_S = 10.0
# What the private service may take to end.
_CLOSE_GRACE_S = 0.2
# Free memory that stays with the process: the windows of 64 calls with large messages.
_KEPT_MEMORY = 16 << 20


class Proxy:
    """One proxy: follows the view and serves the ports that the view's options name."""

    def __init__(self, spec: control_pb2.ProxySpec, loop: asyncio.AbstractEventLoop) -> None:
        self._spec = spec
        self._loop = loop
        self._view = control_pb2.View()
        self._view_changed = asyncio.Event()
        self._ingress: Ingress | None = None
        self._ports: Ports | None = None
        self._observer: ProxyObserver | None = None
        self._controller = ControllerClient(spec.controller_address)
        self._access_log: AccessLog | None = None
        # Import paths of the interceptors, and their timeout in seconds.
        self._intercepted: tuple[tuple[str, ...], float] = ((), 0.0)
        self._retrying: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self.exit_code = 0
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or until the port cannot be bound."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stopping.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._renew_certificates)
        private = serve(
            self._spec.address,
            {
                "/swerve.control.v1.Proxy/CheckHealth": Unary(_answer_health),
                "/swerve.control.v1.Proxy/Metrics": Unary(self._answer_metrics),
                "/swerve.control.v1.Proxy/RenewCertificates": Unary(self._answer_renewal),
            },
        )
        following = self._loop.create_task(self._follow())
        stopping = self._loop.create_task(self._stopping.wait())
        try:
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                await following
            elif self._ports is not None:
                await self._drain(self._ports)
        finally:
            for task in (following, stopping, self._retrying, self._checking):
                if task is not None:
                    task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            await private.close(_CLOSE_GRACE_S)
            if self._access_log is not None:
                self._access_log.flush()

    async def _follow(self) -> None:
        client = self._controller
        queues = QueueReporter(client, "proxy", self._spec.proxy_id, self._queue)
        calls = CallReporter(client)
        async for view in client.watch_view("proxy", self._spec.proxy_id):
            if self._ingress is None or self._ports is None:
                self._ingress, self._ports = self._begin(view)
            failed = False
            try:
                # First: nothing new is served without them.
                await self._intercept(view.options, self._ingress)
            except InterceptorError as error:
                failed = True
                if self._fails(self._ports, error):
                    return
                view.options.CopyFrom(self._view.options)
            self._view = view
            self._view_changed.set()
            self._ingress.update(view)
            self._ports.update(view)
            queues.update(view)
            calls.update(self._ingress.tallies)
            reported = await self._serve(self._ports)
            if self.exit_code:
                return
            with contextlib.suppress(RpcError):
                await client.saw_view(self._spec.proxy_id, view.version, reported=reported or failed)

    async def _serve(self, ports: Ports) -> bool:
        """Serve the ports of the newest view. True when the ready file says something new."""
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None
        if self._stopping.is_set():
            return False
        try:
            if not await ports.serve(self._view):
                return False
        except (OSError, TlsError) as error:
            if not self._fails(ports, error):
                self._retrying = self._loop.create_task(self._try_again(ports))
            return True
        self._report(ports)
        if ports.certificates and self._checking is None:
            self._checking = self._loop.create_task(self._check_certificates(ports))
        settle()
        return True

    def _fails(self, ports: Ports, error: Exception) -> bool:
        """Report what cannot be served as the options say. True when that ends this proxy: it has served nothing."""
        self._report(ports, error=str(error))
        if ports.grpc_address is None and ports.http_address is None:
            self.exit_code = EXIT_CANNOT_BIND
            return True
        logger.error("%s Serving as before.", error)
        return False

    async def _intercept(self, options: control_pb2.InstanceOptions, ingress: Ingress) -> None:
        """Have the operator's interceptors see each call first: the only code of others that a proxy runs.

        Raises:
            InterceptorError: one cannot be used. Those before stay.
        """
        named: dict[str, Any] = json.loads(options.grpc_options_json or "{}")
        paths = named.get("interceptors", []) if has_grpc(options) else []
        wanted = (tuple(paths), float(named.get("interceptor_timeout_s", 5.0)) if paths else 0.0)
        if wanted == self._intercepted:
            return
        if paths:
            from swerve.interceptors import check, load
            from swerve.proxy.interception import Interceptors

            sys.path[:0] = [entry for entry in options.sys_path if entry not in sys.path]
            # Modules may take long to import, and calls go on meanwhile; objects are made where they are called.
            for path in paths:
                await asyncio.to_thread(check, path)
            ingress.intercept(Interceptors(load(paths), wanted[1], self._loop))
        else:
            ingress.intercept(None)
        self._intercepted = wanted

    async def _try_again(self, ports: Ports) -> None:
        await asyncio.sleep(_RETRY_S)
        self._retrying = None
        if await self._serve(ports):
            with contextlib.suppress(RpcError):
                await self._controller.saw_view(self._spec.proxy_id, self._view.version, reported=True)

    def _queue(self, app: str, deployment: str, release: str) -> Queue | None:
        # The view names all deployments that are autoscaled, the proxy calls ingresses alone.
        key = Upstream(app, deployment, release)
        target = self._ingress.targets.get(key) if self._ingress is not None else None
        return None if target is None else target.router

    def _begin(self, view: control_pb2.View) -> tuple[Ingress, Ports]:
        config: dict[str, Any] = json.loads(view.options.logging_config_json or "{}")
        name = f"proxy_{self._spec.proxy_id}"
        handler = configure("proxy", self._spec.proxy_id, Path(self._spec.log_dir), name, config)
        if config.get("enable_access_log", True):
            self._access_log = AccessLog(handler, "proxy", self._spec.proxy_id, self._loop)
        self._observer = ProxyObserver(self._access_log)
        ingress = Ingress(self._loop, self._observer)
        return ingress, Ports(ingress, self._access_log, self._all_metrics, shared=self._spec.shares_ports)

    # --- certificates ----------------------------------------------------------------------------------------------

    async def _check_certificates(self, ports: Ports) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            for certificate in ports.certificates:
                certificate.check()

    def _renew_certificates(self) -> control_pb2.RenewCertificatesResponse:
        answer = control_pb2.RenewCertificatesResponse()
        for certificate in [] if self._ports is None else self._ports.certificates:
            if fault := certificate.renew():
                answer.faults.append(fault)
            else:
                answer.renewed.append(certificate.in_use)
        return answer

    async def _answer_renewal(self, request: bytes, metadata: MetadataDict) -> bytes:
        return self._renew_certificates().SerializeToString()

    # --- metrics ---------------------------------------------------------------------------------------------------

    def _own_metrics(self) -> str:
        if self._ingress is None or self._ports is None or self._observer is None:
            return ""
        own: Labels = (("proxy", self._spec.proxy_id),)
        targets = {target: self._version(target) for target in self._ingress.targets.values()}
        ingresses = {(target.app, version): target.deployment for target, version in targets.items()}
        text = self._observer.prometheus_text(own, ingresses)
        if self._ports.http_observer is not None:
            text += self._ports.http_observer.prometheus_text(own)
        lines = queue_lines(targets, self._spec.proxy_id, lambda target: version_label(targets[target]))
        return text + text_of(lines)

    def _version(self, target: Target[ProxiedCall]) -> str:
        side = self._ingress.side(target) if self._ingress is not None else None
        return "" if side is None else side.version

    async def _answer_metrics(self, request: bytes, metadata: MetadataDict) -> bytes:
        return control_pb2.MetricsResponse(text=self._own_metrics()).SerializeToString()

    async def _all_metrics(self) -> str:
        """The whole instance's, or this proxy's while the controller, which asks all processes, is away."""
        try:
            return await self._controller.metrics()
        except RpcError as error:
            logger.warning("Only the proxy's own metrics are given: %s", error.status.details)
            return self._own_metrics()

    # --- life ------------------------------------------------------------------------------------------------------

    def _report(self, ports: Ports, *, error: str | None = None, draining: bool = False) -> None:
        """Say where this proxy serves, by way of the ready file, which appears whole or not at all."""
        said = {"grpc": ports.grpc_address, "http": ports.http_address, "error": error, "draining": draining}
        ready = Path(self._spec.ready_file)
        scratch = ready.with_name(ready.name + ".new")
        scratch.write_text(json.dumps(said))
        scratch.rename(ready)

    async def _drain(self, ports: Ports) -> None:
        """Say unhealthy, let another proxy take over, ask clients to go, let running calls finish."""
        assert self._ingress is not None
        self._ingress.builtin.drain()
        try:
            self._report(ports, draining=True)
        except OSError as error:
            # The calls that run matter more than a successor that begins at once.
            logger.warning("It cannot be told that this proxy drains: %s", error)
        logger.info("Draining")
        await ports.drain(self._view.drain_s, linger=not await self._is_succeeded())
        logger.info("Drained")

    async def _is_succeeded(self) -> bool:
        """Wait until another proxy takes the connections that would come here. False: none will."""
        try:
            async with asyncio.timeout(_SUCCESSION_S):
                await self._controller.saw_view(self._spec.proxy_id, self._view.version, reported=True)
                while has_ports(self._view.options) and not self._view.draining:
                    # Those that stop together must not count on each other.
                    if self._view.proxy_ids and self._spec.proxy_id not in self._view.proxy_ids:
                        return True
                    self._view_changed.clear()
                    await self._view_changed.wait()
        except (RpcError, TimeoutError):
            logger.info("No other proxy takes over")
        return False


async def _answer_health(request: bytes, metadata: MetadataDict) -> bytes:
    return control_pb2.CheckHealthResponse(healthy=True).SerializeToString()


async def _serve(spec: control_pb2.ProxySpec) -> int:
    proxy = Proxy(spec, asyncio.get_running_loop())
    await proxy.run()
    return proxy.exit_code


def main() -> None:
    """Read the specification and serve."""
    spec_file = Path(sys.argv[1])
    spec = control_pb2.ProxySpec.FromString(spec_file.read_bytes())
    start_guard(spec_file, PROXY_LOOKS)
    keep_freed_memory(_KEPT_MEMORY)
    sys.exit(uvloop.run(_serve(spec)))


if __name__ == "__main__":
    main()
