"""publish.lua and the two calls in front of it, against real servers."""

from typing import Any

import msgspec
import pytest
import redis.exceptions
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.ids import EntryId, parse_entry_id
from certbus.keys import STREAMS, WINDOW_MS, Keys
from certbus.streams.batch import (
    MAX_BYTES,
    AlreadyPublished,
    Batch,
    Fenced,
    Missing,
    Outcome,
    Published,
    Stale,
)
from certbus.streams.cert_index import StreamLocation, find_by_fingerprint
from certbus.streams.publisher import PublisherSettings, UnsupportedFormat
from certbus.streams.reader import read_head
from certbus.streams.retention import Trimmer
from ctparse.entry import Rejected
from ctparse.tree_head import TreeHead
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
    repeated,
    stored,
    stored_names,
)
from tests.certbus.servers import RedisServer
from tests.certbus.streams.test_marks import move_marks

TREE_HEAD = TreeHead(size=1000, timestamp=1_700_000_000_000, root=b"\0\xff" * 16, signature=b"\4\3")


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    return shared_server


async def everything(client: Redis) -> dict[bytes, bytes | None]:
    """Every key with its serialized value, to check whether anything was written."""
    return {key: await client.dump(key) async for key in client.scan_iter(count=1000)}


async def test_a_batch_is_one_entry_of_the_same_id_in_each_stream(
    one: Worker, client: Redis
) -> None:
    lease = await one.take(start=100)
    first = await one.publisher.publish(lease, batch(100, ["a", "b"], duplicates=1))
    assert isinstance(first, Published)
    second = await one.publisher.publish(lease, batch(103, ["c"]))
    assert isinstance(second, Published)
    assert (first.next, second.next) == (103, 104)

    assert await stored_names(client) == ["a", "b", "c"]
    assert [(b.id, b.prev, b.log, b.first, b.last) for b in await stored(client)] == [
        (first.id, "0-0", LOG, 100, 102),
        (second.id, first.id, LOG, 103, 103),
    ]
    status = await log_status(client)
    assert (status.published, status.duplicates, status.next) == (3, 1, 104)
    assert_adds_up(status)


async def test_rejected_entries_and_the_tree_head_are_stored_with_next(
    one: Worker, client: Redis
) -> None:
    lease = await one.take()
    huge = b"\0" * 100_000
    before = await client.hgetall(KEYS.log(LOG))
    odd = Batch(0, 4, [message("a")], 1, [rejected(1), rejected(3, huge)], TREE_HEAD)
    assert isinstance(await one.publisher.publish(lease, odd), Published)

    reply: Any = await client.xrange(KEYS.rejected)
    entries = [fields for _, fields in reply]
    assert [(e[b"log"], e[b"index"], e[b"reason"], e[b"size"]) for e in entries] == [
        (LOG.encode(), b"1", b"not a certificate", b"7"),
        (LOG.encode(), b"3", b"not a certificate", b"100000"),
    ]
    assert entries[0][b"raw"] == b"garbage"
    assert entries[1][b"raw"] == huge[: 16 * 1024]
    fields = await client.hgetall(KEYS.log(LOG))
    tree = {b"tree_size", b"tree_timestamp", b"tree_root", b"tree_signature"}
    assert set(fields) == {*before, *tree, b"published", b"duplicates", b"rejected"}
    assert fields[b"tree_size"] == b"1000"
    assert fields[b"tree_timestamp"] == b"1700000000000"
    assert fields[b"tree_root"] == TREE_HEAD.root
    assert fields[b"tree_signature"] == TREE_HEAD.signature
    status = await log_status(client)
    assert (status.published, status.duplicates, status.rejected) == (1, 1, 2)
    assert_adds_up(status)


async def test_the_rejected_entries_of_a_batch_share_a_mebibyte(one: Worker, client: Redis) -> None:
    lease = await one.take()
    huge = [rejected(index, bytes(5000)) for index in range(256)]
    assert isinstance(await one.publisher.publish(lease, Batch(0, 256, [], 0, huge)), Published)
    reply: Any = await client.xrange(KEYS.rejected)
    assert [len(fields[b"raw"]) for _, fields in reply] == [2**20 // 256] * 256


async def test_text_that_is_no_id_in_the_head_is_replaced_by_the_newest_id(
    one: Worker, client: Redis
) -> None:
    lease = await one.take()
    first = await one.publisher.publish(lease, batch(0, ["0"]))
    assert isinstance(first, Published)
    last = first.id
    odd = (
        "latest",
        "1-2-3",
        "\u0661-0",
        "99999999999999999999-0",
        "-1-0",
        "",
        f"{1 << 53}-0",
        f"1-{1 << 53}",
    )
    for index, text in enumerate(odd, 1):
        await client.hset(KEYS.head, "last", text)
        await Trimmer(client, KEYS).trim()
        stale = await one.publisher.publish(lease, batch(index + 7, ["other"]))
        assert stale == Stale(index)
        known = await one.publisher.find_known_at([message("0").sha256, message("new").sha256])
        assert known == ([True, False], last)
        found = msgspec.structs.replace(batch(index, [str(index)]), known_at=last)
        outcome = await one.publisher.publish(lease, found)
        assert isinstance(outcome, Published)
        assert (await stored(client))[-1].prev == last
        last = outcome.id
        assert (await read_head(client, KEYS)).last == last
    assert await stored_names(client) == [str(index) for index in range(len(odd) + 1)]
    assert_adds_up(await log_status(client))


async def test_a_single_stream_shows_the_newest_id(client: Redis) -> None:
    one, two = (Worker(client, n, PublisherSettings(streams=("lite",))) for n in ("one", "two"))
    await one.publisher.configure()
    lease = await one.take()
    await client.hset(KEYS.head, "last", "99999999999990-7")
    first = await one.publisher.publish(lease, batch(0, ["a"]))
    await client.hset(KEYS.head, "last", "latest")
    assert await two.publisher.publish(lease, batch(7, ["c"])) == Stale(1)
    assert isinstance(await one.publisher.publish(lease, batch(1, ["b"])), Published)
    newest: Any = await client.xrevrange(KEYS.stream("lite"), count=1)
    assert parse_entry_id(newest[0][1][b"prev"].decode()) == _id(first)
    await client.hset(KEYS.head, "last", "0-0")
    await client.delete(KEYS.stream("lite"))
    assert _id(first) < _id(await two.publisher.publish(lease, batch(2, ["c"])))


async def test_the_newest_id_is_that_of_the_stream_that_is_ahead(
    one: Worker, client: Redis
) -> None:
    """A stream may have been written again since a shorter time, while the clock was ahead."""
    await one.publisher.configure()
    for name, newest in zip(STREAMS, ("5-7", "5-9", "5-8"), strict=True):
        await client.xadd(KEYS.stream(name), {"m": ""}, id=newest)
    await client.hset(KEYS.head, "last", "latest")
    assert (await one.publisher.find_known_at([message("a").sha256]))[1] == "5-9"


async def test_a_batch_of_duplicates_only_appends_nothing(one: Worker, client: Redis) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    assert await one.publisher.publish(lease, batch(1, [], duplicates=256)) == Published(None, 257)
    assert await stored_names(client) == ["a"]
    await client.delete(*[key async for key in client.scan_iter(f"{KEYS.marks}*")])
    assert await one.publisher.publish(lease, batch(257, [], duplicates=1)) == Published(None, 258)
    status = await log_status(client)
    assert (status.published, status.duplicates) == (1, 257)
    assert_adds_up(status)


async def test_a_batch_of_rejected_entries_only(one: Worker, client: Redis) -> None:
    lease = await one.take()
    outcome = await one.publisher.publish(lease, Batch(0, 1, [], 0, [rejected(0)]))
    assert outcome == Published(None, 1)
    assert await client.xlen(KEYS.rejected) == 1
    assert await client.exists(KEYS.stream("full")) == 0


async def test_find_known_covers_the_certificates_of_all_logs(one: Worker, two: Worker) -> None:
    names = [f"certificate {number}" for number in range(600)]
    lease = await one.take(OTHER_LOG)
    assert isinstance(await one.publisher.publish(lease, batch(0, names[100:300])), Published)
    known = await two.publisher.find_known([message(name).sha256 for name in names])
    assert known == [100 <= number < 300 for number in range(600)]
    assert await two.publisher.find_known([]) == []


async def test_a_filter_that_is_wrong_makes_no_duplicate_of_a_new_certificate(
    one: Worker, client: Redis
) -> None:
    lease = await one.take()
    old = message("old")
    assert isinstance(await one.publisher.publish(lease, batch(0, ["old"])), Published)
    # The first 25 bits are the filter's, the first 14 the bucket's: the same for both.
    alike = msgspec.structs.replace(message("new"), sha256=old.sha256[:30] + b"xx")
    assert await one.publisher.find_known([old.sha256, alike.sha256]) == [True, False]
    outcome = await one.publisher.publish(lease, Batch(1, 2, [alike], 0, []))
    assert isinstance(outcome, Published)
    assert await one.publisher.find_known([old.sha256, alike.sha256]) == [True, True]


async def test_published_by_another_log_between_check_and_publish(
    one: Worker, two: Worker, client: Redis
) -> None:
    own, other = await one.take(LOG), await two.take(OTHER_LOG)
    window = batch(0, ["a", "b", "c", "d"])
    assert not any(await one.publisher.find_known([m.sha256 for m in window.messages]))
    await two.publisher.publish(other, batch(0, ["d", "b"]))
    before = await everything(client)

    assert repeated(await one.publisher.publish(own, window)) == [1, 3]
    assert await everything(client) == before

    outcome = await one.publisher.publish(own, batch(0, ["a", "c"], duplicates=2))
    assert isinstance(outcome, Published)
    assert await stored_names(client) == ["d", "b", "a", "c"]
    assert_adds_up(await log_status(client))


async def test_marks_are_searched_again_only_if_there_is_an_entry_since_the_look_up(
    one: Worker, two: Worker, client: Redis
) -> None:
    async def searches() -> int:
        stats: dict[str, Any] = await client.info("commandstats")
        return int(stats["cmdstat_bitfield_ro"]["calls"])

    own, other = await one.take(LOG), await two.take(OTHER_LOG)
    await two.publisher.publish(other, batch(0, ["x"]))
    window = batch(0, ["a", "b"])
    _, known_at = await one.publisher.find_known_at([m.sha256 for m in window.messages])
    before = await searches()
    window = msgspec.structs.replace(window, known_at=known_at)
    assert isinstance(await one.publisher.publish(own, window), Published)
    assert await searches() == before
    window = msgspec.structs.replace(batch(1, ["c", "b"]), known_at=known_at)
    assert repeated(await two.publisher.publish(other, window)) == [1]
    assert await searches() == before + 1


async def test_a_certificate_twice_in_one_batch_is_reported(one: Worker, client: Redis) -> None:
    lease = await one.take()
    before = await everything(client)
    outcome = await one.publisher.publish(lease, batch(0, ["a", "b", "a", "a"]))
    assert repeated(outcome) == [2, 3]
    assert await everything(client) == before


async def test_a_reason_may_quote_anything(one: Worker, client: Redis) -> None:
    lease = await one.take()
    odd = Rejected(0, "odd name '\udcff\0\n' " + "x" * 10_000, b"")
    assert await one.publisher.publish(lease, Batch(0, 1, [], 0, [odd])) == Published(None, 1)
    reply: Any = await client.xrange(KEYS.rejected)
    reason = reply[0][1][b"reason"].decode()
    assert reason.startswith("odd name '?\0 ' xxx")
    assert len(reason) < 1000


async def test_a_repeated_batch_is_stale(one: Worker, client: Redis) -> None:
    lease = await one.take()
    window = Batch(0, 3, [message("a")], 1, [rejected(2)])
    assert isinstance(await one.publisher.publish(lease, window), Published)
    before = await everything(client)
    assert await one.publisher.publish(lease, window) == Stale(3)
    assert await one.publisher.publish(lease, batch(5, ["b"])) == Stale(3)
    assert await everything(client) == before


async def test_a_worker_that_lost_its_lease_is_fenced(
    one: Worker, two: Worker, client: Redis
) -> None:
    old = await one.take()
    await client.delete(KEYS.lease(LOG))  # it expired while the worker was paused
    new = await two.take()
    before = await everything(client)
    assert await one.publisher.publish(old, batch(0, ["a"])) == Fenced()
    assert await everything(client) == before
    assert isinstance(await two.publisher.publish(new, batch(0, ["a"])), Published)
    assert await one.publisher.publish(old, batch(1, ["b"])) == Fenced()
    assert await stored_names(client) == ["a"]


async def test_an_expired_lease_without_a_new_owner_still_publishes(
    one: Worker, client: Redis
) -> None:
    lease = await one.take()
    await client.delete(KEYS.lease(LOG))
    assert isinstance(await one.publisher.publish(lease, batch(0, ["a"])), Published)


async def test_an_absent_log_is_missing(one: Worker, client: Redis) -> None:
    lease = await one.take()
    await client.flushall()
    assert await one.publisher.publish(lease, batch(0, ["a"])) == Missing()
    assert await client.dbsize() == 0


async def test_ids_grow_and_are_never_given_twice(one: Worker, client: Redis) -> None:
    lease = await one.take()
    ids = []
    for index in range(50):
        outcome = await one.publisher.publish(lease, batch(index, [str(index)]))
        assert isinstance(outcome, Published)
        assert outcome.id is not None
        ids.append(parse_entry_id(outcome.id))
    assert ids == sorted(set(ids))
    seconds, _ = await client.time()
    assert abs(ids[-1].ms - seconds * 1000) < 60_000


async def test_an_id_is_above_what_the_worker_was_given_and_above_a_clock_put_back(
    one: Worker, two: Worker, client: Redis
) -> None:
    lease = await one.take()
    far = "99999999999990-7"
    await client.hset(KEYS.head, "last", far)
    first = await one.publisher.publish(lease, batch(0, ["a"]))
    # A Redis that lost its last second has an older `last`; the worker knows better.
    await client.hset(KEYS.head, "last", "0-0")
    await client.delete(*map(KEYS.stream, ("full", "lite", "domains")))
    second = await one.publisher.publish(lease, batch(1, ["b"]))
    assert parse_entry_id(far) < _id(first) < _id(second)
    assert {_id(first).ms, _id(second).ms} == {99999999999990}


@pytest.mark.parametrize("index", [7, 1, None], ids=["stale", "repeated", "look-up"])
async def test_an_id_that_a_worker_learnt_of_counts_too(
    one: Worker, client: Redis, index: int | None
) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    await client.hset(KEYS.head, "last", "99999999999990-7")
    if index is None:
        await one.publisher.find_known([message("a").sha256])
    else:
        refused = await one.publisher.publish(lease, batch(index, ["a"]))
        assert isinstance(refused, Stale if index == 7 else AlreadyPublished)
    await client.hset(KEYS.head, "last", "0-0")
    await client.delete(*map(KEYS.stream, STREAMS))
    published = await one.publisher.publish(lease, batch(1, ["b"]))
    assert parse_entry_id("99999999999990-7") < _id(published)


def _id(outcome: Outcome) -> EntryId:
    assert isinstance(outcome, Published)
    assert outcome.id is not None
    return parse_entry_id(outcome.id)


@pytest.mark.parametrize("stream", STREAMS)
async def test_a_stream_that_someone_else_wrote_to_stops_everything_whole(
    one: Worker, client: Redis, stream: str
) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    await client.xadd(KEYS.stream(stream), {"foreign": "entry"}, id="99999999999999-0")
    before = await everything(client)
    with pytest.raises(redis.exceptions.ResponseError, match=f"stream:{stream} has entries"):
        await one.publisher.publish(lease, batch(1, ["b"]))
    assert await everything(client) == before


@pytest.mark.parametrize("key", ["stream:lite", "stream:rejected"])
async def test_a_key_of_the_wrong_type_stops_everything_whole(
    one: Worker, client: Redis, key: str
) -> None:
    lease = await one.take()
    await client.set(KEYS.prefix + key, "no stream")
    before = await everything(client)
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await one.publisher.publish(lease, Batch(0, 2, [message("a")], 0, [rejected(1)]))
    assert await everything(client) == before


async def test_a_filter_of_the_wrong_type_stops_everything_whole(
    one: Worker, client: Redis
) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    _, known_at = await one.publisher.find_known_at([message("b").sha256])
    now, _ = await client.time()
    for window in range(now * 1000 // WINDOW_MS, now * 1000 // WINDOW_MS + 2):
        await client.delete(f"{KEYS.marks}{window}")
        await client.hset(f"{KEYS.marks}{window}", "no", "bitmap")
    before = await everything(client)
    sent = msgspec.structs.replace(batch(1, ["b"]), known_at=known_at)
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await one.publisher.publish(lease, sent)
    assert await everything(client) == before


async def test_a_counter_that_is_no_number_stops_everything_whole(
    one: Worker, client: Redis
) -> None:
    lease = await one.take()
    await client.hset(KEYS.log(LOG), "duplicates", "many")
    before = await everything(client)
    with pytest.raises(redis.exceptions.ResponseError, match="duplicates is not a number"):
        await one.publisher.publish(lease, batch(0, ["a"]))
    assert await everything(client) == before


async def test_the_newest_configuration_determines_the_streams(client: Redis) -> None:
    old = Worker(client, "old", PublisherSettings(streams=("full", "lite", "domains")))
    await old.publisher.configure()
    lease = await old.take()
    await old.publisher.publish(lease, batch(0, ["a"]))

    new = Worker(client, "new", PublisherSettings(streams=("lite",), remember_ms=1000))
    await new.publisher.configure()
    assert isinstance(await old.publisher.publish(lease, batch(1, ["b"])), Published)
    assert await client.xlen(KEYS.stream("lite")) == 2
    assert await client.xlen(KEYS.stream("full")) == 1
    assert await client.hget(KEYS.head, "remember") == b"1000"

    await old.publisher.configure()
    assert isinstance(await old.publisher.publish(lease, batch(2, ["c"])), Published)
    assert await client.xlen(KEYS.stream("full")) == 2


async def test_a_configuration_is_stored_in_one_step(one: Worker, client: Redis) -> None:
    await client.config_resetstat()
    await one.publisher.configure()
    stats: dict[str, Any] = await client.info("commandstats")
    assert stats["cmdstat_exec"]["calls"] == 1


async def test_data_of_a_newer_version_is_left_alone(one: Worker, client: Redis) -> None:
    await client.hset(KEYS.head, "format", "2")
    with pytest.raises(UnsupportedFormat, match=r"format 2 .* format 1"):
        await one.publisher.configure()
    assert await client.hgetall(KEYS.head) == {b"format": b"2"}


async def test_marks_are_found_by_lookup_and_expire(client: Redis) -> None:
    remember = 100 * 24 * 3600 * 1000
    one = Worker(client, "one", PublisherSettings(remember_ms=remember))
    await one.publisher.configure()
    lease = await one.take()
    outcome = await one.publisher.publish(lease, batch(0, ["a", "b"]))
    assert isinstance(outcome, Published)
    assert outcome.id is not None
    certificate = message("b")
    assert await find_by_fingerprint(client, KEYS, certificate.sha256) == StreamLocation(
        outcome.id, 1
    )
    assert await find_by_fingerprint(client, KEYS, certificate.sha1) == StreamLocation(
        outcome.id, 1
    )

    marks = [
        *[key async for key in client.scan_iter(KEYS.prefix + "cert:*")],
        *[key async for key in client.scan_iter(KEYS.prefix + "sha1:*")],
    ]
    assert len(marks) == 5  # the filter, and a bucket for each digest
    for key in marks:
        # Redis removes them automatically only long after an ingestor should have.
        assert await client.pttl(key) > remember + 30 * 24 * 3600 * 1000


async def test_certificates_whose_sha1_begins_alike_are_found(one: Worker, client: Redis) -> None:
    lease = await one.take()
    for first in (0, 3):
        names = [str(number) for number in range(first, first + 3)]
        alike = [
            msgspec.structs.replace(each, sha1=b"\7" + each.sha1[1:])
            for each in map(message, names)
        ]
        outcome = await one.publisher.publish(lease, Batch(first, first + 3, alike, 0, []))
        assert isinstance(outcome, Published)
        assert outcome.id is not None
        for position, each in enumerate(alike):
            found = await find_by_fingerprint(client, KEYS, each.sha1)
            assert found == StreamLocation(outcome.id, position)


async def test_a_restarted_redis_knows_no_scripts_and_everything_else(
    one: Worker, client: Redis, server: RedisServer
) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    before = await everything(client)
    server.kill()
    server.start()
    assert await everything(client) == before
    assert await one.publisher.find_known([message("a").sha256]) == [True]
    assert isinstance(await one.publisher.publish(lease, batch(1, ["b"])), Published)


async def test_prefixes_are_independent(one: Worker, server: RedisServer) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    async with connect(server.url) as client:
        other = Worker(client, "other", keys=Keys("test:"))
        assert await other.publisher.find_known([message("a").sha256]) == [False]
        assert await other.leases.next_index(LOG) is None


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (Batch(0, 2, [message("a")], 0, []), "accounts for 1 entries"),
        (Batch(0, 1, [message("a"), message("b")], -1, []), "-1 duplicates"),
        (batch(0, [str(n) for n in range(257)]), "has 257 messages"),
        (batch(0, ["a", "b"], size=MAX_BYTES // 2), "split it"),
    ],
)
async def test_a_batch_that_cannot_be_right_is_not_sent(
    one: Worker, client: Redis, bad: Batch, complaint: str
) -> None:
    lease = await one.take()
    with pytest.raises(ValueError, match=complaint):
        await one.publisher.publish(lease, bad)
    assert await one.leases.next_index(LOG) == 0


async def test_marks_made_before_a_clock_was_set_back_still_count(
    one: Worker, client: Redis
) -> None:
    await one.publisher.configure()
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    await move_marks(client, 1)  # as if Redis' clock had been half an hour ahead at this time
    assert await one.publisher.find_known([message("a").sha256]) == [True]
    assert repeated(await one.publisher.publish(lease, batch(1, ["a", "b"]))) == [0]
    assert await find_by_fingerprint(client, KEYS, message("a").sha256) is not None
