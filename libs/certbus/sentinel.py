"""Addresses of a Redis that sentinels watch.

Sentinels choose a new primary when the old one fails. Each new connection requests the address
from them, and a connection ends when its Redis is no longer the primary, so that the next command
finds the new one.

A sentinel that is cut off from the others names the earlier primary for as long. So the first one
that answers counts only until what it named turns out to be no primary, and is confirmed by the
others in turn while connections are used.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import redis.exceptions
from redis.asyncio import Redis

from certbus.errors import ConnectionFailed, describe

DEFAULT_PORT: Final = 26379
ANSWER_TIMEOUT_SECS: Final = 2.0
CONFIRM_SECS = 5.0
"""Between two confirmations of the address. A primary that was replaced may still answer, and who
only reads would not notice."""
_FAILED: Final = frozenset({"s_down", "o_down", "disconnected"})

Address = tuple[str, int]


class SentinelURL:
    """The parts of `redis+sentinel://user:password@host1:26379,host2/service/db?role=replica`.

    Attributes:
        sentinels: URLs of the sentinels.
        service: the name under which they watch the Redis.
        replica: whether a replica is wanted; else the primary.
        redis: URL of the Redis; its host is a placeholder.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition(
            "://"
        )  # urlsplit accepts no brackets within a list of hosts
        scheme = scheme.removesuffix("+sentinel")
        rest, _, query = rest.partition("?")
        netloc, service, *db = rest.split("/")
        user, at, hosts = netloc.rpartition("@")
        options = dict(parse_qsl(query))
        self.service = unquote(service)
        self.replica = options.pop("role", "primary") == "replica"
        own = options.pop("sentinel_username", ""), options.pop("sentinel_password", "")
        credentials = ":".join(quote(part, "") for part in own) + "@" if any(own) else ""
        tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
        query = f"?{urlencode(tls)}" if tls else ""
        addresses = [
            host if _has_port(host) else f"{host}:{DEFAULT_PORT}" for host in hosts.split(",")
        ]
        self.sentinels = [f"{scheme}://{credentials}{each}{query}" for each in addresses]
        query = f"?{urlencode(options)}" if options else ""
        self.redis = f"{scheme}://{user}{at}sentinels/{''.join(db)}{query}"


class Sentinels:
    """Requests the address of the Redis.

    Args:
        url: of the sentinels.
        connect: makes a client of the sentinel at a URL.

    Attributes:
        wants_primary: whether the primary is wanted; else a replica.
        address: what the sentinels named last.
        named_by: URL of the sentinel that named it to `locate`.
    """

    def __init__(self, url: SentinelURL, connect: Callable[[str], Redis]) -> None:
        self.wants_primary = not url.replica
        self.address: Address | None = None
        self.named_by = ""
        self._service = url.service
        self._urls = list(url.sentinels)  # in the order in which they are queried
        self._connect = connect
        self._confirmed_at = time.monotonic()
        self._confirming: asyncio.Task[None] | None = None

    async def locate(self) -> Address:
        """Return the address of the primary; of a replica if one is wanted and works.

        Raises:
            ConnectionFailed: no sentinel answers, or none knows the service.
        """
        problems: list[str] = []
        for url in tuple(self._urls):
            try:
                address = await self._query(url)
            except ConnectionFailed as error:
                problems.append(str(error))
            else:
                self._urls.remove(url)
                self._urls.insert(0, url)
                self.address, self.named_by = address, url
                self._confirmed_at = time.monotonic()
                return address
        raise ConnectionFailed(f"no sentinel knows the primary: {'; '.join(problems)}")

    def query_others_first(self, url: str) -> None:
        """Query a sentinel last, as what it named cannot be used."""
        if url == self._urls[0]:  # else another connection has failed before
            self._urls.append(self._urls.pop(0))

    def confirm(self) -> None:
        """Begin to confirm the address, if that is due. Delays nothing, and raises nothing."""
        if self._confirming is None and time.monotonic() >= self._confirmed_at + CONFIRM_SECS:
            self._confirming = asyncio.create_task(self._confirm())
            self._confirming.add_done_callback(lambda _: self._end_confirming())

    async def close(self) -> None:
        """End a confirmation that is under way."""
        if self._confirming is not None:
            self._confirming.cancel()
            await asyncio.wait([self._confirming])

    async def _confirm(self) -> None:
        """Query a sentinel; all of them if it names another address, which most must name.

        The one that named the address is queried last.
        """
        named: dict[str, Address | None] = {}
        before = self.address
        first, *others = self._urls
        for url in (*random.sample(others, len(others)), first):
            with suppress(ConnectionFailed):
                named[url] = await self._query(url)
                if list(named.values()) == [before]:
                    return
        votes = Counter(named.values())
        for address, number in votes.most_common(1):
            if number > votes[before] and self.address == before:
                self._urls.sort(key=lambda url: named.get(url) != address)
                self.address = address

    def _end_confirming(self) -> None:
        self._confirming = None
        self._confirmed_at = time.monotonic()

    async def _query(self, url: str) -> Address:
        """Return what a sentinel names.

        Raises:
            ConnectionFailed: it does not answer, or does not know the service.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_SECS), self._connect(url) as client:
                address = await self._request(client)
        except TimeoutError:
            raise ConnectionFailed(f"{_host(url)} did not answer") from None
        except redis.exceptions.RedisError as error:
            raise ConnectionFailed(f"{_host(url)}: {describe(error)}") from error
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ConnectionFailed(f"{_host(url)}: malformed reply") from error
        if address is None:
            raise ConnectionFailed(f"{_host(url)} does not know the service {self._service!r}")
        return address

    async def _request(self, client: Redis) -> Address | None:
        if not self.wants_primary and (address := await self._replica(client)) is not None:
            return address
        reply = await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)  # type: ignore[no-untyped-call, unused-ignore]
        return None if reply is None else (reply[0].decode(), int(reply[1]))

    async def _replica(self, client: Redis) -> Address | None:
        try:
            replies = await _sentinel(client, "REPLICAS", self._service)
        except redis.exceptions.ResponseError:  # it does not know the service
            return None
        working = [
            each for each in map(_fields, replies) if not _FAILED & set(each["flags"].split(","))
        ]
        linked = [each for each in working if each.get("master-link-status") == "ok"]
        if not linked:
            return None
        chosen = random.choice(linked)  # noqa: S311
        return chosen["ip"], int(chosen["port"])


async def requires_replicas(client: Redis) -> bool:
    """Whether the primary rejects writes while no replica has recent data (min-replicas-to-write).

    Otherwise a primary that sentinels replaced accepts writes until it learns of that, and loses
    them.
    """
    # Redis reports this field only where a minimum is set.
    return "min_slaves_good_slaves" in await client.info("replication")


async def _sentinel(client: Redis, *arguments: str) -> Any:
    return await client.execute_command("SENTINEL", *arguments)  # type: ignore[no-untyped-call]


def _fields(reply: Mapping[bytes, bytes] | Sequence[bytes]) -> dict[str, str]:
    pairs = (
        reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    )
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: bytes | str | object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _has_port(host: str) -> bool:
    return host.rpartition("]")[2].count(":") == 1


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
