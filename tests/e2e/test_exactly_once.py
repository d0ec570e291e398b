"""Each certificate once in each stream and at each client, whichever process is killed."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
from msgspec.structs import replace

from simlog.field.operators import field_spec
from simlog.oracle.oracle import judge
from simlog.schedule import submissions
from tests.e2e.clients import Client, all_received, connected
from tests.e2e.processes import Process
from tests.e2e.site import FORMS, Site
from tests.waiting import until

CERTIFICATES = 10_000
FIELD_CERTIFICATES = 1_000
PAIRS = 400
INGESTORS = 3
GATEWAYS = 2
ALL_KILLED_ROUND = 3  # the turn in which not one but every ingestor is killed

pytestmark = pytest.mark.slow


async def running(site: Site, rate: int) -> None:
    """Two logs of each kind, Redis and the gateways; no ingestor yet, so nothing streams."""
    await site.start_redis()
    await site.start_logs(
        rfc6962=2,
        static_ct=2,
        operators=3,
        duplicates=0.3,
        rate=rate,
        total=CERTIFICATES,
        seed=3,
        start=time.time() + 5,
    )
    await site.configure()
    for _ in range(GATEWAYS):
        await site.start_gateway()


async def everything_delivered(site: Site, clients: Sequence[Client]) -> None:
    """Wait until each client has the newest message; there must be no ingestor left by now."""
    last = msgspec.json.decode((await site.streams())[0].messages[-1])["id"]
    await all_received(clients, last, 120)


async def assert_flawless(site: Site, clients: Sequence[Client]) -> None:
    deliveries = [*await site.streams(), *(client.delivery for client in clients)]
    verdict = judge(await site.record(), deliveries, await site.tallies())
    assert verdict.flawless, f"\n{verdict}"
    assert [each.received for each in verdict.findings] == [CERTIFICATES] * (3 + len(clients))


async def test_three_ingestors_and_two_gateways(site: Site) -> None:
    await running(site, rate=1000)
    async with connected(site.gateways, FORMS) as clients:
        for _ in range(INGESTORS):
            site.start_ingestor()
        await until(site.everything_ingested, "everything is ingested", 120)
        for ingestor in site.ingestors:
            assert ingestor.stop() == 0, str(ingestor)
        await everything_delivered(site, clients)
    assert len(clients) == 12
    await assert_flawless(site, clients)


async def test_an_ingestor_killed_every_two_seconds(site: Site) -> None:
    await running(site, rate=500)
    async with connected(site.gateways, FORMS) as clients:
        for _ in range(INGESTORS):
            site.start_ingestor()
        async with killing(site.ingestors, seed=1) as turns:
            await until(site.everything_ingested, "everything is ingested all the same", 200)
        assert len(turns) > ALL_KILLED_ROUND
        for ingestor in site.ingestors:
            ingestor.kill()
        await everything_delivered(site, clients)
    await assert_flawless(site, clients)


async def test_pairs_are_published_once_while_all_ingestors_are_killed(site: Site) -> None:
    """`dedup.by: issuance`: a precertificate and its certificate, often in two logs."""
    await site.start_redis()
    await site.start_logs(
        rfc6962=2, static_ct=2, duplicates=0.3, rate=300, total=PAIRS * 2, start=time.time() + 3
    )
    await site.configure(dedup={"by": "issuance"})
    for _ in range(2):
        site.start_ingestor()
    for kills in range(2):  # while they publish

        async def has_published(least: int = PAIRS * (kills + 1) // 3) -> bool:
            tallies = await site.tallies()
            return sum(tally.published for tally in tallies) >= least

        await until(has_published, "more pairs", 60)
        for ingestor in site.ingestors:
            ingestor.kill()
        for tally in await site.tallies():
            assert tally.accounted == tally.next - tally.start, tally
        for ingestor in site.ingestors:
            ingestor.restart()
    await until(site.everything_ingested, "everything is ingested all the same", 120)
    for ingestor in site.ingestors:
        ingestor.kill()
    streams, tallies = await site.streams(), await site.tallies()
    verdict = judge(await site.record(), streams, tallies, by="issuance")
    assert verdict.flawless, f"\n{verdict}"
    assert [each.received for each in verdict.findings] == [PAIRS] * 3
    assert not judge(await site.record(), streams, tallies, by="certificate").flawless


async def test_an_ingestor_killed_every_five_seconds_in_the_field_world(site: Site) -> None:
    """`bench/field_kills.py` in short: default pace, and logs that answer as the public ones."""
    operators, kills, start = ["Google", "DigiCert", "Let's Encrypt"], 3, time.time() + 4
    spec = field_spec(start, 3, rate=200, operators=operators)
    entries = sum(1 for _ in submissions(replace(spec, total=FIELD_CERTIFICATES)))
    await site.start_redis()
    await site.start_logs(
        field=True,
        operator=operators,
        rate=200,
        total=FIELD_CERTIFICATES,
        seed=3,
        start=start,
    )
    await site.configure(ct_log={})
    for _ in range(INGESTORS):
        site.start_ingestor()
    chance = random.Random(3)
    for _ in range(kills):
        await asyncio.sleep(5)
        victim = chance.choice(site.ingestors)
        victim.kill()
        for tally in await site.tallies():
            assert tally.accounted == tally.next - tally.start, tally
        victim.restart()

    async def is_ingested() -> bool:
        return sum(tally.next for tally in await site.tallies()) == entries

    await until(is_ingested, "every entry is ingested")
    verdict = judge(await site.record(), await site.streams(), await site.tallies())
    assert verdict.flawless, f"\n{verdict}"
    assert [each.received for each in verdict.findings] == [FIELD_CERTIFICATES] * 3


@asynccontextmanager
async def killing(ingestors: Sequence[Process], seed: int) -> AsyncIterator[list[list[str]]]:
    """Kill one of the ingestors every 2 s and start it again; once all of them together."""
    chance = random.Random(seed)
    turns: list[list[str]] = []

    async def kill_now_and_then() -> None:
        while True:
            await asyncio.sleep(2)
            all_of_them = len(turns) == ALL_KILLED_ROUND
            victims = ingestors if all_of_them else [chance.choice(ingestors)]
            for victim in victims:
                victim.kill()
            for victim in victims:
                victim.restart()
            turns.append([victim.name for victim in victims])

    task = asyncio.create_task(kill_now_and_then())
    try:
        yield turns
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
