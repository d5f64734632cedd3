"""The HTTP server inside the proxy process: uvicorn on the proxy's event loop, with sockets that the proxy bound."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Any

import uvicorn

from swerve.net.address import Address
from swerve.net.listener import bind_tcp
from swerve.proxy.http import HttpIngress

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


def http_settings(options: dict[str, Any]) -> HttpSettings:
    """The settings in the JSON of `swerve.config.HTTPOptions`."""
    return HttpSettings(
        host=options["host"],
        port=options["port"],
        root_path=options.get("root_path") or "",
        keep_alive_timeout_s=float(options.get("keep_alive_timeout_s", 90)),
        request_timeout_s=options.get("request_timeout_s"),
    )


class HttpServer:
    """A running server."""

    def __init__(self, server: uvicorn.Server, sockets: list[socket.socket], address: Address) -> None:
        self.address = address
        self._server = server
        self._sockets = sockets
        self._ticking = asyncio.get_running_loop().create_task(server.main_loop())

    async def close(self, grace_s: float) -> None:
        """Take no more connections; requests that run have `grace_s` seconds to finish."""
        self._server.config.timeout_graceful_shutdown = max(1, int(grace_s))
        self._server.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s + _STOP_SLACK_S):
                await self._ticking
                await self._server.shutdown(self._sockets)


async def start_http_server(
    settings: HttpSettings, app: HttpIngress, *, share: bool, tls: ssl.SSLContext | None = None
) -> HttpServer:
    """Serve `app`, with HTTPS by `tls` if it is given. `share` lets several proxies take the port's connections.

    Raises:
        PortInUseError: the port cannot be bound.
    """
    config = uvicorn.Config(
        app,
        root_path=settings.root_path,
        timeout_keep_alive=math.ceil(settings.keep_alive_timeout_s),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    config.load()
    config.ssl = tls
    address = Address(host=settings.host or "*", port=settings.port)
    try:
        sockets = bind_tcp(settings.host, settings.port, share=share)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise PortInUseError(f"The HTTP port {address} cannot be bound: {reason}.") from error
    _share_log()
    # `serve()` would do these steps, and take the signals, which are the proxy's.
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets)
    return HttpServer(server, sockets, address)


def _share_log() -> None:
    """What uvicorn complains about goes where the proxy's own lines go."""
    log = logging.getLogger("uvicorn.error")
    log.handlers = logging.getLogger("swerve").handlers
    log.setLevel(logging.WARNING)
    log.propagate = False
