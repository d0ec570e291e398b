"""A Redis for property tests: only the streams, in memory, with data loss on demand.

It answers the commands that the delivery of a gateway sends. Time is that of a `VirtualLoop`, which
passes as fast as there is nothing to do.
"""

import asyncio
import copy
import selectors
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from types import TracebackType
from typing import Any, Self, TypeVar

from redis.exceptions import ConnectionError as ConnectionFailed

from certbus.connection import _Pool
from certbus.ids import FIRST_ID, EntryId, parse_entry_id
from certbus.keys import Keys

KEYS = Keys("")
STREAM = "lite"

Entry = tuple[bytes, dict[bytes, bytes]]
T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer when nothing else is to be done."""

    def __init__(self) -> None:
        self._now = 0.0
        loop = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                if timeout:
                    loop._now += timeout
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self._now


def model_message(number: int) -> str:
    """The message with a number; its name shows whether the number is even.

    It repeats a part of the message before, so that a compressed one depends on that.
    """
    name = f"{number}.{'odd' if number % 2 else 'even'}"
    parts = " ".join(sha256(b"%d" % n).hexdigest()[:16] for n in (number - 1, number))
    leaf = f'{{"leaf_cert":{{"all_domains":["{name}"]}}}}'
    return f'{{"n":{number},"parts":"{parts}","data":{leaf}}}'


class Data:
    """What a Redis holds.

    Attributes:
        entries: of the stream.
    """

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.first: str | None = None
        self.last = FIRST_ID
        self.entries: list[Entry] = []

    def publish(self, entry: str, number: int, *, written: bool = True, with_first: bool) -> None:
        """Publish message `number` as a batch; to another stream only, unless this is `written`."""
        if self.last == FIRST_ID and with_first:
            self.first = entry
        if written:
            fields = {
                "prev": self.last,
                "log": "a log",
                "first": number,
                "last": number,
                "n": 1,
                "codec": "none",
                "m": model_message(number),
            }
            made = {name.encode(): str(value).encode() for name, value in fields.items()}
            self.entries.append((entry.encode(), made))
        self.last = entry

    @property
    def ids(self) -> list[str]:
        return [entry.decode() for entry, _ in self.entries]


class ModelRedis:
    """The server at one address: the first one, or one that takes over from it.

    Args:
        latency: returns the seconds that a request takes, and those that its reply takes.

    Attributes:
        data: what it holds.
        breaks: counts the times that connections broke.
        is_reachable: whether requests arrive; if not, they fail.
        now: its clock in milliseconds.
    """

    def __init__(self, latency: Callable[[], float] = lambda: 0) -> None:
        self.data = Data()
        self.breaks = 0
        self.is_reachable = True
        self.now = 0
        self._latency = latency
        self._changed = asyncio.Event()

    @property
    def connection_pool(self) -> _Pool:
        """A pool that has connected once more after each break."""
        pool = _Pool()
        pool.connects = self.breaks
        return pool

    def touch(self) -> None:
        """Wake the readers that wait for new entries."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def copy(self) -> Data:
        return copy.deepcopy(self.data)

    async def _execute(self, command: Callable[[], T]) -> T:
        """Execute a command at one moment between its request and its reply."""
        breaks = self.breaks
        await asyncio.sleep(self._latency())
        if not self.is_reachable:
            raise ConnectionFailed("it is not reachable")
        result = command()
        await asyncio.sleep(self._latency())
        if self.breaks != breaks:
            raise ConnectionFailed("it has gone")
        return result

    async def hmget(self, _: str, names: list[str]) -> list[bytes | None]:
        return await self._execute(lambda: self._head(names))

    def _head(self, names: list[str]) -> list[bytes | None]:
        data = self.data
        known = {
            "epoch": data.epoch,
            "first": data.first,
            "last": None if data.last == FIRST_ID else data.last,
            "streams": STREAM,
        }
        return [None if (value := known[name]) is None else value.encode() for name in names]

    async def xread(self, after: Mapping[str, str], count: int, block: int) -> Any:
        (start,) = after.values()
        breaks = self.breaks
        loop = asyncio.get_running_loop()
        deadline = loop.time() + block / 1000
        while True:
            found = await self._execute(lambda: self._range(f"({start}", count))
            if self.breaks != breaks:
                raise ConnectionFailed("it has gone")
            if found:
                return [[KEYS.stream(STREAM).encode(), found]]
            if loop.time() >= deadline:
                return []
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()

    async def xrange(self, _: str, min: str, max: str = "+", count: int | None = None) -> Any:  # noqa: A002
        found = await self._execute(lambda: self._range(min, None))
        if max != "+":
            found = [e for e in found if _id(e) <= parse_entry_id(max)]
        return found[:count]

    async def xrevrange(self, _: str, max: str = "+", count: int | None = None) -> Any:  # noqa: A002
        entries = await self._execute(lambda: self._range("-", None))
        found = [e for e in entries if max == "+" or _id(e) <= parse_entry_id(max)]
        return found[::-1][:count]

    def _range(self, start: str, count: int | None) -> list[Entry]:
        entries = self.data.entries
        if start == "-":
            return entries[:count]
        bound = parse_entry_id(start.lstrip("("))
        exclusive = start.startswith("(")
        return [e for e in entries if _id(e) > bound or (_id(e) == bound and not exclusive)][:count]

    def pipeline(self, transaction: bool) -> "_Transaction":
        assert transaction
        return _Transaction(self)

    def register_script(self, _: str) -> Any:
        async def span(keys: list[str]) -> list[bytes]:
            ids = await self._execute(lambda: self.data.ids)
            return [ids[0].encode(), ids[-1].encode()] if ids else []

        return span


class _Transaction:
    def __init__(self, redis: ModelRedis) -> None:
        self._redis = redis
        self._names: list[str] = []
        self._range: tuple[str, int] = "", 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def hmget(self, _: str, names: list[str]) -> None:
        self._names = names

    def xrange(self, _: str, min: str, count: int) -> None:  # noqa: A002
        self._range = min, count

    def time(self) -> None:
        """TIME of the server."""

    async def execute(self) -> list[Any]:
        redis = self._redis
        return await redis._execute(
            lambda: [
                redis._head(self._names),
                redis._range(*self._range),
                (redis.now // 1000, redis.now % 1000 * 1000),
            ]
        )


def _id(entry: Entry) -> EntryId:
    return parse_entry_id(entry[0].decode())
