"""Ingestors and gateways behind sentinels, while the primary is killed, stopped or cut off.

`make failovers RUNS=20` runs it longer, with 30 s per fault.
"""

import asyncio
import os
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest

from certbus.connection import connect
from simlog.oracle.oracle import judge
from tests.e2e.clients import Client, connected
from tests.e2e.invariants import broken
from tests.e2e.processes import CERTSTREAM_SERVER
from tests.e2e.sentinels import KINDS, Network, Watched
from tests.e2e.site import Site
from tests.waiting import until

RUNS = int(os.environ.get("FAILOVERS", "0"))
FAULT_SECS = 30 if RUNS else 5  # after another primary was chosen; longer than a lease
RATE = 200
# A busy machine may make the sentinels choose again, and each time requests wait 15 s.
DEADLINE_SECS = 600

pytestmark = pytest.mark.slow


@pytest.mark.timeout(3 * DEADLINE_SECS)
@pytest.mark.parametrize("number", range(RUNS or len(KINDS)))
async def test_a_failover_loses_nothing(site: Site, tmp_path: Path, number: int) -> None:
    how = KINDS[number % len(KINDS)]
    async with Network(site) as network:
        watched = Watched(site, tmp_path, network)
        await watched.start()
        site.redis_url = watched.url
        await site.start_logs(
            rfc6962=2,
            static_ct=1,
            rate=RATE,
            total=RATE * (10 + FAULT_SECS),
            seed=6 + number,
            start=time.time() + 3,
        )
        await site.configure(
            redis_password_file=str(watched.password_file),
            redis_sentinel_password_file=str(watched.sentinel_password_file),
        )
        await site.start_gateway()
        await site.start_gateway(f"--set=redis_read_url={watched.url}&role=replica")
        async with connected(site.gateways, ["lite"]) as clients:
            for _ in range(2):
                site.start_ingestor()
            await until(lambda: all(len(each.messages) > 200 for each in clients), "messages", 120)
            await watched.change_sentinel_password(f"of-tomorrow-{number}")
            # One that is cut off has an ingestor and a gateway on its side.
            await watched.fail_over(how, FAULT_SECS, ("ingestor-1", "gateway-1"))
            site.redis_url = watched.admin_url
            try:
                await until(site.everything_ingested, "everything is ingested", DEADLINE_SECS)
            except AssertionError as error:
                raise AssertionError(f"{error}: {await site.logs()}") from None
            wanted = {entry.sha256 for entry in await site.record() if not entry.malformed}
            for client in clients:
                await until(partial(has_received, client, wanted), client.where, DEADLINE_SECS)
        if how == "killed":
            await check_warning(watched)
        record = await site.record()
        verdict = judge(record, await site.streams(), await site.tallies())
        assert verdict.flawless, f"\n{verdict}"
        for client in clients:
            (found,) = judge(record, [client.delivery]).findings
            assert not {"lost", "uncommitted", "unknown", "altered"} & found.problems.keys(), found
            assert repeated_without_gap(client) == []
        assert await broken(site) == []
        site.redis_url = ""  # it cannot be reached without the network
        for process in site.processes:
            log = process.log.read_text()
            # uvloop and redis-py log the end of a TLS connection to a server that is gone so.
            ends = ("Fatal error on SSL protocol", "Timed out closing connection")
            assert log.count("Traceback") <= sum(map(log.count, ends)), str(process)


async def check_warning(watched: Watched) -> None:
    """Check that `status` warns of a primary that accepts writes without replicas."""
    async with connect(watched.admin_url) as client:
        for number in (1, 0):
            await client.config_set("min-replicas-to-write", number)
            process = await asyncio.create_subprocess_exec(
                *CERTSTREAM_SERVER,
                *("status", f"--redis-url={watched.admin_url}"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await process.communicate()
            assert ("has no min-replicas-to-write" in output.decode()) is not bool(number), output


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
