"""The certificate of a port while it serves: read again when its files change, or when the operator says so."""

from __future__ import annotations

import logging
import os

from swerve.net.tls import RenewableContext, TlsError
from swerve.port_tls import PortTls

logger = logging.getLogger("swerve.proxy")

# How often the files are looked at, which costs a system call each.
CHECK_S = 1.0

# (device, inode, time of change, size) of each file, None for one that is not there.
Fingerprint = tuple[tuple[int, int, int, int] | None, ...]


class Certificate:
    """`context` always has the last files that were good: open connections and new handshakes never depend on bad ones.

    Raises:
        TlsError: the files cannot be used; raised only when it is made.
    """

    def __init__(self, tls: PortTls) -> None:
        self.tls = tls
        # Taken before the files are read, so that a change meanwhile is seen.
        self._read = self._last = self._fingerprint()
        self.context = RenewableContext(tls.context())

    def check(self) -> None:
        """Renew if the files have changed. They must have stayed as they are since the last check: a key and its
        certificate are seldom written at the same moment."""
        present = self._fingerprint()
        if present != self._read and present == self._last:
            self.renew()
        self._last = present

    def renew(self) -> str:
        """Read the files now. New handshakes use them if they are good.

        Returns:
            What was wrong with them, "" if nothing was. It is logged as well.
        """
        self._read = self._fingerprint()
        try:
            self.context.current = self.tls.context()
        except TlsError as error:
            logger.error("%s The old certificate stays in use; mend the files and they are read again.", error)
            return str(error)
        logger.info("%s", self.in_use)
        return ""

    @property
    def in_use(self) -> str:
        """A sentence for the operator."""
        return f"The {self.tls.port} port uses the certificate in {self.tls.files.certfile} from now on."

    def _fingerprint(self) -> Fingerprint:
        files = self.tls.files
        return tuple(_stamp(path) for path in (files.keyfile, files.certfile, files.ca_certs) if path is not None)


def _stamp(path: str) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def certificate_of(tls: PortTls | None, present: Certificate | None) -> Certificate | None:
    """The certificate that a port needs: the present one if that is it. None: the port does not speak TLS.

    Raises:
        TlsError: the files cannot be used.
    """
    if tls is None or (present is not None and present.tls == tls):
        return present if tls is not None else None
    return Certificate(tls)
