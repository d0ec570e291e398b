import asyncio
from pathlib import Path

import pytest
import redis.exceptions
from redis.asyncio import Redis

from certbus import connection
from certbus.connection import UnsuitableServer, check_server, connect
from certbus.errors import ConnectionFailed
from tests.certbus.servers import RedisServer


async def test_replies_are_bytes_in_resp2_shapes(client: Redis) -> None:
    await client.xadd("s", {"m": b"\xff"}, id="1-1")
    assert await client.xread({"s": "0"}) == [[b"s", [(b"1-1", {b"m": b"\xff"})]]]
    assert await client.xread({"s": "1-1"}, block=1) in ([], None)
    assert await client.hmget("h", ["a"]) == [None]


async def test_a_sound_server_passes(client: Redis) -> None:
    await check_server(client)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_evicts_is_refused(client: Redis, policy: str) -> None:
    await client.config_set("maxmemory-policy", policy)
    with pytest.raises(UnsuitableServer, match=f"{policy}.* CONFIG SET maxmemory-policy noevic"):
        await check_server(client)


async def test_a_replica_is_for_reading_only(client: Redis) -> None:
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
    with pytest.raises(UnsuitableServer, match="is a replica"):
        await check_server(client)
    await check_server(client, writable=False)


async def test_an_old_server_is_refused(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "OLDEST_REDIS", (99, 0))
    with pytest.raises(UnsuitableServer, match="too old"):
        await check_server(client)


async def test_a_password_may_come_from_elsewhere_than_the_url(
    client: Redis, server: RedisServer
) -> None:
    await client.config_set("requirepass", "se@cret")
    async with connect(server.url, password="se@cret") as allowed:
        assert await allowed.ping()
    async with connect(server.url) as refused:
        with pytest.raises(redis.exceptions.AuthenticationError) as error:
            await refused.ping()
    assert "se@cret" not in str(error.value)


async def test_a_connection_to_a_hanging_server_times_out(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "COMMAND_TIMEOUT", 0.1)
    await client.ping()
    with pytest.raises(redis.exceptions.TimeoutError, match="no answer to BLPOP within"):
        await client.blpop(["nothing"], timeout=5)
    assert await client.ping()


async def test_whenever_it_is_cancelled_a_command_ends(client: Redis) -> None:
    await client.ping()

    async def read() -> object:
        return await client.xread({"s": "$"}, block=60_000)

    async with asyncio.timeout(10):
        for steps in range(1, 30):
            reading = asyncio.create_task(read())
            for _ in range(steps):
                await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
    assert await client.ping()


async def test_an_address_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="scheme"):
        connect("http://localhost")


async def test_a_new_password_is_read_from_its_file(tmp_path: Path, executable: str) -> None:
    """After the connections end, and without another client."""
    file = tmp_path / "password"
    file.write_text("first\n")
    server = RedisServer(executable, tmp_path)
    server.start()
    async with connect(server.url) as unprotected:
        await unprotected.config_set("requirepass", "first")
    url = server.url.replace("unix://", "unix://:first@").replace("redis://", "redis://:first@")
    try:
        async with connect(url, password_file=file) as client, connect(url) as admin:
            await client.ping()
            await admin.config_set("requirepass", "second")
            file.write_text("second\n")
            await client.ping()  # Redis keeps the connections that have authenticated
            await client.connection_pool.disconnect()
            await client.ping()
            await admin.connection_pool.disconnect()
            with pytest.raises(ConnectionFailed, match="invalid username-password"):
                await admin.ping()
            file.unlink()
            await client.connection_pool.disconnect()
            await client.ping()  # the last password
    finally:
        server.kill()
