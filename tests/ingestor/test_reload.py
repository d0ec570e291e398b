"""A configuration that changes while ingestors work."""

import msgspec

from certbus.streams.reader import read_head
from certconf import CustomLog
from tests.ingestor.site import Site
from tests.retained import newest
from tests.waiting import until


async def test_configured_logs_come_and_go(site: Site) -> None:
    await site.simlog.start(rfc6962=2, static_ct=1, preload=200, rate=20)
    ingestor = await site.ingestor("a", **{"static_logs": [], "ct_log.start_index": 0})
    before = ingestor.present.config
    first, second = before.custom_logs

    async def followed() -> set[str]:
        return {name for name, log in (await site.logs()).items() if log.owner is not None}

    async def exactly(*names: str) -> bool:
        return await followed() == set(names) and await site.holders() == {"a": len(names)}

    await until(lambda: exactly(first.name, second.name), what="both logs")
    quicker = CustomLog(first.name, first.url, key=first.key, poll_interval_ms=40)
    ingestor.present.replace(msgspec.structs.replace(before, custom_logs=(quicker,)))
    await until(lambda: exactly(first.name), what="one log less")
    ingestor.present.replace(before)
    await until(lambda: exactly(first.name, second.name), what="both logs again")
    published = await site.published()
    assert len(published) == len(set(published))


async def test_streams_are_written_by_the_newest_configuration(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, rate=50)
    one, other = await site.ingestor("a"), await site.ingestor("b")
    before = one.present.config

    async def shared() -> bool:
        return await site.holders() == {"a": 1, "b": 1}

    await until(shared, what="a log each")
    less = msgspec.structs.replace(before.streams, full=False)
    one.present.replace(msgspec.structs.replace(before, streams=less))

    async def written(*streams: str) -> bool:
        return (await read_head(site.redis, site.keys)).streams == streams

    async def full_is_behind() -> bool:
        full = await newest(site.redis, site.keys, "full")
        lite = await newest(site.redis, site.keys, "lite")
        return full is not None and lite is not None and full.id != lite.id

    await until(lambda: written("lite", "domains"), what="two streams")
    await until(full_is_behind, what="batches without full messages")
    other.present.replace(msgspec.structs.replace(before, contact="someone"))
    await until(lambda: written("full", "lite", "domains"), what="three streams again")
