"""A full Redis, or disk of it: nothing half written, and it continues when there is room."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis.exceptions
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.errors import WriteRefused, is_out_of_memory
from certbus.keys import STREAMS
from certbus.streams.batch import Batch
from certbus.streams.publisher import Publisher, PublisherSettings
from tests.certbus.bus import (
    KEYS,
    LOG,
    OTHER_LOG,
    Worker,
    assert_adds_up,
    batch,
    log_status,
    message,
    rejected,
    retain,
    stored,
    stored_names,
)
from tests.certbus.servers import RedisServer
from tests.certbus.streams.test_publisher import everything
from tests.waiting import until

MEMORY = 16 * 1024 * 1024
TOO_LITTLE = 100_000


@pytest.fixture
def server(executable: str, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(executable, tmp_path, maxmemory=MEMORY)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def impatient(client: Redis) -> Worker:
    """A worker that waits for someone else to make room."""

    async def never() -> int:
        await asyncio.Event().wait()
        return 0

    worker = Worker(client, "impatient")
    worker.publisher = Publisher(client, KEYS, PublisherSettings(), never)
    return worker


async def allow(client: Redis, memory: int) -> None:
    """Change what Redis may use. Less than it uses is full, whatever it frees a moment later."""
    await client.config_set("maxmemory", memory)


async def fill(client: Redis) -> None:
    """Use up all memory, in small steps, as Redis refuses only once it has more than it may."""
    with suppress(WriteRefused):
        for number in itertools.count():
            await client.setrange(f"filler{number}", 2**13, "x")


@pytest.mark.parametrize(
    "refused",
    [
        batch(1, ["b", "c"]),
        batch(1, [], duplicates=3),
        Batch(1, 2, [], 0, [rejected(1)]),
        Batch(1, 3, [message("b")], 0, [rejected(2)]),
    ],
    ids=["messages", "duplicates", "rejected", "both"],
)
async def test_a_full_redis_refuses_a_batch_whole(
    impatient: Worker, client: Redis, refused: Batch
) -> None:
    lease = await impatient.take()
    await impatient.publisher.publish(lease, batch(0, ["a"]))
    await allow(client, TOO_LITTLE)
    before = await everything(client)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(impatient.publisher.publish(lease, refused), 0.3)
    assert await everything(client) == before


async def test_a_batch_waits_for_memory_and_is_then_published(one: Worker, client: Redis) -> None:
    lease = await one.take()
    await allow(client, TOO_LITTLE)
    publishing = asyncio.create_task(one.publisher.publish(lease, batch(0, ["a"])))
    done, _ = await asyncio.wait([publishing], timeout=0.3)
    assert not done
    await allow(client, MEMORY)
    await publishing
    assert await stored_names(client) == ["a"]
    assert_adds_up(await log_status(client))


async def test_each_refusal_is_reported_and_pauses_grow(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    pauses: list[float] = []

    async def free_memory() -> int:
        await allow(client, TOO_LITTLE if len(numbers) < 9 else MEMORY)
        return 0

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    worker = Worker(client, "one")
    worker.publisher = Publisher(
        client, KEYS, PublisherSettings(), free_memory, lambda _, number: numbers.append(number)
    )
    lease = await worker.take()
    await allow(client, TOO_LITTLE)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    await worker.publisher.publish(lease, batch(0, ["a"]))
    assert numbers == list(range(1, 10))
    assert len(pauses) == 9
    assert pauses[0] == 0, "what was freed may be enough"
    assert 0 < pauses[1] < pauses[2] < pauses[-2] == pauses[-1] == 2
    assert await stored_names(client) == ["a"]


async def test_a_worker_that_only_publishes_makes_room_for_itself(
    one: Worker, client: Redis
) -> None:
    """Three times what Redis can hold, with budgets far above its memory."""
    lease = await one.take()
    per_batch, size = 64, 20_000
    batches = 3 * MEMORY // (per_batch * size // 2)  # hex digits pack to half
    refused = 0
    for number in range(batches):
        names = [f"{number}-{position}" for position in range(per_batch)]
        await one.publisher.publish(lease, batch(number * per_batch, names, size=size))
    refused = (await client.info("stats"))["total_error_replies"]
    assert refused > 0, "Redis was never full: the test shows nothing"

    names = await stored_names_of_the_newest(client)
    assert names[-1] == f"{batches - 1}-{per_batch - 1}"
    assert all(batch.prev < batch.id for batch in await stored(client))
    status = await log_status(client)
    assert status.published == batches * per_batch
    assert_adds_up(status)


@pytest.mark.parametrize(("ingestors", "logs"), [(1, 20), (10, 1)])
async def test_batches_that_are_refused_at_the_same_time_remove_little(
    one: Worker, client: Redis, ingestors: int, logs: int
) -> None:
    """A short spell must not cost the retention, however many logs and ingestors publish."""
    lease = await one.take()
    for number in range(MEMORY // 3 // 100_000):
        await one.publisher.publish(lease, batch(number, [str(number)], size=200_000))
    workers = [Worker(client, f"of-{number}") for number in range(ingestors)]
    names = {f"{number:064x}": workers[number % ingestors] for number in range(ingestors * logs)}
    # At the same time, so that the connections of all are there, which take memory of Redis.
    leases = await asyncio.gather(*(worker.take(name) for name, worker in names.items()))
    await fill(client)
    before = int(await client.hget(KEYS.head, "full.bytes") or 0)
    await asyncio.gather(
        *(names[each.log_id].publisher.publish(each, batch(0, [each.log_id])) for each in leases)
    )
    after = int(await client.hget(KEYS.head, "full.bytes") or 0)
    assert before * 3 / 4 < after < before, "nothing was freed, or much more than was needed"


async def stored_names_of_the_newest(client: Redis) -> list[str]:
    return [
        text.decode().split('"')[3] for batch in await stored(client) for text in batch.messages
    ]


async def test_the_timer_makes_room_below_a_budget(client: Redis) -> None:
    worker = Worker(client, "one", retention=retain(max_bytes=200_000))
    lease = await worker.take()
    for number in range(100):
        await worker.publisher.publish(lease, batch(number, [str(number)], size=10_000))
    await fill(client)
    stop = asyncio.Event()
    trimming = asyncio.create_task(worker.trimmer.run(stop))
    outcome = await worker.publisher.publish(lease, batch(100, ["b"]))
    stop.set()
    await trimming
    assert outcome
    for name in STREAMS:
        held = int(await client.hget(KEYS.head, f"{name}.bytes") or 0)
        assert 0 < held <= 200_000 + 10_000


async def test_leases_are_renewed_and_released_but_not_taken(
    one: Worker, two: Worker, client: Redis
) -> None:
    lease = await one.take()
    await client.pexpire(KEYS.lease(LOG), 1000)
    await allow(client, TOO_LITTLE)
    assert await one.lost([lease]) == []
    assert await client.pttl(KEYS.lease(LOG)) > 1000

    before = await everything(client)
    with pytest.raises(redis.exceptions.ResponseError) as refusal:
        await two.leases.acquire(OTHER_LOG, 0)
    assert is_out_of_memory(refusal.value)
    assert await everything(client) == before
    assert await one.leases.release(lease)
    assert await client.exists(KEYS.lease(LOG)) == 0


async def test_a_worker_can_start_on_a_full_redis_when_there_is_something_to_trim(
    client: Redis, server: RedisServer
) -> None:
    old = Worker(client, "old")
    lease = await old.take()
    for number in range(40):
        await old.publisher.publish(lease, batch(number, [str(number)], size=10_000))
    await fill(client)
    async with connect(server.url) as own:
        new = Worker(own, "new", retention=retain(max_bytes=10_000))
        assert await new.trimmer.trim() > 0
        assert (await new.take(OTHER_LOG)).next == 0


async def test_with_a_full_disk_publishing_stops_and_continues_when_there_is_space(
    one: Worker, client: Redis, server: RedisServer
) -> None:
    """What was acknowledged before Redis noticed it is on the disk, too, in the end."""
    lease = await one.take()
    names: list[str] = []

    async def publish() -> None:
        name = f"certificate {len(names)}"
        await one.publisher.publish(lease, batch(len(names), [name]))
        names.append(name)

    async def publish_many() -> None:
        for _ in range(100):
            await publish()

    await publish()
    server.limit_file_size(0)
    with pytest.raises(WriteRefused) as refusal:
        await publish_many()
    assert refusal.value.status_code == "MISCONF"
    before = await everything(client)
    with pytest.raises(WriteRefused):
        await publish()
    assert await everything(client) == before
    assert await stored_names(client) == names
    server.limit_file_size(None)

    async def published() -> bool:
        with suppress(WriteRefused):
            await publish()
            return True
        return False

    await until(published, "it continues")
    server.kill()
    server.start()
    async with connect(server.url) as again:
        assert await stored_names(again) == names
        assert_adds_up(await log_status(again))
