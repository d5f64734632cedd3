"""Addresses as text: "unix:/absolute/path" or "host:port"."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

# sockaddr_un holds 108 bytes, the last of them a NUL.
MAX_UNIX_PATH = 107


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect to or listen. Exactly one of `path` and `host` is set."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`text` as an address.

    Raises:
        ValueError: it is neither form, or a unix path is longer than the system allows.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"'{text}' is no address: the path of a socket must be absolute.")
        if len(path.encode()) > MAX_UNIX_PATH:
            raise ValueError(
                f"The socket path '{path}' is {len(path.encode())} bytes long; the system allows {MAX_UNIX_PATH}. "
                "Use a state folder with a shorter path."
            )
        return Address(path=path)
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"'{text}' is no address: expected 'unix:/path' or 'host:port'.")
    return Address(host=host.strip("[]"), port=int(port))


def peer_name(socket_name: object) -> str:
    """A socket's `getpeername()` as gRPC writes it: "ipv4:127.0.0.1:5000", "ipv6:%5B::1%5D:5000" or "unix:"."""
    if not isinstance(socket_name, tuple):
        return "unix:"
    if len(socket_name) == 4:
        return f"ipv6:%5B{socket_name[0]}%5D:{socket_name[1]}"
    return f"ipv4:{socket_name[0]}:{socket_name[1]}"


def client_of(peer: str) -> str:
    """The part of a `peer_name` that one client has for itself: its IPv4 address, or the network (of 64 bits, RFC 4291,
    section 2.5.1) that its IPv6 address is in, where it has all the others too. "" for a unix socket."""
    family, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0]
    if family != "ipv6":
        return host
    # A scope belongs to this machine's interfaces.
    address = ipaddress.IPv6Address(host.removeprefix("%5B").removesuffix("%5D").partition("%")[0])
    return address.exploded[:19]
