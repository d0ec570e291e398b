"""Windows of entries into a real Redis: batches, duplicates, rejections, and races for a log."""

import asyncio
import gc
import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from certbus.cluster import LogStatus, snapshot
from certbus.errors import ConnectionFailed
from certbus.keys import Keys
from certbus.logs.leases import Lease, Leases
from certbus.streams.batch import MAX_BYTES, MAX_MESSAGES, Batch, Outcome
from certbus.streams.publisher import Publisher, PublisherSettings
from certbus.streams.retention import Trimmer
from ctparse.entry import Entry, Rejected
from ctparse.merkle import Frontier, leaf_hash
from ctparse.rfc6962 import chain_certificates, decode_entries
from ctparse.tree_head import TreeHead
from ctparse.wire_messages import Message, MessageWriter, Source
from ingestor.metrics import Metrics
from ingestor.pipeline.publish import LeaseLost, PositionChanged, WindowPublisher
from ingestor.redis_retry import RedisRetry
from ingestor.window import VerifiedWindow
from tests.paths import FIXTURES
from tests.retained import history
from tests.waiting import until

LOG = "ab" * 32
KEYS = Keys()
HEAD = TreeHead(10_000, 1_779_302_893_000, bytes(32), b"signature")


class Bench:
    """Everything a pipeline needs, on one Redis."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.meter = Metrics()
        self.publisher = Publisher(
            redis, KEYS, PublisherSettings(), Trimmer(redis, KEYS).free_bytes
        )

    async def pipeline(
        self, worker: str = "a", log_id: str = LOG, start: int = 0
    ) -> tuple[WindowPublisher, Leases]:
        leases = Leases(self.redis, KEYS, worker, 60)
        lease = await leases.acquire(log_id, start)
        assert lease is not None
        source = Source("Log", "https://log.example/", "Operator", "rfc6962")
        writer = MessageWriter(source, str, chain_certificates)
        pipeline = WindowPublisher(
            self.publisher,
            leases,
            lease,
            writer,
            RedisRetry(),
            self.meter.log("Log"),
            clock=lambda: 1_700_000_000.0,
        )
        return pipeline, leases

    async def log(self, log_id: str = LOG) -> LogStatus:
        logs = (await snapshot(self.redis, KEYS)).logs
        return next(log for log in logs if log.log_id == log_id)

    async def batches(self) -> list[list[bytes]]:
        found = await history(self.redis, KEYS, "lite", "0-0", 1000)
        return [list(batch.messages) for batch in found]


@pytest.fixture
def bench(redis: Redis) -> Bench:
    return Bench(redis)


def real_entries() -> list[Entry]:
    entries: list[dict[str, Any]] = json.loads((FIXTURES / "ct_entries.json").read_bytes())
    body = {"entries": [{name: e[name] for name in ("leaf_input", "extra_data")} for e in entries]}
    decoded = decode_entries(json.dumps(body).encode(), 0)
    return [entry for entry in decoded if isinstance(entry, Entry)]


REAL = real_entries()


def entry(index: int, certificate: bytes | None = None) -> Entry:
    """A readable entry with a certificate of its own, or with that one."""
    model = REAL[index % len(REAL)]
    if certificate is None:
        # Bytes of the signature at the end make another certificate of it, and change nothing else.
        certificate = model.certificate[:-8] + index.to_bytes(8)
    return Entry(index, model.timestamp, model.is_precert, certificate, model.chain, b"leaf")


def verified(first: int, entries: Sequence[Entry | Rejected]) -> VerifiedWindow:
    """A window with the frontiers that its leaves lead to, as the verifier returns it."""
    before = Frontier()
    before.extend([leaf_hash(b"before")] * first)
    hashes = [leaf_hash(each.leaf) for each in entries]
    after = before.copy()
    after.extend(hashes)
    return VerifiedWindow(first, list(entries), HEAD, hashes, before, after)


async def test_a_window_becomes_batches_in_order(bench: Bench) -> None:
    pipeline, _ = await bench.pipeline()
    await pipeline.publish(verified(0, [entry(index) for index in range(600)]))
    batches = await bench.batches()
    assert [len(batch) for batch in batches] == [MAX_MESSAGES, MAX_MESSAGES, 600 - 2 * MAX_MESSAGES]
    data = [json.loads(text)["data"] for batch in batches for text in batch]
    assert [each["cert_index"] for each in data] == list(range(600))
    assert {each["seen"] for each in data} == {1_700_000_000.0}
    log = await bench.log()
    assert (log.next, log.published, log.tree_size) == (600, 600, HEAD.size)
    assert (pipeline.next, pipeline.counts.published) == (600, 600)


async def test_a_batch_states_when_its_last_readable_entry_was_accepted(bench: Bench) -> None:
    pipeline, leases = await bench.pipeline()
    assert (pipeline.newest, (await bench.log()).entry_timestamp) == (None, None)
    unreadable = Rejected(1, "nonsense", b"x")
    await pipeline.publish(verified(0, [entry(0), unreadable]))
    assert (await bench.log()).entry_timestamp == entry(0).timestamp
    await pipeline.publish(verified(2, [unreadable]))
    assert (await bench.log()).entry_timestamp == entry(0).timestamp

    # A duplicate is accounted for, too: here the same certificate, submitted later.
    later = entry(0).timestamp + 60_000
    duplicate = Entry(3, later, entry(0).is_precert, entry(0).certificate, entry(0).chain, b"leaf")
    await pipeline.publish(verified(3, [duplicate]))
    log = await bench.log()
    assert (log.published, log.duplicates, log.entry_timestamp) == (1, 1, later)
    assert pipeline.newest == later / 1000

    assert await leases.release(pipeline.lease)
    taken, _ = await bench.pipeline("b")
    assert taken.newest == later / 1000


async def test_each_batch_has_the_frontier_after_its_last_entry(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, _ = await bench.pipeline()
    batches: list[Batch] = []
    publish = bench.publisher.publish

    async def recorded(lease: Lease, batch: Batch) -> Outcome:
        batches.append(batch)
        return await publish(lease, batch)

    monkeypatch.setattr(bench.publisher, "publish", recorded)
    window = verified(0, [entry(index) for index in range(600)])
    assert window.frontier_before is not None
    assert window.frontier_after is not None
    await pipeline.publish(window)
    expected = Frontier()
    for batch in batches:
        expected.extend(window.leaf_hashes[batch.first : batch.next])
        assert batch.frontier == expected.to_bytes()
    assert len(batches) == 3
    assert expected.to_bytes() == window.frontier_after.to_bytes()
    assert window.frontier_before.size == 0, "publishing modifies no value of the verifier"


async def test_repeats_within_a_window_and_beyond_it_are_duplicates(bench: Bench) -> None:
    pipeline, _ = await bench.pipeline()
    once = [entry(index) for index in range(300)]
    again = [entry(300 + index, once[index].certificate) for index in range(300)]
    await pipeline.publish(verified(0, [*once, *again]))
    await pipeline.publish(verified(600, [entry(600 + i, once[i].certificate) for i in range(10)]))
    log = await bench.log()
    assert (log.next, log.published, log.duplicates) == (610, 300, 310)
    assert sum(map(len, await bench.batches())) == 300


async def test_what_cannot_be_read_is_rejected_at_its_index(bench: Bench, redis: Redis) -> None:
    pipeline, _ = await bench.pipeline()
    unreadable = b"no certificate at all"
    window: list[Entry | Rejected] = [
        entry(0),
        Rejected(1, "truncated", b"raw bytes"),
        entry(2, unreadable),
        entry(3, unreadable),
        entry(4),
    ]
    await pipeline.publish(verified(0, window))
    log = await bench.log()
    assert (log.next, log.published, log.duplicates, log.rejected) == (5, 2, 0, 3)
    kept: Any = await redis.xrange(KEYS.rejected)
    assert [(int(fields[b"index"]), fields[b"raw"]) for _, fields in kept] == [
        (1, b"raw bytes"),
        (2, unreadable),
        (3, unreadable),
    ]
    assert kept[0][1][b"reason"] == b"truncated"


class Padded(MessageWriter):
    """Makes messages as large as a test wants."""

    def __init__(self, size: Callable[[int], int]) -> None:
        self._full = size

    def size(self, entry: Entry) -> int:
        return len(entry.certificate)

    def write(self, entry: Entry, sha256: bytes, seen: float) -> Message:
        full = b"x" * self._full(entry.index)
        return Message(sha256, sha256[:20], full, b"{}", b"{}", ())


async def with_sizes(bench: Bench, size: Callable[[int], int]) -> WindowPublisher:
    pipeline, leases = await bench.pipeline()
    return WindowPublisher(
        bench.publisher, leases, pipeline.lease, Padded(size), RedisRetry(), bench.meter.log("Log")
    )


async def test_batches_have_a_maximum_of_bytes(bench: Bench) -> None:
    pipeline = await with_sizes(bench, lambda _: MAX_BYTES // 3)
    await pipeline.publish(verified(0, [entry(index) for index in range(8)]))
    assert [len(batch) for batch in await bench.batches()] == [3, 3, 2]
    assert (await bench.log()).next == 8


async def test_the_next_batch_is_written_while_redis_publishes_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, _ = await bench.pipeline()
    count = 2 * MAX_MESSAGES + 10
    written, at_publish, under_way = 0, list[int](), 0
    write, publish = pipeline._write, bench.publisher.publish

    def counted(entry: Entry, digest: bytes, seen: float) -> Message:
        nonlocal written
        written += 1
        return write(entry, digest, seen)

    async def slow(lease: Lease, batch: Batch) -> Outcome:
        nonlocal under_way
        under_way += 1
        assert under_way == 1, "one batch at a time, in order"
        expected = min(batch.next + MAX_MESSAGES, count)
        await until(lambda: written >= expected, "the next batch is written")
        at_publish.append(batch.first)
        outcome = await publish(lease, batch)
        under_way -= 1
        return outcome

    monkeypatch.setattr(pipeline, "_write", counted)
    monkeypatch.setattr(bench.publisher, "publish", slow)
    await pipeline.publish(verified(0, [entry(index) for index in range(count)]))
    assert at_publish == [0, MAX_MESSAGES, 2 * MAX_MESSAGES]
    assert pipeline.next == count


async def test_a_publication_that_is_cancelled_leaves_no_task(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, _ = await bench.pipeline()
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(lease: Lease, batch: Batch) -> Outcome:
        begun.set()
        try:
            return await asyncio.Future()
        finally:
            ended.set()

    monkeypatch.setattr(bench.publisher, "publish", endless)
    publishing = asyncio.create_task(pipeline.publish(verified(0, real_entries())))
    await begun.wait()
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    assert ended.is_set()
    assert publishing.cancelled()


async def test_a_publication_that_failed_before_it_was_cancelled_is_not_reported_as_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, _ = await bench.pipeline()
    failed, reported = asyncio.Event(), list[object]()
    write = pipeline._batch

    async def failing(lease: Lease, batch: Batch) -> Outcome:
        failed.set()
        raise PositionChanged(0)

    async def first_alone(
        window: VerifiedWindow, digests: list[bytes], start: int, done: set[bytes], limit: int
    ) -> tuple[Batch, int]:
        if start:
            await asyncio.Future()
        return await write(window, digests, start, done, limit)

    monkeypatch.setattr(bench.publisher, "publish", failing)
    monkeypatch.setattr(pipeline, "_batch", first_alone)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    entries = [entry(index) for index in range(MAX_MESSAGES + 1)]
    publishing = asyncio.create_task(pipeline.publish(verified(0, entries)))
    await failed.wait()
    await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    del publishing
    gc.collect()
    assert not reported


async def test_a_message_beyond_a_batch_is_rejected(bench: Bench, redis: Redis) -> None:
    pipeline = await with_sizes(bench, lambda index: MAX_BYTES + (index == 1))
    await pipeline.publish(verified(0, [entry(index) for index in range(3)]))
    log = await bench.log()
    assert (log.next, log.published, log.rejected) == (3, 2, 1)
    kept: Any = await redis.xrange(KEYS.rejected)
    ((_, fields),) = kept
    assert fields[b"reason"] == b"message of 4,194,305 bytes; a batch holds 4,194,304"


async def test_certificates_published_by_another_log_meanwhile(bench: Bench) -> None:
    first, _ = await bench.pipeline()
    other, _ = await bench.pipeline(log_id="cd" * 32)
    window: list[Entry | Rejected] = [entry(index) for index in range(300)]
    digests = [sha256(each.certificate).digest() for each in window if isinstance(each, Entry)]
    # What `first` learns before the other log overtakes it.
    batch, _ = await first._batch(verified(0, window), digests, 0, set(), 256)
    await other.publish(verified(0, window[100:200]))
    await first._send(batch)
    log = await bench.log()
    assert (log.next, log.published, log.duplicates) == (256, 156, 100)
    assert first.counts.duplicates == 100


async def test_a_reply_that_was_lost(bench: Bench) -> None:
    pipeline, _ = await bench.pipeline()
    window: list[Entry | Rejected] = [entry(index) for index in range(10)]
    digests = [sha256(each.certificate).digest() for each in window if isinstance(each, Entry)]
    batch, _ = await pipeline._batch(verified(0, window), digests, 0, set(), 256)
    await bench.publisher.publish(pipeline.lease, batch)
    await pipeline._send(batch)
    assert pipeline.next == 10
    assert sum(map(len, await bench.batches())) == 10


async def test_redis_a_second_older(bench: Bench, redis: Redis) -> None:
    pipeline, _ = await bench.pipeline()
    await pipeline.publish(verified(0, [entry(index) for index in range(10)]))
    await redis.hset(KEYS.log(LOG), "next", 4)
    with pytest.raises(PositionChanged) as moved:
        await pipeline.publish(verified(10, [entry(index) for index in range(10, 20)]))
    assert moved.value.next == 4
    assert pipeline.next == 4


async def test_an_emptied_redis_gets_the_log_back(bench: Bench, redis: Redis) -> None:
    pipeline, _ = await bench.pipeline()
    await pipeline.publish(verified(0, [entry(index) for index in range(10)]))
    await redis.flushall()
    with capture_logs() as lines:
        await pipeline.publish(verified(10, [entry(index) for index in range(10, 20)]))
    log = await bench.log()
    assert (log.start, log.next, log.published) == (10, 20, 10)
    assert [line["log_id"] for line in lines if line["event"] == "log state restored"] == [LOG]


async def test_a_later_start_of_another_worker_after_a_loss_is_replaced(
    bench: Bench, redis: Redis
) -> None:
    pipeline, _ = await bench.pipeline("a")
    await pipeline.publish(verified(0, [entry(index) for index in range(10)]))
    await redis.flushall()
    other, _ = await bench.pipeline("b", start=10_000)
    pipeline.rewound.set()
    await pipeline.check_position()
    assert pipeline.next == 10
    await pipeline.publish(verified(10, [entry(10)]))
    log = await bench.log()
    assert (log.start, log.next) == (10, 11)
    with pytest.raises(LeaseLost):
        await other.publish(verified(10_000, [entry(10_000)]))


@pytest.mark.parametrize("other_start", [None, 5])
async def test_an_older_copy_without_the_log_gets_all_of_its_entries(
    bench: Bench, redis: Redis, other_start: int | None
) -> None:
    await bench.publisher.configure()
    copy = await redis.dump(KEYS.head)
    assert copy is not None
    pipeline, _ = await bench.pipeline("a")
    await pipeline.publish(verified(0, [entry(index) for index in range(10)]))
    await redis.flushall()
    await redis.restore(KEYS.head, 0, copy)
    if other_start is not None:
        await bench.pipeline("b", start=other_start)
    with pytest.raises(PositionChanged) as moved:
        await pipeline.publish(verified(10, [entry(10)]))
    assert moved.value.next == pipeline.next == 0
    await pipeline.publish(verified(0, [entry(index) for index in range(11)]))
    log = await bench.log()
    assert (log.start, log.next, log.published) == (0, 11, 11)


async def test_a_restoration_whose_reply_was_lost_is_repeated(
    bench: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restored log is the worker's own, not one that another worker has restored."""
    monkeypatch.setattr("ingestor.redis_retry.REDIS", lambda _attempt: 0.0)
    pipeline, leases = await bench.pipeline()
    restore, calls = leases.restore, 0

    async def restore_without_reply(*args: Any) -> Lease | None:
        nonlocal calls
        calls += 1
        restored = await restore(*args)
        if calls == 1:
            raise ConnectionFailed("the reply was lost")
        return restored

    monkeypatch.setattr(leases, "restore", restore_without_reply)
    await redis.flushall()
    await pipeline.publish(verified(0, [entry(0)]))
    assert calls == 2
    assert (await bench.log()).published == 1


async def test_restoring_twice_at_once_keeps_one_lease(bench: Bench, redis: Redis) -> None:
    pipeline, leases = await bench.pipeline()
    lost = pipeline.lease
    await redis.flushall()
    await pipeline.restore(lost)
    await pipeline.restore(lost)
    assert pipeline.lease is not lost
    assert await leases.renew([pipeline.lease]) == [0]


async def test_a_lost_lease_ends_it(bench: Bench, redis: Redis) -> None:
    paused, _ = await bench.pipeline("a")
    await redis.delete(KEYS.lease(LOG))  # it expires
    owner, _ = await bench.pipeline("b")
    await owner.publish(verified(0, [entry(0)]))
    with pytest.raises(LeaseLost):
        await paused.publish(verified(0, [entry(0), entry(1)]))
    log = await bench.log()
    assert (log.next, log.published) == (1, 1)


def test_the_fixture_entries_are_distinct() -> None:
    made = {sha256(entry(index).certificate).digest() for index in range(600)}
    assert len(made) == 600
