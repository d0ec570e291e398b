"""One way to connect to Redis, and what a Redis must be to hold the streams.

Every error leaves a client as one of the family in `errors.py`. The connection itself makes it so,
below redis-py's own retries, because those only know redis-py's classes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis.exceptions
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.commands.core import AsyncScript

from certbus.errors import ConnectionFailed, TimedOut, WriteRefused, describe, of_reply
from certbus.sentinel import Address, Sentinels, SentinelURL

OLDEST_REDIS = (6, 2)

COMMAND_TIMEOUT = 15.0
"""Seconds. Longer than any blocking read of ours, short enough to notice a peer that hangs."""

CONNECTIONS: Final = 64
"""Connections of one client at most. A command that finds all of them in use waits in order,
within its own time-out: a task that must read at any time needs a client of its own."""

_READ_BYTES: Final = 1024 * 1024
"""Taken at once of what has arrived; redis-py's 64 KiB are a loop of 80 turns for 16 batches."""


class UnsuitableServer(Exception):
    """This Redis cannot hold the streams. The text states why, and what to do."""


def connect(
    url: str,
    *,
    password: str | None = None,
    name: str | None = None,
    password_file: Path | None = None,
    sentinel_password_file: Path | None = None,
) -> Redis:
    """Make a client; it connects on first use.

    Replies are bytes in their RESP2 shapes, whatever redis-py's default becomes. A command is
    tried again on a new connection if the old one turns out to be dead, although Redis may have
    executed it: see `once` for those that must not be executed twice.

    Args:
        url: `redis://`, `rediss://`, `unix://`, or with `+sentinel`: see `certbus.sentinel`.
        password: unless it is part of the URL.
        name: of this process, for CLIENT LIST; no spaces.
        password_file: has the password of Redis. Each new connection reads it; where it cannot be
            read, the last password is used.
        sentinel_password_file: the same for the sentinels of the URL.

    Raises:
        ValueError: the URL is none of these.
    """
    sentinels = None
    if url.partition("://")[0].endswith("+sentinel"):
        parts = SentinelURL(url)
        to_sentinel = partial(connect, password_file=sentinel_password_file)
        url, sentinels = parts.redis, Sentinels(parts, to_sentinel)
    pool = _Pool.from_url(
        url,
        sentinels=sentinels,
        password_file=password_file,
        password=password,
        protocol=2,
        decode_responses=False,
        client_name=name,
        driver_info=None,
        socket_timeout=None,
        socket_connect_timeout=5,
        socket_read_size=_READ_BYTES,
        retry=_Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=2),
    )
    return _Client.from_pool(pool)


def once(client: Redis) -> Redis:
    """Make a client on the same connections that sends each command once.

    For what counts: a command whose reply is lost may have been executed, and would count twice.
    The caller decides what to do. Closing the first client closes both.
    """
    return _SendsOnce(connection_pool=client.connection_pool)


def connects(client: Redis) -> int:
    """Return how many connections a client of `connect` has made.

    A command whose connection has ended is repeated on a new one, which may lead to a Redis that
    restarted. A reader that must know compares this number before and after.
    """
    assert isinstance(client.connection_pool, _Pool)
    return client.connection_pool.connects


class _Client(Redis):
    """A client that bounds each command as a whole, attempts and all.

    redis-py's `socket_timeout` would bound each write and read, but the write by asyncio.wait_for,
    which can swallow a cancellation until Python 3.12 (python/cpython#86296). A task that cannot
    be cancelled keeps a whole process from stopping.
    """

    sends_once = False

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with _in_time(str(args[0]), self.connection_pool, self.sends_once):
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def register_script(self, script: Any) -> Any:
        return _Script(self, script)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        pipeline = _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.sends_once = self.sends_once
        return pipeline


class _Script(AsyncScript):
    """A script, which redis-py loads where Redis does not know it.

    A Redis that restarts between the loading and the call does not know it again: that is a lost
    connection, and the script has not run.
    """

    async def __call__(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().__call__(*args, **options)
        except redis.exceptions.NoScriptError as error:
            raise ConnectionFailed("Redis restarted during the call of a script") from error


class _SendsOnce(_Client):
    sends_once = True


class _Pipeline(Pipeline):
    sends_once = False

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        async with _in_time("pipeline", self.connection_pool, self.sends_once):
            return await super().execute(raise_on_error)


@asynccontextmanager
async def _in_time(what: str, pool: ConnectionPool, sends_once: bool) -> AsyncIterator[None]:
    assert isinstance(pool, _Pool)
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT), pool.places:
            before = _sends_once.set(sends_once)
            try:
                yield
            finally:
                _sends_once.reset(before)
    except TimeoutError as error:
        raise TimedOut(f"no answer to {what} within {COMMAND_TIMEOUT:.0f} s") from error
    except OSError as error:
        raise ConnectionFailed(f"{what}: {error}") from error
    except redis.exceptions.InvalidResponse as error:  # this is no Redis, or not in step with us
        raise ConnectionFailed(f"{what}: {error}") from error


_sends_once: ContextVar[bool] = ContextVar("_sends_once", default=False)
_NEVER_AGAIN: Final = Retry(NoBackoff(), 0)


class _Retry(Retry):
    """redis-py's retries, but for commands that are sent once.

    A connection has its retries, and knows nothing of the client that uses it.
    """

    async def call_with_retry(self, *args: Any, **options: Any) -> Any:
        if _sends_once.get():
            return await _NEVER_AGAIN.call_with_retry(*args, **options)
        return await super().call_with_retry(*args, **options)


class _Reliable(AbstractConnection):
    """A connection that notices its own end, and raises the errors of the family.

    With sentinels, it connects where they state, and ends when its Redis is not the primary.

    redis-py reads `StreamReader.at_eof()` before it uses a connection again, which is false if
    the connection ended by an error: a reset, or a time-out of TCP. uvloop then raises RuntimeError
    from writing to it.
    """

    made: Callable[[], None]
    """Called for each connection that is made."""

    sentinels: Sentinels | None = None
    password_file: Path | None = None
    _named_by = ""  # the sentinel that named its Redis

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        try:
            await super().connect_check_health(*args, **options)
        except BaseException:  # also when the command is out of time
            if self.sentinels is not None:
                self.sentinels.query_others_first(self._named_by)
            raise

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        self.made()
        if self.password_file is not None:
            with suppress(OSError, UnicodeDecodeError):
                self.password = self.password_file.read_text("utf-8").strip()
        await super().on_connect_check_health(check_health)
        if self.sentinels is not None and self.sentinels.wants_primary:
            await self.send_command("ROLE")
            role, *_ = await self.read_response()
            if role != b"master":  # sentinels learn of a failover one after the other
                self._forget_address()
                raise ConnectionFailed("the Redis that the sentinels named is not the primary")
            self.sentinels.found_primary(self._address)

    async def can_read(self) -> bool:
        """Return whether it cannot be used again: it has ended, or has unrequested data.

        Or it leads to an earlier primary, which may still answer: all connections of a client use
        the one that the sentinels named last, and have it confirmed from time to time.
        """
        if self.sentinels is not None:
            self.sentinels.confirm()
        if self._has_ended or self._is_outdated:
            return True
        return bool(await super().can_read())

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        self._ended_before_write = False
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            if not self._ended_before_write:
                raise  # a bug
            raise ConnectionFailed(f"the connection has ended: {error}") from error

    async def disconnect(self, *args: Any, **options: Any) -> None:
        # redis-py disconnects when a write fails, before it raises what failed.
        self._ended_before_write = self._has_ended
        await super().disconnect(*args, **options)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            response = await super().read_response(*args, **options)
        except redis.exceptions.ResponseError as error:
            answer = of_reply(error)
            self._locate_again_after(answer)
            if self._is_demoted(answer):
                await self.disconnect()
                raise ConnectionFailed(f"{describe(answer)}: no longer the primary") from None
            raise answer from None
        if isinstance(response, list):  # EXEC gives errors among the replies
            for at, reply in enumerate(response):
                if isinstance(reply, redis.exceptions.ResponseError):
                    response[at] = of_reply(reply)
                    self._locate_again_after(response[at])
                    if self._is_demoted(response[at]):
                        await self.disconnect()
        return response

    def _locate_again_after(self, answer: Exception) -> None:
        """Make connections request the address again after a refusal that may show a partition.

        A primary that its replicas and the sentinels cannot reach may still answer clients.
        """
        if (
            self.sentinels is not None
            and isinstance(answer, WriteRefused)
            and answer.status_code == "NOREPLICAS"
        ):
            self.sentinels.query_others_first(self._named_by)
            self._forget_address()

    def _forget_address(self) -> None:
        """End the connections to this Redis when they are to be used again."""
        assert self.sentinels is not None
        if self._address == self.sentinels.address:  # else another one was named since
            self.sentinels.address = None

    def _is_demoted(self, answer: Exception) -> bool:
        """Whether sentinels made the Redis a replica: nothing was executed."""
        return (
            self.sentinels is not None
            and isinstance(answer, WriteRefused)
            and answer.status_code == "READONLY"
        )

    @property
    def _is_outdated(self) -> bool:
        return (
            self.sentinels is not None
            and self.sentinels.wants_primary
            and self._address != self.sentinels.address
        )

    @property
    def _address(self) -> Address:
        return getattr(self, "host", ""), getattr(self, "port", 0)

    @property
    def _has_ended(self) -> bool:
        if self._reader is None or self._writer is None:
            return False  # it has not begun
        return self._reader.exception() is not None or self._writer.is_closing()


class _TCPConnection(_Reliable, Connection):
    async def _connect(self) -> None:
        if self.sentinels is not None:
            self.host, self.port = await self.sentinels.locate()
            self._named_by = self.sentinels.named_by
        await super()._connect()  # type: ignore[no-untyped-call]


class _TLSConnection(_TCPConnection, SSLConnection):
    pass


class _UnixConnection(_Reliable, UnixDomainSocketConnection):
    pass


_CLASSES: dict[type[AbstractConnection], type[_Reliable]] = {
    Connection: _TCPConnection,
    SSLConnection: _TLSConnection,
    UnixDomainSocketConnection: _UnixConnection,
}


class _Pool(ConnectionPool):
    """A pool that is never found empty.

    Attributes:
        places: to be held while a connection is in use. Fair, and sound when a waiter is
            cancelled, which redis-py's BlockingConnectionPool is not with every Python.
        connects: number of connections made, new ones and those that ended and were made again.
    """

    def __init__(
        self,
        connection_class: type[AbstractConnection] = Connection,
        sentinels: Sentinels | None = None,
        password_file: Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(_CLASSES[connection_class], **options)
        self._sentinels = sentinels
        self._password_file = password_file
        self.places = asyncio.Semaphore(min(CONNECTIONS, self.max_connections))
        self.connects = 0

    def make_connection(self) -> AbstractConnection:
        connection = super().make_connection()  # type: ignore[no-untyped-call]
        assert isinstance(connection, _Reliable)
        connection.made = self._count
        connection.sentinels = self._sentinels
        connection.password_file = self._password_file
        return connection

    async def disconnect(self, inuse_connections: bool = True) -> None:
        if self._sentinels is not None:
            await self._sentinels.close()
        await super().disconnect(inuse_connections)

    def _count(self) -> None:
        self.connects += 1


async def check_server(client: Redis, *, writable: bool = True) -> None:
    """Refuse a Redis that would lose or silently evict what it is given.

    Args:
        client: from `connect`.
        writable: whether it must be a primary; a gateway may read from a replica.

    Raises:
        UnsuitableServer: it is too old, may evict keys, or is a replica.
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    info = await client.info()
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        raise UnsuitableServer(f"Redis {version} is too old: 6.2 or newer is needed")
    if writable and info.get("role") != "master":
        raise UnsuitableServer("this Redis is a replica: give the primary's address as redis_url")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise UnsuitableServer(
            f"Redis has maxmemory-policy {policy}, which silently deletes deduplication marks "
            "and leases when memory is short: CONFIG SET maxmemory-policy noeviction"
        )
