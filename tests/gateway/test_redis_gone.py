"""A gateway whose Redis goes away, and comes back whole or empty."""

from tests.certbus.servers import RedisServer
from tests.gateway.client_helpers import certificates, receive, serials, websocket
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press


async def test_clients_stay_and_miss_nothing(
    start: Start, own_redis: RedisServer, prefix: str
) -> None:
    gateway = await (await start(redis_url=own_redis.url)).following()
    async with websocket(gateway.ws + "/") as client, Press(own_redis.url, prefix) as press:
        await press.print(3)
        assert serials(await certificates(client, 3)) == [0, 1, 2]
        await press.redis.save()
        own_redis.kill()
        own_redis.start()
        await press.print(2)
        assert serials(await certificates(client, 2)) == [3, 4]


async def test_an_emptied_redis_is_reported_and_followed_from_its_beginning(
    start: Start, own_redis: RedisServer, prefix: str
) -> None:
    gateway = await (await start(redis_url=own_redis.url)).following()
    async with websocket(gateway.ws + "/") as client:
        async with Press(own_redis.url, prefix) as press:
            await press.print(3)
            await receive(client, 3)
        own_redis.kill()
        own_redis.start()
        async with Press(own_redis.url, prefix) as press:
            await press.print(2)
            gap, *rest = await receive(client, 3)
            assert gap["message_type"] == "gap"
            assert "emptied" in gap["data"]["reason"]
            assert serials(rest) == [0, 1]


async def test_messages_lost_by_redis_are_sent_again_and_reported(
    start: Start, own_redis: RedisServer, prefix: str
) -> None:
    gateway = await (await start(redis_url=own_redis.url)).following()
    async with websocket(gateway.ws + "/") as client, Press(own_redis.url, prefix) as press:
        await press.print(2)
        await press.redis.save()
        await press.print(3)
        await receive(client, 5)
        own_redis.kill()  # and loses the second batch
        own_redis.start()
        press.printed = 2
        await press.print(3)
        gap, *rest = await receive(client, 4)
        assert gap["message_type"] == "gap"
        assert "again" in gap["data"]["reason"]
        assert serials(rest) == [2, 3, 4]


async def test_it_starts_before_redis_does(
    start: Start, own_redis: RedisServer, prefix: str
) -> None:
    own_redis.kill()
    gateway = await start(redis_url=own_redis.url)
    async with websocket(gateway.ws + "/?cursor=0") as client:
        own_redis.start()
        async with Press(own_redis.url, prefix) as press:
            await press.print(2)
            assert serials(await certificates(client, 2)) == [0, 1]
