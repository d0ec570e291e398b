"""The stored tree state of a log: frontier, verified tree head, and evidence of violations.

publish.lua writes the frontier together with `next`; a worker reads it here when it takes a log.
Evidence: the signed tree heads that prove that a log contradicted itself.
"""

from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis

from certbus.ids import new_event
from certbus.keys import Keys
from certbus.scripts import register_script
from ctparse.merkle import Frontier
from ctparse.tree_head import TreeHead

MAX_EVIDENCE = 64
"""Entries per log."""

ALARMS_OF = "alarms."
"""Prefix of the counters by kind, in the hash of a log."""

_BELOW = "below_since"
_FIELDS = ("frontier", "tree_size", "tree_timestamp", "tree_root", "tree_signature", _BELOW)


class TreeState(msgspec.Struct, frozen=True):
    """The verified state of a log's tree.

    Attributes:
        frontier: of everything before the log's `next`.
        tree_head: the verified tree head, which extends the frontier.
        below_for: seconds since which the log shows smaller tree heads only; None if it does not.
    """

    frontier: Frontier
    tree_head: TreeHead | None
    below_for: float | None


class TreeStateStore:
    """The tree states in Redis.

    Args:
        client: the primary.
        keys: names of the keys.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys
        self._update_fields = register_script(client, "lua/update_fields.lua")

    async def load(self, log_id: str, next_index: int) -> TreeState | None:
        """Read the tree state of a log at `next_index`; None if that is not known.

        It is not known if nothing was verified, if `next` was moved without a frontier, or if the
        stored values contradict each other, which is no fault of the log.
        """
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.hmget(self._keys.log(log_id), _FIELDS)
            (seconds, microseconds), values = await pipeline.execute()
        frontier, size, timestamp, root, signature, below = values
        if frontier is None:
            return None
        try:
            restored = Frontier.from_bytes(frontier)
            head = size and TreeHead(int(size), int(timestamp), root, signature)
            now = seconds + microseconds / 1_000_000
            below_for = None if below is None else now - int(below) / 1000
            if below_for is not None and head:
                # The clock of Redis may have been wrong then or may be now. The log has signed the
                # verified tree head before it showed a smaller one.
                below_for = min(below_for, now - head.timestamp / 1000)
        except (ValueError, TypeError):
            return None
        if restored.size != next_index:
            return None
        if head and head.size == restored.size and head.root != restored.root():
            return None
        return TreeState(restored, head, None if below_for is None else max(below_for, 0.0))

    async def record_violation(
        self,
        log_id: str,
        kind: str,
        problem: str,
        heads: Sequence[TreeHead],
        *,
        keep: bool = True,
        event: str = "",
        error: str = "",
    ) -> None:
        """Count a violation, and store its evidence.

        Args:
            log_id: the log.
            kind: of violation, one word (docs/integrity.md).
            problem: one line.
            heads: the tree heads that prove it.
            keep: whether evidence is stored; if not, the violation is only counted.
            event: identifies the violation: repeated calls count it once.
            error: the new `last_error` of the log; empty: unchanged.
        """
        changes = self._once(event)
        if keep:
            changes += self._evidence(log_id, kind, problem, heads)
        changes += ["add", f"{ALARMS_OF}{kind}", 1, "add", "alarms", 1]
        changes += ["set", "alarm", f"{kind}: {problem[:500]}", "time", "alarm_at", 0]
        changes += _last_error(error)
        await self._update(log_id, changes)

    async def record_missing_proof(
        self,
        log_id: str,
        problem: str,
        heads: Sequence[TreeHead],
        event: str = "",
        error: str = "",
    ) -> None:
        """Record that a log returned no proof, which is no violation.

        `event` and `error` are as for `record_violation`.
        """
        evidence = self._evidence(log_id, "no_proof", problem, heads)
        count: list[str | int] = ["add", f"{ALARMS_OF}no_proof", 1]
        changes = [*self._once(event), *evidence, *count, *_last_error(error)]
        await self._update(log_id, changes)

    async def record_stale_head(self, log_id: str, event: str = "") -> None:
        """Count a tree head older than the verified one; `event` as for `record_violation`."""
        change: list[str | int] = ["add", "stale", 1, "time_once", _BELOW, 0]
        await self._update(log_id, [*self._once(event), *change])

    async def clear_stale_head(self, log_id: str) -> None:
        """Record that a log shows a tree head that is not smaller than the verified one."""
        await self._redis.hdel(self._keys.log(log_id), _BELOW)

    async def _update(self, log_id: str, changes: list[str | int]) -> None:
        keys = [self._keys.log(log_id), self._keys.evidence(log_id)]
        await self._update_fields(keys=keys, args=changes)

    def _once(self, event: str) -> list[str | int]:
        """Return the change of update_fields.lua that makes a repeated call do nothing."""
        return ["once", "alarm_event", event or new_event()]

    def _evidence(
        self, log_id: str, kind: str, problem: str, heads: Sequence[TreeHead]
    ) -> list[str | int]:
        """Return the change of update_fields.lua that stores evidence."""
        fields = {
            "kind": kind,
            "problem": problem[:500],
            "log": log_id,
            "tree_heads": msgspec.json.encode(heads).decode(),
        }
        return ["evidence", MAX_EVIDENCE, msgspec.json.encode(fields).decode()]


def _last_error(error: str) -> list[str | int]:
    """Return the changes of update_fields.lua that store an error; none if it is empty."""
    if not error:
        return []
    return ["set", "last_error", error[:500], "time", "last_error_at", 0]
