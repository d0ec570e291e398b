"""Logs that contradict what they signed: a misbehaving log is another view of the correct one.

A log shows its tree head, its tree and its entries (`ServedLog`). Each view replaces some of these
and takes the rest from the view under it, so faults combine, and the endpoints serve them
unchanged. A view lasts as long as its fault is set, because some begin from the log's state at
that time.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from simlog import fault_types
from simlog.ctlog.log import (
    Entry,
    Head,
    Log,
    LogKey,
    Provable,
    ServedLog,
    has_leaf_index,
)
from simlog.ctlog.tree import HASH, Tree, leaf_hash
from simlog.faults.active import ActiveFault
from simlog.oracle.ground_truth import TruthEntry, truth_entry
from simlog.spec import LogSpec

MAX_VIEWS = 1024
UNKNOWN_ENTRY_TYPE = b"\xff\xff"
TIMESTAMP = 8
LEAF_INDEX = 5


class LogView:
    """A log that shows another one unchanged."""

    def __init__(self, shown: ServedLog) -> None:
        self._shown = shown

    @property
    def spec(self) -> LogSpec:
        """Unchanged."""
        return self._shown.spec

    @property
    def key(self) -> LogKey:
        """Unchanged."""
        return self._shown.key

    @property
    def tree(self) -> Provable:
        """Unchanged."""
        return self._shown.tree

    @property
    def head(self) -> Head:
        """Unchanged."""
        return self._shown.head

    def entry(self, index: int) -> Entry:
        """Unchanged."""
        return self._shown.entry(index)


class HeadOverride(LogView):
    """A log with other tree heads: `change` makes them from the right ones."""

    def __init__(self, shown: ServedLog, change: Callable[[Head], Head]) -> None:
        super().__init__(shown)
        self._change = change

    @property
    def head(self) -> Head:
        """The changed one."""
        return self._change(self._shown.head)


class EntryOverride(LogView):
    """A log with other entries: `change` makes them from the right ones."""

    def __init__(self, shown: ServedLog, change: Callable[[int, Entry], Entry]) -> None:
        super().__init__(shown)
        self._change = change

    def entry(self, index: int) -> Entry:
        """The changed one."""
        return self._change(index, self._shown.entry(index))


class TreeOverride(LogView):
    """A log that proves with another tree."""

    def __init__(self, shown: ServedLog, tree: Provable) -> None:
        super().__init__(shown)
        self._tree = tree

    @property
    def tree(self) -> Provable:
        """The changed one."""
        return self._tree


class SplitViewLog(LogView):
    """A log that appended another entry at one index, and grew on from there."""

    def __init__(
        self, shown: ServedLog, honest: Tree, at: int, entry: Callable[[int], Entry]
    ) -> None:
        super().__init__(shown)
        self._honest = honest
        self._at = at
        self._entry = entry
        self._tree = honest.prefix(min(at, len(honest)))

    @property
    def tree(self) -> Tree:
        """The other tree, as large as the honest one."""
        for index in range(len(self._tree), len(self._honest)):
            differs = index == self._at
            self._tree.append(
                leaf_hash(self.entry(index).leaf) if differs else self._honest.leaf(index)
            )
        return self._tree

    @property
    def head(self) -> Head:
        """Of the other tree."""
        head = self._shown.head
        return Head(self.key, head.size, head.timestamp, self.tree.root(head.size))

    def entry(self, index: int) -> Entry:
        """The other one at that one place."""
        return self._entry(index) if index == self._at else self._shown.entry(index)


class TamperedTree:
    """A tree whose roots are right and whose proofs are not."""

    def __init__(self, tree: Provable) -> None:
        self._tree = tree

    def root(self, size: int) -> bytes:
        """The right one."""
        return self._tree.root(size)

    def index(self, hash_of_leaf: bytes, size: int) -> int | None:
        """The right one."""
        return self._tree.index(hash_of_leaf, size)

    def inclusion_proof(self, index: int, size: int) -> Sequence[bytes]:
        """A wrong one."""
        return _corrupt_proof(self._tree.inclusion_proof(index, size))

    def consistency_proof(self, first: int, second: int) -> Sequence[bytes]:
        """A wrong one."""
        return _corrupt_proof(self._tree.consistency_proof(first, second))

    def tile(self, level: int, n: int, width: int) -> bytes:
        """With a wrong last hash."""
        hashes = self._tree.tile(level, n, width)
        return hashes[:-HASH] + _flip_bit(hashes[-HASH:])


class Misbehaviour:
    """The misbehaviour of a world's logs.

    Attributes:
        uncommitted: entries that were shown and never committed to, by log, index and SHA-256.
    """

    def __init__(self, seed: int) -> None:
        self.uncommitted: dict[tuple[str, int, str], TruthEntry] = {}
        self._other_key = LogKey(seed, "another key")
        self._view = lru_cache(maxsize=MAX_VIEWS)(self._make)

    def shown(self, log: Log, active: Sequence[ActiveFault]) -> ServedLog:
        """Return the log as it shows itself while these faults are in force."""
        relevant = tuple(
            active
            for active in active
            if isinstance(active.fault, fault_types.Stale | fault_types.Misbehaviour)
        )
        return self._view(log, relevant) if relevant else log

    def _make(self, log: Log, active: tuple[ActiveFault, ...]) -> ServedLog:
        *before, last = active
        shown = self.shown(log, before)
        match last.fault:
            case fault_types.WrongProofs():
                return TreeOverride(shown, TamperedTree(shown.tree))
            case fault_types.Fork(at=at):
                return SplitViewLog(
                    shown, log.tree, at, lambda index: self._swapped(log, index, "fork")
                )
            case fault_types.OfEntries() as fault:
                return EntryOverride(
                    shown,
                    lambda index, entry: (
                        self._instead(fault, log, index, entry) if fault.covers(index) else entry
                    ),
                )
            case other:
                change = self._change_of_head(other, shown)
                return HeadOverride(shown, change) if change else shown

    def _change_of_head(
        self, fault: fault_types.Fault, shown: ServedLog
    ) -> Callable[[Head], Head] | None:
        """Return how the fault changes tree heads, or None."""
        match fault:
            case fault_types.Stale(entries=entries, seconds=seconds):
                return lambda head: _earlier(shown, head, head.size - entries, seconds)
            case fault_types.Rewind(entries=entries):
                size = max(0, shown.head.size - entries)
                return lambda head: _earlier(shown, head, size, 0)
            case fault_types.WrongRoot():
                return lambda head: Head(shown.key, head.size, head.timestamp, _flip_bit(head.root))
            case fault_types.BadSignature():
                return lambda head: Head(self._other_key, head.size, head.timestamp, head.root)
        return None

    def _instead(self, fault: fault_types.OfEntries, log: Log, index: int, entry: Entry) -> Entry:
        """Return what is shown instead of an entry."""
        match fault:
            case fault_types.SwappedLeaf():
                return self._swapped(log, index, "swapped_leaf")
            case fault_types.ForgedPrecert() if entry.certificate.is_precert:
                other = log.lookalike_entry(index).certificate
                forged = msgspec.structs.replace(other, issuer=entry.certificate.issuer)
                entry = msgspec.structs.replace(entry, certificate=forged)
                return self._remember(log, index, entry, "forged_precert")
            case fault_types.Garbled():
                rest = entry.timestamped[TIMESTAMP + len(UNKNOWN_ENTRY_TYPE) :]
                garbled = entry.timestamped[:TIMESTAMP] + UNKNOWN_ENTRY_TYPE + rest
                return msgspec.structs.replace(entry, timestamped=garbled)
            case fault_types.WrongLeafIndex() if has_leaf_index(log.spec):
                wrong = entry.timestamped[:-LEAF_INDEX] + (index + 1).to_bytes(LEAF_INDEX)
                return msgspec.structs.replace(entry, timestamped=wrong)
        return entry

    def _swapped(self, log: Log, index: int, kind: str) -> Entry:
        return self._remember(log, index, log.lookalike_entry(index), kind)

    def _remember(self, log: Log, index: int, entry: Entry, kind: str) -> Entry:
        line = truth_entry(log.spec.name, index, entry, misbehaviour=kind)
        self.uncommitted[line.log, line.index, line.sha256] = line
        return entry


def _earlier(shown: ServedLog, head: Head, size: int, seconds: int) -> Head:
    """Make the tree head of an earlier size of the tree."""
    size = max(0, size)
    timestamp = max(0, head.timestamp - 1000 * seconds)
    return Head(shown.key, size, timestamp, shown.tree.root(size))


def _corrupt_proof(proof: Sequence[bytes]) -> Sequence[bytes]:
    return [*proof[:-1], _flip_bit(proof[-1])] if proof else proof


def _flip_bit(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))
