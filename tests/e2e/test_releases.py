"""Processes of the previous release beside those of this one, on one Redis: a rolling upgrade.

The previous release is a commit, so these tests need a clone with history; they skip without it.
"""

import os
import subprocess
import tarfile
import time
from collections.abc import Mapping
from io import BytesIO

import pytest
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.keys import FORMAT, Keys
from simlog.oracle.oracle import judge
from tests.e2e.clients import all_received, connected
from tests.e2e.site import FORMS, Site
from tests.paths import ROOT
from tests.waiting import until

PREVIOUS = "bf1731901468708c38c00ee5975f33d68877e300"
"""The last commit of the previous release. With each release, name the one before it here."""

CERTIFICATES = 2000
RATE = 200
"""New certificates per second of all simulated logs."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment in which `python -m launcher` is that of the previous release."""
    command = ["git", "-C", str(ROOT), "archive", PREVIOUS, "libs", "services"]
    try:
        archive = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", b"").decode("utf-8", "replace").strip() or str(error)
        pytest.skip(f"the previous release, commit {PREVIOUS[:7]}, is not available: {reason}")
    release = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(release, filter="data")
    # The previous release required h2, and negotiates HTTP/2 only with TLS, which no log has here.
    (release / "libs" / "h2.py").touch()
    return {"PYTHONPATH": os.pathsep.join(str(release / part) for part in ("libs", "services"))}


async def stored_format(client: Redis) -> int:
    return int(await client.hget(Keys().head, "format") or 0)


async def published(site: Site) -> int:
    return sum(tally.published for tally in await site.tallies())


@pytest.mark.parametrize("first", ["the previous ingestor", "this ingestor"])
async def test_an_upgrade_and_a_downgrade_lose_and_repeat_nothing(
    site: Site, previous: Mapping[str, str], first: str
) -> None:
    """Both releases have a gateway; the ingestor of one release takes over from the other's."""
    releases: list[Mapping[str, str] | None] = [previous, None]
    if first == "this ingestor":
        releases.reverse()
    await site.start_redis()
    await site.start_logs(
        rfc6962=2,
        static_ct=1,
        duplicates=0.3,
        rate=RATE,
        total=CERTIFICATES,
        seed=7,
        start=time.time() + 10,
    )
    await site.configure()
    for release in releases:
        await site.start_gateway(environment=release)
    async with connected(site.gateways, FORMS) as clients, connect(site.redis_url) as client:
        before = site.start_ingestor(environment=releases[0])

        async def has_begun() -> bool:
            return await published(site) > CERTIFICATES // 10

        await until(has_begun, "the first ingestor publishes", 120)
        assert await stored_format(client) == FORMAT
        after = site.start_ingestor(environment=releases[1])

        async def is_shared() -> bool:
            owners = {log.owner for log in await site.logs()}
            return len(owners) == 2 and None not in owners

        await until(is_shared, "both ingestors have logs", 120)
        assert before.stop(seconds=60) == 0, str(before)
        await until(site.everything_ingested, "everything is ingested", 180)
        assert after.stop(seconds=60) == 0, str(after)
        assert await stored_format(client) == FORMAT
        last = (await site.streams())[0].messages[-1].split(b'"')[3].decode()
        await all_received(clients, last, 120)
    for process in site.processes:
        assert "Traceback" not in process.log.read_text(), str(process)
    deliveries = [*await site.streams(), *(client.delivery for client in clients)]
    verdict = judge(await site.record(), deliveries, await site.tallies())
    assert verdict.flawless, f"\n{verdict}"
