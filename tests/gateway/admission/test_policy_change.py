"""A policy that changes while clients are connected."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.keys import Keys
from certbus.limits.clients import ConnectionCounts, RateLimits
from certconf import Auth, Secret
from gateway.admission.client_identity import Visitor
from gateway.admission.controller import Door, Ticket
from gateway.admission.credentials import holders
from gateway.admission.policy import Policy
from gateway.http.messages import Answer
from tests.certbus.servers import RedisServer
from tests.waiting import until

VISITOR = Visitor("192.0.2.1")
LIMITED = Policy(limits_connections=True, most=10, most_of_one=3)


@pytest.fixture
async def redis(shared_redis: RedisServer) -> AsyncIterator[Redis]:
    async with connect(shared_redis.url) as client:
        yield client


@pytest.fixture
async def door(redis: Redis, prefix: str) -> AsyncIterator[Door]:
    keys = Keys(prefix)
    door = Door(Policy(), RateLimits(redis, keys), ConnectionCounts(redis, keys, "one", 9), 0.05)
    running = asyncio.gather(door.rates.run(), door.connections.run())
    yield door
    running.cancel()
    await asyncio.wait([running])


async def told(redis: Redis, prefix: str) -> int:
    return int(await redis.hget(Keys(prefix).connections, VISITOR.site) or 0)


async def test_who_is_there_already_counts(door: Door, redis: Redis, prefix: str) -> None:
    tickets = [door.enter_unlimited(VISITOR) for _ in range(3)]
    assert await redis.keys(f"{prefix}*") == [], "without limits nobody counts"
    door.change(LIMITED)
    refusal = await door.enter(VISITOR)
    assert isinstance(refusal, Answer)
    assert refusal.status == 429
    assert await told(redis, prefix) == 3
    tickets.pop().give_back()
    assert isinstance(await door.enter(VISITOR), Ticket)
    assert door.refused == {"site": 1}


async def test_limits_that_are_gone_and_come_again(door: Door, redis: Redis, prefix: str) -> None:
    door.change(LIMITED)
    tickets = [await door.enter(VISITOR) for _ in range(3)]
    door.change(Policy())
    tickets += [await door.enter(VISITOR) for _ in range(3)]
    for ticket in tickets[1:]:
        assert isinstance(ticket, Ticket)
        ticket.give_back()

    async def nobody_counts() -> bool:
        return await redis.keys(f"{prefix}*") == []

    await until(nobody_counts)
    door.change(LIMITED)
    assert [type(await door.enter(VISITOR)) for _ in range(3)] == [Ticket, Ticket, Answer]


async def test_a_revoked_token_may_not_stay(door: Door) -> None:
    """Whatever it was called: those of a list are called by their place."""
    first, second = holders(Auth(tokens=(Secret("first"), Secret("second"))))
    (moved,) = holders(Auth(tokens=(Secret("second"),)))
    assert moved.name == first.name
    door.change(Policy(holders=(moved,)))
    assert not door.may_stay(Visitor("192.0.2.1", first))
    assert door.may_stay(Visitor("192.0.2.1", second))
    assert not door.may_stay(VISITOR), "a token is needed now"
    door.change(msgspec.structs.replace(door.policy, holders=None))
    assert door.may_stay(Visitor("192.0.2.1", first))
