"""Listening sockets and the connections they accept."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import socket
import ssl
import stat
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from swerve.net.accepting import Door
from swerve.net.address import Address, client_of, parse_address
from swerve.net.auth_context import auth_context
from swerve.net.begun import Board
from swerve.net.connection import Connection
from swerve.net.handshakes import TlsPort
from swerve.net.limits import ConnectionLife, ConnectionLimits
from swerve.net.streams import HUNG_UP, Acceptor
from swerve.net.sweeper import Sweeper, WatchedConnection
from swerve.net.tls import H2
from swerve.wire.limits import Http2Limits
from swerve.wire.peer import encode_peer

logger = logging.getLogger("swerve.net")

# A client that vanished (its machine lost power, a firewall forgot it) holds a connection until somebody asks: after a
# minute's silence, twice. gRPC servers wait 20 s for the answer, but ask every two hours alone
# (GRPC_ARG_KEEPALIVE_TIMEOUT_MS, GRPC_ARG_KEEPALIVE_TIME_MS); the system's own defaults are no shorter.
KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 2


# gRPC ends connections at 0.9 to 1.1 times their age (proposal A9).
_AGE_JITTER = (0.9, 1.1)


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """How a listener treats its peers. None switches a limit off."""

    limits: Http2Limits = field(default_factory=Http2Limits)
    connection_limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    max_connections: int | None = None
    max_connections_per_client: int | None = None
    # TCP connections speak TLS by this context, which must offer h2 by ALPN (`net.tls.h2_server_context`).
    tls: ssl.SSLContext | None = None
    # On a unix socket: note which calls are begun, so that their clients know when this process dies.
    notes_begun: bool = False


def _tls_of(options: ListenOptions) -> tuple[ssl.SSLContext, float | None] | None:
    return None if options.tls is None else (options.tls, options.connection_limits.handshake_timeout_s)


class Listener:
    """Open sockets and the connections that came through them."""

    def __init__(self, accept: Acceptor, options: ListenOptions) -> None:
        self._connections: dict[Connection, WatchedConnection] = {}
        self._per_client: Counter[str] = Counter()
        self._accept = accept
        self._options = options
        self._doors: list[Door] = []
        # Connections that have been accepted and are not made yet.
        self._opening: set[asyncio.Task[None]] = set()
        self._tls_ports: list[TlsPort] = []
        self._sweeper: Sweeper | None = None
        self._unix_path = ""
        self._board: Board | None = None
        self._lost = asyncio.Event()

    @property
    def connections(self) -> Collection[Connection]:
        """Those that are open now."""
        return self._connections.keys()

    def listen_unix(self, address: Address) -> None:
        """Listen on a unix socket that only this user may connect to. A stale socket file is replaced."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(address.path).st_mode):
                os.unlink(address.path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The mode must be right from the moment the path exists.
        previous = os.umask(0o177)
        try:
            sock.bind(address.path)
        finally:
            os.umask(previous)
        self._unix_path = address.path
        if self._options.notes_begun:
            self._board = Board(address.path)
        self.listen_on(sock)

    def listen_on(self, sock: socket.socket) -> None:
        """Listen on a bound socket; it is owned by the listener from here on."""
        if sock.family == socket.AF_UNIX or self._options.tls is None:
            self._doors.append(Door(sock, self._open))
            return
        timeout_s = self._options.connection_limits.handshake_timeout_s
        port = TlsPort(sock, self._options.tls, self._make, has_room=self._has_room, timeout_s=timeout_s)
        self._tls_ports.append(port)

    def _open(self, sock: socket.socket, _address: object) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(sock))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(self._make, sock)

    def can_treat_by(self, options: ListenOptions) -> bool:
        """Whether `treat_by` can be given these options: TLS stays as it was when it began to listen."""
        return _tls_of(options) == _tls_of(self._options)

    def treat_by(self, options: ListenOptions) -> None:
        """Treat peers that connect from now on by these options."""
        self._options = options
        if self._sweeper is not None:
            self._sweeper.go_by(options.connection_limits)

    def _make(self) -> Connection:
        return Connection(
            asyncio.get_running_loop(),
            self._options.limits,
            accept=self._accept,
            on_made=self._admit,
            on_lost=self._forget,
        )

    def _has_room(self, client: str) -> bool:
        """Whether `client` may begin one more connection. Those that are in TLS's handshake count."""
        most, most_per_client = self._options.max_connections, self._options.max_connections_per_client
        if most is not None:
            count = len(self._connections) + sum(len(port.under_way) for port in self._tls_ports)
            if count >= most:
                return False
        if most_per_client is None or not client:
            return True
        shaking = sum(port.per_client[client] for port in self._tls_ports)
        return self._per_client[client] + shaking < most_per_client

    def _admit(self, connection: Connection) -> bool:
        assert connection.transport is not None
        client = client_of(connection.peer)
        tls: ssl.SSLObject | None = connection.transport.get_extra_info("ssl_object")
        if tls is None:
            if not self._has_room(client):
                return False
        elif not _identify(connection, tls):
            return False
        self._per_client[client] += 1
        loop, limits = asyncio.get_running_loop(), self._options.connection_limits
        life = ConnectionLife(limits, loop.time(), random.uniform(*_AGE_JITTER))
        self._connections[connection] = WatchedConnection(life, client)
        if self._sweeper is None:
            self._sweeper = Sweeper(loop, self._connections, limits)
        self._sweeper.start()
        if self._board is not None:
            connection.begun = self._board.admit(connection.transport.get_extra_info("peername"))
        return True

    def _forget(self, connection: Connection) -> None:
        watched = self._connections.pop(connection, None)
        if watched is not None:
            client = watched.client
            self._per_client[client] -= 1
            if not self._per_client[client]:
                del self._per_client[client]
        if self._board is not None and connection.begun is not None:
            self._board.release(connection.begun)
        self._lost.set()

    async def _until_closed(self, connections: set[Connection]) -> None:
        while not connections.isdisjoint(self._connections):
            self._lost.clear()
            await self._lost.wait()

    async def _stop_accepting(self) -> None:
        """Listen no more. Who has connected by now is served: the system would reset who waits at a socket that is
        closed."""
        for door in self._doors:
            door.accept()
            door.close()
        self._doors.clear()
        if self._opening:
            await asyncio.wait(self._opening)
        for port in self._tls_ports:
            port.stop_accepting()

    async def close(self, grace_s: float, *, linger: bool = False) -> None:
        """Accept no more connections, let calls that run finish within `grace_s` seconds, then close everything.

        With `linger` new connections are taken for as long as there are old ones with calls, so that whoever asks in
        that time hears that the server is going instead of nothing.
        """
        if not linger:
            await self._stop_accepting()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._drain()
                await self._stop_accepting()
                await self._drain()
        await self._stop_accepting()
        for port in self._tls_ports:
            port.give_up()
        for connection in list(self.connections):
            connection.close(HUNG_UP)
        if self._unix_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._unix_path)
        if self._board is not None:
            self._board.close()

    async def _drain(self) -> None:
        """Ask the clients that are connected to go, and wait until they have gone."""
        leaving = set(self.connections)
        for connection in leaving:
            connection.drain()
        await self._until_closed(leaving)


def _identify(connection: Connection, tls: ssl.SSLObject) -> bool:
    """Note once what the handshake says about the peer. False for one that must not be served: it did not agree on
    HTTP/2 (RFC 9113, section 3.3), or its certificate makes no sense."""
    if tls.selected_alpn_protocol() != H2:
        logger.info("Closing connection of %s: it did not offer h2 by ALPN", connection.peer)
        return False
    try:
        connection.peer_name = encode_peer(connection.peer, auth_context(tls))
    except ValueError as error:
        logger.info("Closing connection of %s: its certificate cannot be read: %s", connection.peer, error)
        return False
    return True


def listen(address: str, accept: Acceptor, options: ListenOptions) -> Listener:
    """Listen at "unix:/path" or "host:port".

    Raises:
        OSError: the address cannot be bound.
    """
    listener = Listener(accept, options)
    target = parse_address(address)
    if target.path:
        listener.listen_unix(target)
    else:
        for sock in bind_tcp(target.host, target.port, share=False):
            listener.listen_on(sock)
    return listener


def bind_tcp(host: str, port: int, *, share: bool) -> list[socket.socket]:
    """Sockets bound to `port` on every address that `host` has ("localhost": both loopback addresses).

    With `share` the port may be bound already by sockets that were made here; the system spreads connections over all
    of them. Without, it must be free, and may be shared from then on. Port 0 takes a free port, the same on all
    addresses.

    Raises:
        OSError: `host` cannot be resolved, or an address cannot be bound; none stays bound then.
    """
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, target in _resolve(host, port):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError:
                continue  # the system has no such family (IPv6 switched off)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _keep_alive(sock)
            if share:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and len(sockets) > 1:
                target = (target[0], sockets[0].getsockname()[1], *target[2:])
            try:
                sock.bind(target)
            except OSError as error:
                if len(sockets) > 1 and _is_missing_address(error):
                    sockets.pop().close()
                    continue
                raise
            # Set later it lets others in, but did not let this one in.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _keep_alive(sock: socket.socket) -> None:
    """Have the system find out that a peer is gone. Connections take it over from their listening socket."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def _resolve(host: str, port: int) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        # Its number is none of errno's.
        raise OSError(f"the host {host!r} cannot be resolved ({error.strerror})") from error
    return list(dict.fromkeys(found))


def _is_missing_address(error: OSError) -> bool:
    """True when this machine lacks the address, as where "localhost" names ::1 but IPv6 is off."""
    return error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
