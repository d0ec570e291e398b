"""TLS on the port that clients connect to.

One context accepts all connections and gives each, in the middle of its handshake, the context of
the certificate there is then. So a certificate is exchanged in one step, for new connections, and
only once a pair was found to work as a whole.
"""

import asyncio
import datetime as dt
import ssl
from pathlib import Path
from typing import Any, Final

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from gateway.config import Settings

_LOOK: Final = 2.0  # seconds between two looks at the files

log = structlog.get_logger(__name__)


class UnusableCertificate(OSError):
    """What is in the files cannot be served; says which, and why."""


class TLSContextReloader:
    """A certificate and its key, as they are in their files.

    Args:
        certificate: file with the chain in PEM, the server's own certificate first.
        key: file with its private key in PEM, without a password.

    Attributes:
        context: for a server.

    Raises:
        UnusableCertificate: they cannot be served.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._state = self._look()
        self._newest = self._read()
        self.context = _context()
        self.context.sni_callback = self._choose  # also called for who names no server

    async def run(self) -> None:
        """Serve what is in the files as they change, until cancelled; a broken pair is not."""
        while True:
            await asyncio.sleep(_LOOK)
            state = self._look()
            if state == self._state:
                continue
            self._state = state
            try:
                self._newest = self._read()
            except UnusableCertificate as error:
                log.error("certificate refused, the one before stays", why=str(error))

    def _read(self) -> ssl.SSLContext:
        context, expires = read(self._certificate, self._key)
        log.info("certificate read", file=str(self._certificate), expires=str(expires))
        return context

    def _choose(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _look(self) -> object:
        """What tells the files from those that were there before."""
        try:
            found = [file.stat() for file in (self._certificate, self._key)]
        except OSError:
            return None
        return [(file.st_dev, file.st_ino, file.st_mtime_ns, file.st_size) for file in found]


def server_options(certificate: TLSContextReloader | None, settings: Settings) -> dict[str, Any]:
    """Arguments of `connect_accepted_socket`: a TLS handshake that is not finished is cut off."""
    if certificate is None:
        return {}
    return {
        "ssl": certificate.context,
        "ssl_handshake_timeout": settings.request_timeout,
        "ssl_shutdown_timeout": settings.close_timeout,
    }


def read(certificate: Path, key: Path) -> tuple[ssl.SSLContext, dt.datetime]:
    """A context that serves this certificate, and when it expires.

    Raises:
        UnusableCertificate: it cannot be served.
    """
    try:
        chain = x509.load_pem_x509_certificates(_content("tls_cert", certificate))
        public = chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableCertificate(f"tls_cert {certificate} is no certificate in PEM") from None
    try:
        private = load_pem_private_key(_content("tls_key", key), None)
    except TypeError:
        raise UnusableCertificate(f"tls_key {key} needs a password: store it without") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableCertificate(f"tls_key {key} is no private key in PEM") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != public.public_bytes(*form):
        raise UnusableCertificate(
            f"tls_key {key} is not the key of the first certificate in {certificate}"
        )
    context = _context()
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # as ssl.SSLError is: a key that is too short, say
        why = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise UnusableCertificate(f"tls_cert {certificate}: {why}") from None
    return context, chain[0].not_valid_after_utc


def _content(setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        message = f"{setting} {file} cannot be read: {error.strerror}"
        raise UnusableCertificate(message) from None


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
