"""The HTTP server inside the proxy process: uvicorn on the proxy's event loop, with sockets that the proxy bound."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from dataclasses import dataclass, replace
from typing import Any

import uvicorn

from swerve.net.address import Address
from swerve.net.listener import bind_tcp
from swerve.net.port_fault import cannot_be_bound
from swerve.proxy.certificates import Certificate
from swerve.proxy.http import HttpIngress
from swerve.proxy.http_guard import HeadWatch, bounded, websocket_in_turns

# uvicorn sees that it should stop a little later.
_STOP_SLACK_S = 1.0


class PortInUseError(OSError):
    """The HTTP port cannot be bound."""


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The part of `swerve.config.HTTPOptions` that the server goes by. Times in seconds."""

    host: str
    port: int
    root_path: str
    keep_alive_timeout_s: float
    request_timeout_s: float | None
    stall_timeout_s: float | None
    header_timeout_s: float
    max_connections: int


def http_settings(options: dict[str, Any]) -> HttpSettings:
    """The settings in the JSON of `swerve.config.HTTPOptions`."""
    return HttpSettings(
        host=options["host"],
        port=options["port"],
        root_path=options.get("root_path") or "",
        keep_alive_timeout_s=float(options.get("keep_alive_timeout_s", 90)),
        request_timeout_s=options.get("request_timeout_s"),
        stall_timeout_s=options.get("stall_timeout_s"),
        header_timeout_s=options.get("header_timeout_s", 10.0),
        max_connections=options.get("max_connections", 10_000),
    )


class HttpServer:
    """A running server."""

    def __init__(
        self,
        server: uvicorn.Server,
        sockets: list[socket.socket],
        settings: HttpSettings,
        certificate: Certificate | None,
    ) -> None:
        self.settings = settings
        self.certificate = certificate
        self._server = server
        self._sockets = sockets
        loop = asyncio.get_running_loop()
        self._ticking = loop.create_task(server.main_loop())
        self._heads = HeadWatch(loop, server.server_state.connections, settings.header_timeout_s)

    @property
    def address(self) -> Address:
        """Where it serves, as the options say."""
        return Address(host=self.settings.host or "*", port=self.settings.port)

    def serves_as(self, settings: HttpSettings, certificate: Certificate | None) -> bool:
        """Whether it is as these want the server; the timeout is not the server's."""
        present = replace(self.settings, request_timeout_s=settings.request_timeout_s)
        return (present, self.certificate) == (settings, certificate)

    def has_address(self, settings: HttpSettings) -> bool:
        """Whether it serves where `settings` say."""
        return (self.settings.host, self.settings.port) == (settings.host, settings.port)

    def shared_sockets(self) -> list[socket.socket]:
        """Its listening sockets again, for a server that takes its place."""
        return [sock.dup() for sock in self._sockets]

    async def close(self, grace_s: float, *, linger: bool = False) -> None:
        """Take no more connections; requests that run have `grace_s` seconds to finish.

        With `linger` new ones are served for as long as those run that run now.
        """
        if linger and (running := set(self._server.server_state.tasks)):
            until = asyncio.get_running_loop().time() + grace_s
            await asyncio.wait(running, timeout=grace_s)
            grace_s = max(0.0, until - asyncio.get_running_loop().time())
        # What the system has accepted by now is accepted here, not reset.
        await asyncio.sleep(0)
        for server in self._server.servers:
            server.close()
        self._server.config.timeout_graceful_shutdown = max(1, int(grace_s))
        self._server.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s + _STOP_SLACK_S):
                await self._ticking
                await self._server.shutdown(self._sockets)
        self._heads.close()


def server_config(settings: HttpSettings, app: HttpIngress) -> uvicorn.Config:
    """What uvicorn goes by."""
    config = uvicorn.Config(
        app,
        root_path=settings.root_path,
        timeout_keep_alive=math.ceil(settings.keep_alive_timeout_s),
        lifespan="off",
        # The one that the guard knows.
        ws="websockets-sansio",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    config.load()
    assert config.ws_protocol_class is not None
    config.http_protocol_class = bounded(config.http_protocol_class, settings.max_connections)
    config.ws_protocol_class = websocket_in_turns(config.ws_protocol_class)
    return config


async def start_http_server(
    settings: HttpSettings, app: HttpIngress, *, share: bool, tls: Certificate | None, instead_of: HttpServer | None
) -> HttpServer:
    """Serve `app`, with HTTPS if `tls` is given. With `share` others may listen on the port already.

    `instead_of` is a server that is closed afterwards: at the same address both take connections from the same sockets
    until then, so that none is lost.

    Raises:
        PortInUseError: the port cannot be bound.
    """
    config = server_config(settings, app)
    config.ssl = None if tls is None else tls.context
    if instead_of is not None and instead_of.has_address(settings):
        sockets = instead_of.shared_sockets()
    else:
        sockets = _bind(settings, share=share)
    for sock in sockets:
        # Of what a client does not read, and 0 is never: connections take it over. uvicorn waits for such a client.
        timeout_ms = math.ceil((settings.stall_timeout_s or 0) * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    _share_log()
    # `serve()` would do these steps, and take the signals, which are the proxy's.
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets)
    return HttpServer(server, sockets, settings, tls)


def _bind(settings: HttpSettings, *, share: bool) -> list[socket.socket]:
    try:
        return bind_tcp(settings.host, settings.port, share=share)
    except OSError as error:
        raise PortInUseError(cannot_be_bound("HTTP", settings.host, settings.port, error)) from error


def _share_log() -> None:
    """What uvicorn complains about goes where the proxy's own lines go."""
    log = logging.getLogger("uvicorn.error")
    log.handlers = list(logging.getLogger("swerve").handlers)
    log.setLevel(logging.WARNING)
    log.propagate = False
