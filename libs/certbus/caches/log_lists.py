"""The shelf: the last good copy of each log list, for every ingestor, and who fetches the next one.

A list is kept as its publisher served it, with its signature, so that whoever takes it from here
verifies it again; nothing is believed because it is in Redis. One ingestor at a time asks a list's
server: the one that claims it when it is due.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from redis.asyncio import Redis

from certbus.ids import new_event
from certbus.keys import Keys
from certbus.scripts import register_script

_MAX_LINE = 500  # characters of what is shown
_FURTHEST_MS = 2 * 3600 * 1000  # a list is due within this: it is asked for every hour at least
_ABANDONED_MS = 10 * 60 * 1000
_TEXTS = ("name", "url", "version", "digest", "etag", "modified", "problem")


class RawList(msgspec.Struct, frozen=True):
    """A list as it was served.

    Attributes:
        body: the JSON.
        signature: detached; empty for a list without one.
    """

    body: bytes
    signature: bytes = b""


class ListVersion(msgspec.Struct, frozen=True):
    """What tells one copy of a list from another.

    Attributes:
        rank: compares as the lists do, older before newer.
        digest: hex SHA-256 of the body.
        version: for people.
        made: when its publisher made it, seconds since the epoch, if it says so.
    """

    rank: str
    digest: str
    version: str
    published_at: float | None


class ListStatus(msgspec.Struct, frozen=True):
    """What is written about a list beside the list itself; times are ms since the epoch.

    Attributes:
        list_id: names its key.
        name: for people and metrics.
        url: where it comes from, without secrets.
        digest: hex SHA-256 of the copy; empty while there is none.
        version: of the copy.
        made: when the copy was made.
        checked: when its server last had nothing newer.
        due: when to ask its server again.
        failures: in a row.
        problem: what was wrong the last time.
        problem_at: when that was.
        etag, modified: what its server calls the copy.
    """

    list_id: str
    name: str = ""
    url: str = ""
    digest: str = ""
    version: str = ""
    published_at: int | None = None
    checked: int | None = None
    due: int = 0
    failures: int = 0
    problem: str = ""
    problem_at: int | None = None
    etag: str = ""
    modified: str = ""


class LogListCache:
    """Reads and writes it.

    Args:
        client: the primary.
        keys: names of the keys.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys
        self._keep = register_script(client, "caches/lua/save_log_list.lua")
        self._update_fields = register_script(client, "lua/update_fields.lua")
        self._claim = register_script(client, "caches/lua/claim_log_list_refresh.lua")

    async def statuses(self, list_ids: Iterable[str] | None = None) -> list[ListStatus]:
        """What is written about these lists, or about all there are."""
        if list_ids is None:
            members: Any = await self._redis.smembers(self._keys.log_lists)
            list_ids = sorted(member.decode() for member in members)
        ids = list(list_ids)
        if not ids:
            return []
        names = list(ListStatus.__struct_fields__[1:])
        async with self._redis.pipeline(transaction=False) as pipeline:
            for list_id in ids:
                pipeline.hmget(self._keys.log_list(list_id), names)
            rows = await pipeline.execute()
        return [_slip(list_id, names, row) for list_id, row in zip(ids, rows, strict=True)]

    async def load(self, list_id: str) -> RawList | None:
        """The copy of a list, if there is one."""
        row: Any = await self._redis.hmget(self._keys.log_list(list_id), ["body", "signature"])
        body, signature = row
        return None if body is None else RawList(body, signature or b"")

    async def store(
        self, list_id: str, name: str, url: str, copy: RawList, edition: ListVersion
    ) -> bool:
        """Put a copy there, unless a newer one is there.

        Returns:
            False if there is: the one given is older.
        """
        made = "" if edition.published_at is None else int(edition.published_at * 1000)
        reply = await self._keep(
            keys=[self._keys.log_list(list_id), self._keys.log_lists],
            args=[
                *(list_id, edition.rank, copy.body, copy.signature),
                *("name", name, "url", url, "digest", edition.digest),
                *("version", edition.version[:_MAX_LINE], "made", made),
            ],
        )
        return bool(reply)

    async def delete(self, list_id: str, digest: str) -> None:
        """Take a copy away that turned out to be none, if it is still that one."""
        key = self._keys.log_list(list_id)
        held: Any = await self._redis.hget(key, "digest")
        if held is not None and held.decode() == digest:
            await self._redis.delete(key)

    async def claim_refresh(self, list_id: str, seconds: float) -> bool:
        """Whether the list is due and the caller is to ask its server, within so many seconds.

        When it does not, somebody else will be asked to.
        """
        key = self._keys.log_list(list_id)
        return bool(
            await self._claim(
                keys=[key, self._keys.log_lists], args=[list_id, _ms(seconds), _FURTHEST_MS]
            )
        )

    async def record_success(self, list_id: str, next_in: float, etag: str, modified: str) -> None:
        """Note that the copy is its server's newest.

        Args:
            list_id: the list.
            next_in: seconds until it is due again.
            etag: what the server calls the copy, for a conditional request.
            modified: likewise.
        """
        changes: list[str | int] = [
            *("time", "checked", 0),
            *("time", "due", _ms(next_in)),
            *("set", "failures", 0),
            *("set", "etag", etag[:_MAX_LINE]),
            *("set", "modified", modified[:_MAX_LINE]),
        ]
        await self._update_fields(keys=[self._keys.log_list(list_id)], args=changes)

    async def record_failure(self, list_id: str, next_in: float, problem: str) -> None:
        """Note that its server gave nothing that can be used.

        Args:
            list_id: the list.
            next_in: seconds until it is due again.
            problem: one line for a person.
        """
        changes: list[str | int] = [
            *("once", "failure_event", new_event()),
            *("add", "failures", 1),
            *("set", "problem", problem[:_MAX_LINE]),
            *("time", "problem_at", 0),
            *("time", "due", _ms(next_in)),
        ]
        await self._update_fields(keys=[self._keys.log_list(list_id)], args=changes)

    async def request_refresh(self) -> list[str]:
        """Have every list fetched now that any ingestor still goes by; returns their ids."""
        now = await self._now()
        # Somebody claims a list soon after it is due, or nobody wants it any more.
        lists = [slip.list_id for slip in await self.statuses() if now - slip.due < _ABANDONED_MS]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for list_id in lists:
                pipeline.hset(self._keys.log_list(list_id), "due", now)
            await pipeline.execute()
        return lists

    async def _now(self) -> int:
        """Redis' clock, which is the same for everyone."""
        seconds, microseconds = await self._redis.time()
        return int(seconds * 1000 + microseconds // 1000)


def _slip(list_id: str, names: list[str], row: list[bytes | None]) -> ListStatus:
    fields: dict[str, Any] = {
        name: value.decode("utf-8", "replace")
        for name, value in zip(names, row, strict=True)
        if value
    }
    for name in fields.keys() - set(_TEXTS):
        fields[name] = int(fields[name]) if fields[name].isdecimal() else 0
    return ListStatus(list_id, **fields)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
