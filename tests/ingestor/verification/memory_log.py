"""A verifier with a log and a store in memory."""

from collections.abc import Callable, Sequence
from typing import cast

from certbus.logs.tree_state import TreeState, TreeStateStore
from certconf.settings import Integrity
from ctparse.entry import Entry, Rejected
from ctparse.merkle import Frontier
from ctparse.signatures import load_log_key
from ctparse.tree_head import TreeHead
from ingestor.client.errors import (
    LogError,
    UnexpectedStatus,
)
from ingestor.client.interface import Inclusion, LogClient
from ingestor.log import Kind, Log
from ingestor.redis_retry import RedisRetry
from ingestor.verification.verifier import Verifier
from ingestor.window import VerifiedWindow, Window
from simlog.ctlog.log import Head, LogKey
from simlog.ctlog.tree import Tree, leaf_hash

KEY = LogKey(1, "log")
MMD = 100.0
REFUSAL_SECS = 10.0
NOT_FOUND = UnexpectedStatus("log", "https://log.example/proof", "HTTP 404", 404, None)
EXTENSION = b"\0\x08\0\0\x05\0\0\0\0\0"
LEAF = b"\0\0" + bytes(8) + b"\0\0" + b"\0\0\x01C"
"""Of an X.509 entry, without its extensions."""


def leaf(index: int, *, extended: bool = False) -> bytes:
    body = LEAF[:2] + index.to_bytes(8) + LEAF[10:]
    return body + (EXTENSION if extended else b"\0\0")


def entry(index: int, *, extended: bool = False, other: bool = False) -> Entry:
    served = leaf(index + 1000 * other, extended=extended)
    return Entry(index, 0, False, b"C", b"", served)


def window(first: int, end: int, *, extended: bool = False) -> Window:
    return Window(first, [entry(index, extended=extended) for index in range(first, end)])


class MemoryLog:
    """A log of 40 leaves, and of another tree with the same first leaves.

    Attributes:
        calls: requested proofs.
        refusal: raised instead of a proof, for this kind of proof or for both.
        wrong: kind of proof that is wrong.
    """

    tile: int | None = None
    has_partial_tiles = True
    missing_issuers = 0

    def __init__(self, *, fork_at: int = 20) -> None:
        self.trees = Tree(), Tree()
        for index in range(40):
            self.trees[0].append(leaf_hash(leaf(index)))
            self.trees[1].append(leaf_hash(leaf(index + 1000 * (index >= fork_at))))
        self.calls: list[tuple[str, int, int]] = []
        self.refusal: LogError | None = None
        self.refused: tuple[str, ...] = ("inclusion", "consistency")
        self.wrong: tuple[str, ...] = ()
        self.served = 0  # which tree proofs are of

    def head(
        self, size: int, *, tree: int = 0, timestamp: int = 1, signed: bool = True
    ) -> TreeHead:
        root = self.trees[tree].root(size)
        signature = Head(KEY, size, timestamp + (not signed), root).signature
        return TreeHead(size, timestamp, root, signature)

    def frontier(self, size: int, tree: int = 0) -> Frontier:
        frontier = Frontier()
        frontier.extend(self.trees[tree].leaf(index) for index in range(size))
        return frontier

    async def inclusion(self, index: int, size: int, leaf: bytes | None = None) -> Inclusion:
        path = self._proof("inclusion", index, size, self.trees[self.served].inclusion_proof)
        return Inclusion(self.trees[self.served].leaf(index), path)

    async def consistency(self, first: int, second: int) -> list[bytes]:
        return self._proof("consistency", first, second, self.trees[self.served].consistency_proof)

    def _proof(
        self, kind: str, first: int, second: int, make: Callable[[int, int], list[bytes]]
    ) -> list[bytes]:
        self.calls.append((kind, first, second))
        if self.refusal is not None and kind in self.refused:
            raise self.refusal
        proof = make(first, second)
        return [bytes(32), *proof[1:]] if kind in self.wrong else proof

    async def tree_head(self) -> TreeHead:
        raise AssertionError

    async def entries(self, start: int, end: int) -> list[Entry | Rejected]:
        raise AssertionError((start, end))

    def entry_url(self, index: int) -> str:
        raise AssertionError(index)

    def issuer_chain(self, chain: bytes) -> Sequence[bytes]:
        raise AssertionError(chain)

    def lacking(self) -> Sequence[LogError]:
        raise AssertionError


class MemoryStore:
    """The tree state of one log; `changes` has what was written."""

    def __init__(self, state: TreeState | None = None) -> None:
        self.state = state
        self.disputed: int | None = None
        self.bare: bool | None = None
        self.changes: list[tuple[object, ...]] = []
        self.errors: list[str] = []

    async def load(self, _: str, next_index: int) -> TreeState | None:
        assert self.state is None or self.state.frontier.size == next_index
        return self.state

    async def withheld_at(self, _: str) -> int | None:
        return self.disputed

    async def store_withheld_at(self, _: str, first: int) -> None:
        self.changes.append(("withheld", first))

    async def bare_leaves(self, _: str) -> bool | None:
        return self.bare

    async def record_bare_leaves(self, _: str, bare: bool) -> None:
        self.changes.append(("bare", bare))

    async def record_alarm(
        self, _: str, kind: str, problem: str, heads: Sequence[TreeHead], **more: object
    ) -> None:
        self.changes.append((kind, problem, tuple(head.size for head in heads)))
        self.errors.append(str(more["error"]))

    async def record_stale_head(self, _: str, event: str = "") -> None:
        self.changes.append(("stale",))

    async def clear_stale_head(self, _: str) -> None:
        self.changes.append(("not stale",))

    @property
    def kinds(self) -> list[object]:
        """The alerts and other changes, without those that each new tree head makes."""
        return [change[0] for change in self.changes if change[0] != "not stale"]


class Checked:
    """A verifier, its log, its store and its clock."""

    def __init__(
        self,
        mode: Integrity = "enforce",
        *,
        has_key: bool = True,
        is_hybrid: bool = False,
        state: TreeState | None = None,
    ) -> None:
        self.log = MemoryLog()
        self.store = MemoryStore(state)
        self.now = 0.0
        self.of = Log(
            id="aa", name="log", url="https://log.example/", kind=Kind.STATIC_CT, mmd=MMD,
            is_hybrid=is_hybrid,
        )  # fmt: skip
        self.verifier = Verifier(
            self.of,
            cast("LogClient", self.log),
            load_log_key(KEY.public) if has_key else None,
            mode,
            cast("TreeStateStore", self.store),
            RedisRetry(),
            REFUSAL_SECS,
            clock=lambda: self.now,
        )

    def state(self) -> str:
        return self.verifier.state

    async def verify(self, first: int, end: int, head: TreeHead) -> list[VerifiedWindow]:
        return await self.verifier.verify([window(first, end)], head)

    async def publish(self, first: int, size: int, *, end: int | None = None) -> None:
        """Verify entries up to a tree head of this size, and mark them as published."""
        target = await self.verifier.select_tree_head(self.log.head(size), first)
        for each in await self.verify(first, end or target.size, target):
            self.verifier.mark_verified(each)
        if end in {None, target.size}:
            self.verifier.mark_caught_up()
