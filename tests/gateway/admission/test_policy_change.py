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
from gateway.admission.client_identity import ClientIdentity
from gateway.admission.controller import AdmissionController, ConnectionSlot
from gateway.admission.credentials import token_table
from gateway.admission.policy import Policy
from gateway.http.messages import Response
from tests.certbus.servers import RedisServer
from tests.waiting import until

VISITOR = ClientIdentity("192.0.2.1")
LIMITED = Policy(limits_connections=True, max_connections=10, max_per_address=3)


@pytest.fixture
async def redis(shared_redis: RedisServer) -> AsyncIterator[Redis]:
    async with connect(shared_redis.url) as client:
        yield client


@pytest.fixture
async def door(redis: Redis, prefix: str) -> AsyncIterator[AdmissionController]:
    keys = Keys(prefix)
    door = AdmissionController(
        Policy(), RateLimits(redis, keys), ConnectionCounts(redis, keys, "one", 9), 0.05
    )
    running = asyncio.gather(door.rates.run(), door.connections.run())
    yield door
    running.cancel()
    await asyncio.wait([running])


async def published_count(redis: Redis, prefix: str) -> int:
    return int(await redis.hget(Keys(prefix).connections, VISITOR.address_group) or 0)


async def test_connected_clients_count(
    door: AdmissionController, redis: Redis, prefix: str
) -> None:
    tickets = [door.acquire_unlimited(VISITOR) for _ in range(3)]
    assert await redis.keys(f"{prefix}*") == [], "without limits nothing is counted"
    door.set_policy(LIMITED)
    refusal = await door.acquire_connection(VISITOR)
    assert isinstance(refusal, Response)
    assert refusal.status == 429
    assert await published_count(redis, prefix) == 3
    tickets.pop().release()
    assert isinstance(await door.acquire_connection(VISITOR), ConnectionSlot)
    assert door.refused == {"site": 1}


async def test_limits_that_are_gone_and_come_again(
    door: AdmissionController, redis: Redis, prefix: str
) -> None:
    door.set_policy(LIMITED)
    tickets = [await door.acquire_connection(VISITOR) for _ in range(3)]
    door.set_policy(Policy())
    tickets += [await door.acquire_connection(VISITOR) for _ in range(3)]
    for ticket in tickets[1:]:
        assert isinstance(ticket, ConnectionSlot)
        ticket.release()

    async def nothing_is_counted() -> bool:
        return await redis.keys(f"{prefix}*") == []

    await until(nothing_is_counted)
    door.set_policy(LIMITED)
    assert [type(await door.acquire_connection(VISITOR)) for _ in range(3)] == [
        ConnectionSlot,
        ConnectionSlot,
        Response,
    ]


async def test_a_revoked_token_may_not_stay(door: AdmissionController) -> None:
    """Whatever it was called: those of a list are called by their place."""
    first, second = token_table(Auth(tokens=(Secret("first"), Secret("second"))))
    (moved,) = token_table(Auth(tokens=(Secret("second"),)))
    assert moved.name == first.name
    door.set_policy(Policy(owners=(moved,)))
    assert door.why_disallowed(ClientIdentity("192.0.2.1", first), "lite") == "token revoked"
    assert door.why_disallowed(ClientIdentity("192.0.2.1", second), "lite") is None
    assert door.why_disallowed(VISITOR, "lite") == "token revoked", "a token is needed now"
    door.set_policy(msgspec.structs.replace(door.policy, owners=None))
    assert door.why_disallowed(ClientIdentity("192.0.2.1", first), "lite") is None
