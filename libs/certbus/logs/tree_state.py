"""The stored tree state of a log: frontier, verified tree head, and evidence of violations.

publish.lua writes the frontier together with `next`; a worker reads it here when it takes a log.
Evidence: the signed tree heads that prove that a log contradicted itself.
"""

from collections.abc import Sequence

import msgspec

from certbus.clock import to_ms
from certbus.logs.circuit_state import last_error
from certbus.store import MAX_TEXT_CHARS, Change, Store, counted_once, round_trip
from ctparse.merkle import Frontier
from ctparse.tree_head import TreeHead

MAX_EVIDENCE = 64
"""Entries per log."""

ALARMS_OF = "alarms."
"""Prefix of the counters by kind, in the hash of a log."""

_BELOW = "below_since"
_BARE_LEAVES = "bare_leaves"
_WITHHELD_AT = "withheld_at"
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


class TreeStateStore(Store):
    """The tree states in Redis."""

    async def load(self, log_id: str, next_index: int) -> TreeState | None:
        """Read the tree state of a log at `next_index`; None if that is not known.

        It is not known if nothing was verified, if `next` was moved without a frontier, or if the
        stored values contradict each other, which is no fault of the log.
        """
        commands = ("TIME",), ("HMGET", self._keys.log(log_id), *_FIELDS)
        now, values = await round_trip(self._redis, commands)
        frontier, size, timestamp, root, signature, below = values
        if frontier is None:
            return None
        try:
            restored = Frontier.from_bytes(frontier)
            head = size and TreeHead(int(size), int(timestamp), root, signature)
            below_for = None if below is None else (to_ms(now) - int(below)) / 1000
            if below_for is not None and head:
                # The clock of Redis may have been wrong then or may be now. The log has signed the
                # verified tree head before it showed a smaller one.
                below_for = min(below_for, (to_ms(now) - head.timestamp) / 1000)
        except (ValueError, TypeError):
            return None
        if restored.size != next_index:
            return None
        if head and head.size == restored.size and head.root != restored.root():
            return None
        return TreeState(restored, head, None if below_for is None else max(below_for, 0.0))

    async def bare_leaves(self, log_id: str) -> bool | None:
        """Whether the leaves of a hybrid log's tree lack the extensions of its tiles.

        None if neither was proven.
        """
        value = await self._redis.hget(self._keys.log(log_id), _BARE_LEAVES)
        return value == b"1" if value in (b"0", b"1") else None

    async def record_bare_leaves(self, log_id: str, bare: bool) -> None:
        """Store which form the leaves of a hybrid log's tree have, once it was proven."""
        await self._update(self._keys.log(log_id), ("set", _BARE_LEAVES, int(bare)))

    async def withheld_at(self, log_id: str) -> int | None:
        """Return the entry from which on the newest violation withheld entries; None: no entry."""
        value = await self._redis.hget(self._keys.log(log_id), _WITHHELD_AT)
        return int(value) if value is not None and value.isdigit() else None

    async def store_withheld_at(self, log_id: str, first: int) -> None:
        """Store the entry from which on the newest violation withholds entries."""
        await self._update(self._keys.log(log_id), ("set", _WITHHELD_AT, first))

    async def record_alarm(
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
        """Count a violation, or a missing proof, which is none; store its evidence.

        Args:
            log_id: the log.
            kind: of violation, one word (docs/integrity.md), or `no_proof`.
            problem: one line.
            heads: the tree heads that prove it.
            keep: whether evidence is stored; if not, the violation is only counted.
            event: identifies the violation: repeated calls count it once.
            error: the new `last_error` of the log; empty: unchanged.
        """
        changes: list[Change] = [("add", f"{ALARMS_OF}{kind}", 1), *last_error(error)]
        if keep:
            changes.append(_evidence(log_id, kind, problem, heads))
        if kind != "no_proof":
            changes += [
                ("add", "alarms", 1),
                ("set", "alarm", f"{kind}: {problem[:MAX_TEXT_CHARS]}"),
                ("time", "alarm_at", 0),
            ]
        await self._count(log_id, event, *changes)

    async def record_stale_head(self, log_id: str, event: str = "") -> None:
        """Count a tree head older than the verified one; `event` as for `record_alarm`."""
        await self._count(log_id, event, ("add", "stale", 1), ("time_once", _BELOW, 0))

    async def clear_stale_head(self, log_id: str) -> None:
        """Record that a log shows a tree head that is not smaller than the verified one."""
        await self._redis.hdel(self._keys.log(log_id), _BELOW)

    async def _count(self, log_id: str, event: str, *changes: Change) -> None:
        evidence = self._keys.evidence(log_id)
        once = counted_once("alarm_event", event)
        await self._update(self._keys.log(log_id), once, *changes, evidence=evidence)


def _evidence(log_id: str, kind: str, problem: str, heads: Sequence[TreeHead]) -> Change:
    """Return the change that stores evidence."""
    fields = {
        "kind": kind,
        "problem": problem[:MAX_TEXT_CHARS],
        "log": log_id,
        "tree_heads": msgspec.json.encode(heads).decode(),
    }
    return "evidence", MAX_EVIDENCE, msgspec.json.encode(fields).decode()
