"""Ingestors and gateways behind sentinels, while the primary is killed or stopped."""

import asyncio
import signal
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest

from certbus.acl import acl_rule
from certbus.connection import connect
from certbus.keys import Keys
from certbus.sentinel import Sentinels, SentinelURL
from launcher.runtime.embedded_redis import find_executable
from tests.e2e.clients import Client, connected
from tests.e2e.processes import Process, free_port
from tests.e2e.site import Site
from tests.waiting import until

CERTIFICATES = 2000
SERVICE = "streams"
SETTINGS = (
    ("bind", "127.0.0.1"),
    ("save", '""'),
    ("appendonly", "no"),
    ("requirepass", "of-redis"),
    ("masterauth", "of-redis"),
    ("min-replicas-to-write", "1"),
    ("min-replicas-max-lag", "10"),
    ("repl-diskless-sync-delay", "0"),
    ("user", acl_rule("primary", "certstream", Keys().prefix, "of-redis").removeprefix("user ")),
)

pytestmark = pytest.mark.slow


class Watched:
    """A primary, two replicas and three sentinels, each with a password."""

    def __init__(self, site: Site, directory: Path) -> None:
        self._site = site
        self._directory = directory
        self._ports = [free_port() for _ in range(6)]
        sentinels = ",".join(f"127.0.0.1:{port}" for port in self._ports[3:])
        self.url = (
            f"redis+sentinel://certstream:of-redis@{sentinels}/{SERVICE}/0"
            "?sentinel_username=certstream&sentinel_password=of-sentinels"
        )
        self.servers: dict[int, Process] = {}

    async def start(self) -> None:
        primary, *replicas = self._ports[:3]
        await self._start(primary, SETTINGS)
        for port in replicas:
            await self._start(port, (*SETTINGS, ("replicaof", f"127.0.0.1 {primary}")))
        for port in self._ports[3:]:
            watch = (
                ("bind", "127.0.0.1"),
                ("requirepass", "of-sentinels"),
                ("user", acl_rule("sentinel", "certstream", "", "of-sentinels")[len("user ") :]),
                ("sentinel monitor", f"{SERVICE} 127.0.0.1 {primary} 2"),
                ("sentinel auth-pass", f"{SERVICE} of-redis"),
                ("sentinel sentinel-pass", "of-sentinels"),
                ("sentinel down-after-milliseconds", f"{SERVICE} 1000"),
                ("sentinel failover-timeout", f"{SERVICE} 6000"),
            )
            await self._start(port, watch, "--sentinel")
        await until(self._complete, "sentinels that know two replicas and each other")

    async def primary(self) -> int:
        """Return the port of the present primary."""
        return (await Sentinels(SentinelURL(self.url), connect).locate())[1]

    async def _start(self, port: int, settings: tuple[tuple[str, str], ...], *options: str) -> None:
        file = self._directory / f"redis-{port}.conf"
        lines = [*settings, ("port", str(port)), ("dir", str(self._directory))]
        file.write_text("\n".join(f"{name} {value}" for name, value in lines) + "\n")
        command = [find_executable(), str(file), *options]
        process = self.servers[port] = self._site.start_process(f"redis-{port}", command)
        await until(lambda: "Running mode" in process.log.read_text(), f"Redis at {port}")

    async def _complete(self) -> bool:
        for port in self._ports[3:]:
            async with connect(f"redis://:of-sentinels@127.0.0.1:{port}") as client:
                (state,) = await client.execute_command("SENTINEL", "MASTERS")  # type: ignore[no-untyped-call]
            fields = dict(zip(state[::2], state[1::2], strict=True))
            if (fields[b"num-slaves"], fields[b"num-other-sentinels"]) != (b"2", b"2"):
                return False
        return True


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_failover_loses_nothing(site: Site, tmp_path: Path, how: str) -> None:
    watched = Watched(site, tmp_path)
    await watched.start()
    site.redis_url = watched.url
    await site.start_logs(
        rfc6962=2, static_ct=1, rate=200, total=CERTIFICATES, seed=6, start=time.time() + 3
    )
    await site.configure()
    await site.start_gateway()
    replica = f"--set=redis_read_url={watched.url}&role=replica"
    await site.start_gateway(replica)
    for _ in range(2):
        site.start_ingestor()
    async with connected(site.gateways, ["lite"]) as clients:
        await until(lambda: all(len(each.messages) > 200 for each in clients), "messages")
        before = await watched.primary()
        server = watched.servers[before]
        if how == "killed":
            server.kill()
        else:
            server.send(signal.SIGSTOP)

        async def moved() -> bool:
            return await watched.primary() != before

        await until(moved, "another primary")
        if how == "stopped":
            await asyncio.sleep(5)  # longer than a lease
            server.send(signal.SIGCONT)
        await until(site.everything_ingested, "everything is ingested", 120)
        wanted = {entry.sha256 for entry in await site.record() if not entry.malformed}
        for client in clients:
            await until(partial(has_received, client, wanted), client.where, 60)
    for client in clients:
        assert repeated_without_gap(client) == []
    for tally in await site.tallies():
        counted = tally.published + tally.duplicates + tally.rejected + tally.skipped
        assert counted == tally.next - tally.start
    for process in site.processes:
        assert "Traceback" not in process.log.read_text(), str(process)


def has_received(client: Client, wanted: set[str]) -> bool:
    return wanted <= set(map(fingerprint, client.messages))


def fingerprint(text: bytes) -> str:
    """Return the fingerprint of a message's certificate; "" if it has none."""
    message = msgspec.json.decode(text)
    if message["message_type"] != "certificate_update":
        return ""
    return str(message["data"]["leaf_cert"]["sha256"]).replace(":", "").lower()


def repeated_without_gap(client: Client) -> list[str]:
    """Return the certificates that came again although no gap message came in between."""
    seen: dict[str, int] = {}
    gaps, wrong = 0, []
    for text in client.messages:
        gaps += b'"message_type":"gap"' in text
        if name := fingerprint(text):
            if seen.get(name) == gaps:
                wrong.append(name)
            seen[name] = gaps
    return wrong
