"""What gets lost on the way, or with Redis: a reply, the last second, everything."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import redis.exceptions
from redis.asyncio import Redis

from certbus.connection import connect, once
from certbus.keys import DEFAULT_REMEMBER_MS, STREAMS
from certbus.streams.batch import Fenced, Missing, Published, Stale
from tests.certbus.bus import (
    KEYS,
    LOG,
    OTHER_LOG,
    Worker,
    assert_adds_up,
    batch,
    log_status,
    message,
    repeated,
    stored,
    stored_names,
)
from tests.certbus.proxy import LossyProxy
from tests.certbus.servers import RedisServer


@pytest.fixture
async def proxy(server: RedisServer, tmp_path: Path) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(server.socket, tmp_path / "p") as proxy:
        yield proxy


class TestReply:
    @pytest.mark.parametrize("retried_by", ["redis-py", "the caller"])
    async def test_the_same_batch_again_is_stale_and_nothing_is_twice(
        self, proxy: LossyProxy, client: Redis, retried_by: str
    ) -> None:
        async with connect(proxy.url) as lossy:
            worker = Worker(once(lossy) if retried_by == "the caller" else lossy, "lossy")
            lease = await worker.take()
            await worker.publisher.publish(lease, batch(0, ["a"]))
            window = batch(1, ["b", "c"], duplicates=1)
            proxy.lose_next(b'"first":1')
            if retried_by == "the caller":
                with pytest.raises(redis.exceptions.ConnectionError):
                    await worker.publisher.publish(lease, window)
            assert await worker.publisher.publish(lease, window) == Stale(window.next)
            assert proxy.lost == 1
            assert isinstance(await worker.publisher.publish(lease, batch(4, ["d"])), Published)
        assert await stored_names(client) == ["a", "b", "c", "d"]
        assert_adds_up(await log_status(client))

    async def test_a_lost_reply_to_acquire_leaves_a_lease_that_expires(
        self, proxy: LossyProxy, client: Redis
    ) -> None:
        async with connect(proxy.url) as lossy:
            worker = Worker(lossy, "lossy", ttl=0.3)
            proxy.lose_next(OTHER_LOG.encode())
            lease = await worker.leases.acquire(OTHER_LOG, 5)
            assert proxy.lost == 1
            while lease is None:
                lease = await worker.leases.acquire(OTHER_LOG, 7)
            assert lease.next == 5
            assert isinstance(await worker.publisher.publish(lease, batch(5, ["a"])), Published)


class TestLastSecond:
    """Redis comes back with an older append-only file."""

    async def test_checkpoint_streams_and_marks_are_wound_back_together(
        self, server: RedisServer, one: Worker, client: Redis
    ) -> None:
        lease = await one.take()
        kept = await one.publisher.publish(lease, batch(0, ["a"]))
        server.save_aside()
        lost = await one.publisher.publish(lease, batch(1, ["b"]))
        assert isinstance(kept, Published)
        assert isinstance(lost, Published)
        server.wind_back()

        # The worker does not know yet; the reply contains the index to continue at.
        assert await one.publisher.publish(lease, batch(2, ["c"])) == Stale(1)
        assert await one.publisher.find_known([message("b").sha256]) == [False]
        again = await one.publisher.publish(lease, batch(1, ["b", "c"]))
        assert isinstance(again, Published)
        assert again.id not in (None, lost.id)

        assert await stored_names(client) == ["a", "b", "c"]
        assert [b.prev for b in await stored(client)] == ["0-0", kept.id]
        assert_adds_up(await log_status(client))

    async def test_an_older_lease_is_not_mistaken_for_a_newer_one_of_the_same_number(
        self, server: RedisServer, one: Worker, two: Worker
    ) -> None:
        server.save_aside()
        lost = await one.take()
        server.wind_back()
        new = await two.take()
        assert lost.fence.partition(":")[0] == new.fence.partition(":")[0]
        assert await one.publisher.publish(lost, batch(0, ["a"])) == Fenced()
        assert await one.lost([lost]) == [lost]
        assert isinstance(await two.publisher.publish(new, batch(0, ["a"])), Published)

    async def test_a_duplicate_of_what_was_lost_comes_from_its_own_log_again(
        self, server: RedisServer, one: Worker, two: Worker, client: Redis
    ) -> None:
        own, other = await one.take(LOG), await two.take(OTHER_LOG)
        server.save_aside()
        await one.publisher.publish(own, batch(0, ["shared"]))
        assert await two.publisher.find_known([message("shared").sha256]) == [True]
        server.wind_back()
        # It counts as a duplicate there, although what it is a duplicate of is lost ...
        await two.publisher.publish(other, batch(0, [], duplicates=1))
        # ... but the log it was published from is wound back, so it is not lost for good.
        assert await one.publisher.publish(own, batch(1, ["x"])) == Stale(0)
        await one.publisher.publish(own, batch(0, ["shared"]))
        assert await stored_names(client) == ["shared"]

    async def test_a_duplicate_of_what_its_own_log_lost_is_looked_up_again(
        self, server: RedisServer, one: Worker, two: Worker, client: Redis
    ) -> None:
        """Another worker published the entry; then Redis lost that, and who owned the log."""
        first = await one.take()
        await one.publisher.publish(first, batch(0, ["before"]))
        server.save_aside()
        await client.delete(KEYS.lease(LOG))  # as if it had expired
        second = await two.take()
        await two.publisher.publish(second, batch(1, ["a"]))
        known, known_at = await one.publisher.find_known_at([message("a").sha256])
        assert known == [True]
        server.wind_back()

        window = msgspec.structs.replace(batch(1, [], duplicates=1), known_at=known_at)
        assert await one.publisher.publish(first, window) == Stale(1)
        known, known_at = await one.publisher.find_known_at([message("a").sha256])
        assert known == [False]
        window = msgspec.structs.replace(batch(1, ["a"]), known_at=known_at)
        assert isinstance(await one.publisher.publish(first, window), Published)
        assert await stored_names(client) == ["before", "a"]

        # Trimmed is not lost.
        await one.publisher.publish(first, batch(2, ["b"]))
        for stream in STREAMS:
            await client.xtrim(KEYS.stream(stream), maxlen=1)
        window = msgspec.structs.replace(batch(3, ["c"]), known_at=known_at)
        assert isinstance(await one.publisher.publish(first, window), Published)
        for stream in STREAMS:
            await client.xtrim(KEYS.stream(stream), maxlen=0)
        window = msgspec.structs.replace(batch(4, ["d"]), known_at=known_at)
        assert isinstance(await one.publisher.publish(first, window), Published)

    @pytest.mark.parametrize("other_start", [None, 1])
    async def test_a_log_that_the_copy_does_not_have_begins_at_its_start_again(
        self,
        server: RedisServer,
        one: Worker,
        two: Worker,
        client: Redis,
        other_start: int | None,
    ) -> None:
        await one.publisher.configure()
        server.save_aside()
        lease = await one.take(start=0)
        await one.publisher.publish(lease, batch(0, ["a", "b"]))
        server.wind_back()
        refused: Fenced | Missing = Missing()
        if other_start is not None:  # near the head of a log without new entries
            await two.take(start=other_start)
            refused = Fenced()
        assert await one.publisher.publish(lease, batch(2, ["c"])) == refused
        restored = await one.restore(lease, 2)
        assert restored is not None
        assert (restored.start, restored.next) == (0, 0)
        assert await one.publisher.publish(restored, batch(2, ["c"])) == Stale(0)
        await one.publisher.publish(restored, batch(0, ["a", "b", "c"]))
        assert await stored_names(client) == ["a", "b", "c"]
        assert_adds_up(await log_status(client))

    @pytest.mark.parametrize("published_since", [False, True])
    async def test_an_entry_that_was_lost_is_not_taken_for_a_trimmed_one(
        self, server: RedisServer, one: Worker, two: Worker, client: Redis, published_since: bool
    ) -> None:
        first, second = await one.take(), await two.take(OTHER_LOG)
        await one.publisher.publish(first, batch(0, ["before"]))
        for stream in STREAMS:
            await client.xtrim(KEYS.stream(stream), maxlen=0)
        server.save_aside()
        await one.publisher.publish(first, batch(1, ["a"]))
        known, known_at = await one.publisher.find_known_at([message("a").sha256])
        assert known == [True]
        server.wind_back()
        if published_since:
            await two.publisher.publish(second, batch(0, ["other"]))
        window = msgspec.structs.replace(batch(1, [], duplicates=1), known_at=known_at)
        assert await one.publisher.publish(first, window) == Stale(1)


class TestEverything:
    """Redis comes back empty."""

    async def test_the_owner_makes_its_log_again_from_where_it_was(
        self, server: RedisServer, one: Worker, client: Redis
    ) -> None:
        lease = await one.take(start=100)
        await one.publisher.publish(lease, batch(100, ["a", "b"]))
        epoch = await client.hget("certstream:head", "epoch")
        server.lose_everything()

        assert await one.publisher.publish(lease, batch(102, ["c"])) == Missing()
        assert await one.lost([lease]) == [lease]
        restored = await one.restore(lease, 102)
        assert restored is not None
        assert isinstance(await one.publisher.publish(restored, batch(102, ["c"])), Published)

        assert await stored_names(client) == ["c"]
        status = await log_status(client)
        assert (status.start, status.next, status.published) == (102, 103, 1)
        assert_adds_up(status)
        assert await client.hget("certstream:head", "epoch") not in (None, epoch)

    async def test_the_owner_takes_it_back_from_one_that_started_it_at_the_head(
        self, server: RedisServer, one: Worker, two: Worker, client: Redis
    ) -> None:
        lease = await one.take()
        await one.publisher.publish(lease, batch(0, ["a", "b"]))
        server.lose_everything()
        # Another worker is faster and, not knowing the log, starts it at its newest entry.
        at_head = await two.take(start=5)
        await two.publisher.publish(at_head, batch(5, ["f"]))

        assert await one.publisher.publish(lease, batch(2, ["c"])) == Missing()
        restored = await one.restore(lease, 2)
        assert restored is not None
        assert await two.publisher.publish(at_head, batch(6, ["g"])) == Fenced()
        assert await two.lost([at_head]) == [at_head]
        window = batch(2, ["c", "d", "e", "f"])
        assert repeated(await one.publisher.publish(restored, window)) == [3]
        await one.publisher.publish(restored, batch(2, ["c", "d", "e"], duplicates=1))

        assert await stored_names(client) == ["f", "c", "d", "e"]
        status = await log_status(client)
        assert (status.start, status.next) == (2, 6)
        assert_adds_up(status)

    @pytest.mark.parametrize("trimmed", [False, True])
    async def test_an_entry_of_the_lost_epoch_is_not_taken_for_a_trimmed_one(
        self, server: RedisServer, one: Worker, two: Worker, client: Redis, trimmed: bool
    ) -> None:
        lease = await one.take()
        await one.publisher.publish(lease, batch(0, ["a"]))
        _, known_at = await one.publisher.find_known_at([message("a").sha256])
        server.lose_everything()
        await two.publisher.publish(await two.take(OTHER_LOG), batch(0, ["other"]))
        if trimmed:
            for stream in STREAMS:
                await client.xtrim(KEYS.stream(stream), maxlen=0)
        restored = await one.restore(lease, 1)
        assert restored is not None
        window = msgspec.structs.replace(batch(1, [], duplicates=1), known_at=known_at)
        assert await one.publisher.publish(restored, window) == Stale(1)

    async def test_an_owner_is_too_late_once_the_marks_of_the_other_worker_have_expired(
        self, server: RedisServer, one: Worker, two: Worker, client: Redis
    ) -> None:
        lease = await one.take()
        server.lose_everything()
        at_head = await two.take(start=5)
        await two.publisher.publish(at_head, batch(5, ["f"]))
        await client.hincrby(KEYS.log(LOG), "created", -DEFAULT_REMEMBER_MS)
        assert await one.restore(lease, 2) is None
        assert isinstance(await two.publisher.publish(at_head, batch(6, ["g"])), Published)

    async def test_a_lost_reply_to_restore_changes_nothing(
        self, proxy: LossyProxy, client: Redis
    ) -> None:
        async with connect(proxy.url) as lossy:
            worker = Worker(lossy, "lossy")
            lease = await worker.take()
            assert await worker.restore(lease, 0) is None  # Redis has the script then
            await client.flushall()
            proxy.lose_next(LOG.encode())
            restored = await worker.restore(lease, 7)
            assert proxy.lost == 1
            assert restored is not None
            assert isinstance(await worker.publisher.publish(restored, batch(7, ["a"])), Published)

    async def test_only_one_of_two_that_would_restore_does(
        self, server: RedisServer, one: Worker, two: Worker
    ) -> None:
        stale = await one.take()
        server.lose_everything()
        current = await two.restore(stale, 7)
        assert current is not None
        assert await one.restore(stale, 9) is None
        assert await one.leases.next_index(LOG) == 7
