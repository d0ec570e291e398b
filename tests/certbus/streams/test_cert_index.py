import msgspec
import pytest
from redis.asyncio import Redis

from certbus.streams.batch import Batch, Published
from certbus.streams.cert_index import StreamLocation, find_by_fingerprint, message_at
from tests.certbus.bus import KEYS, Worker, batch, message, retain


async def test_a_certificate_is_found_by_either_digest(one: Worker, client: Redis) -> None:
    await one.publisher.configure()
    lease = await one.take()
    ids = []
    for first in range(0, 300, 100):
        names = [f"certificate {index}" for index in range(first, first + 100)]
        outcome = await one.publisher.publish(lease, batch(first, names))
        assert isinstance(outcome, Published)
        ids.append(outcome.id)
    for index in (0, 99, 100, 299):
        wanted = message(f"certificate {index}")
        place = StreamLocation(str(ids[index // 100]), index % 100)
        assert await find_by_fingerprint(client, KEYS, wanted.sha256) == place
        assert await find_by_fingerprint(client, KEYS, wanted.sha1) == place
        for stream in ("full", "lite", "domains"):
            assert await message_at(client, KEYS, stream, place) == getattr(wanted, stream)


async def test_an_unpublished_certificate_is_not_found(one: Worker, client: Redis) -> None:
    assert await find_by_fingerprint(client, KEYS, message("a").sha256) is None
    await one.publisher.publish(await one.take(), batch(0, ["a"]))
    assert await find_by_fingerprint(client, KEYS, message("b").sha256) is None
    assert await find_by_fingerprint(client, KEYS, message("b").sha1) is None
    near = message("a").sha256[:-1] + b"\0"
    assert await find_by_fingerprint(client, KEYS, near) is None


async def test_of_one_sha1_the_newest_is_found(one: Worker, client: Redis) -> None:
    lease = await one.take()
    collision = msgspec.structs.replace(message("b"), sha1=message("a").sha1)
    await one.publisher.publish(lease, batch(0, ["a"]))
    outcome = await one.publisher.publish(lease, Batch(1, 2, [collision], 0, []))
    assert isinstance(outcome, Published)
    assert await find_by_fingerprint(client, KEYS, collision.sha1) == StreamLocation(
        str(outcome.id), 0
    )


async def test_a_place_may_outlive_its_message(client: Redis) -> None:
    worker = Worker(client, "one", retention=retain(max_bytes=0))
    await worker.publisher.publish(await worker.take(), batch(0, ["a"]))
    await worker.trimmer.trim()
    place = await find_by_fingerprint(client, KEYS, message("a").sha256)
    assert place is not None
    assert await message_at(client, KEYS, "full", place) is None


async def test_a_digest_has_one_of_two_lengths(client: Redis) -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        await find_by_fingerprint(client, KEYS, b"\0" * 31)
