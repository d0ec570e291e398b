"""Which kind of error each reply of a Redis is, whichever way a command reaches it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import redis.exceptions
from redis.asyncio import Redis

from certbus.connection import connect, once
from certbus.errors import (
    UNAVAILABLE,
    ConnectionFailed,
    TimedOut,
    WriteRefused,
    describe,
    is_out_of_memory,
)
from tests.certbus.servers import RedisServer
from tests.waiting import until

TEXT = "-OOM MISCONF BUSY"  # what is written must not decide what an error is


async def by_command(client: Redis) -> object:
    return await client.hset("h", "a", TEXT)


async def by_script(client: Redis) -> object:
    return await client.register_script("return redis.call('HSET', KEYS[1], 'a', ARGV[1])")(
        keys=["h"], args=[TEXT]
    )


async def by_pipeline(client: Redis) -> object:
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.hset("h", "a", TEXT)
        pipeline.hget("h", "a")
        return await pipeline.execute()


async def by_transaction(client: Redis) -> object:
    async with client.pipeline(transaction=True) as transaction:
        transaction.hset("h", "a", TEXT)
        transaction.hset("h", "b", TEXT)
        return await transaction.execute()


Write = Callable[[Redis], Awaitable[object]]
WRITES: tuple[Write, ...] = (by_command, by_script, by_pipeline, by_transaction)
each_way = pytest.mark.parametrize("write", WRITES)


@each_way
async def test_out_of_memory(client: Redis, write: Write) -> None:
    await client.config_set("maxmemory", 1)
    with pytest.raises(WriteRefused, match="command not allowed") as error:
        await write(client)
    assert is_out_of_memory(error.value)
    await client.config_set("maxmemory", 0)
    await write(client)


@each_way
async def test_too_few_replicas(client: Redis, write: Write) -> None:
    await client.config_set("min-replicas-to-write", 1)
    with pytest.raises(WriteRefused, match="Not enough good replicas") as error:
        await write(client)
    assert error.value.status_code == "NOREPLICAS"
    assert not is_out_of_memory(error.value)


@each_way
async def test_a_replica(client: Redis, write: Write) -> None:
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
    with pytest.raises(WriteRefused, match="read only replica") as error:
        await write(client)
    assert error.value.status_code == "READONLY"


async def test_a_primary_that_becomes_a_replica_while_a_read_is_blocked(
    client: Redis, server: RedisServer
) -> None:
    async def read() -> object:
        return await once(client).xread({"s": "$"}, block=60_000)

    reading = asyncio.create_task(read())
    async with connect(server.url) as other:

        async def is_blocked() -> bool:
            return bool((await other.info("clients"))["blocked_clients"])

        await until(is_blocked, "the read is blocked")
        await other.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
        with pytest.raises(ConnectionFailed, match="UNBLOCKED"):
            await reading


async def test_a_primary_that_becomes_a_replica_during_a_transaction(
    client: Redis, server: RedisServer
) -> None:
    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
    for command in (("MULTI",), ("SET", "a", "b")):
        await connection.send_command(*command)
        await connection.read_response()
    async with connect(server.url) as other:
        await other.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
    await connection.send_command("EXEC")
    with pytest.raises(WriteRefused, match="replica") as error:
        await connection.read_response()
    assert error.value.status_code == "READONLY"
    await client.connection_pool.release(connection)


@pytest.mark.parametrize(
    "reply",
    [
        "DENIED Redis is running in protected mode because protected mode is enabled",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "LOADING Redis is loading the dataset in memory",
        "LOADING Valkey is loading the dataset in memory",
        "NOAUTH Authentication required.",
        "EXECABORT Transaction discarded because of: BUSY Redis is busy running a script.",
    ],
)
async def test_a_redis_that_does_not_serve(reply: str) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(f"-{reply}\r\n".encode())
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server, connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(ConnectionFailed):
            await client.ping()


async def test_a_replica_that_lost_its_primary_does_not_serve(client: Redis) -> None:
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
    await client.config_set("replica-serve-stale-data", "no")
    with pytest.raises(ConnectionFailed, match="Link with MASTER is down"):
        await client.hget("h", "a")
    with pytest.raises(ConnectionFailed, match="Link with MASTER is down"):
        await by_script(client)


@each_way
async def test_a_disk_that_does_not_take_the_data(
    client: Redis, server: RedisServer, write: Write
) -> None:
    await client.config_set("save", "3600 1")
    # A directory in its place: the new file cannot be renamed to it.
    (server.directory / "data" / "dump.rdb" / "in-the-way").mkdir(parents=True)
    await client.set("x", 1)
    await client.bgsave()

    async def has_failed() -> bool:
        return bool((await client.info("persistence"))["rdb_last_bgsave_status"] != "ok")

    await until(has_failed, "saving has failed")
    with pytest.raises(WriteRefused, match="configured to save RDB snapshots") as error:
        await write(client)
    assert error.value.status_code == "MISCONF"


@each_way
async def test_a_user_without_permission(client: Redis, server: RedisServer, write: Write) -> None:
    await client.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-hset")  # type: ignore[no-untyped-call]
    async with connect(server.url.replace("unix://", "unix://u:p@")) as limited:
        with pytest.raises(WriteRefused, match=r"no permissions|can't run this command") as error:
            await write(limited)
    assert error.value.status_code == "NOPERM"


@each_way
async def test_a_script_that_runs_for_long(
    client: Redis, server: RedisServer, write: Write
) -> None:
    await client.config_set("lua-time-limit", 1)
    endless = client.register_script("while true do end")
    async with connect(server.url) as other:
        running = asyncio.create_task(endless())

        async def is_busy() -> bool:
            try:
                await other.ping()
            except ConnectionFailed as error:
                return "BUSY" in str(error)
            return False

        await until(is_busy, "Redis is busy")
        with pytest.raises(ConnectionFailed, match="BUSY"):
            await write(other)
        await other.script_kill()
    with pytest.raises(redis.exceptions.ResponseError):
        await running


async def test_a_password_that_is_missing(client: Redis, server: RedisServer) -> None:
    await client.config_set("requirepass", "secret")
    async with connect(server.url) as stranger:
        with pytest.raises(ConnectionFailed, match="Authentication required"):
            await stranger.ping()


async def test_too_many_clients(client: Redis, server: RedisServer) -> None:
    await client.ping()
    await client.config_set("maxclients", 1)
    async with connect(server.url) as one_more:
        with pytest.raises(ConnectionFailed):
            await one_more.ping()


async def test_what_is_no_redis() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server, connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(ConnectionFailed):
            await client.ping()


@each_way
async def test_a_key_of_another_type_is_a_bug(client: Redis, write: Write) -> None:
    await client.set("h", TEXT)
    with pytest.raises(redis.exceptions.ResponseError) as error:
        await write(client)
    assert not isinstance(error.value, UNAVAILABLE)
    assert "WRONGTYPE" in str(error.value)


@pytest.mark.parametrize("text", ["OOM", "-OOM no", "READONLY x", "BUSY", "ERR -OOM x"])
async def test_a_script_that_quotes_data_is_a_bug(client: Redis, text: str) -> None:
    script = client.register_script("error(ARGV[1])")
    with pytest.raises(redis.exceptions.ResponseError) as error:
        await script(args=[text])
    assert not isinstance(error.value, UNAVAILABLE)


def test_every_error_has_a_line_of_its_own() -> None:
    assert describe(TimedOut()) == "TimeoutError"
    assert describe(ConnectionFailed("no\nanswer ")) == "no answer"


async def test_a_redis_that_restarts_before_a_loaded_script_is_called(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = client.script_load

    async def load_and_restart(text: str) -> object:
        sha = await load(text)
        await client.script_flush()
        return sha

    monkeypatch.setattr(client, "script_load", load_and_restart)
    script = client.register_script("return redis.call('INCR', KEYS[1])")
    with pytest.raises(ConnectionFailed, match="restarted"):
        await script(keys=["n"])
    assert await client.get("n") is None
    monkeypatch.undo()
    assert await script(keys=["n"]) == 1
