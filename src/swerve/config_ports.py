"""The options of the proxies: where they run, and the two ports that clients reach. `swerve.config` has them too."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from swerve.config_base import NonNegativeFloat, Options, Port, PositiveFloat, PositiveInt
from swerve.wire.message import MAX_MESSAGE_SIZE
from swerve.wire.metadata import MAX_METADATA_SIZE

# What that may be set to: half of what would cost a client its connection (`wire.limits.Http2Limits`).
MAX_METADATA_LIMIT = 128 * 1024
# Is shown in place of a password.
HIDDEN = "..."


class ProxyLocation(StrEnum):
    """Where proxies run. On one machine `HeadOnly` and `EveryNode` are the same; `Disabled` starts none."""

    Disabled = "Disabled"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"

    @classmethod
    def _missing_(cls, value: object) -> ProxyLocation | None:
        return cls.Disabled if value == "NoServer" else None

    @classmethod
    def of(cls, value: ProxyLocation | str) -> ProxyLocation:
        """`value` as a ProxyLocation.

        Raises:
            TypeError: it is neither a ProxyLocation nor a str.
            ValueError: no location has this name.
        """
        if not isinstance(value, str):
            raise TypeError(f"Must be a `ProxyLocation` or str, got: {type(value)}.")
        return cls(value)


def _default_http_host() -> str:
    return os.environ.get("RAY_SERVE_DEFAULT_HTTP_HOST") or "127.0.0.1"


def _none_if_negative(value: float | None) -> float | None:
    return None if value is not None and value < 0 else value


def _absolute(path: str | None) -> str | None:
    """The proxies that read the file may run elsewhere."""
    return None if path is None else str(Path(path).expanduser().absolute())


def _no_placeholder(password: str | None) -> str | None:
    if password == HIDDEN:
        raise ValueError(f'ssl_keyfile_password is "{HIDDEN}", as `swerve config` shows it. Put the password back.')
    return password


def _check_tls_pair(keyfile: str | None, certfile: str | None, protocol: str) -> None:
    if (keyfile is None) != (certfile is None):
        raise ValueError(f"Both ssl_keyfile and ssl_certfile must be provided together to enable {protocol}.")


class gRPCOptions(Options):
    """The gRPC port of an instance. gRPC is off if `port` <= 0 or no servicer function is named.

    Whether options go together is asked when all are there (`require_consistent`): a file may name some, and the start
    of the instance the others. The fields from `host` on are Swerve's own.
    """

    port: Port = 9000
    grpc_servicer_functions: list[str] = Field(default_factory=list)
    request_timeout_s: float | None = None
    enable_reflection: bool = True
    # Ray binds all interfaces. "localhost" binds the loopback addresses, v4 and v6; "" or "0.0.0.0" binds all.
    host: str = "localhost"
    # A single application takes calls that name another one (as in Ray) unless this is set.
    strict_application: bool = False
    # Ray 2.60 keeps the code that a handler set before it raised; off, an unhandled exception is INTERNAL.
    keep_status_on_exception: bool = False
    # Bytes of one message, either way.
    max_message_size: Annotated[int, Field(gt=0, le=MAX_MESSAGE_SIZE)] = MAX_MESSAGE_SIZE
    # Bytes of all header fields of one call, counted as HTTP/2 does (RFC 9113, section 6.5.2).
    max_metadata_size: Annotated[int, Field(gt=0, le=MAX_METADATA_LIMIT)] = MAX_METADATA_SIZE
    # Processes that share the port.
    num_proxies: Annotated[int, Field(gt=0, le=64)] = 1
    # PEM files: with a key and a certificate the port speaks TLS.
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile_password: str | None = Field(default=None, repr=False)
    # Authorities of clients' certificates; where they are named, clients need one unless it is optional (mutual TLS).
    ssl_ca_certs: str | None = None
    ssl_client_certificate: Literal["required", "optional"] | None = None
    # Import paths of what sees each call first and may refuse it (`swerve.interceptors`), in this order.
    interceptors: list[str] = Field(default_factory=list)
    # Seconds that they may wait, all together, before the call is refused.
    interceptor_timeout_s: PositiveFloat = 5.0

    # Limits on clients, of one proxy each. docs/limits.md says what a client sees at each and why the default; None
    # switches one off. The names are gRPC's where it has them.
    # Connections at a time, in all and of one client address.
    max_connections: PositiveInt = 10_000
    max_connections_per_client: PositiveInt | None = None
    # Calls of one connection: at a time (no HTTP/2 connection has more streams), and in its life.
    max_concurrent_streams: Annotated[int, Field(gt=0, lt=1 << 31)] = 1000
    max_calls_per_connection: PositiveInt | None = None
    # Seconds until a new connection has sent HTTP/2's preface and settings; TLS's handshake may take as long before.
    handshake_timeout_s: PositiveFloat = 10.0
    # Seconds without a call, and since the connection was made, after which it is asked to end, and that its calls have
    # then.
    max_connection_idle_s: PositiveFloat | None = 1800.0
    max_connection_age_s: PositiveFloat | None = None
    max_connection_age_grace_s: PositiveFloat | None = None
    # Seconds of silence after which a client is asked whether it is there, and that it has to say anything.
    keepalive_time_s: PositiveFloat | None = 60.0
    keepalive_timeout_s: PositiveFloat = 20.0
    # Seconds within which 16 KiB of what a call waits for have to move: of its request, or of a response to be read.
    stall_timeout_s: PositiveFloat | None = 60.0
    # Bytes of requests that are held for calls that wait.
    max_buffered_request_bytes: PositiveInt | None = 512 * 1024 * 1024
    # Calls that a connection may cancel in a second, and PING, SETTINGS and tiny DATA frames that it may send; ten
    # WINDOW_UPDATE count as one.
    max_resets_per_s: Annotated[int, Field(gt=0, le=1_000_000)] = 2_000
    max_control_frames_per_s: PositiveInt = 10_000

    _timeout = field_validator("request_timeout_s")(_none_if_negative)
    _paths = field_validator("ssl_keyfile", "ssl_certfile", "ssl_ca_certs")(_absolute)
    _password = field_validator("ssl_keyfile_password")(_no_placeholder)

    def require_consistent(self) -> None:
        """See that the options go together.

        Raises:
            ValueError: they do not.
        """
        _check_tls_pair(self.ssl_keyfile, self.ssl_certfile, "TLS")
        if self.ssl_ca_certs is not None and self.ssl_keyfile is None:
            raise ValueError("ssl_ca_certs verifies clients on a TLS port: it needs ssl_keyfile and ssl_certfile.")
        if self.ssl_client_certificate is not None and self.ssl_ca_certs is None:
            raise ValueError("ssl_client_certificate needs ssl_ca_certs, the authorities of clients' certificates.")

    @property
    def enabled(self) -> bool:
        return self.port > 0 and bool(self.grpc_servicer_functions)


class HTTPOptions(Options):
    """The HTTP port of an instance."""

    host: str | None = Field(default_factory=_default_http_host)
    port: Port = 8000
    root_path: str = ""
    root_url: str = ""
    request_timeout_s: float | None = None
    keep_alive_timeout_s: NonNegativeFloat = 90
    # Swerve's own, of one proxy each (docs/limits.md): connections at a time; seconds until a request's head has come.
    max_connections: PositiveInt = 10_000
    header_timeout_s: PositiveFloat = 10.0
    # Seconds within which some of a request whose length is known has to come, and of a response has to be read. None
    # switches it off.
    stall_timeout_s: PositiveFloat | None = 60.0
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile_password: str | None = Field(default=None, repr=False)
    # Authorities that complete the chain of the port's own certificate, as in Ray Serve. Swerve's own: clients need a
    # certificate of theirs where the next field says so (mutual TLS).
    ssl_ca_certs: str | None = None
    ssl_client_certificate: Literal["required", "optional"] | None = None
    # Interceptors of the gRPC options see no HTTP request. Where there are any, requests for applications are refused,
    # unless this says that they may go past them.
    bypass_interceptors: bool = False
    location: ProxyLocation | None = None

    _timeout = field_validator("request_timeout_s")(_none_if_negative)
    _paths = field_validator("ssl_keyfile", "ssl_certfile", "ssl_ca_certs")(_absolute)
    _password = field_validator("ssl_keyfile_password")(_no_placeholder)

    @model_validator(mode="before")
    @classmethod
    def _removed(cls, values: Any) -> Any:
        for name in ("middlewares", "num_cpus"):
            if isinstance(values, dict) and values.get(name):
                raise ValueError(f"`{name}` in `http_options` has been removed.")
        return values

    def require_consistent(self) -> None:
        """See that the options go together.

        Raises:
            ValueError: they do not.
        """
        _check_tls_pair(self.ssl_keyfile, self.ssl_certfile, "HTTPS")
        if self.ssl_client_certificate is not None and (self.ssl_ca_certs is None or self.ssl_keyfile is None):
            raise ValueError(
                "ssl_client_certificate needs ssl_ca_certs, the authorities of clients' certificates, and a TLS port "
                "(ssl_keyfile and ssl_certfile)."
            )

    @property
    def enabled(self) -> bool:
        return self.port > 0 and self.host is not None and self.location is not ProxyLocation.Disabled
