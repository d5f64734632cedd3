"""The ports of a proxy: opened, changed while they serve, and drained."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from swerve.generated import control_pb2
from swerve.net.listener import Listener, ListenOptions, bind_tcp
from swerve.net.port_fault import cannot_be_bound
from swerve.net.tls import TlsError
from swerve.observe.access import AccessLog
from swerve.port_tls import grpc_tls, http_tls
from swerve.proxy import client_limits
from swerve.proxy.certificates import Certificate, certificate_of
from swerve.proxy.ingress import Ingress
from swerve.proxy.request_watch import RequestWatch

if TYPE_CHECKING:
    from swerve.proxy.http import HttpIngress
    from swerve.proxy.http_observer import HttpObserver
    from swerve.proxy.http_server import HttpServer

logger = logging.getLogger("swerve.proxy")

# At a port whose options come from an instance that knew of no such limit.
_CONNECTIONS = 10_000
# The proxy location that turns all ports off.
_NO_PORTS = "Disabled"


def has_grpc(options: control_pb2.InstanceOptions) -> bool:
    """Whether proxies have a gRPC port to serve."""
    return (
        _grpc_options(options).get("port", 0) > 0 and bool(options.grpc_methods) and options.proxy_location != _NO_PORTS
    )


def _has_http(options: control_pb2.InstanceOptions) -> bool:
    return bool(options.http_options_json) and options.proxy_location != _NO_PORTS


def has_ports(options: control_pb2.InstanceOptions) -> bool:
    """Whether proxies have anything to serve."""
    return has_grpc(options) or _has_http(options)


@dataclass(frozen=True, slots=True)
class _GrpcPort:
    """An open gRPC port: `host` and `port` as in the options, `address` as bound."""

    host: str
    port: int
    address: str
    sockets: list[socket.socket]
    certificate: Certificate | None
    listener: Listener

    async def close(self, grace_s: float, watch: RequestWatch | None, *, linger: bool = False) -> None:
        """Drain; `watch` keeps its limits on the calls until then."""
        try:
            await self.listener.close(grace_s, linger=linger)
        finally:
            if watch is not None:
                watch.close()


class Ports:
    """What a proxy listens on. `metrics` gives the text of HTTP's `/-/metrics`; `shared`: others listen there too."""

    def __init__(
        self,
        ingress: Ingress,
        access_log: AccessLog | None,
        metrics: Callable[[], Awaitable[str]],
        *,
        shared: bool,
    ) -> None:
        # Set when HTTP was served first; it counts on when HTTP is served no more.
        self.http_observer: HttpObserver | None = None
        self._ingress = ingress
        self._access_log = access_log
        self._metrics = metrics
        self._shared = shared
        self._options: control_pb2.InstanceOptions | None = None
        self._grpc: _GrpcPort | None = None
        # Of the calls that come through the gRPC port.
        self._watch: RequestWatch | None = None
        self._http: HttpServer | None = None
        self._http_ingress: HttpIngress | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()

    @property
    def grpc_address(self) -> str | None:
        """Where gRPC is served, "host:port"."""
        return None if self._grpc is None else self._grpc.address

    @property
    def http_address(self) -> str | None:
        """Where HTTP is served, "host:port"."""
        return None if self._http is None else str(self._http.address)

    @property
    def certificates(self) -> list[Certificate]:
        """Those of the ports that speak TLS."""
        ports = (self._grpc, self._http)
        return [port.certificate for port in ports if port is not None and port.certificate is not None]

    def update(self, view: control_pb2.View) -> None:
        """Route HTTP by `view` from now on."""
        if self._http_ingress is not None:
            self._http_ingress.update(view)

    async def serve(self, view: control_pb2.View) -> bool:
        """Serve what the view's options name. New ports are open before those that they replace begin to drain.

        Connections of a port that stays go on; those made from now on are treated by the new limits.

        Returns:
            Whether anything is new.

        Raises:
            OSError, TlsError: a port cannot be served; the message says which and why. All is served as before.
        """
        async with self._changing:
            if self._options == view.options:
                return False
            grpc = self._open_grpc(view.options)
            try:
                http = await self._open_http(view)
            except (OSError, TlsError):
                if grpc is not None and grpc is not self._grpc:
                    await grpc.listener.close(0)
                raise
            self._take_grpc(grpc, view)
            self._take_http(http, view)
            self._options = view.options
            return True

    def _take_grpc(self, grpc: _GrpcPort | None, view: control_pb2.View) -> None:
        named = _grpc_options(view.options)
        old, old_watch = self._grpc, self._watch
        self._grpc, self._watch = grpc, None
        if grpc is not None:
            limits = client_limits.request_limits(named)
            self._watch = RequestWatch(asyncio.get_running_loop(), grpc.listener.connections, self._ingress, limits)
        if old is not None and old is not grpc:
            self._retire(old.close(view.drain_s, old_watch))
        elif old is not None and old_watch is not None:
            old.listener.treat_by(_listen_options(view.options, old.certificate))
            old_watch.close()
        if grpc is not None and grpc is not old:
            logger.info("Serving gRPC at %s", grpc.address)

    def _take_http(self, http: HttpServer | None, view: control_pb2.View) -> None:
        old, self._http = self._http, http
        if old is not None and old is not http:
            self._retire(old.close(view.drain_s))
        if http is not None and http is not old:
            logger.info("Serving HTTP at %s", http.address)

    async def drain(self, grace_s: float, *, linger: bool) -> None:
        """Ask clients to go and let their calls finish. With `linger` others may come as long as some are there."""
        if self._grpc is not None:
            self._retire(self._grpc.close(grace_s, self._watch, linger=linger))
        if self._http is not None:
            self._retire(self._http.close(grace_s, linger=linger))
        await asyncio.gather(*self._retiring)

    def _retire(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(closing)
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _shares(self, options: control_pb2.InstanceOptions, port: int) -> bool:
        """Whether others, or this proxy itself at another address, may listen on a port that is to be bound."""
        ours = [] if self._grpc is None else [self._grpc.port]
        ours += [] if self._http is None else [self._http.settings.port]
        return self._shared or options.num_proxies > 1 or port in ours

    # --- gRPC ------------------------------------------------------------------------------------------------------

    def _open_grpc(self, options: control_pb2.InstanceOptions) -> _GrpcPort | None:
        """The port that the options name: the present one, or a new one."""
        if not has_grpc(options):
            return None
        named = _grpc_options(options)
        host, port = named.get("host") or "", int(named["port"])
        present = self._grpc
        certificate = certificate_of(grpc_tls(named), None if present is None else present.certificate)
        listen_options = _listen_options(options, certificate)
        if present is not None and (present.host, present.port) == (host, port):
            if present.listener.can_treat_by(listen_options):
                return present
            # The same sockets: no connection that waits in them is lost.
            sockets = [sock.dup() for sock in present.sockets]
        else:
            sockets = self._bind_grpc(options, host, port)
        listener = Listener(self._ingress.accept, listen_options)
        for sock in sockets:
            listener.listen_on(sock)
        bound = sockets[0].getsockname()
        return _GrpcPort(host, port, f"{host or bound[0]}:{bound[1]}", sockets, certificate, listener)

    def _bind_grpc(self, options: control_pb2.InstanceOptions, host: str, port: int) -> list[socket.socket]:
        try:
            return bind_tcp(host, port, share=self._shares(options, port))
        except OSError as error:
            raise OSError(cannot_be_bound("gRPC", host, port, error)) from error

    # --- HTTP ------------------------------------------------------------------------------------------------------

    async def _open_http(self, view: control_pb2.View) -> HttpServer | None:
        """The port that the options name: the present one, or a new one."""
        options = view.options
        if not _has_http(options):
            return None
        # Only a proxy that serves HTTP pays for the server's modules.
        from swerve.proxy.http_server import PortInUseError, http_settings, start_http_server

        named = json.loads(options.http_options_json)
        settings = http_settings(named)
        settings = replace(settings, max_connections=_room(options)[1])
        ingress = self._http_ingress or self._make_http_ingress(view)
        server = self._http
        certificate = certificate_of(http_tls(named), None if server is None else server.certificate)
        if server is None or not server.serves_as(settings, certificate):
            share = self._shares(options, settings.port)
            try:
                server = await start_http_server(settings, ingress, share=share, tls=certificate, instead_of=self._http)
            except PortInUseError as error:
                if options.http_port_required:
                    raise
                logger.warning("%s Serving without HTTP.", error)
                return None
        ingress.request_timeout_s = settings.request_timeout_s
        ingress.stall_timeout_s = settings.stall_timeout_s
        return server

    def _make_http_ingress(self, view: control_pb2.View) -> HttpIngress:
        from swerve.proxy.http import HttpIngress
        from swerve.proxy.http_observer import HttpObserver

        self.http_observer = HttpObserver(self._access_log)
        self._http_ingress = HttpIngress(self._ingress, self.http_observer, self._metrics)
        self._http_ingress.update(view)
        return self._http_ingress


def _grpc_options(options: control_pb2.InstanceOptions) -> dict[str, Any]:
    named: dict[str, Any] = json.loads(options.grpc_options_json or "{}")
    return named


def _listen_options(options: control_pb2.InstanceOptions, certificate: Certificate | None) -> ListenOptions:
    made = client_limits.listen_options(_grpc_options(options))
    context = None if certificate is None else certificate.context
    return replace(made, tls=context, max_connections=_room(options)[0])


def _room(options: control_pb2.InstanceOptions) -> tuple[int, ...]:
    """How many connections the gRPC port and the HTTP port may have."""
    grpc = _grpc_options(options).get("max_connections", _CONNECTIONS) if has_grpc(options) else 0
    http = json.loads(options.http_options_json).get("max_connections", _CONNECTIONS) if _has_http(options) else 0
    return client_limits.room_for(grpc, http)
