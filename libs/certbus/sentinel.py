"""Addresses of a Redis that sentinels watch.

Sentinels choose a new primary when the old one fails. Each new connection requests the address
from them, and a connection ends when its Redis is no longer the primary, so that the next command
finds the new one.

A sentinel that is cut off from the others names the earlier primary for as long. So the first one
that answers is believed only before any primary was found, or if it names the same one: else most
of those that answer decide. While connections are used, the others confirm the address in turn.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
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
        address: where connections must lead; None once a connection must locate it again.
        named_by: URL of a sentinel that named it to `locate`.
    """

    def __init__(self, url: SentinelURL, connect: Callable[[str], Redis]) -> None:
        self.wants_primary = not url.replica
        self.address: Address | None = None
        self.named_by = ""
        self._confirmed: Address | None = None  # found to be a primary, or named by most
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
        before = self.address
        named = await self._query_until(self._confirmed, self._urls)
        if self.address in (None, before):  # else it was replaced since
            self._use(_most_named(named, self.address), named)
            self.named_by = self._urls[0]
        self.confirm()
        assert self.address is not None
        return self.address

    def found_primary(self, address: Address) -> None:
        """State that a connection to the address found a primary."""
        if address == self.address:
            self._confirmed = address

    def query_others_first(self, url: str) -> None:
        """Query a sentinel last, as what it named cannot be used.

        It may be right: another that names another address leads nowhere before most agree.
        """
        if url == self._urls[0]:  # else another connection has failed before
            self._urls.append(self._urls.pop(0))

    def confirm(self) -> None:
        """Begin to confirm the address, if that is due. Delays nothing, and raises nothing."""
        if (
            self.wants_primary
            and self.address is not None
            and self._confirming is None
            and time.monotonic() >= self._confirmed_at + CONFIRM_SECS
        ):
            self._confirming = asyncio.create_task(self._confirm())
            self._confirming.add_done_callback(lambda _: self._end_confirming())

    async def close(self) -> None:
        """End a confirmation that is under way."""
        if self._confirming is not None:
            self._confirming.cancel()
            await asyncio.wait([self._confirming])

    async def _confirm(self) -> None:
        """Query a sentinel; the others too if it names another address, which most must name.

        The one that named the address is queried last.
        """
        before = self.address
        first, *others = self._urls
        with suppress(ConnectionFailed):
            named = await self._query_until(before, [*random.sample(others, len(others)), first])
            address = _most_named(named, before)
            if address != before == self.address:
                self._use(address, named)

    def _use(self, address: Address, named: Mapping[str, Address]) -> None:
        self._urls.sort(key=lambda url: named.get(url) != address)
        self.address = address
        if self._confirmed is not None:
            self._confirmed = address

    def _end_confirming(self) -> None:
        self._confirming = None
        self._confirmed_at = time.monotonic()

    async def _query_until(
        self, expected: Address | None, urls: Sequence[str]
    ) -> dict[str, Address]:
        """Query a sentinel; more of them unless the first that answers names what is expected.

        Then until most of all sentinels name the same.

        Args:
            expected: None for any address.
            urls: of the sentinels, in order.

        Returns:
            What each one named; never empty.

        Raises:
            ConnectionFailed: no sentinel answers, or none knows the service.
        """
        named: dict[str, Address] = {}
        problems: list[str] = []
        for url in tuple(urls):
            try:
                named[url] = await self._query(url)
            except ConnectionFailed as error:
                problems.append(str(error))
            else:
                names = list(named.values())
                if (
                    expected is None
                    or names == [expected]
                    or names.count(named[url]) * 2 > len(urls)
                ):
                    break
        if not named:
            raise ConnectionFailed(f"no sentinel knows the primary: {'; '.join(problems)}")
        return named

    async def _query(self, url: str) -> Address:
        """Return what a sentinel names.

        Raises:
            ConnectionFailed: it does not answer, or does not know the service.
        """
        try:
            # As a context, a client closes itself in a task of its own, which no code awaits.
            async with asyncio.timeout(ANSWER_TIMEOUT_SECS), aclosing(self._connect(url)) as client:
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


def _most_named(named: Mapping[str, Address], before: Address | None) -> Address:
    """Return what most name; of as many, what was used before, else what was named first."""
    votes = Counter(named.values())
    return max(votes, key=lambda address: (votes[address], address == before))


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
