"""TLS on the port that clients connect to, with certificates that are reloaded when files change.

One context accepts all connections. During each handshake it switches the connection to the
context of the newest valid certificate. A new certificate therefore replaces the old one in one
step, for new connections, and only after certificate and key were found to match.
`tests/gateway/server/test_tls.py` holds this.
"""

import asyncio
import ssl
from pathlib import Path
from typing import Any, Final

import structlog

from certhttp.tls import UnusableCertificate, load_certificate, server_context
from gateway.config import Settings

_CHECK_INTERVAL_SECS: Final = 2.0

log = structlog.get_logger(__name__)


class TLSContextReloader:
    """The TLS context of a certificate and key, reloaded when their files change.

    Args:
        certificate: file with the chain in PEM, the server's own certificate first.
        key: file with its private key in PEM, without a password.

    Attributes:
        context: for a server.

    Raises:
        UnusableCertificate: the certificate cannot be served.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._state = self._file_state()
        self._newest = self._load()
        self.context = server_context()
        self.context.sni_callback = self._select  # also called for clients that send no SNI

    async def run(self) -> None:
        """Load changed files until cancelled.

        If they are invalid or unreadable, keep the current certificate and try again: a free
        descriptor or another mode changes nothing that is compared.
        """
        logged: object = None
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_SECS)
            state = self._file_state()
            if state == self._state:
                continue
            try:
                self._newest = self._load()
            except UnusableCertificate as error:
                if logged != (state, reason := str(error)):
                    log.error("certificate rejected", reason=reason)
                    logged = (state, reason)
            else:
                self._state = state

    def _load(self) -> ssl.SSLContext:
        context, expires = load_certificate(self._certificate, self._key)
        log.info("certificate loaded", file=str(self._certificate), expires=str(expires))
        return context

    def _select(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _file_state(self) -> object:
        """Return a value that changes whenever one of the files changes."""
        try:
            found = [file.stat() for file in (self._certificate, self._key)]
        except OSError:
            return None
        return [(file.st_dev, file.st_ino, file.st_mtime_ns, file.st_size) for file in found]


def server_options(certificate: TLSContextReloader | None, settings: Settings) -> dict[str, Any]:
    """Return arguments of `connect_accepted_socket`, with time-outs for TLS handshakes.

    That of the closing handshake includes the time for reading the last response. `HTTPConnection`
    and `Client` have shorter ones for a client that has read it and does not answer.
    """
    if certificate is None:
        return {}
    return {
        "ssl": certificate.context,
        "ssl_handshake_timeout": settings.request_timeout,
        "ssl_shutdown_timeout": settings.client_timeout,
    }
