"""Server certificates: read from PEM files, checked, and made into a TLS context."""

import datetime as dt
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)


class UnusableCertificate(OSError):
    """A certificate or key that cannot be served; the message names the file and the reason."""


def load_certificate(certificate: Path, key: Path) -> tuple[ssl.SSLContext, dt.datetime]:
    """Return a server context for a certificate, and when the certificate expires.

    Args:
        certificate: file with the chain in PEM, the server's own certificate first.
        key: file with its private key in PEM, without a password.

    Raises:
        UnusableCertificate: a file cannot be read or parsed, or key and certificate do not match.
    """
    try:
        chain = x509.load_pem_x509_certificates(_read("tls_cert", certificate))
        public = chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableCertificate(f"tls_cert {certificate} is not a PEM certificate") from None
    try:
        private = load_pem_private_key(_read("tls_key", key), None)
    except TypeError:
        raise UnusableCertificate(f"tls_key {key} needs a password: store it without") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableCertificate(f"tls_key {key} is not a PEM private key") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != public.public_bytes(*form):
        raise UnusableCertificate(
            f"tls_key {key} is not the key of the first certificate in {certificate}"
        )
    context = server_context()
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one: a key that is too short, for example
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise UnusableCertificate(f"tls_cert {certificate}: {reason}") from None
    return context, chain[0].not_valid_after_utc


def server_context() -> ssl.SSLContext:
    """Return a context for servers of HTTP/1.1 with TLS 1.2 or newer, without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _read(setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        message = f"{setting} {file} cannot be read: {error.strerror}"
        raise UnusableCertificate(message) from None
