"""The cost of HTTP/1.1 with one connection per request in flight, against HTTP/2, over TLS.

    python -m bench.http_versions [--seconds 6]

The ingestor's `Fetcher` reads bodies of simlog from a TLS server with a certificate of a test CA.
The server runs in a process of its own. It answers HTTP/1.1 and HTTP/2 (by ALPN) alike: with a
body that it took from simlog at its start, after the latency of the profile. So the versions of
HTTP are all that differs. CPU is that of the client: TLS, HTTP and the body, without decoding.

The server needs the package h2, which nothing else in this project needs: `pip install h2`.
"""

import argparse
import asyncio
import datetime as dt
import gzip
import ipaddress
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.page import PAGE, replace, table
from bench.processes import answer, free_port, running, simulated_logs
from ingestor.client.addresses import HttpClients
from ingestor.client.connections import LIMITS, connection_client
from ingestor.client.http import Fetcher

MAX_BODY_BYTES = 64 << 20
REPEATS = 3
IN_FLIGHT = 16


class Profile(msgspec.Struct, frozen=True):
    """What a log answers.

    Attributes:
        name: of the row.
        path: in simlog.
        entries: in one answer.
        latency: seconds until the answer.
        zipped: whether the body is compressed.
    """

    name: str
    path: str
    entries: int
    latency: float = 0.0
    zipped: bool = False


PROFILES = (
    Profile("32 entries after 1 s (Google)", "rfc1/ct/v1/get-entries?start=0&end=31", 32, 1.0),
    Profile("256 entries after 1.7 s", "rfc1/ct/v1/get-entries?start=0&end=255", 256, 1.7),
    Profile("32 entries at once", "rfc1/ct/v1/get-entries?start=0&end=31", 32),
    Profile("256 entries at once", "rfc1/ct/v1/get-entries?start=0&end=255", 256),
    Profile("data tile at once", "static1/tile/data/000", 256, zipped=True),
)


class Http1(asyncio.Protocol):
    """Answers each HTTP/1.1 request with the same body; requests have none."""

    def __init__(self, body: bytes, profile: Profile) -> None:
        encoding = "content-encoding: gzip\r\n" if profile.zipped else ""
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n{encoding}\r\n"
        self._answer = head.encode() + body
        self._latency = profile.latency
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            self._received = self._received.partition(b"\r\n\r\n")[2]
            later(self._latency, lambda: self._transport.write(self._answer))


class Http2(asyncio.Protocol):
    """Answers each HTTP/2 stream with the same body, within the client's flow control."""

    def __init__(self, body: bytes, profile: Profile) -> None:
        from h2.config import H2Configuration  # noqa: PLC0415  (of the server alone)
        from h2.connection import H2Connection  # noqa: PLC0415

        self._http: Any = H2Connection(H2Configuration(client_side=False))
        self._body = body
        self._headers = [(":status", "200"), ("content-length", str(len(body)))]
        if profile.zipped:
            self._headers.append(("content-encoding", "gzip"))
        self._latency = profile.latency
        self._rest: dict[int, memoryview] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._http.initiate_connection()
        self._transport.write(self._http.data_to_send())

    def data_received(self, data: bytes) -> None:
        from h2 import events  # noqa: PLC0415

        for event in self._http.receive_data(data):
            if isinstance(event, events.RequestReceived):
                later(self._latency, partial(self._begin, event.stream_id))
            elif isinstance(event, events.StreamReset):
                self._rest.pop(event.stream_id, None)
        self._send()

    def _begin(self, stream: int) -> None:
        self._http.send_headers(stream, self._headers)
        self._rest[stream] = memoryview(self._body)
        self._send()

    def _send(self) -> None:
        for stream in list(self._rest):
            while stream in self._rest and (room := self._http.local_flow_control_window(stream)):
                rest = self._rest[stream]
                size = min(room, self._http.max_outbound_frame_size)
                self._http.send_data(stream, rest[:size].tobytes(), end_stream=len(rest) <= size)
                if len(rest) <= size:
                    del self._rest[stream]
                else:
                    self._rest[stream] = rest[size:]
        self._transport.write(self._http.data_to_send())


def later(seconds: float, call: Callable[[], None]) -> None:
    if seconds:
        asyncio.get_running_loop().call_later(seconds, call)
    else:
        call()


class ByAlpn(asyncio.Protocol):
    """Hands a connection to the version that the client chose."""

    def __init__(self, body: bytes, profile: Profile) -> None:
        self._make = partial(Http1, body, profile), partial(Http2, body, profile)

    def connection_made(self, transport: Any) -> None:
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        protocol = self._make[chosen == "h2"]()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


async def serve(directory: Path, port: int, number: int) -> None:
    """Serve one profile for ever."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    context.set_alpn_protocols(["h2", "http/1.1"])
    body = (directory / f"body{number}").read_bytes()
    make = partial(ByAlpn, body, PROFILES[number])
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", port, ssl=context)
    await server.serve_forever()


def certificates(directory: Path) -> ssl.SSLContext:
    """Make a CA and a certificate for 127.0.0.1; return what trusts the CA."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
    now = dt.datetime.now(dt.UTC)

    def certificate(
        name: x509.Name, public: ec.EllipticCurvePublicKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(ca_key, hashes.SHA256())
        )

    ca = certificate(ca_name, ca_key.public_key(), x509.BasicConstraints(ca=True, path_length=0))
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    own = certificate(x509.Name([]), key.public_key(), x509.SubjectAlternativeName([address]))
    pem = serialization.Encoding.PEM
    (directory / "server.pem").write_bytes(own.public_bytes(pem))
    (directory / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return ssl.create_default_context(cadata=ca.public_bytes(pem).decode())


async def measure(
    url: str, profile: Profile, trusting: ssl.SSLContext, seconds: float, *, http2: bool
) -> tuple[float, float]:
    """Read for some seconds; return CPU (µs an entry) and entries a second."""
    options: dict[str, Any] = {
        "trust_env": False,
        "headers": {"accept-encoding": "gzip"},
        "timeout": httpx.Timeout(None),
    }
    make = partial(
        httpx.AsyncClient, http1=False, http2=True, verify=trusting, limits=LIMITS, **options
    )
    if not http2:
        make = partial(connection_client, trusting, **options)
    answers = 0

    async def read() -> None:
        nonlocal answers
        while time.monotonic() < end:
            await fetcher.get_log(url, MAX_BODY_BYTES)
            answers += 1

    async with HttpClients(make) as pools, make() as client:
        # HTTP/2 needs one connection, and no pool.
        http: Any = SimpleNamespace(trusted=client, guarded=client) if http2 else pools
        fetcher = Fetcher(http, "bench", timeout=60)
        # Connections are opened first: a log is read for days.
        await asyncio.gather(*(fetcher.get_log(url, MAX_BODY_BYTES) for _ in range(IN_FLIGHT)))
        before, began = time.process_time(), time.monotonic()
        end = began + seconds
        await asyncio.gather(*(read() for _ in range(IN_FLIGHT)))
        entries = answers * profile.entries
        spent, wall = time.process_time() - before, time.monotonic() - began
    return spent / entries * 1e6, entries / wall


async def rows(seconds: float) -> list[list[str]]:
    """Measure every profile, with both versions in turn."""
    found = []
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        trusting = certificates(home)
        world = ("--rfc6962=1", "--static-ct=1", "--rate=0", "--preload=2000")
        async with simulated_logs(home, *world) as url:
            for number, profile in enumerate(PROFILES):
                body = await answer(f"{url}/{profile.path}")
                body = gzip.compress(body) if profile.zipped else body
                (home / f"body{number}").write_bytes(body)
        for number, profile in enumerate(PROFILES):
            port = free_port()
            command = ["-m", "bench.http_versions", f"--serve={home}", f"--port={port}"]
            async with running([*command, f"--profile={number}"], home / "server.log"):
                await connected(port)
                samples: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
                for _ in range(REPEATS):
                    for http2, its in samples.items():
                        target = f"https://127.0.0.1:{port}/"
                        its.append(await measure(target, profile, trusting, seconds, http2=http2))
            size = (home / f"body{number}").stat().st_size
            found.append([profile.name, f"{size / 1024:,.0f} KiB", *columns(samples)])
    return found


def columns(samples: dict[bool, list[tuple[float, float]]]) -> Sequence[str]:
    """The best of each version: what disturbs a run makes it worse."""
    (cpu1, speed1), (cpu2, speed2) = (
        (min(cpu for cpu, _ in its), max(speed for _, speed in its)) for its in samples.values()
    )
    return f"{cpu1:.1f} µs", f"{cpu2:.1f} µs", f"{speed1:,.0f}", f"{speed2:,.0f}"


async def connected(port: int) -> None:
    """Wait until the server listens."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return


def main() -> None:
    parser = argparse.ArgumentParser("bench.http_versions", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--write", action="store_true", help="put the table on the page")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        uvloop.run(serve(options.serve, options.port, options.profile))
        return
    head = ["answer", "size", "CPU, HTTP/1.1", "CPU, HTTP/2", "entries/s, 1.1", "entries/s, 2"]
    text = table(head, uvloop.run(rows(options.seconds)))
    print(text)
    if options.write:
        PAGE.write_text(replace(PAGE.read_text(), "http-versions", text))


if __name__ == "__main__":
    main()
