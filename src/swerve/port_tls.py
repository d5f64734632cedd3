"""A port's TLS options as a context. The command that starts an instance and its proxies make it alike, so what a proxy
could not use is an error of the command."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from swerve.net.tls import TlsError, TlsFiles, h2_server_context, http_server_context

# What `ssl_client_certificate` means.
_CLIENTS = {None: ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


@dataclass(frozen=True, slots=True)
class PortTls:
    """TLS as the options of a port ask for it. `clients` says whether theirs are to have a certificate."""

    port: Literal["gRPC", "HTTP"]
    files: TlsFiles
    clients: ssl.VerifyMode = ssl.CERT_NONE

    def context(self) -> ssl.SSLContext:
        """A context made of the files as they are now.

        Raises:
            TlsError: one cannot be used.
        """
        try:
            if self.port == "HTTP":
                return http_server_context(self.files, self.clients)
            return h2_server_context(self.files, self.clients)
        except TlsError as error:
            raise TlsError(f"The TLS files of the {self.port} port cannot be used: {error}.") from error


def grpc_tls(options: Mapping[str, Any]) -> PortTls | None:
    """TLS in `swerve.config.gRPCOptions`, as a dictionary; None when it is off."""
    files = _files(options)
    if files is None:
        return None
    asked = None if files.ca_certs is None else options.get("ssl_client_certificate") or "required"
    return PortTls("gRPC", files, _CLIENTS[asked])


def http_tls(options: Mapping[str, Any]) -> PortTls | None:
    """TLS in `swerve.config.HTTPOptions`, as a dictionary; None when it is off."""
    files = _files(options)
    return None if files is None else PortTls("HTTP", files, _CLIENTS[options.get("ssl_client_certificate")])


def _files(options: Mapping[str, Any]) -> TlsFiles | None:
    keyfile, certfile = options.get("ssl_keyfile"), options.get("ssl_certfile")
    if keyfile is None or certfile is None:
        return None
    return TlsFiles(keyfile, certfile, options.get("ssl_keyfile_password"), options.get("ssl_ca_certs"))
