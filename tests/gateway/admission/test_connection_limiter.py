"""How many may be connected, over gateways of which some die."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.keys import Keys
from tests.certbus.servers import RedisServer
from tests.gateway.admission.gateways import Crowd, GatewayProcess, ask, gateway, handshake, request
from tests.gateway.client_helpers import Raw, certificates, upgrade_request, websocket
from tests.gateway.publishing import Press
from tests.waiting import until

LIMIT = {"enabled": True, "per_ip_limit": 100, "forget_after_secs": 1.0}


@pytest.fixture
async def redis(shared_redis: RedisServer) -> AsyncIterator[Redis]:
    async with connect(shared_redis.url) as client:
        yield client


async def counted(client: Redis, prefix: str) -> dict[str, int]:
    counts: dict[Any, Any] = await client.hgetall(Keys(prefix).connections)
    return {address.decode(): int(count) for address, count in counts.items()}


async def until_counted(client: Redis, prefix: str, expected: int) -> None:
    async def is_counted() -> bool:
        return (await counted(client, prefix)).get("127.0.0.1", 0) == expected

    await until(is_counted)


async def test_the_limit_holds_over_three_processes_of_which_one_is_killed(
    shared_redis: RedisServer, prefix: str, redis: Redis
) -> None:
    async with AsyncExitStack() as stack:
        starting = [
            GatewayProcess.start(shared_redis.url, prefix, connection_limit=LIMIT) for _ in range(3)
        ]
        processes = await asyncio.gather(*starting)
        for process in processes:
            stack.push_async_callback(process.kill)
        one, two, three = (process.port for process in processes)
        crowd = await stack.enter_async_context(Crowd())
        await asyncio.gather(*(crowd.join(port, 60) for port in (one, two, three)))
        assert 99 <= len(crowd.clients) <= 101
        assert set(crowd.refused) == {429}
        assert await counted(redis, prefix) == {"127.0.0.1": 100, "*": 100}

        await processes[0].kill()
        lost = crowd.of(one)
        assert lost
        await until_counted(redis, prefix, 100 - len(lost))
        for client in lost:
            crowd.leave(client)
        crowd.refused.clear()
        await asyncio.gather(*(crowd.join(port, 60) for port in (two, three)))
        assert 99 <= len(crowd.clients) <= 101
        assert crowd.refused


async def test_a_client_that_leaves_makes_room(
    shared_redis: RedisServer, prefix: str, redis: Redis
) -> None:
    limit = LIMIT | {"per_ip_limit": 2}
    async with (
        gateway(shared_redis.url, prefix, connection_limit=limit) as one,
        gateway(shared_redis.url, prefix, connection_limit=limit) as two,
        Crowd() as crowd,
    ):
        await crowd.join(one, 3)
        assert len(crowd.clients) == 2
        assert (await handshake(two))[0] == 429
        assert (await ask(two, "/sse"))[0] == 429
        assert (await ask(two, "/example.json"))[0] == 200, "only streams are counted"
        crowd.leave(crowd.of(one)[0])
        await until_counted(redis, prefix, 1)
        async with await Raw.open(two) as events:
            events.send(request("/sse"))
            assert (await events.head())[0] == 200
            assert (await handshake(two))[0] == 429
        await until_counted(redis, prefix, 1)
        assert (await handshake(two))[0] == 101


async def test_a_full_server_reports_it(shared_redis: RedisServer, prefix: str) -> None:
    limit = {"enabled": True, "max_connections": 2}
    async with (
        gateway(shared_redis.url, prefix, connection_limit=limit) as port,
        Crowd() as crowd,
    ):
        await crowd.join(port, 2)
        status, headers, body = await ask(port, "/sse")
        assert status == 503
        assert int(headers["retry-after"]) > 0
        expected = {"error": "Server is at its connection limit", "code": "connection_limit"}
        assert json.loads(body) == expected
        assert (await handshake(port))[0] == 503
        assert (await ask(port, "/health"))[0] == 200


async def test_failed_handshakes_hold_no_slot(
    shared_redis: RedisServer, prefix: str, redis: Redis
) -> None:
    limit = LIMIT | {"per_ip_limit": 1}
    async with gateway(shared_redis.url, prefix, connection_limit=limit) as port:
        broken = upgrade_request().replace(b"Version: 13", b"Version: 12")
        for _ in range(3):
            async with await Raw.open(port) as client:
                client.send(broken)
                assert (await client.head())[0] == 400
        async with await Raw.open(port) as client:
            client.send(request("/sse", "HEAD"))
            assert (await client.head())[0] == 200
        await until_counted(redis, prefix, 0)
        assert (await handshake(port))[0] == 101


async def test_a_client_that_disconnects_while_waiting_holds_no_slot(
    shared_redis: RedisServer, prefix: str, redis: Redis
) -> None:
    async with gateway(shared_redis.url, prefix, connection_limit=LIMIT) as port:
        for _ in range(50):
            async with await Raw.open(port) as client:
                client.send(upgrade_request())
        async with Crowd() as crowd:
            await crowd.join(port, 100)
            assert crowd.clients
            await until_counted(redis, prefix, len(crowd.clients))
        await until_counted(redis, prefix, 0)


async def test_a_gateway_that_stops_takes_its_clients_with_it(
    shared_redis: RedisServer, prefix: str, redis: Redis
) -> None:
    limit = LIMIT | {"forget_after_secs": 600}
    async with gateway(shared_redis.url, prefix, connection_limit=limit) as port, Crowd() as crowd:
        await crowd.join(port, 10)
        assert (await counted(redis, prefix))["127.0.0.1"] == 10
    assert await counted(redis, prefix) == {}


async def test_an_emptied_redis_receives_the_count_again(
    shared_redis: RedisServer, prefix: str, redis: Redis
) -> None:
    async with gateway(shared_redis.url, prefix, connection_limit=LIMIT) as port, Crowd() as crowd:
        await crowd.join(port, 10)
        keys = Keys(prefix)
        await redis.delete(keys.connections, keys.limit_gateways)
        await until_counted(redis, prefix, 10)


async def test_without_redis_a_gateway_counts_its_own_and_clients_stay(
    own_redis: RedisServer, prefix: str
) -> None:
    limit = LIMIT | {"per_ip_limit": 5}
    async with (
        gateway(own_redis.url, prefix, connection_limit=limit) as one,
        gateway(own_redis.url, prefix, connection_limit=limit) as two,
        Crowd() as crowd,
        websocket(f"ws://127.0.0.1:{one}/") as listener,
    ):
        await crowd.join(one, 2)
        own_redis.kill()
        await crowd.join(one, 5)
        await crowd.join(two, 7)
        assert (len(crowd.of(one)), len(crowd.of(two))) == (4, 5), "each counts alone"
        own_redis.start()
        async with connect(own_redis.url) as client:
            await until_counted(client, prefix, 10)
        assert (await handshake(two))[0] == 429, "both counts are sent again and added"
        async with Press(own_redis.url, prefix) as press:
            await press.print(3)
            assert len(await certificates(listener, 3)) == 3
