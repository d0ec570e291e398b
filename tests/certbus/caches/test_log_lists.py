"""What the cache of log lists stores, it returns."""

from redis.asyncio import Redis

from certbus.caches.log_lists import ListVersion, LogListCache, RawList
from tests.certbus.bus import KEYS

RAW = RawList(b'{"operators": []}', b"signature")


async def test_a_stored_list_has_the_time_at_which_it_was_published(client: Redis) -> None:
    lists = LogListCache(client, KEYS)
    version = ListVersion("0001", "ab" * 32, "87.1", published_at=1_790_000_000.5)
    assert await lists.store("id", "Example", "https://lists.example/", RAW, version)
    (status,) = await lists.statuses()
    assert status.published_at == 1_790_000_000_500
    assert (status.list_id, status.name, status.version) == ("id", "Example", "87.1")
    assert await client.hget(KEYS.log_list("id"), "made") == b"1790000000500"
    assert await lists.load("id") == RAW


async def test_an_older_list_replaces_nothing(client: Redis) -> None:
    lists = LogListCache(client, KEYS)
    newer = ListVersion("0002", "ab" * 32, "2", published_at=None)
    older = ListVersion("0001", "cd" * 32, "1", published_at=None)
    assert await lists.store("id", "Example", "https://lists.example/", RAW, newer)
    assert not await lists.store("id", "Example", "https://lists.example/", RawList(b"{}"), older)
    (status,) = await lists.statuses(["id"])
    assert (status.version, status.published_at) == ("2", None)
    assert await lists.load("id") == RAW
