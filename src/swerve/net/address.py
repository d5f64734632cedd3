"""Addresses as text: "unix:/absolute/path" or "host:port"."""

from __future__ import annotations

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
