"""The keys of deduplication marks (`certbus.keys`), and the windows in which a look-up searches."""

import random
from itertools import chain, permutations
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from certbus.keys import WINDOW_MS
from certbus.streams.batch import Batch, Published
from ctparse.wire_messages import Message
from tests.certbus.bus import KEYS, Worker, batch, message, repeated
from tests.certbus.servers import RedisServer

_FILTER_BITS = 25
_BUCKET_BITS = 14


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    return shared_server


def with_digest(name: str, sha256: bytes) -> Message:
    return msgspec.structs.replace(message(name), sha256=sha256)


async def move_marks(client: Redis, windows: int, *, listed: bool = True) -> None:
    """Let all marks be in later windows (or earlier ones), as if Redis had another clock then.

    Args:
        client: of Redis.
        windows: by how many.
        listed: whether the hash `windows` has them.
    """
    for kind in ("cert:", "sha1:"):
        # All of them first: a scan may return a key again under its new name.
        for key in [key async for key in client.scan_iter(f"{KEYS.prefix}{kind}*")]:
            prefix, _, rest = key.decode().partition(kind)
            window, *bucket = rest.split(":")
            moved = ":".join([str(int(window) + windows), *bucket])
            await client.rename(key, f"{prefix}{kind}{moved}")
    fields: dict[bytes, bytes] = await client.hgetall(KEYS.windows)  # type: ignore[assignment]
    await client.delete(KEYS.windows)
    for field, value in fields.items():
        number, _, name = field.decode().partition(".")
        if listed:
            await client.hset(KEYS.windows, f"{int(number) + windows}.{name}", value)


@pytest.mark.parametrize("start", ["a1b2c3d4", "a1b2c380", "a1b2c37f"])
async def test_where_a_mark_is(one: Worker, client: Redis, start: str) -> None:
    """Other releases read it there."""
    lease = await one.take()
    sha256 = bytes.fromhex(start) + bytes(range(28))
    before, _ = await client.time()
    outcome = await one.publisher.publish(lease, Batch(0, 1, [with_digest("a", sha256)], 0, []))
    after, _ = await client.time()
    assert isinstance(outcome, Published)
    first = int.from_bytes(sha256[:4])
    bucket = first >> (32 - _BUCKET_BITS)
    (key,) = [key async for key in client.scan_iter(f"{KEYS.marks}*:*")]
    window = int(key.decode().removeprefix(KEYS.marks).partition(":")[0])
    assert before * 1000 // WINDOW_MS <= window <= (after + 1) * 1000 // WINDOW_MS
    assert key.decode() == f"{KEYS.marks}{window}:{bucket}"
    assert await client.hgetall(key) == {sha256[1:]: f"{outcome.id}-0".encode()}
    filter_key = f"{KEYS.marks}{window}"
    assert await client.bitcount(filter_key) == 2
    assert await client.getbit(filter_key, first >> (32 - _FILTER_BITS))
    assert await client.getbit(filter_key, (1 << _FILTER_BITS) + bucket)


async def test_each_hash_of_marks_has_a_bit_and_expires(one: Worker, client: Redis) -> None:
    """Also one that two certificates of a batch share, or that an earlier batch made."""
    lease = await one.take()
    rng = random.Random(1)
    buckets = [*rng.sample(range(1 << _BUCKET_BITS), 30), 0, 7, 8, (1 << _BUCKET_BITS) - 1]
    # In each byte, a bit that is set first, and another one that is set later.
    pairs = [(8 * at + a, 8 * at + b) for at, (a, b) in enumerate(permutations(range(8), 2), 2)]
    pairs.append((512 + 3, 8 + 3))  # that of another byte
    turns = [rng.choices(buckets, k=30) for _ in range(4)]
    first = 0
    for turn, drawn in enumerate([*turns, *zip(*pairs, strict=True)]):
        digests = [
            (each << 18 | rng.getrandbits(18)).to_bytes(4) + rng.randbytes(28) for each in drawn
        ]
        messages = [with_digest(f"{turn} {at}", digest) for at, digest in enumerate(digests)]
        sent = Batch(first, first + len(messages), messages, 0, [])
        assert isinstance(await one.publisher.publish(lease, sent), Published)
        first = sent.next
    numbers: dict[bytes, set[int]] = {}
    async for key in client.scan_iter(f"{KEYS.marks}*:*", count=1000):
        window, _, number = key.removeprefix(KEYS.marks.encode()).partition(b":")
        numbers.setdefault(window, set()).add(int(number))
        assert await client.pttl(key) > 0
    assert set().union(*numbers.values()) <= {*buckets, *chain(*pairs)}
    for window, found in numbers.items():
        filter_key = KEYS.marks + window.decode()
        bits: Any = await client.getrange(filter_key, 1 << (_FILTER_BITS - 3), -1)
        assert found == {
            8 * at + bit for at, byte in enumerate(bits) for bit in range(8) if byte << bit & 128
        }


async def test_marks_in_two_windows_are_found(one: Worker, client: Redis) -> None:
    """Also those that have the same bit of the filter, in a window ahead of TIME."""
    lease = await one.take()
    early, late = b"\xa1\xb2\xc3\xd4" + bytes(28), b"\xa1\xb2\xc3\xd5" + bytes(28)
    await one.publisher.publish(lease, Batch(0, 1, [with_digest("a", early)], 0, []))
    await move_marks(client, 1)
    await one.publisher.publish(lease, Batch(1, 2, [with_digest("b", late)], 0, []))
    assert await one.publisher.find_known([early, late, bytes(32)]) == [True, True, False]
    again = [with_digest("c", bytes(32)), with_digest("b", late), with_digest("a", early)]
    assert repeated(await one.publisher.publish(lease, Batch(2, 5, again, 0, []))) == [1, 2]


async def test_marks_of_a_release_that_lists_no_windows_are_found(
    one: Worker, client: Redis
) -> None:
    await one.publisher.configure()
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    await move_marks(client, -1, listed=False)
    assert await one.publisher.find_known([message("a").sha256]) == [True]
    assert repeated(await one.publisher.publish(lease, batch(1, ["b", "a"]))) == [1]
