"""The roll of logs: by which id each is known, which lists name it, and when it is over.

The id of a log is that of its key, or made of its URL while nobody knows the key. When somebody
does, the log is renamed in one step, under whoever follows it, and its old id leads to the new one
for every worker that still knows it by its URL only.

A log is over when a signed list says so, or an operator; not when some worker's configuration
lacks it. That is written down with all it takes to follow the log, so any worker can drain it:
publish what it has, up to its last tree head. Then it is dropped: nobody gets its lease any more.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from redis.asyncio import Redis

from certbus.keys import Keys
from certbus.logs.leases import RETIRED_VISIBLE_MS
from certbus.logs.tree_state import MAX_EVIDENCE
from certbus.scripts import register_script


class ListedEntry(msgspec.Struct, frozen=True):
    """What a list last said of a log that it wants followed.

    Attributes:
        rank: of the newest edition that named it (`shelf.Edition`).
        log: what it says of the log, as JSON.
    """

    rank: str
    log: msgspec.Raw


class Retirement(msgspec.Struct, frozen=True):
    """That a log is over.

    Attributes:
        by: who said so.
        why: one line for a person.
        since: when the log took its last certificate, or later; seconds since the epoch.
        at: when it was said, likewise.
        log: what it takes to follow the log, as JSON; null if that is not known.
    """

    by: Literal["list", "command"]
    why: str
    since: float
    at: float
    log: msgspec.Raw = msgspec.Raw(b"null")


class LogState(msgspec.Struct, frozen=True):
    """How a log stands.

    Attributes:
        is_known: whether it has a position.
        retirement: set while it is drained, and after that.
        is_dropped: whether it is drained.
    """

    is_known: bool
    retirement: Retirement | None
    is_dropped: bool


class LogRegistry:
    """Reads and writes it.

    Args:
        client: the primary.
        keys: names of the keys.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys
        self._rename = register_script(client, "logs/lua/rename.lua")
        self._retire = register_script(client, "logs/lua/retire.lua")
        self._revive = register_script(client, "logs/lua/unretire.lua")
        self._forget = register_script(client, "logs/lua/remove_expired_logs.lua")

    async def aliases(self, log_ids: Sequence[str]) -> dict[str, str]:
        """Those of these ids that lead to a better one -> that one."""
        if not log_ids:
            return {}
        async with self._redis.pipeline(transaction=False) as pipeline:
            for log_id in log_ids:
                pipeline.hget(self._keys.log(log_id), "renamed")
            replies = await pipeline.execute()
        better = zip(log_ids, replies, strict=True)
        return {log_id: reply.decode() for log_id, reply in better if reply is not None}

    async def rename(self, old: str, new: str) -> bool:
        """Call a log by a better id, and let the old one lead there; once for ever.

        Its position, counters, tree and evidence stay what they are. Its lease ends: whoever
        takes the log goes on from its `next`.

        Returns:
            Whether anything was kept under the old id.
        """
        keys = self._keys
        reply = await self._rename(
            keys=[
                *(keys.log(old), keys.log(new)),
                *(keys.lease(old), keys.lease(new)),
                *(keys.evidence(old), keys.evidence(new)),
                keys.logs,
            ],
            args=[old, new, MAX_EVIDENCE],
        )
        return bool(reply)

    async def states(self) -> dict[str, LogState]:
        """How every log stands, by id; logs of which nothing is kept any more are taken off."""
        members: Any = await self._redis.smembers(self._keys.logs)
        ids = sorted(member.decode() for member in members)
        if not ids:
            return {}
        async with self._redis.pipeline(transaction=False) as pipeline:
            for log_id in ids:
                pipeline.hmget(self._keys.log(log_id), ["next", "retiring", "retired", "name"])
            rows = await pipeline.execute()
        gone = [log_id for log_id, row in zip(ids, rows, strict=True) if not any(row)]
        if gone:
            keys = [self._keys.logs, *map(self._keys.log, gone)]
            await self._forget(keys=keys, args=gone)
        return {
            log_id: LogState(known is not None, _retirement(retiring), retired is not None)
            for log_id, (known, retiring, retired, _) in zip(ids, rows, strict=True)
            if log_id not in gone
        }

    async def listed(self, list_id: str) -> dict[str, ListedEntry]:
        """The logs that a list wants followed, or wanted when it last named them."""
        found: Any = await self._redis.hgetall(self._keys.listed_logs(list_id))
        namings = {}
        for log_id, naming in found.items():
            try:
                namings[log_id.decode()] = msgspec.json.decode(naming, type=ListedEntry)
            except msgspec.DecodeError:
                continue  # of another version; it is written again
        return namings

    async def record_listed(self, list_id: str, namings: Mapping[str, ListedEntry]) -> None:
        """Write down that a list wants these logs followed, by id."""
        if namings:
            said: dict[Any, Any] = {
                log_id: msgspec.json.encode(naming) for log_id, naming in namings.items()
            }
            await self._redis.hset(self._keys.listed_logs(list_id), mapping=said)

    async def retire(self, log_id: str, retirement: Retirement, list_id: str | None = None) -> bool:
        """Write down that a log is over.

        Args:
            log_id: the log.
            retirement: says who says so, and why.
            list_id: the list that says so, if one does.

        Returns:
            False if the log is not known, or has no position yet while a list says so, or if it is
            retired already.
        """
        listed = [] if list_id is None else [self._keys.listed_logs(list_id)]
        reply = await self._retire(
            keys=[self._keys.log(log_id), *listed],
            args=[log_id, msgspec.json.encode(retirement), retirement.why, RETIRED_VISIBLE_MS],
        )
        return bool(reply)

    async def unretire(self, log_id: str, by: Literal["list", "command"]) -> bool:
        """Take it back that a log is over; it goes on where it was.

        Args:
            log_id: the log.
            by: who said so; another's word is not taken back.

        Returns:
            False if there was nothing to take back.
        """
        keys = [self._keys.log(log_id), self._keys.evidence(log_id)]
        return bool(await self._revive(keys=keys, args=[by]))


def _retirement(text: bytes | None) -> Retirement | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Retirement)
    except msgspec.DecodeError as error:  # of another version: over it is
        return Retirement("list", f"unreadable: {error}", 0.0, 0.0)
