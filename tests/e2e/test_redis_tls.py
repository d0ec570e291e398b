"""A Redis of a private CA that requires client certificates, and processes that have one."""

import datetime as dt
import ipaddress
import subprocess
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certbus.connection import connect
from certbus.errors import ConnectionFailed
from launcher.runtime.embedded_redis import find_executable
from simlog.oracle.oracle import judge
from tests.e2e.clients import connected
from tests.e2e.processes import free_port
from tests.e2e.site import Site
from tests.waiting import until

CERTIFICATES = 300


class Authority:
    """A private CA, whose certificate is in `file`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "private CA")])
        self.file = self._write("ca", self._certificate(self._name, self._key, is_ca=True))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Write a certificate for 127.0.0.1 and its key; returns the files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return (
            self._write(name, self._certificate(subject, key, is_ca=False)),
            self._write(f"{name}-key", pem),
        )

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_ca: bool
    ) -> bytes:
        now = dt.datetime.now(dt.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, pem: bytes) -> Path:
        path = self._directory / f"{name}.pem"
        path.write_bytes(pem)
        return path


def requires_tls() -> None:
    """Skip the test where the Redis is built without TLS."""
    command = [find_executable(), "--port", "0", "--tls-cluster", "no", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    if "tls-cluster" in done.stdout + done.stderr:
        pytest.skip("this redis-server has no TLS")


@pytest.mark.slow
async def test_mutual_tls(site: Site, tmp_path: Path) -> None:
    requires_tls()
    authority = Authority(tmp_path)
    (certificate, key), client = authority.issue("redis"), authority.issue("client")
    port = free_port()
    await site.start_redis_server(
        "redis",
        f"tls-port {port}",
        f"tls-cert-file {certificate}",
        f"tls-key-file {key}",
        f"tls-ca-cert-file {authority.file}",
        "tls-auth-clients yes",
    )
    options = {"ssl_ca_certs": authority.file}
    url = f"rediss://127.0.0.1:{port}/0"
    for refused in (url, f"{url}?{urlencode(options)}"):  # an unknown CA; no client certificate
        async with connect(refused) as stranger:
            with pytest.raises(ConnectionFailed):
                await stranger.ping()
    options |= {"ssl_certfile": client[0], "ssl_keyfile": client[1]}
    site.redis_url = f"{url}?{urlencode(options)}"
    await site.start_logs(
        rfc6962=1, static_ct=1, rate=300, total=CERTIFICATES, start=time.time() + 3
    )
    await site.configure()
    await site.start_gateway()
    async with connected(site.gateways, ["lite"]) as clients:
        site.start_ingestor()
        await until(site.everything_ingested, "everything is ingested", 60)
        await until(lambda: len(clients[0].messages) >= CERTIFICATES, "messages", 30)
    deliveries = [*await site.streams(), *(client.delivery for client in clients)]
    verdict = judge(await site.record(), deliveries, await site.tallies())
    assert verdict.flawless, f"\n{verdict}"
