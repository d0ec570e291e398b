"""Issuers that one worker has fetched are there for all."""

from hashlib import sha256

from redis.asyncio import Redis

from certbus.caches.issuers import MAX_BYTES, MAX_COUNT, PARTS, TTL_SECS, IssuerCache
from tests.certbus.bus import KEYS
from tests.certbus.streams.test_full_redis import TOO_LITTLE, allow

DER = b"an issuer"
FINGERPRINT = sha256(DER).digest()
PART = FINGERPRINT[0] >> 4


async def test_a_stored_issuer_is_found(client: Redis) -> None:
    shelf = IssuerCache(client, KEYS)
    assert await shelf.get([]) == {}
    assert await shelf.get([FINGERPRINT]) == {}
    await shelf.put(FINGERPRINT, DER)
    assert await shelf.get([bytes(32), FINGERPRINT]) == {FINGERPRINT: DER}
    assert await client.ttl(KEYS.issuers(PART)) > 0


async def test_an_issuer_with_another_fingerprint_is_not_found(client: Redis) -> None:
    await client.hset(KEYS.issuers(PART), FINGERPRINT, b"another")
    assert await IssuerCache(client, KEYS).get([FINGERPRINT]) == {}


async def test_the_shelf_is_bounded(client: Redis) -> None:
    shelf = IssuerCache(client, KEYS)
    large = bytes(MAX_BYTES + 1)
    await shelf.put(sha256(large).digest(), large)
    assert await client.keys() == []
    await client.hset(KEYS.issuers(PART), mapping={str(n): b"" for n in range(MAX_COUNT // PARTS)})
    await shelf.put(FINGERPRINT, DER)
    assert await client.hlen(KEYS.issuers(PART)) == MAX_COUNT // PARTS


async def test_a_full_redis_does_without(client: Redis) -> None:
    await allow(client, TOO_LITTLE)
    shelf = IssuerCache(client, KEYS)
    await shelf.put(FINGERPRINT, DER)
    assert await shelf.get([FINGERPRINT]) == {}


async def test_not_all_expire_at_once(client: Redis) -> None:
    shelf = IssuerCache(client, KEYS)
    issuers = [b"issuer %d" % number for number in range(400)]
    for der in issuers:
        await shelf.put(sha256(der).digest(), der)
    lives = {await client.ttl(KEYS.issuers(part)) for part in range(PARTS)}
    assert len(lives) > PARTS // 2
    assert all(0.7 * TTL_SECS < life < 1.3 * TTL_SECS for life in lives)
    found = await shelf.get([sha256(der).digest() for der in issuers])
    assert list(found.values()) == issuers
