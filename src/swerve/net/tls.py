"""TLS: contexts made of PEM files, with errors that name the file; contexts that can be renewed while they serve."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any

H2 = "h2"
# RFC 9113, section 9.2.2 prohibits all other suites of TLS 1.2; those of TLS 1.3 are good.
_H2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsError(ValueError):
    """A TLS file that cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files. `certfile` may hold intermediate certificates after the first, `ca_certs` several."""

    keyfile: str
    certfile: str
    password: str | None = field(default=None, repr=False)
    ca_certs: str | None = None


def h2_server_context(files: TlsFiles, clients: ssl.VerifyMode) -> ssl.SSLContext:
    """For a server of HTTP/2 (RFC 9113, sections 3.3 and 9.2). `clients` says whether they need a certificate.

    Raises:
        TlsError: a file cannot be used, or `clients` are to be verified and there are no `ca_certs`.
    """
    context = _server_context(files, clients)
    _restrict_to_h2(context)
    return context


def http_server_context(files: TlsFiles, clients: ssl.VerifyMode) -> ssl.SSLContext:
    """For a server of HTTP/1.1. `ca_certs` complete the chain of its own certificate; `clients` says whether theirs
    are asked for, and verified against them.

    Raises:
        TlsError: a file cannot be used, or `clients` are to be verified and there are no `ca_certs`.
    """
    context = _server_context(files, clients)
    context.set_alpn_protocols(["http/1.1"])
    return context


def h2_client_context(files: TlsFiles) -> ssl.SSLContext:
    """For a client of HTTP/2 that has a certificate and verifies the server's, and its host name, against `ca_certs`
    (the system's authorities if None).

    Raises:
        TlsError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _restrict_to_h2(context)
    _load(context, files)
    if files.ca_certs is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _restrict_to_h2(context: ssl.SSLContext) -> None:
    """RFC 9113, sections 3.3 and 9.2. Compression is off in every context that Python makes."""
    context.set_alpn_protocols([H2])
    context.set_ciphers(_H2_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION


def _server_context(files: TlsFiles, clients: ssl.VerifyMode) -> ssl.SSLContext:
    if clients is not ssl.CERT_NONE and files.ca_certs is None:
        raise TlsError("clients' certificates can only be verified against ca_certs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = clients
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    # The ssl module's errors name no file.
    for path in filter(None, (files.keyfile, files.certfile, files.ca_certs)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise TlsError(f"{path}: {error.strerror}") from error
    _load_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files.certfile)
    if files.ca_certs is not None:
        _load_certificates(context, files.ca_certs)

    def password() -> str:
        # Without this OpenSSL would ask for it at the terminal.
        if files.password is None:
            raise TlsError(f"the private key in {files.keyfile} is encrypted, and no ssl_keyfile_password is given")
        return files.password

    try:
        context.load_cert_chain(files.certfile, files.keyfile, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = f"the private key in {files.keyfile} does not belong to the certificate in {files.certfile}"
        elif error.reason is None or error.library == "PEM":
            reason = f"{files.keyfile} holds no private key in PEM format that the password, if any, opens"
        else:
            reason = f"{files.certfile} with {files.keyfile}: {error}"
        raise TlsError(reason) from error


def _load_certificates(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise TlsError(f"{path} holds no certificate in PEM format") from error


class RenewableContext(ssl.SSLContext):
    """Stands for a server's context, which can be replaced: handshakes that begin then use the new one.

    A context that is in use is never changed itself: a handshake sees the old files or the new ones, never a mixture.
    """

    current: ssl.SSLContext

    def __new__(cls, first: ssl.SSLContext) -> RenewableContext:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self.current = first
        return self

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """What event loops call at the beginning of each handshake."""
        return self.current.wrap_bio(*args, **kwargs)
