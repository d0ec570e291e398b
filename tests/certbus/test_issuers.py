"""Issuers that one worker has fetched are there for all."""

from hashlib import sha256

from redis.asyncio import Redis

from certbus.issuers import LARGEST, MOST, IssuerShelf
from tests.certbus.bus import KEYS
from tests.certbus.test_full import TOO_LITTLE, allow

DER = b"an issuer"
FINGERPRINT = sha256(DER).digest()


async def test_what_was_put_is_found(client: Redis) -> None:
    shelf = IssuerShelf(client, KEYS)
    assert await shelf.get([]) == {}
    assert await shelf.get([FINGERPRINT]) == {}
    await shelf.put(FINGERPRINT, DER)
    assert await shelf.get([bytes(32), FINGERPRINT]) == {FINGERPRINT: DER}
    assert await client.ttl(KEYS.issuers) > 0


async def test_what_is_not_what_its_fingerprint_says_is_not_found(client: Redis) -> None:
    await client.hset(KEYS.issuers, FINGERPRINT, b"another")
    assert await IssuerShelf(client, KEYS).get([FINGERPRINT]) == {}


async def test_the_shelf_is_bounded(client: Redis) -> None:
    shelf = IssuerShelf(client, KEYS)
    large = bytes(LARGEST + 1)
    await shelf.put(sha256(large).digest(), large)
    assert await client.hlen(KEYS.issuers) == 0
    await client.hset(KEYS.issuers, mapping={str(n): b"" for n in range(MOST)})
    await shelf.put(FINGERPRINT, DER)
    assert await client.hlen(KEYS.issuers) == MOST


async def test_a_full_redis_does_without(client: Redis) -> None:
    await allow(client, TOO_LITTLE)
    shelf = IssuerShelf(client, KEYS)
    await shelf.put(FINGERPRINT, DER)
    assert await shelf.get([FINGERPRINT]) == {}
