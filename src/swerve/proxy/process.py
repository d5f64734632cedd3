"""The proxy process: `python -m swerve.proxy.process <spec file>`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import ssl
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from swerve.caller.queue_metrics import queue_lines
from swerve.caller.queues import Queue, QueueReporter
from swerve.caller.target import Target
from swerve.control.client import ControllerClient
from swerve.exceptions import InterceptorError
from swerve.generated import control_pb2
from swerve.net.address import Address
from swerve.net.allocator import keep_freed_memory
from swerve.net.listener import Listener, bind_tcp
from swerve.net.server import MetadataDict, Unary, serve
from swerve.net.tls import TlsError
from swerve.observe.access import AccessLog
from swerve.observe.collector import settle
from swerve.observe.logs import configure
from swerve.observe.metrics import Labels, text_of, version_label
from swerve.port_tls import PortTls, grpc_tls, http_tls
from swerve.proxy import client_limits
from swerve.proxy.call_reporter import CallReporter
from swerve.proxy.certificates import CHECK_S, Certificate
from swerve.proxy.ingress import Ingress, ProxiedCall
from swerve.proxy.observer import ProxyObserver
from swerve.proxy.request_watch import RequestWatch
from swerve.proxy.routes import Upstream
from swerve.wire.status import RpcError

if TYPE_CHECKING:
    from swerve.proxy.http import HttpIngress
    from swerve.proxy.http_observer import HttpObserver
    from swerve.proxy.http_server import HttpServer

logger = logging.getLogger("swerve.proxy")

# What a proxy that cannot bind its port exits with; trying again is pointless.
EXIT_CANNOT_BIND = 3
# Running calls may finish for this long after SIGTERM.
_DRAIN_S = 30.0
# What the private service may take to end.
_CLOSE_GRACE_S = 0.2
# Free memory that stays with the process: the windows of 64 calls with large messages.
_KEPT_MEMORY = 16 << 20


class Proxy:
    """One proxy: follows the view and serves the ports that the view's options name."""

    def __init__(self, spec: control_pb2.ProxySpec, loop: asyncio.AbstractEventLoop) -> None:
        self._spec = spec
        self._loop = loop
        self._listener: Listener | None = None
        self._request_watch: RequestWatch | None = None
        # Whether other proxies take new connections while this one drains.
        self._shared = False
        self._ingress: Ingress | None = None
        self._http_ingress: HttpIngress | None = None
        self._http_server: HttpServer | None = None
        self._observer: ProxyObserver | None = None
        self._http_observer: HttpObserver | None = None
        self._controller = ControllerClient(spec.controller_address)
        self._serving = False
        self._access_log: AccessLog | None = None
        self._certificates: list[Certificate] = []
        self._checking: asyncio.Task[None] | None = None
        self.exit_code = 0
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or until the port cannot be bound."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stopping.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._renew_certificates)
        private = await serve(self._spec.address, {"/swerve.control.v1.Proxy/Metrics": Unary(self._answer_metrics)})
        following = self._loop.create_task(self._follow())
        stopping = self._loop.create_task(self._stopping.wait())
        try:
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                await following
            await self._drain()
        finally:
            following.cancel()
            stopping.cancel()
            if self._checking is not None:
                self._checking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            if self._request_watch is not None:
                self._request_watch.close()
            await private.close(_CLOSE_GRACE_S)
            if self._access_log is not None:
                self._access_log.flush()

    async def _follow(self) -> None:
        client = self._controller
        queues = QueueReporter(client, "proxy", self._spec.proxy_id, self._queue)
        calls = CallReporter(client)
        async for view in client.watch_view("proxy", self._spec.proxy_id):
            if self._ingress is None:
                self._ingress = self._make_ingress(view)
            self._ingress.update(view)
            if self._http_ingress is not None:
                self._http_ingress.update(view)
            queues.update(view)
            calls.update(self._ingress.tallies)
            with contextlib.suppress(RpcError):
                await client.saw_view(self._spec.proxy_id, view.version)
            if not self._serving:
                self._serving = True
                try:
                    await self._listen(view, self._ingress)
                except (OSError, TlsError, InterceptorError) as error:
                    self._report({"error": str(error)})
                    self.exit_code = EXIT_CANNOT_BIND
                    return
                settle()

    def _queue(self, app: str, deployment: str, release: str) -> Queue | None:
        # The view names all deployments that are autoscaled, the proxy calls ingresses alone.
        key = Upstream(app, deployment, release)
        target = self._ingress.targets.get(key) if self._ingress is not None else None
        return None if target is None else target.router

    def _make_ingress(self, view: control_pb2.View) -> Ingress:
        config: dict[str, Any] = json.loads(view.options.logging_config_json or "{}")
        name = f"proxy_{self._spec.proxy_id}"
        handler = configure("proxy", self._spec.proxy_id, Path(self._spec.log_dir), name, config)
        if config.get("enable_access_log", True):
            self._access_log = AccessLog(handler, "proxy", self._spec.proxy_id, self._loop)
        self._observer = ProxyObserver(self._access_log)
        return Ingress(self._loop, self._observer)

    async def _listen(self, view: control_pb2.View, ingress: Ingress) -> None:
        """Serve the ports that the options name, and report where.

        Raises:
            OSError, TlsError, InterceptorError: one of them cannot be served; the message says which and why.
        """
        self._report({"grpc": await self._serve_grpc(view, ingress), "http": await self._serve_http(view, ingress)})

    async def _serve_grpc(self, view: control_pb2.View, ingress: Ingress) -> str | None:
        options: dict[str, Any] = json.loads(view.options.grpc_options_json or "{}")
        host, port = options.get("host") or "", int(options.get("port", 0))
        if port <= 0 or not view.options.grpc_methods:
            return None
        if options.get("interceptors"):
            self._intercept(view, ingress, options)
        listen_options = replace(
            client_limits.room_for(client_limits.listen_options(options)), tls=self._context_of(grpc_tls(options))
        )
        listener = Listener(ingress.accept, listen_options)
        try:
            self._shared = view.options.num_proxies > 1
            sockets = bind_tcp(host, port, share=self._shared)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(f"The gRPC port {Address(host=host or '*', port=port)} cannot be bound: {reason}.") from error
        for sock in sockets:
            await listener.listen_on(sock)
        self._listener = listener
        self._request_watch = RequestWatch(
            self._loop, listener.connections, ingress, client_limits.request_limits(options)
        )
        bound = sockets[0].getsockname()
        logger.info("Serving gRPC at %s", Address(host=bound[0], port=bound[1]))
        return f"{host or bound[0]}:{bound[1]}"

    def _intercept(self, view: control_pb2.View, ingress: Ingress, options: dict[str, Any]) -> None:
        """Have the operator's interceptors see each call first: the only code of others that a proxy runs.

        Raises:
            InterceptorError: one cannot be used.
        """
        from swerve.interceptors import load
        from swerve.proxy.interception import Interceptors

        sys.path[:0] = [entry for entry in view.options.sys_path if entry not in sys.path]
        chain = load(options["interceptors"])
        ingress.intercept(Interceptors(chain, float(options.get("interceptor_timeout_s", 5.0)), self._loop))

    async def _serve_http(self, view: control_pb2.View, ingress: Ingress) -> str | None:
        if not view.options.http_options_json:
            return None
        # Only a proxy that serves HTTP pays for the server's modules.
        from swerve.proxy.http import HttpIngress
        from swerve.proxy.http_observer import HttpObserver
        from swerve.proxy.http_server import PortInUseError, http_settings, start_http_server

        options = json.loads(view.options.http_options_json)
        settings = http_settings(options)
        self._http_observer = HttpObserver(self._access_log)
        http = HttpIngress(ingress, self._http_observer, self._all_metrics, settings.request_timeout_s)
        http.update(view)
        try:
            self._http_server = await start_http_server(
                settings, http, share=view.options.num_proxies > 1, tls=self._context_of(http_tls(options))
            )
        except PortInUseError as error:
            if view.options.http_port_required:
                raise
            logger.warning("%s Serving without HTTP; name a free port in http_options to have it.", error)
            return None
        self._http_ingress = http
        logger.info("Serving HTTP at %s", self._http_server.address)
        return str(self._http_server.address)

    # --- certificates ----------------------------------------------------------------------------------------------

    def _context_of(self, tls: PortTls | None) -> ssl.SSLContext | None:
        if tls is None:
            return None
        certificate = Certificate(tls)
        self._certificates.append(certificate)
        self._checking = self._checking or self._loop.create_task(self._check_certificates())
        return certificate.context

    async def _check_certificates(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            for certificate in self._certificates:
                certificate.check()

    def _renew_certificates(self) -> None:
        if not self._certificates:
            logger.info("SIGHUP has no effect: no port of this proxy speaks TLS")
        for certificate in self._certificates:
            certificate.renew()

    # --- metrics ---------------------------------------------------------------------------------------------------

    def _own_metrics(self) -> str:
        if self._ingress is None or self._observer is None:
            return ""
        own: Labels = (("proxy", self._spec.proxy_id),)
        targets = {target: self._version(target) for target in self._ingress.targets.values()}
        ingresses = {(target.app, version): target.deployment for target, version in targets.items()}
        text = self._observer.prometheus_text(own, ingresses)
        if self._http_observer is not None:
            text += self._http_observer.prometheus_text(own)
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

    def _report(self, what: dict[str, str | None]) -> None:
        """Tell the controller by way of the ready file, which appears whole or not at all."""
        ready = Path(self._spec.ready_file)
        scratch = ready.with_name(ready.name + ".new")
        scratch.write_text(json.dumps(what))
        scratch.rename(ready)

    async def _drain(self) -> None:
        """Say unhealthy, ask clients to go, let running calls finish."""
        if self._ingress is not None:
            self._ingress.builtin.drain()
        async with asyncio.TaskGroup() as closing:
            if self._listener is not None:
                closing.create_task(self._listener.close(_DRAIN_S, linger=not self._shared))
            if self._http_server is not None:
                closing.create_task(self._http_server.close(_DRAIN_S))


async def _serve(spec: control_pb2.ProxySpec) -> int:
    proxy = Proxy(spec, asyncio.get_running_loop())
    await proxy.run()
    return proxy.exit_code


def main() -> None:
    """Read the specification and serve."""
    spec = control_pb2.ProxySpec.FromString(Path(sys.argv[1]).read_bytes())
    keep_freed_memory(_KEPT_MEMORY)
    sys.exit(uvloop.run(_serve(spec)))


if __name__ == "__main__":
    main()
