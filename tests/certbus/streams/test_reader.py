"""Following and reading the streams of real servers."""

import asyncio
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions
from redis.asyncio import Redis
from structlog.testing import capture_logs

from certbus.connection import connect
from certbus.keys import STREAMS
from certbus.logs.leases import Lease
from certbus.streams import reader
from certbus.streams.batch import Published
from certbus.streams.continuity import Link, Trail
from certbus.streams.events import EpochChanged, Event, Gap, Rewind, StreamBatch
from certbus.streams.publisher import PublisherSettings
from certbus.streams.reader import COUNT, Head, Malformed, StreamReader, read_head
from ctparse.wire_messages import Message
from tests.certbus.bus import KEYS, Worker, batch, following, message, retain
from tests.certbus.servers import RedisServer
from tests.retained import history, newest, oldest
from tests.waiting import until


def names(events: list[Event], stream: str = "lite") -> list[str]:
    return [
        text.decode().split('"')[3].partition("|")[0]
        for event in events
        if isinstance(event, StreamBatch) and event.stream == stream
        for text in event.messages
    ]


def notices(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, StreamBatch)]


async def is_blocked(client: Redis) -> bool:
    """Whether a client waits for an entry."""
    return bool((await client.info("clients"))["blocked_clients"])


async def published(worker: Worker, lease: Lease, first: int, *batch_names: str) -> str:
    outcome = await worker.publisher.publish(lease, batch(first, batch_names))
    assert isinstance(outcome, Published)
    assert outcome.id is not None
    return outcome.id


async def test_all_streams_in_order_from_now_on(one: Worker, client: Redis) -> None:
    lease = await one.take()
    await published(one, lease, 0, "before")
    async with following(client) as reading:
        await reading.ready()
        last = ""
        for index in range(1, 3 * COUNT):
            last = await published(one, lease, index, f"{index}a")
        expected = [f"{index}a" for index in range(1, 3 * COUNT)]
        for stream in STREAMS:
            await reading.until(lambda events: names(events, stream) == expected)  # noqa: B023
        assert notices(reading.events) == []
        assert reading.follower.positions == dict.fromkeys(STREAMS, last)
        assert reading.follower.connected
        assert reading.follower.last_error is None


async def test_streams_that_are_not_read_take_few_reads(
    one: Worker, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read at once, each batch takes a read for its first stream and one for the others."""
    monkeypatch.setattr(reader, "_UNREAD_PAUSE_SECS", 0.25)
    lease, batches = await one.take(), 2 * COUNT
    async with following(client) as reading:
        reading.follower.is_read = lambda _: False
        await reading.ready()
        await client.config_resetstat()
        for index in range(batches):
            await published(one, lease, index, f"{index}a")
        expected = [f"{index}a" for index in range(batches)]
        for stream in STREAMS:
            await reading.until(lambda events: names(events, stream) == expected)  # noqa: B023
        assert notices(reading.events) == []
        assert (await client.info("commandstats"))["cmdstat_xread"]["calls"] <= batches


async def test_a_stream_that_becomes_read_ends_the_pause_between_reads(
    one: Worker, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_UNREAD_PAUSES", 10**6)
    lease = await one.take()
    async with following(client) as reading:
        await reading.ready()
        paused = asyncio.Event()

        def is_read(_: str) -> bool:
            paused.set()
            return False

        reading.follower.is_read = is_read
        await published(one, lease, 0, "a")  # ends the read in progress
        await paused.wait()
        await published(one, lease, 1, "b")
        reading.follower.is_read = lambda _: True
        await reading.until(lambda events: names(events) == ["a", "b"])


async def test_other_streams_are_set_during_the_pause_between_reads(
    one: Worker, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_UNREAD_PAUSES", 10**6)
    lease, paused = await one.take(), asyncio.Event()

    def is_read(stream: str) -> bool:
        paused.set()
        return stream == "full"

    async with following(client, ["lite"]) as reading:
        await reading.ready()
        reading.follower.is_read = is_read
        await published(one, lease, 0, "a")  # ends the read in progress
        await paused.wait()
        with capture_logs() as logs:
            reading.follower.set_streams(["full"])
            await until(lambda: set(reading.follower.positions) == {"full"})
            await published(one, lease, 1, "b")
            await reading.until(lambda events: names(events, "full") == ["b"])
        assert logs == []
        assert notices(reading.events) == []


async def test_from_the_first_batch_of_an_empty_redis(one: Worker, client: Redis) -> None:
    async with following(client) as reading:
        await reading.ready()
        await published(one, await one.take(), 0, "first")
        await reading.until(lambda events: names(events) == ["first"])
        assert notices(reading.events) == []


async def test_reading_resumes_from_a_given_id_and_from_the_oldest(
    one: Worker, client: Redis
) -> None:
    lease = await one.take()
    ids = [await published(one, lease, index, str(index)) for index in range(5)]
    async with following(client, after={"lite": ids[2], "full": "0-0"}) as reading:
        await reading.until(lambda events: len(names(events, "full")) == 5)
        await published(one, lease, 5, "5")
        await reading.until(lambda events: names(events, "domains") == ["5"])
        await reading.until(lambda events: names(events, "lite") == ["3", "4", "5"])
        assert names(reading.events, "full")[:5] == ["0", "1", "2", "3", "4"]
        assert notices(reading.events) == []


async def test_trimmed_batches_are_a_gap(client: Redis) -> None:
    worker = Worker(client, "one", retention=retain(max_bytes=400))
    lease = await worker.take()
    ids = [await published(worker, lease, index, str(index)) for index in range(6)]
    await worker.trimmer.trim()
    kept = await oldest(client, KEYS, "lite")
    assert kept is not None
    assert ids.index(kept.id) > 2
    async with following(client, ["lite"], after={"lite": ids[1]}) as reading:
        await reading.until(lambda events: names(events)[-1:] == ["5"])
        assert reading.events[0] == Gap("lite", ids[1], kept.id, "no longer retained")
        assert notices(reading.events[1:]) == []
        assert names(reading.events) == [str(n) for n in range(ids.index(kept.id), 6)]


async def test_a_stream_that_was_not_written_for_a_while_has_a_gap(client: Redis) -> None:
    everything = Worker(client, "all")
    lite_only = Worker(client, "lite", PublisherSettings(streams=("lite",)))
    await everything.publisher.configure()
    lease = await everything.take()
    seen = await published(everything, lease, 0, "a")
    async with following(client, ["lite", "full"], after={"full": seen}) as reading:
        await reading.ready()
        await lite_only.publisher.configure()
        await published(everything, lease, 1, "b")
        await everything.publisher.configure()
        back = await published(everything, lease, 2, "c")
        await reading.until(lambda events: names(events, "full") == ["c"])
        await reading.until(lambda events: names(events, "lite") == ["b", "c"])
        assert notices(reading.events) == [Gap("full", seen, back, "no longer retained")]


async def test_streams_come_and_go_while_it_reads(one: Worker, client: Redis) -> None:
    lease = await one.take()
    async with following(client, ["lite"]) as reading:
        await reading.ready()
        await published(one, lease, 0, "a")
        await reading.until(lambda events: names(events) == ["a"])
        reading.follower.set_streams(["full"])
        await until(lambda: set(reading.follower.positions) == {"full"})
        await published(one, lease, 1, "b")
        await reading.until(lambda events: names(events, "full") == ["b"])
        reading.follower.set_streams([])
        await published(one, lease, 2, "c")
        await until(lambda: reading.follower.positions == {})
        assert reading.follower.connected
        reading.follower.set_streams(["lite", "full"])
        await until(lambda: set(reading.follower.positions) == {"lite", "full"})
        await published(one, lease, 3, "d")
        await reading.until(lambda events: names(events) == ["a", "d"])
        await reading.until(lambda events: names(events, "full") == ["b", "d"])
        assert notices(reading.events) == []


async def test_a_stream_left_out_while_its_begin_is_looked_up_is_not_read(
    one: Worker, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await one.take()
    await published(one, lease, 0, "a")
    look_up, looked_up = client.xrevrange, asyncio.Event()

    async def look_up_and_leave_out(stream: str, **options: Any) -> object:
        found = await look_up(stream, **options)
        if stream == KEYS.stream("lite"):
            reading.follower.set_streams(["full"])
            looked_up.set()
        return found

    async with following(client, ["full"]) as reading:
        await reading.ready()
        monkeypatch.setattr(client, "xrevrange", look_up_and_leave_out)
        reading.follower.set_streams(["full", "lite"])
        await published(one, lease, 1, "b")  # ends the read in progress
        await looked_up.wait()
        await published(one, lease, 2, "c")
        await reading.until(lambda events: names(events, "full") == ["b", "c"])
        assert set(reading.follower.positions) == {"full"}
        assert names(reading.events) == []


async def test_a_restart_of_redis_is_not_noticed_in_the_stream(
    one: Worker, client: Redis, server: RedisServer
) -> None:
    lease = await one.take()
    async with following(client) as reading:
        await reading.ready()
        await published(one, lease, 0, "a")
        server.kill()
        await until(lambda: not reading.follower.connected)
        assert reading.follower.last_error
        server.start()
        await published(one, lease, 1, "b")
        await reading.until(lambda events: names(events) == ["a", "b"])
        await until(lambda: reading.follower.connected)
        assert notices(reading.events) == []


async def test_a_lost_second_is_a_rewind_and_its_entries_are_repeated(
    one: Worker, client: Redis, server: RedisServer
) -> None:
    lease = await one.take()
    async with following(client, ["lite"]) as reading:
        await reading.ready()
        kept = await published(one, lease, 0, "a")
        server.save_aside()
        lost = await published(one, lease, 1, "b")
        await reading.until(lambda events: names(events) == ["a", "b"])
        server.wind_back()
        await published(one, lease, 1, "b")
        await published(one, lease, 2, "c")
        await reading.until(lambda events: names(events) == ["a", "b", "b", "c"])
        assert notices(reading.events) == [Rewind("lite", since=kept, seen=lost)]


async def test_a_lost_second_is_a_rewind_even_if_nothing_is_published(
    one: Worker, client: Redis, server: RedisServer
) -> None:
    lease = await one.take()
    kept = await published(one, lease, 0, "a")
    server.save_aside()
    lost = await published(one, lease, 1, "b")
    async with following(client, ["lite"], after={"lite": lost}) as reading:
        await until(lambda: reading.follower.connected)
        server.wind_back()
        await reading.until(
            lambda events: notices(events) == [Rewind("lite", since=kept, seen=lost)]
        )
        assert reading.follower.positions == {"lite": kept}


async def test_an_emptied_redis_is_a_new_epoch(
    one: Worker, client: Redis, server: RedisServer
) -> None:
    lease = await one.take()
    async with following(client) as reading:
        await reading.ready()
        await published(one, lease, 0, "a")
        await reading.until(lambda events: all(names(events, s) == ["a"] for s in STREAMS))
        before = await read_head(client, KEYS)
        server.lose_everything()
        restored = await one.restore(lease, 1)
        assert restored is not None
        await published(one, restored, 1, "b")
        await published(one, restored, 2, "c")
        await reading.until(
            lambda events: all(names(events, s) == ["a", "b", "c"] for s in STREAMS)
        )
        after = await read_head(client, KEYS)
        assert notices(reading.events) == [EpochChanged(str(before.epoch), str(after.epoch))]


@pytest.mark.parametrize("after", [None, "0-0"], ids=["from now on", "from the oldest"])
async def test_the_first_batch_of_an_epoch_shows_that_redis_was_emptied_again(
    one: Worker, client: Redis, server: RedisServer, after: str | None
) -> None:
    """It follows 0-0, as does everything of the epoch before, in which nothing was published."""
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, (), duplicates=1))
    before = await read_head(client, KEYS)
    begin = None if after is None else dict.fromkeys(STREAMS, after)
    async with connect(server.url) as own, following(own, after=begin) as reading:
        await until(lambda: reading.follower.connected, "it has read the epoch")
        await until(partial(is_blocked, client), "it waits for the first batch")
        await client.flushall()
        restored = await one.restore(lease, 1)
        assert restored is not None
        await published(one, restored, 1, "b")
        await reading.until(lambda events: all(names(events, s) == ["b"] for s in STREAMS))
        change = EpochChanged(str(before.epoch), str((await read_head(client, KEYS)).epoch))
        assert reading.events[0] == change
        assert notices(reading.events) == [change]


async def test_an_unreadable_batch_is_a_gap_and_reading_continues(
    one: Worker, client: Redis
) -> None:
    lease = await one.take()
    async with following(client, ["lite"]) as reading:
        await reading.ready()
        first = await published(one, lease, 0, "a")
        await reading.until(lambda events: names(events) == ["a"])
        broken = first.partition("-")[0] + "-77"
        await client.xadd(KEYS.stream("lite"), {"m": "no batch"}, id=broken)
        await client.hset(KEYS.head, "last", broken)
        await published(one, lease, 1, "b")
        await reading.until(lambda events: names(events) == ["a", "b"])
        (gap,) = notices(reading.events)
        assert isinstance(gap, Gap)
        assert (gap.requested, gap.oldest) == (first, broken)
        assert "has no field" in gap.reason
    assert len(await history(client, KEYS, "lite", "0-0", 100)) == 2


async def test_a_replica_that_is_behind_has_lost_nothing(
    one: Worker, client: Redis, server: RedisServer, executable: str, tmp_path: Path
) -> None:
    """The replica is a server with an older copy of the primary's data."""
    lease = await one.take()
    kept = await published(one, lease, 0, "a")
    server.save_aside()
    seen = await published(one, lease, 1, "b")
    (tmp_path / "replica").mkdir()
    shutil.copytree(server.directory / "aside", tmp_path / "replica" / "data")
    replica = RedisServer(executable, tmp_path / "replica")
    replica.start()
    after = {"lite": seen}
    async with (
        connect(replica.url) as behind,
        following(behind, ["lite"], after=after, primary=client) as reading,
    ):
        before = await count_head_reads(client)
        async with asyncio.timeout(10):
            while await count_head_reads(client) < before + 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert reading.events == []
        assert reading.follower.positions == after
        server.wind_back()  # now the primary does not know it either
        # Nothing is known of what was before it, so all there is comes again.
        await reading.until(lambda events: names(events) == ["a"])
        assert reading.events[0] == Rewind("lite", since=None, seen=seen)
        assert reading.follower.positions == {"lite": kept}
    replica.kill()


async def count_head_reads(client: Redis) -> int:
    return int((await client.info("commandstats"))["cmdstat_hmget"]["calls"])


async def test_history_is_read_in_pieces(one: Worker, client: Redis) -> None:
    lease = await one.take()
    assert await oldest(client, KEYS, "full") is None
    assert await newest(client, KEYS, "full") is None
    assert await read_head(client, KEYS) == Head(None, "0-0", ())
    ids = [await published(one, lease, index, str(index)) for index in range(10)]

    pieces, position = [], "0-0"
    while piece := await history(client, KEYS, "full", position, 4):
        pieces.append(len(piece))
        position = piece[-1].id
    assert pieces == [4, 4, 2]
    first, last = await oldest(client, KEYS, "full"), await newest(client, KEYS, "full")
    assert first is not None
    assert last is not None
    assert (first.id, last.id) == (ids[0], ids[-1])
    head = await read_head(client, KEYS)
    assert (head.last, head.streams) == (ids[-1], STREAMS)


async def test_messages_arrive_byte_for_byte(client: Redis) -> None:
    odd = '{"name":"Ünïcode \\u0000 \\n","size":"' + "x" * 100_000 + '"}'
    certificate = Message(
        message("a").sha256, message("a").sha1, odd.encode(), b"{}", b'{"data":[]}', ()
    )
    for settings in (PublisherSettings(codec="none"), PublisherSettings(codec="zstd")):
        await client.flushall()
        worker = Worker(client, "one", settings)
        lease = await worker.take()
        both = [certificate, message("b")]
        window = batch(0, ["x", "y"])
        window.messages[:] = both
        assert isinstance(await worker.publisher.publish(lease, window), Published)
        for stream in STREAMS:
            read = await newest(client, KEYS, stream)
            assert read is not None
            assert read.messages == [getattr(each, stream) for each in both]


@pytest.mark.parametrize("field", ["last", "first"])
async def test_text_that_is_no_id_is_an_error_that_passes(
    one: Worker, client: Redis, field: str
) -> None:
    lease = await one.take()
    await published(one, lease, 0, "a")
    stored = await client.hget(KEYS.head, field)
    assert stored is not None
    for odd in ("latest", "1-2-3", "\u0661-0", "99999999999999999999-0", "-1-0", ""):
        await client.hset(KEYS.head, field, odd or "x")
        with pytest.raises(Malformed, match=f"has {field}: "):
            await read_head(client, KEYS)
    async with following(client, ["lite"]) as reading:
        await until(lambda: reading.follower.last_error is not None)
        assert "is not an entry id" in str(reading.follower.last_error)
        await client.hset(KEYS.head, field, stored)
        await until(lambda: reading.follower.connected)
        await published(one, lease, 1, "b")
        await reading.until(lambda events: names(events) == ["b"])


async def test_bytes_that_are_no_text_in_the_state_of_the_streams(client: Redis) -> None:
    await client.hset(KEYS.head, mapping={"epoch": b"\xff", "streams": b"lite \xff nothing"})
    head = await read_head(client, KEYS)
    assert (head.epoch, head.streams) == ("\ufffd", ("lite",))


async def test_entries_that_are_no_batch_are_not_the_end_of_a_stream(
    one: Worker, client: Redis
) -> None:
    lease = await one.take()
    await published(one, lease, 0, "a")
    for _ in range(3 * COUNT):
        last = await client.xadd(KEYS.stream("lite"), {"m": "no batch"})
    await client.hset(KEYS.head, "last", last)
    await published(one, lease, 1, "b")
    assert len(await history(client, KEYS, "lite", "0-0", COUNT)) == 2
    async with following(client, ["lite"], after={"lite": "0-0"}) as reading:
        await reading.until(lambda events: names(events) == ["a", "b"])


async def test_a_reader_that_began_on_an_empty_redis_misses_what_its_stream_did_not_get(
    client: Redis,
) -> None:
    lite_only = Worker(client, "lite", PublisherSettings(streams=("lite",)))
    everything = Worker(client, "all")
    async with following(client, ["lite", "full"]) as reading:
        await reading.ready()
        await lite_only.publisher.configure()
        lease = await lite_only.take()
        await published(lite_only, lease, 0, "a")
        await everything.publisher.configure()
        second = await published(lite_only, lease, 1, "b")
        await reading.until(lambda events: names(events, "full") == ["b"])
        assert notices(reading.events) == [Gap("full", "0-0", second, "no longer retained")]


async def test_a_key_of_another_type_is_an_error_and_no_outage(client: Redis) -> None:
    await client.set(KEYS.stream("lite"), "not a stream")
    with capture_logs() as lines:
        async with following(client, ["lite"], after={"lite": "0-0"}) as running:
            await until(lambda: running.follower.last_error, "the error")
            assert not running.follower.connected
            await client.delete(KEYS.stream("lite"))
            await until(lambda: running.follower.connected, "the stream is read again")
    (line,) = [line for line in lines if line["event"] == "redis read rejected"]
    assert line["log_level"] == "error"
    assert "WRONGTYPE" in line["error"]
    assert "redis read failed" not in [line["event"] for line in lines]


async def test_redis_breaks_between_the_checks_of_two_streams(
    one: Worker, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stream is rewound by then; its event is given out nevertheless."""
    lease = await one.take()
    await published(one, lease, 0, "a")
    find, checked = StreamReader._fork, list[str]()

    async def breaks_once(reader: StreamReader, stream: str, trail: Trail) -> Link | None:
        checked.append(stream)
        if len(checked) == 2:
            raise redis.exceptions.ConnectionError("it has gone")
        return await find(reader, stream, trail)

    monkeypatch.setattr(StreamReader, "_fork", breaks_once)
    begin = {"full": "0-0", "lite": "0-0"}
    async with following(client, ["full", "lite"], after=begin) as reading:
        await reading.until(lambda events: len(events) == 2)
        await client.hset(KEYS.head, "last", "1-0")
        for stream in STREAMS:
            await client.delete(KEYS.stream(stream))
        await reading.until(
            lambda events: {e.stream for e in events if isinstance(e, Rewind)} == {"full", "lite"}
        )
