"""The last valid copy of each log list, for all ingestors, and which of them refreshes it.

A list is stored as its publisher served it, with its signature, and verified again by each process
that loads it. One ingestor at a time requests a list from its server: the one that claims the
refresh when it is due.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from certbus.clock import redis_ms
from certbus.store import (
    MAX_TEXT_CHARS,
    Store,
    counted_once,
    read_struct,
    round_trip,
    script,
    texts,
)

_MAX_DUE_SECS = 2 * 3600.0
_ABANDONED_MS = 10 * 60 * 1000  # due for this long: no ingestor uses the list


class RawList(msgspec.Struct, frozen=True):
    """A list as it was served.

    Attributes:
        body: the JSON.
        signature: detached; empty for a list without one.
    """

    body: bytes
    signature: bytes = b""


class ListVersion(msgspec.Struct, frozen=True):
    """What identifies one copy of a list.

    Attributes:
        rank: compares like the lists: an older one is less.
        digest: hex SHA-256 of the body.
        version: for people.
        published_at: by its publisher, seconds since the epoch; None if it is not stated.
    """

    rank: str
    digest: str
    version: str
    published_at: float | None


class ListStatus(msgspec.Struct, frozen=True):
    """The state of a list, without its body; times are milliseconds since the epoch.

    Attributes:
        list_id: names its key.
        name: for operators and metrics.
        url: of its server, without secrets.
        digest: hex SHA-256 of the copy; empty without a copy.
        version: of the copy.
        published_at: when the copy was made; stored as `made`.
        checked: when the server last had nothing newer.
        due: time of the next request.
        failures: in a row.
        problem: of the newest failure.
        problem_at: time of that failure.
        etag, modified: validators of the copy.
    """

    list_id: str
    name: str = ""
    url: str = ""
    digest: str = ""
    version: str = ""
    published_at: int | None = msgspec.field(default=None, name="made")
    checked: int | None = None
    due: int = 0
    failures: int = 0
    problem: str = ""
    problem_at: int | None = None
    etag: str = ""
    modified: str = ""


class LogListCache(Store):
    """The log lists in Redis."""

    _save = script("caches/lua/save_log_list.lua")
    _claim = script("caches/lua/claim_log_list_refresh.lua")

    async def statuses(self, list_ids: Iterable[str] | None = None) -> list[ListStatus]:
        """Read the state of these lists, or of all lists."""
        if list_ids is None:
            members: Any = await self._redis.smembers(self._keys.log_lists)
            list_ids = sorted(member.decode() for member in members)
        ids, names = list(list_ids), ListStatus.__struct_encode_fields__[1:]
        commands = (("HMGET", self._keys.log_list(list_id), *names) for list_id in ids)
        rows = await round_trip(self._redis, commands)
        return [
            read_struct(ListStatus, texts(names, row), list_id=list_id)
            for list_id, row in zip(ids, rows, strict=True)
        ]

    async def load(self, list_id: str) -> RawList | None:
        """Read the copy of a list, if there is one."""
        row: Any = await self._redis.hmget(self._keys.log_list(list_id), ["body", "signature"])
        body, signature = row
        return None if body is None else RawList(body, signature or b"")

    async def store(
        self, list_id: str, name: str, url: str, raw: RawList, version: ListVersion
    ) -> bool:
        """Store a copy, unless the stored one is newer.

        Returns:
            False if the stored one is newer.
        """
        made = "" if version.published_at is None else int(version.published_at * 1000)
        reply = await self._save(
            keys=[self._keys.log_list(list_id), self._keys.log_lists],
            args=[
                *(list_id, version.rank, raw.body, raw.signature),
                *("name", name, "url", url, "digest", version.digest),
                *("version", version.version[:MAX_TEXT_CHARS], "made", made),
            ],
        )
        return bool(reply)

    async def delete(self, list_id: str, digest: str) -> None:
        """Delete a copy that turned out to be invalid, if it is still the stored one."""
        key = self._keys.log_list(list_id)
        held: Any = await self._redis.hget(key, "digest")
        if held is not None and held.decode() == digest:
            await self._redis.delete(key)

    async def claim_refresh(
        self, list_id: str, seconds: float, latest: float = _MAX_DUE_SECS
    ) -> bool:
        """Claim the refresh of a list if it is due: the caller must request it from its server.

        Args:
            list_id: the list.
            seconds: time after which another process can claim it.
            latest: the most seconds that the caller lets a list wait. One that is due later was
                stored before the clock of Redis was set back, or by a process with another
                interval: it is due now.
        """
        key = self._keys.log_list(list_id)
        return bool(
            await self._claim(
                keys=[key, self._keys.log_lists],
                args=[list_id, _ms(seconds), _ms(max(latest, _MAX_DUE_SECS))],
            )
        )

    async def record_success(self, list_id: str, next_in: float, etag: str, modified: str) -> None:
        """Record that the copy is the newest one of its server.

        Args:
            list_id: the list.
            next_in: seconds until it is due again.
            etag: validator of the copy, for a conditional request.
            modified: the other validator.
        """
        await self._update(
            self._keys.log_list(list_id),
            ("time", "checked", 0),
            ("time", "due", _ms(next_in)),
            ("set", "failures", 0),
            ("set", "etag", etag[:MAX_TEXT_CHARS]),
            ("set", "modified", modified[:MAX_TEXT_CHARS]),
        )

    async def record_failure(
        self, list_id: str, name: str, url: str, next_in: float, problem: str
    ) -> None:
        """Record that the server returned no usable list.

        Args:
            list_id: the list.
            name: its name, for a list of which Redis holds no copy.
            url: of its server, for the same.
            next_in: seconds until it is due again.
            problem: one line.
        """
        await self._update(
            self._keys.log_list(list_id),
            counted_once("failure_event"),
            ("add", "failures", 1),
            ("set", "name", name),
            ("set", "url", url),
            ("set", "problem", problem[:MAX_TEXT_CHARS]),
            ("time", "problem_at", 0),
            ("time", "due", _ms(next_in)),
        )

    async def request_refresh(self) -> list[str]:
        """Make every list due that an ingestor still uses; return their ids."""
        now = await redis_ms(self._redis)
        lists = [one.list_id for one in await self.statuses() if now - one.due < _ABANDONED_MS]
        changes = (("HSET", self._keys.log_list(list_id), "due", now) for list_id in lists)
        await round_trip(self._redis, changes)
        return lists


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
