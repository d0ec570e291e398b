"""The guard of one log: asks for proofs, and decides what may be published.

    enforce   what is not proven is held back: a `Lie` or `Unproven` that the follower takes for
              any other trouble of the log, and so tries again later
    warn      the same is said and counted, and the entries are published
    off       nothing is looked at

Only the operator chooses between these; nothing that a log answers does. A log whose key is not
known is guarded all the same: anybody may have made its tree heads, but its entries have to lead to
them.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import structlog

from certbus.ledger import Ledger
from certconf.settings import Integrity
from ctparse.entry import Rejected
from ctparse.merkle import BadProof, Frontier, verify_consistency
from ctparse.precert import is_committed
from ctparse.signatures import BadSignature, LogKey, verify_tree_head
from ctparse.treehead import TreeHead
from ingestor.catalog.log import Log
from ingestor.ctclient.errors import Lie, LieKind, LogError, Unproven
from ingestor.ctclient.protocol import LogClient
from ingestor.follow.ahead import Window
from ingestor.integrity.growth import Growth, grown, joined, leaves
from ingestor.integrity.heads import Heads, Newer, Older, Same, Split
from ingestor.outage import Patience

State = Literal["proven", "unsigned", "unproven", "lying", "off"]

_log = structlog.get_logger(__name__)


def check_signature(log: Log, key: LogKey | None, head: TreeHead) -> None:
    """Refuse a tree head that the log did not sign; without a key, none.

    Raises:
        Lie: it did not.
    """
    if key is None:
        return
    try:
        verify_tree_head(key, head)
    except BadSignature as error:
        raise Lie(log.name, log.base, "bad_signature", str(error), (head,)) from error


class Guard:
    """Guards one log, while one worker follows it.

    Args:
        log: the log.
        client: reads it.
        key: verifies its tree heads, if it is known.
        mode: what becomes of what is not proven.
        ledger: where frontier and evidence are kept.
        patience: what to do while Redis is away.
        clock: seconds.

    Attributes:
        state: what the directory should say of the log.
    """

    def __init__(
        self,
        log: Log,
        client: LogClient,
        key: LogKey | None,
        mode: Integrity,
        ledger: Ledger,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state: State = "off" if mode == "off" else "unproven"
        self._log = log
        self._client = client
        self._key = key
        self._mode = mode
        self._ledger = ledger
        self._patience = patience
        self._clock = clock
        self._heads = Heads(log.mmd)
        self._frontier: Frontier | None = None
        self._signed: TreeHead | None = None  # the last one whose signature was verified
        self._told: set[str] = set()  # since anything was proven

    async def load(self, next_index: int) -> None:
        """Go on from where Redis says the log's tree stands."""
        if self._mode == "off":
            return
        kept = await self._patience(partial(self._ledger.kept, self._log.id, next_index))
        self._frontier = None
        if kept is not None:
            self._frontier = kept.frontier
            if kept.tree_head is not None:
                self._heads.follow(kept.tree_head)
        elif next_index == 0:
            self._frontier = Frontier()

    async def admit(self, head: TreeHead, next_index: int) -> TreeHead:
        """Decide which tree to catch up with, now that the log has shown this head.

        Args:
            head: the log's newest.
            next_index: of the next entry to publish.

        Raises:
            LogError: none, for now.
        """
        if self._mode == "off":
            return head
        try:
            target = await self._judged(head, next_index)
            if self._frontier is None and next_index <= target.size:
                await self._start(next_index, target)
        except (Lie, Unproven) as error:
            if self._mode == "enforce":
                raise
            await self.failed(error)
            self._forget()
            return head
        return target

    async def prove(self, run: Sequence[Window], target: TreeHead) -> list[Growth | None]:
        """Prove consecutive windows, the first of which begins where the frontier ends.

        Returns:
            What `Pipeline.publish` needs for each window; None if nothing is proven, and that is
            all right with the operator.

        Raises:
            Lie: they are not in the tree.
            LogError: there is no proof that they are.
        """
        frontier = self._frontier
        if self._mode == "off" or frontier is None:
            return [None] * len(run)
        hashes = [leaves(window.entries) for window in run]
        try:
            self._refuse_unknown(run)
            await self._prove(grown(frontier, hashes), hashes[-1][-1], run, target)
        except LogError as error:
            if self._mode == "enforce":
                raise
            await self.failed(error)
            self._forget()
            return [None] * len(run)
        self._heads.follow(target)
        self._proven()
        for window in run:
            await self._sift(window)
        return [Growth(frontier, each) for each in hashes]

    def reached(self) -> None:
        """Everything up to the tree head is published."""
        if self._frontier is not None:
            self._proven()

    async def failed(self, error: LogError) -> None:
        """Note why nothing can be proven, or what was found to be a lie."""
        if isinstance(error, Lie):
            self.state = "lying"
        elif isinstance(error, Unproven):
            self.state = "unproven"
        else:
            return
        kind = error.kind if isinstance(error, Lie) else "unproven"
        if kind in self._told:
            return
        self._told.add(kind)
        held = "held back" if self._mode == "enforce" else "published all the same"
        if isinstance(error, Lie):
            _log.error(
                "log lies", log=self._log.name, kind=kind, problem=error.problem, entries=held
            )
            await self._patience(
                partial(self._ledger.alarm, self._log.id, kind, error.problem, error.heads)
            )
        else:
            _log.warning(
                "log proves nothing", log=self._log.name, problem=error.problem, entries=held
            )

    def _refuse_unknown(self, run: Sequence[Window]) -> None:
        """Without one of its leaves, nothing can be said of a tree."""
        for window in run:
            for entry in window.entries:
                if isinstance(entry, Rejected) and not entry.leaf:
                    problem = (
                        f"the leaf of entry {entry.index} is not known ({entry.reason}); "
                        f"`integrity: warn` for this log lets it pass, unproven"
                    )
                    raise Unproven(self._log.name, self._log.base, problem)

    async def _sift(self, window: Window) -> None:
        """Reject submitted precertificates that are not those of their leaves.

        Only the leaf is in the tree. One that is forged, or of an odd encoding, is no reason to
        hold back what comes after it.
        """
        for position, entry in enumerate(window.entries):
            if isinstance(entry, Rejected) or not entry.is_precert:
                continue
            if is_committed(entry, self._client.chain):
                continue
            problem = f"entry {entry.index}: the leaf does not commit to this precertificate"
            await self.failed(self._lie("forged_precert", problem))
            if self._mode == "enforce":
                rejected = Rejected(entry.index, problem, entry.certificate, entry.leaf)
                window.entries[position] = rejected

    async def _judged(self, head: TreeHead, next_index: int) -> TreeHead:
        if head != self._signed:
            check_signature(self._log, self._key, head)
            self._signed = head
        verdict = self._heads.receive(head, self._clock())
        followed = self._heads.followed
        if followed is None:
            return head
        match verdict:
            case Newer():
                # The frontier proves a larger tree only from where the one followed ends.
                return head if next_index >= followed.size else followed
            case Split():
                raise self._split(followed, head)
            case Older(proven, rewound):
                await self._patience(partial(self._ledger.stale, self._log.id))
                if not proven:
                    await self._confirm(head, followed)
                if rewound:
                    problem = (
                        f"newest tree head has {head.size} entries, {followed.size} were signed "
                        f"more than {self._log.mmd:g} s ago"
                    )
                    await self.failed(self._lie("rewound", problem, followed, head))
            case Same():
                pass
        return followed

    async def _confirm(self, older: TreeHead, followed: TreeHead) -> None:
        """Prove that an older tree head is consistent; a replica that is behind may not know."""
        try:
            proof = await self._client.consistency(older.size, followed.size)
        except LogError:
            return
        try:
            verify_consistency(older.size, followed.size, older.root, followed.root, proof)
        except BadProof as error:
            raise self._split(older, followed) from error
        self._heads.follow(older)

    async def _start(self, next_index: int, target: TreeHead) -> None:
        """Get the frontier from the proof of the last entry before it."""
        try:
            proof = await self._client.inclusion(next_index - 1, target.size)
        except LogError as error:
            problem = (
                f"no proof of entry {next_index - 1} to start from ({error.problem}); "
                f"`integrity: warn` for this log, or ct_log.integrity, lets it through unproven"
            )
            raise Unproven(self._log.name, error.url, problem) from error
        try:
            self._frontier = Frontier.from_inclusion_proof(
                next_index, target.size, proof.leaf, proof.path, target.root
            )
        except BadProof as error:
            raise await self._disproved(target, "wrong_proof", str(error)) from error
        self._heads.follow(target)

    async def _prove(
        self, frontier: Frontier, last: bytes, run: Sequence[Window], target: TreeHead
    ) -> None:
        what = f"entries {run[0].first} to {frontier.size - 1}"
        if frontier.size == target.size:
            if frontier.root() != target.root:
                problem = f"{what} do not lead to the root of {target.size}{_doubtful(run)}"
                raise await self._disproved(target, "wrong_entries", problem)
            return
        try:
            proof = await self._client.inclusion(frontier.size - 1, target.size, last)
        except LogError as error:
            problem = f"{what}: no proof that the tree of {target.size} has them ({error.problem})"
            raise Unproven(self._log.name, error.url, problem) from error
        try:
            if joined(frontier, last, proof.leaf, proof.path, target):
                return
        except BadProof as error:
            raise await self._disproved(target, "wrong_proof", str(error)) from error
        problem = f"{what} are not those in the tree of {target.size}{_doubtful(run)}"
        raise await self._disproved(target, "wrong_entries", problem)

    async def _disproved(self, target: TreeHead, kind: LieKind, problem: str) -> Lie:
        """Find out whether it is the tree head that is wrong."""
        followed = self._heads.followed
        if followed is None or not 0 < followed.size < target.size:
            return self._lie(kind, problem, target)
        try:
            proof = await self._client.consistency(followed.size, target.size)
            verify_consistency(followed.size, target.size, followed.root, target.root, proof)
        except BadProof:
            return self._split(followed, target)
        except LogError:
            pass
        return self._lie(kind, problem, target)

    def _split(self, first: TreeHead, second: TreeHead) -> Lie:
        problem = f"tree heads of {first.size} and {second.size} entries are not of one tree"
        return self._lie("split", problem, first, second)

    def _lie(self, kind: LieKind, problem: str, *heads: TreeHead) -> Lie:
        return Lie(self._log.name, self._log.base, kind, problem, heads)

    def _proven(self) -> None:
        if self.state in {"unproven", "lying"}:
            self._told.clear()
        self.state = "proven" if self._key is not None else "unsigned"

    def _forget(self) -> None:
        self._frontier = None
        self._heads.forget()


def _doubtful(run: Sequence[Window]) -> str:
    """Name an entry that is wrong by itself."""
    for window in run:
        for entry in window.entries:
            if isinstance(entry, Rejected):
                return f" (entry {entry.index}: {entry.reason})"
    return ""
