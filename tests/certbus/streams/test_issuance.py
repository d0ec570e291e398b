"""`dedup.by: issuance`: a precertificate and the certificate issued for it are published once."""

from hashlib import sha256
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from certbus.streams.batch import Batch, Published
from certbus.streams.cert_index import find_by_fingerprint
from certbus.streams.publisher import PublisherSettings
from ctparse.wire_messages import Message
from tests.certbus.bus import (
    KEYS,
    LOG,
    OTHER_LOG,
    Worker,
    assert_adds_up,
    log_status,
    message,
    repeated,
    stored_names,
)
from tests.certbus.servers import RedisServer
from tests.certbus.streams.test_publisher import everything
from tests.ctparse.reading import SEEN, new_writer
from tests.ctparse.test_issuance import real_pair

ISSUANCE = PublisherSettings(dedup="issuance")


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    return shared_server


def of(issuance: str, name: str) -> Message:
    """The message `name` of a precertificate or certificate."""
    return msgspec.structs.replace(
        message(name), tbs_sha256=sha256(f"tbs {issuance}".encode()).digest()
    )


def batch(first: int, *messages: Message, duplicates: int = 0) -> Batch:
    return Batch(first, first + len(messages) + duplicates, list(messages), duplicates, [])


@pytest.fixture
async def two(client: Redis) -> tuple[Worker, Worker]:
    workers = Worker(client, "one", ISSUANCE), Worker(client, "two", ISSUANCE)
    for worker in workers:
        await worker.publisher.configure()
    return workers


async def test_the_second_of_a_pair_is_a_duplicate(
    two: tuple[Worker, Worker], client: Redis
) -> None:
    one, other = two
    lease, other_lease = await one.take(LOG), await other.take(OTHER_LOG)
    pair = batch(0, of("a", "a pre"), of("b", "b pre"), of("a", "a final"))
    assert repeated(await one.publisher.publish(lease, pair)) == [2], "in one batch"
    kept = batch(0, of("a", "a pre"), of("b", "b pre"), duplicates=1)
    assert isinstance(await one.publisher.publish(lease, kept), Published)
    before = await everything(client)
    found = await other.publisher.publish(other_lease, batch(0, of("c", "c"), of("b", "b final")))
    assert repeated(found) == [1], "in another log"
    assert await everything(client) == before, "nothing is written"
    kept = batch(0, of("c", "c"), duplicates=1)
    assert isinstance(await other.publisher.publish(other_lease, kept), Published)
    assert await stored_names(client) == ["a pre", "b pre", "c"]
    for log in (LOG, OTHER_LOG):
        assert_adds_up(await log_status(client, log))
    windows: dict[Any, Any] = await client.hgetall(KEYS.windows)
    assert sum(int(value) for key, value in windows.items() if key.endswith(b".marks")) == 2 * 3
    # Its issuance leads to the one that was published.
    place = await find_by_fingerprint(client, KEYS, of("b", "b final").tbs_sha256)
    assert place == await find_by_fingerprint(client, KEYS, of("b", "b pre").sha256)
    assert place is not None
    assert await one.publisher.find_known([of("b", "").tbs_sha256, of("b", "b final").sha256]) == [
        True,
        False,
    ]


async def test_issuances_are_searched_after_a_look_up_of_the_certificates(
    two: tuple[Worker, Worker],
) -> None:
    worker, _ = two
    lease = await worker.take()
    assert isinstance(await worker.publisher.publish(lease, batch(0, of("a", "pre"))), Published)
    known, known_at = await worker.publisher.find_known_at([of("a", "final").sha256])
    assert known == [False]
    sent = msgspec.structs.replace(batch(1, of("a", "final")), known_at=known_at)
    assert repeated(await worker.publisher.publish(lease, sent)) == [0]


@pytest.mark.parametrize("precert_first", [True, False])
async def test_a_real_pair(client: Redis, precert_first: bool) -> None:
    entries = real_pair() if precert_first else real_pair()[::-1]
    pair = [new_writer().write(e, sha256(e.certificate).digest(), SEEN) for e in entries]
    worker = Worker(client, "one", ISSUANCE)
    await worker.publisher.configure()
    lease = await worker.take(LOG)
    assert repeated(await worker.publisher.publish(lease, batch(0, *pair))) == [1]
    assert isinstance(await worker.publisher.publish(lease, batch(0, pair[0])), Published)
    assert repeated(await worker.publisher.publish(lease, batch(1, pair[1]))) == [0]
    other = Worker(client, "two")  # by certificate
    await other.publisher.configure()
    other_lease = await other.take(OTHER_LOG)
    assert isinstance(await other.publisher.publish(other_lease, batch(0, pair[1])), Published)
    for log in (LOG, OTHER_LOG):
        assert_adds_up(await log_status(client, log))


async def test_by_certificate_both_are_published(client: Redis) -> None:
    worker = Worker(client, "one")
    await worker.publisher.configure()
    lease = await worker.take()
    pair = batch(0, of("a", "a pre"), of("a", "a final"))
    assert isinstance(await worker.publisher.publish(lease, pair), Published)
    assert await stored_names(client) == ["a pre", "a final"]
    assert await find_by_fingerprint(client, KEYS, of("a", "").tbs_sha256) is None
    assert not await client.hexists(KEYS.head, "dedup")


async def test_all_workers_use_the_newest_configuration(client: Redis) -> None:
    old = Worker(client, "old")
    await old.publisher.configure()
    lease = await old.take()
    pair = batch(0, of("a", "a pre"), of("a", "a final"))
    await Worker(client, "new", ISSUANCE).publisher.configure()
    assert repeated(await old.publisher.publish(lease, pair)) == [1]
    await Worker(client, "newer").publisher.configure()
    assert isinstance(await old.publisher.publish(lease, pair), Published)
    assert_adds_up(await log_status(client))


async def test_a_redis_that_lost_everything_keeps_it(client: Redis) -> None:
    worker = Worker(client, "one", ISSUANCE)
    await worker.publisher.configure()
    lease = await worker.take()
    await client.delete(KEYS.head)
    pair = batch(0, of("b", "pre"), of("b", "final"))
    assert repeated(await worker.publisher.publish(lease, pair)) == [1]
    assert isinstance(await worker.publisher.publish(lease, batch(0, of("a", "pre"))), Published)
    assert await client.hget(KEYS.head, "dedup") == b"issuance"
    assert repeated(await worker.publisher.publish(lease, batch(1, of("a", "final")))) == [0]
