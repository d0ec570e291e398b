"""The invariants that the fixture `site` checks."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from certbus.connection import connect
from certbus.errors import ConnectionFailed
from ctparse.merkle import Frontier
from simlog.oracle.oracle import Delivery
from tests.certbus.bus import KEYS, LOG, Worker, batch
from tests.certbus.servers import RedisServer
from tests.e2e.invariants import broken, differing_ids
from tests.e2e.site import FORMS, Site
from tests.gateway.conftest import running_redis


@pytest.mark.parametrize(
    ("ids", "differing"),
    [
        (["1-0-0 2-0-0", "1-0-0 2-0-0"], 0),
        (["1-0-0 2-0-0 3-0-0", "2-0-0 3-0-0"], 0),  # one stream was trimmed further
        (["1-0-0 2-0-0", ""], 0),
        (["9-0-0 10-0-0", "10-0-0"], 0),
        (["1-0-0 2-0-0 3-0-0", "1-0-0 3-0-0"], 1),
        (["1-0-0 2-0-0", "1-0-0 2-0-0 3-0-0"], 1),
    ],
)
def test_streams_hold_the_same_ids(ids: list[str], differing: int) -> None:
    streams = [
        Delivery(f"stream:{form}", form, [b'{"id":"%b"}' % each.encode() for each in held.split()])
        for form, held in zip(FORMS, ids, strict=False)
    ]
    assert len(differing_ids(streams)) == differing


def frontier(size: int) -> bytes:
    found = Frontier()
    found.extend(bytes([number]) * 32 for number in range(size))
    return found.to_bytes()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


async def test_wrong_accounts_and_frontiers_are_found(redis: RedisServer, tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.redis_url = redis.url
    async with connect(redis.url) as client:
        worker = Worker(client, "one")
        published = msgspec.structs.replace(batch(0, ["a", "b"]), frontier=frontier(2))
        await worker.publisher.publish(await worker.take(), published)
        assert await broken(site) == []
        await client.hincrby(KEYS.log(LOG), "duplicates", 1)
        (found,) = await broken(site)
        assert found.startswith("accounts of ")
        await client.hincrby(KEYS.log(LOG), "duplicates", -1)
        await client.hset(KEYS.log(LOG), "frontier", frontier(3))
        (found,) = await broken(site)
        assert "frontier" in found
    redis.kill()
    with pytest.raises(ConnectionFailed):
        await broken(site)
    await site.close()
