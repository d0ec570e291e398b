"""The registry of logs: ids and aliases, the lists that name a log, and its retirement.

The id of a log is the SHA-256 of its key, or made of its URL while the key is not known. When the
key becomes known, one script renames the log, also while a worker follows it, and the old id stays
as an alias for workers that know only the URL.

A log is retired by a signed list or by an operator command; a log missing from one worker's
configuration is not retired. The retirement contains everything needed to follow the log, so any
worker can drain it: publish its entries up to the last tree head. After that no worker can acquire
it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from certbus.logs.tree_state import MAX_EVIDENCE
from certbus.store import Store, read_json, round_trip, script, text


class ListedEntry(msgspec.Struct, frozen=True):
    """The newest entry of a list for a log to follow.

    Attributes:
        rank: of the newest version that names it (`log_lists.ListVersion`).
        log: the entry, as JSON.
    """

    rank: str
    log: msgspec.Raw


class Retirement(msgspec.Struct, frozen=True):
    """The retirement of a log.

    Attributes:
        by: its source, a list or an operator command.
        why: the reason, one line.
        since: when the log accepted its last certificate, or later; seconds since the epoch.
        at: time of the retirement by the clock of Redis, seconds since the epoch.
        log: everything needed to follow the log, as JSON; null if that is not known.
    """

    by: Literal["list", "command"]
    why: str
    since: float
    at: float
    log: msgspec.Raw = msgspec.Raw(b"null")


class LogState(msgspec.Struct, frozen=True):
    """The state of a log.

    Attributes:
        is_known: whether it has a position.
        retirement: set while it is drained and after that.
        is_dropped: whether it is drained and retired.
    """

    is_known: bool
    retirement: Retirement | None
    is_dropped: bool


class LogRegistry(Store):
    """The registry in Redis."""

    _rename = script("logs/lua/rename.lua")
    _retire = script("logs/lua/retire.lua")
    _unretire = script("logs/lua/unretire.lua")
    _remove_expired = script("logs/lua/remove_expired_logs.lua")

    async def aliases(self, log_ids: Sequence[str]) -> dict[str, str]:
        """Return the aliases among these ids -> the id of the log."""
        commands = (("HGET", self._keys.log(log_id), "renamed") for log_id in log_ids)
        better = zip(log_ids, await round_trip(self._redis, commands), strict=True)
        return {log_id: reply.decode() for log_id, reply in better if reply is not None}

    async def rename(self, old: str, new: str) -> bool:
        """Move a log to a better id and keep the old one as an alias.

        Its position, counters, tree, evidence and retirement stay. Its lease ends; the next owner
        continues at its `next`.

        Returns:
            Whether anything was stored under the old id.
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
        """Read the state of every log, by id; remove logs whose state has expired.

        What a command retired must not expire: the previous release sets a TTL.
        """
        members: Any = await self._redis.smembers(self._keys.logs)
        ids = sorted(member.decode() for member in members)
        fields = "next", "retiring", "retired", "name"
        commands = (("HMGET", self._keys.log(log_id), *fields) for log_id in ids)
        rows = await round_trip(self._redis, commands)
        expired = [log_id for log_id, row in zip(ids, rows, strict=True) if not any(row)]
        if expired:
            keys = [self._keys.logs, *map(self._keys.log, expired)]
            await self._remove_expired(keys=keys, args=expired)
        states = {
            log_id: LogState(known is not None, _retirement(retiring), retired is not None)
            for log_id, (known, retiring, retired, _) in zip(ids, rows, strict=True)
            if log_id not in expired
        }
        retired = [
            key
            for log_id, state in states.items()
            if state.is_dropped and state.retirement and state.retirement.by == "command"
            for key in (self._keys.log(log_id), self._keys.evidence(log_id))
        ]
        ttls = await round_trip(self._redis, (("PTTL", key) for key in retired))
        expiring = [key for key, ttl in zip(retired, ttls, strict=True) if ttl >= 0]
        await round_trip(self._redis, (("PERSIST", key) for key in expiring))
        return states

    async def listed(self, list_id: str) -> dict[str, ListedEntry]:
        """Read the logs that a list names, or named last, to be followed."""
        found: Any = await self._redis.hgetall(self._keys.listed_logs(list_id))
        entries = ((log_id, read_json(entry, ListedEntry)) for log_id, entry in found.items())
        # One that is unreadable, of another release, is stored again.
        return {text(log_id): entry for log_id, entry in entries if entry is not None}

    async def record_listed(self, list_id: str, entries: Mapping[str, ListedEntry]) -> None:
        """Store the entries of a list for logs to follow, by log id."""
        if entries:
            fields: dict[Any, Any] = {
                log_id: msgspec.json.encode(entry) for log_id, entry in entries.items()
            }
            await self._redis.hset(self._keys.listed_logs(list_id), mapping=fields)

    async def retire(self, log_id: str, retirement: Retirement, list_id: str | None = None) -> bool:
        """Begin the retirement of a log.

        Args:
            log_id: the log.
            retirement: its source and reason.
            list_id: the list that retires it, if one does.

        Returns:
            False if the log is not known, has no position yet while a list retires it, or is being
            retired already.
        """
        listed = [] if list_id is None else [self._keys.listed_logs(list_id)]
        reply = await self._retire(
            keys=[self._keys.log(log_id), *listed],
            args=[log_id, msgspec.json.encode(retirement), retirement.why],
        )
        return bool(reply)

    async def unretire(self, log_id: str, by: Literal["list", "command"]) -> bool:
        """Take the retirement of a log back; it continues at its position.

        Args:
            log_id: the log.
            by: source of the retirement; one of the other source stays.

        Returns:
            False if the log has no retirement of this source.
        """
        keys = [self._keys.log(log_id), self._keys.evidence(log_id)]
        return bool(await self._unretire(keys=keys, args=[by]))


def _retirement(stored: bytes | None) -> Retirement | None:
    if stored is None:
        return None
    try:
        return msgspec.json.decode(stored, type=Retirement)
    except msgspec.DecodeError as error:  # of another release: the log is retired all the same
        return Retirement("list", f"unreadable: {error}", 0.0, 0.0)
