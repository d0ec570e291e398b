"""What publish.lua stores beside the messages: counters, the newest id, windows, rare fields."""

from typing import Any

import pytest
from redis.asyncio import Redis

from certbus.ids import parse_entry_id
from certbus.keys import STREAMS
from certbus.streams.batch import Batch, Fenced, Outcome, Published, Stale
from certbus.streams.publisher import RESIDUES
from ctparse.entry import Rejected
from ctparse.v2_message import Verification
from tests.certbus.bus import KEYS, LOG, Worker, batch, log_status, message
from tests.certbus.servers import RedisServer
from tests.certbus.streams.test_marks import move_marks

OVERHEAD_BYTES = 128
AHEAD = 99999999999990
"""Milliseconds of an id that TIME does not reach."""


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    return shared_server


async def head(client: Redis) -> dict[str, str]:
    stored: dict[bytes, bytes] = await client.hgetall(KEYS.head)  # type: ignore[assignment]
    return {name.decode(): value.decode() for name, value in stored.items()}


async def windows(client: Redis) -> dict[str, str]:
    stored: dict[bytes, bytes] = await client.hgetall(KEYS.windows)  # type: ignore[assignment]
    return {name.decode(): value.decode() for name, value in stored.items()}


async def newest(client: Redis, stream: str = "full") -> dict[bytes, bytes]:
    found: Any = await client.xrevrange(KEYS.stream(stream), count=1)
    return dict(found[0][1])


def id_of(outcome: Outcome) -> str:
    assert isinstance(outcome, Published), outcome
    assert outcome.id
    return outcome.id


async def test_counters_are_those_of_what_was_stored(one: Worker, client: Redis) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    odd = [Rejected(3, "no", b"12345"), Rejected(4, "bad", b"")]
    await one.publisher.publish(lease, Batch(1, 5, [message("b"), message("c")], 0, odd))
    await one.publisher.publish(lease, Batch(5, 6, [], 0, odd[:1]))
    stored = await head(client)
    for stream in STREAMS:
        entries: Any = await client.xrange(KEYS.stream(stream))
        payload = sum(len(fields[b"m"]) for _, fields in entries)
        assert int(stored[f"{stream}.entries"]) == 2
        assert int(stored[f"{stream}.messages"]) == 3
        assert int(stored[f"{stream}.bytes"]) == payload + 2 * OVERHEAD_BYTES
    assert int(stored["rejected.entries"]) == 3
    assert int(stored["rejected.messages"]) == 3
    assert int(stored["rejected.bytes"]) == 2 * len("no12345") + len("bad") + 3 * OVERHEAD_BYTES
    assert (await log_status(client)).rejected == 3


async def test_the_newest_and_the_first_id_are_those_of_messages(
    one: Worker, client: Redis
) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, Batch(0, 1, [], 1, []))
    epoch = (await head(client))["epoch"]
    assert not await windows(client), "it has no message that is marked"
    await one.publisher.publish(lease, Batch(1, 2, [], 0, [Rejected(1, "no", b"")]))
    assert "first" not in await head(client)
    assert (await head(client))["last"] == "0-0"
    first = id_of(await one.publisher.publish(lease, batch(2, ["a"])))
    last = id_of(await one.publisher.publish(lease, batch(3, ["b"])))
    await one.publisher.publish(lease, Batch(4, 5, [], 0, [Rejected(4, "no", b"")]))
    stored = await head(client)
    assert (stored["epoch"], stored["first"], stored["last"]) == (epoch, first, last)
    assert (await newest(client))[b"prev"].decode() == first


async def test_windows_count_their_marks(one: Worker, client: Redis) -> None:
    lease = await one.take()
    before, _ = await client.time()
    await one.publisher.publish(lease, batch(0, ["a"]))
    (window,) = {name.partition(".")[0] for name in await windows(client)}
    await client.hset(KEYS.windows, f"{window}.gone", "7")  # its removal has begun
    last = id_of(await one.publisher.publish(lease, batch(1, ["b", "c"])))
    stored = await windows(client)
    if set(stored) != {f"{window}.{name}" for name in ("at", "marks", "last")}:
        pytest.skip("a window of half an hour has just ended")
    assert (stored[f"{window}.marks"], stored[f"{window}.last"]) == ("3", last)
    assert int(stored[f"{window}.at"]) >= before * 1000


async def test_a_window_whose_marks_are_gone_is_reported_once(one: Worker, client: Redis) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    await move_marks(client, 2)
    (window,) = {name.partition(".")[0] for name in await windows(client)}
    await one.publisher.publish(lease, batch(1, ["b"]))
    assert b"forgot" not in await newest(client)
    await client.hset(KEYS.windows, f"{window}.gone", "1")
    await client.delete(KEYS.marks + window)
    await one.publisher.publish(lease, batch(2, ["c"]))
    assert b"forgot" not in await newest(client), "an ingestor has removed it"
    await client.hdel(KEYS.windows, f"{window}.gone")
    before, _ = await client.time()
    await one.publisher.publish(lease, Batch(3, 4, [], 1, []))
    last = id_of(await one.publisher.publish(lease, batch(4, ["d"])))
    assert (await newest(client))[b"forgot"] == b"1"
    stored = await windows(client)
    assert window not in {name.partition(".")[0] for name in stored}
    assert int(stored["cut"]) >= before * 1000
    assert last in stored.values()
    await one.publisher.publish(lease, batch(5, ["e"]))
    assert b"forgot" not in await newest(client)


async def test_fields_that_few_entries_have(one: Worker, client: Redis) -> None:
    lease = await one.take()
    first = parse_entry_id(id_of(await one.publisher.publish(lease, batch(0, ["a"]))))
    assert first.seq == 0
    assert not {b"at", b"forgot", b"verified"} & set(await newest(client))
    assert parse_entry_id((await head(client))["last"]) == first
    await move_marks(client, 2)
    (window,) = {name.partition(".")[0] for name in await windows(client)}
    await client.delete(KEYS.marks + window)
    seconds, _ = await client.time()
    await client.hset(KEYS.head, "last", f"{AHEAD}-7")
    verified = Batch(1, 2, [message("b")], 0, [], verification=Verification("verified", "failed"))
    second = parse_entry_id(id_of(await one.publisher.publish(lease, verified)))
    assert second.ms == AHEAD
    assert 7 < second.seq <= 7 + RESIDUES
    for stream in STREAMS:
        fields = await newest(client, stream)
        assert int(fields[b"at"]) >= seconds * 1000
        assert fields[b"forgot"] == b"1"
        assert fields[b"verified"] == b"vf"
    later = second.seq + 1_000_000
    await client.hset(KEYS.head, "last", f"{AHEAD}-{later}")
    third = parse_entry_id(id_of(await one.publisher.publish(lease, batch(2, ["c"]))))
    assert third.ms == AHEAD
    assert later < third.seq <= later + RESIDUES

    await client.hset(KEYS.head, "last", f"{AHEAD}-{2**53 - 1}")
    fourth = parse_entry_id(id_of(await one.publisher.publish(lease, batch(3, ["d"]))))
    assert fourth.ms == AHEAD + 1, "numbers of Lua are exact below 2^53"
    assert 0 <= fourth.seq < RESIDUES


async def test_a_log_that_was_renamed_is_fenced(one: Worker, client: Redis) -> None:
    lease = await one.take()
    await client.hdel(KEYS.log(LOG), "next")
    await client.hset(KEYS.log(LOG), "renamed", "another")
    assert await one.publisher.publish(lease, batch(0, ["a"])) == Fenced()


async def test_the_entry_at_which_duplicates_were_found_must_be_known(
    one: Worker, client: Redis
) -> None:
    """It may have been trimmed; it must not have been lost."""
    lease = await one.take()
    ids = [id_of(await one.publisher.publish(lease, batch(n, [str(n)]))) for n in range(4)]
    smallest = KEYS.stream(STREAMS[-1])

    async def outcome(known_at: str, index: int) -> Outcome:
        duplicate = Batch(index, index + 1, [], 1, [], known_at=known_at)
        return await one.publisher.publish(lease, duplicate)

    between = f"{parse_entry_id(ids[1]).ms}-99"
    assert await outcome(between, 4) == Stale(4)
    assert await outcome(f"{AHEAD}-0", 4) == Stale(4)
    for index, known in enumerate([ids[0], ids[1], ids[3], "0-0"], 4):
        assert isinstance(await outcome(known, index), Published)
    await client.xtrim(smallest, minid=ids[2], approximate=False)
    assert isinstance(await outcome(ids[0], 8), Published), "trimmed"
    assert isinstance(await outcome(ids[2], 9), Published)
    await client.xtrim(smallest, maxlen=0, approximate=False)
    assert isinstance(await outcome(ids[0], 10), Published)
    newest = parse_entry_id(ids[3])
    assert await outcome(f"{newest.ms}-{newest.seq + 1}", 11) == Stale(11)
    await client.hset(KEYS.head, "first", "no id")
    assert isinstance(await outcome(ids[1], 11), Published)
    await client.hset(KEYS.head, "last", "0-0")
    await client.delete(*map(KEYS.stream, STREAMS))
    assert await outcome(ids[0], 12) == Stale(12)
