"""The guard of one log: asks for proofs, and decides what may be published.

    enforce   what is not proven is held back: a `Lie` or `Unproven` that the follower takes for
              any other trouble of the log, and so tries again later
    warn      the same is said and counted, and the entries are published
    off       nothing is looked at

Only the operator chooses between these; nothing that a log answers does. A log whose key is not
known is guarded all the same: anybody may have made its tree heads, but its entries have to lead to
them.

A proof that a log does not have (404, 400) is asked for again, for the same tree head, before
anybody is told: the replica that was asked may not have what the one before it has signed. One that
never gives any is read twice (`survey.py`).
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

from certbus.logs.tree_state import TreeStateStore
from certconf.settings import Integrity
from ctparse.certificate import MAX_BYTES, CertificateReader
from ctparse.entry import Entry, IncompleteChain, Rejected, Unreadable
from ctparse.merkle import BadProof, Frontier
from ctparse.precert import is_committed
from ctparse.signatures import BadSignature, LogKey, verify_tree_head
from ctparse.tree_head import TreeHead
from ingestor.client.errors import IntegrityViolation, LogError, ProofUnavailable, ViolationKind
from ingestor.client.interface import Inclusion, LogClient
from ingestor.cpu import LARGE, Cpu, Slices
from ingestor.log import Log
from ingestor.pipeline.prefetch import Window
from ingestor.redis_retry import RedisRetry
from ingestor.verification.alerts import IntegrityAlerts, State
from ingestor.verification.entry_proofs import Growth, doubtful, grown, joined, leaves, unknown
from ingestor.verification.missing_proofs import MissingProofPolicy
from ingestor.verification.split_view import check_split_view
from ingestor.verification.tree_heads import (
    Advanced,
    Conflicting,
    Regressed,
    TreeHeadTracker,
    Unchanged,
)
from ingestor.verification.two_pass import MOST, TwoPassCheck


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
        raise IntegrityViolation(
            log.name, log.base, "bad_signature", str(error), (head,)
        ) from error


class Verifier:
    """Guards one log, while one worker follows it.

    Args:
        log: the log.
        client: reads it.
        key: verifies its tree heads, if it is known.
        mode: what becomes of what is not proven.
        ledger: where frontier and evidence are kept.
        patience: what to do while Redis is away.
        hope: seconds that a log may go on saying that it has no proof before it is believed.
        cpu: shared by the logs of this process.
        clock: seconds.

    Attributes:
        alarms: what is wrong with the log.
    """

    def __init__(
        self,
        log: Log,
        client: LogClient,
        key: LogKey | None,
        mode: Integrity,
        ledger: TreeStateStore,
        patience: RedisRetry,
        hope: float,
        cpu: Cpu | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.alarms = IntegrityAlerts(log, ledger, patience, enforced=mode == "enforce")
        self._log = log
        self._client = client
        self._key = key
        self._mode = mode
        self._ledger = ledger
        self._patience = patience
        self._clock = clock
        self._cpu = cpu or Cpu()
        self._slices = Slices(self._cpu)
        self._heads = TreeHeadTracker(log.mmd)
        self._frontier: Frontier | None = None
        self._survey: TwoPassCheck | None = None
        self._signed: TreeHead | None = None  # the last one whose signature was verified
        self._next = 0  # index of the next entry to publish
        self._unreachable = False  # whether the tree pursued cannot be read to its end
        self._sure = False  # whether anything was proven, and nothing published unproven since
        self._refusals = MissingProofPolicy(hope, enforced=mode == "enforce")

    @property
    def state(self) -> State:
        """What the directory should say of the log."""
        if self._mode == "off":
            return "off"
        if self.alarms.violating:
            return "lying"
        if self.alarms.unproven or not self._sure:
            return "unproven"
        return "unsigned" if self._key is None else "proven"

    @property
    def is_blocking(self) -> bool:
        """Whether nothing of the log is published for now."""
        return self._mode == "enforce" and self.state in {"unproven", "lying"}

    async def load(self, next_index: int) -> None:
        """Go on from where Redis says the log's tree stands."""
        if self._mode == "off":
            return
        kept = await self._patience(partial(self._ledger.load, self._log.id, next_index))
        self._frontier = self._survey = None
        if kept is None:
            return
        self._frontier = kept.frontier
        if kept.tree_head is not None:
            self._heads.accept(kept.tree_head)
        if kept.below_for is not None:
            self._heads.restore_regressed_since(kept.below_for, self._clock())

    def is_signed(self, head: TreeHead) -> bool:
        """Whether the log has signed a tree head, as far as that is looked at."""
        if self._mode == "off" or self._key is None or head == self._signed:
            return True
        try:
            verify_tree_head(self._key, head)
        except BadSignature:
            return False
        return True

    async def select_tree_head(self, head: TreeHead, next_index: int) -> TreeHead:
        """Decide which tree to catch up with, now that the log has shown this head.

        Args:
            head: the log's newest.
            next_index: of the next entry to publish.

        Raises:
            LogError: none, for now.
        """
        if self._mode == "off":
            return head
        if self._frontier is None and next_index == 0:
            self._frontier = Frontier()
        if self._survey is not None and next_index >= self._survey.target.size:
            self._survey = None
        self._next = next_index
        try:
            await self._judge(head)
            if self._unreachable:
                await self._pass_over(head)
            if self._survey is not None:
                return self._survey.target
            starts = self._frontier is None
            target = self._heads.select_target(head, next_index - starts)
            if starts and next_index <= target.size and self._refusals.can_request(self._clock()):
                await self._start(next_index, target)
            if self._frontier is None and self._mode == "warn":
                return head  # nothing is proven for now: read what there is
        except (IntegrityViolation, ProofUnavailable) as error:
            await self._handle_failure(error)
            return head
        return target

    async def verify(
        self, run: Sequence[Window], target: TreeHead
    ) -> Sequence[Growth | None] | None:
        """Prove consecutive windows, the first of which begins where the frontier ends.

        Returns:
            What `Pipeline.publish` needs for each window; None in place of one if it is not proven,
            and that is all right with the operator. None for all: they are not proven yet, but may
            be once those after them were seen; go on to the tree head, and come again.

        Raises:
            Lie: they are not in the tree.
            Unproven: there is no proof that they are.
        """
        frontier = self._frontier
        self._next = run[0].first
        if self._mode == "off" or frontier is None:
            return [None] * len(run)
        hashes = []
        for window in run:
            size = sum([len(entry.leaf) for entry in window.entries])
            hashes.append(await self._cpu.run(size, leaves, window.entries))
        try:
            self._refuse_unknown(run)
            if not await self._is_proven(frontier, hashes, run, target):
                return None
        except (IntegrityViolation, ProofUnavailable) as error:
            await self._handle_failure(error)
            return [None] * len(run)
        self._heads.accept(target)
        self._proven()
        for window in run:
            await self._check_precerts(window)
        return [Growth(frontier, each) for each in hashes]

    def unreachable(self) -> None:
        """The tree pursued cannot be read to its end: go for the newest one."""
        self._unreachable = True
        self._survey = None
        self._heads.drop_target()

    async def _pass_over(self, head: TreeHead) -> None:
        """Follow a newer tree although the one followed is not reached, if it continues that one.

        Raises:
            Lie: it does not.
        """
        followed = self._heads.verified
        if followed is not None and self._next < followed.size < head.size:
            match await check_split_view(self._client, followed, head):
                case True:
                    raise self._split(followed, head)
                case None:
                    return
            self._heads.accept(head)
        if followed is None or followed.size <= head.size:
            self._unreachable = False

    def mark_verified(self) -> None:
        """Everything up to the tree head is published."""
        if self._frontier is not None:
            self._proven()

    async def _handle_failure(self, error: IntegrityViolation | ProofUnavailable) -> None:
        """Tell what is wrong, and bear it if that is what the operator wants.

        Raises:
            Lie, Unproven: the same, if not; or because a proof may still come.
        """
        enforced = self._mode == "enforce"
        if isinstance(error, IntegrityViolation):
            self._survey = None
            self._heads.drop_target()
            await self.alarms.violation(error, self._next)
        elif not error.certain:
            raise error
        else:
            self._refusals.reset()
            self._heads.drop_target()
            await self.alarms.no_proof(error, self._next)
        if enforced:
            error.problem += self.alarms.way_out(error, self._next)
            raise error
        self._frontier, self._sure = None, False
        self._heads.clear()
        self._refusals.back_off(self._clock())

    def _refuse_unknown(self, run: Sequence[Window]) -> None:
        """Without one of its leaves, nothing can be said of a tree."""
        for window in run:
            if (entry := unknown(window)) is not None:
                problem = (
                    f"the leaf of entry {entry.index} is not known ({entry.reason}); "
                    f"{self._log.skip_hint(entry.index + 1)}"
                )
                raise ProofUnavailable(self._log.name, self._log.base, problem, certain=True)

    async def _check_precerts(self, window: Window) -> None:
        """Reject submitted precertificates that are not those of their leaves.

        Only the leaf is in the tree. One that is forged, or of an odd encoding, is no reason to
        hold back what comes after it.
        """
        slices = self._slices
        slices.begin()
        for position, entry in enumerate(window.entries):
            if isinstance(entry, Rejected) or not entry.is_precert:
                continue
            if slices.over:
                await slices.wait()
            if len(entry.certificate) > MAX_BYTES:
                continue  # it is rejected for its size
            problem = f"entry {entry.index}: the leaf does not commit to this precertificate"
            try:
                if not await self._is_forged(entry):
                    continue
            except IncompleteChain as error:
                # A Precertificate Signing Certificate may have issued it: no lie is shown.
                problem = f"{problem}, as far as its chain is known: {error}"
            else:
                await self.alarms.violation(self._lie("forged_precert", problem), self._next)
            if self._mode == "enforce":
                rejected = Rejected(entry.index, problem, entry.certificate, entry.leaf)
                window.entries[position] = rejected
        slices.pause()

    async def _is_forged(self, entry: Entry) -> bool:
        """Whether a precertificate that could be published is not the one of its leaf.

        Raises:
            IncompleteChain: its issuer, which may make a difference, is not known.
        """
        if len(entry.certificate) <= LARGE:
            return _is_forged(entry, self._client.issuer_chain)
        return await self._slices.in_thread(_is_forged, entry, self._client.issuer_chain)

    async def _judge(self, head: TreeHead) -> None:
        if head != self._signed:
            check_signature(self._log, self._key, head)
            self._signed = head
        followed = self._heads.verified
        match self._heads.classify(head, self._clock()):
            case Conflicting(other):
                raise self._split(other, head)
            case Regressed(proven, rewound) if followed is not None:
                await self.alarms.stale()
                if not proven:
                    await self._confirm(head, followed)
                if rewound:
                    problem = (
                        f"newest tree head has {head.size} entries, {followed.size} were signed "
                        f"more than {self._log.mmd:g} s ago"
                    )
                    lie = self._lie("rewound", problem, followed, head)
                    await self.alarms.violation(lie, self._next)
            case Advanced() | Unchanged():
                await self.alarms.size_recovered()

    async def _confirm(self, older: TreeHead, followed: TreeHead) -> None:
        """Prove that an older tree head is consistent; a replica that is behind may not know."""
        match await check_split_view(self._client, older, followed):
            case True:
                raise self._split(older, followed)
            case False:
                self._heads.accept(older)

    async def _start(self, next_index: int, target: TreeHead) -> None:
        """Get the frontier from the proof of the last entry before it."""
        proof = await self._inclusion(
            f"no proof of entry {next_index - 1} to start from", next_index, target
        )
        try:
            self._frontier = Frontier.from_inclusion_proof(
                next_index, target.size, proof.leaf, proof.path, target.root
            )
        except BadProof as error:
            raise await self._disproved(target, "wrong_proof", str(error)) from error
        self._heads.accept(target)
        self._proven()

    async def _is_proven(
        self,
        frontier: Frontier,
        hashes: Sequence[Sequence[bytes]],
        run: Sequence[Window],
        target: TreeHead,
    ) -> bool:
        """Whether windows are proven; False if that takes reading on to the tree head."""
        if self._survey is None:
            try:
                await self._prove(grown(frontier, hashes), hashes[-1][-1], run, target)
            except ProofUnavailable as error:
                too_many = target.size - frontier.size > MOST
                if too_many or not error.certain or self._mode != "enforce":
                    raise
                self._survey, self._refusals.mute = TwoPassCheck(frontier, target), True
            else:
                return True
        survey = self._survey
        if survey.state == "right":
            for window, each in zip(run, hashes, strict=True):
                if (index := survey.mismatch(window.first, each)) is not None:
                    problem = f"entry {index} is another one than a moment ago"
                    raise self._lie("wrong_leaf", problem, target)
            return True
        for window, each in zip(run, hashes, strict=True):
            survey.read(window.first, each)
        if survey.state == "wrong":
            problem = f"entries {frontier.size} to {target.size - 1} do not lead to its root"
            raise await self._disproved(target, "root_mismatch", problem)
        return False

    async def _prove(
        self, frontier: Frontier, last: bytes, run: Sequence[Window], target: TreeHead
    ) -> None:
        what = f"entries {run[0].first} to {frontier.size - 1}"
        if frontier.size == target.size:
            if frontier.root() != target.root:
                kind = await self._mismatch(frontier.size, last, target)
                problem = f"{what} do not lead to the root of {target.size}{doubtful(run)}"
                raise await self._disproved(target, kind, problem)
            return
        unproven = f"{what}: no proof that the tree of {target.size} has them"
        proof = await self._inclusion(unproven, frontier.size, target, last)
        self._refusals.record()
        try:
            if joined(frontier, last, proof.leaf, proof.path, target):
                return
        except BadProof as error:
            raise await self._disproved(target, "wrong_proof", str(error)) from error
        problem = f"{what} are not those in the tree of {target.size}{doubtful(run)}"
        raise await self._disproved(target, "wrong_leaf", problem)

    async def _inclusion(
        self, problem: str, size: int, target: TreeHead, last: bytes | None = None
    ) -> Inclusion:
        """Ask for the proof of the last of so many leaves."""
        try:
            return await self._client.inclusion(size - 1, target.size, last)
        except LogError as error:
            problem = f"{problem} ({error.problem})"
            certain = self._refusals.accepted(error, self._clock())
            raise ProofUnavailable(
                self._log.name, error.url, problem, (target,), certain=certain
            ) from error

    async def _mismatch(self, size: int, last: bytes, target: TreeHead) -> ViolationKind:
        """Find out what is wrong if entries lead to another root: they are, if that has proofs."""
        try:
            shown = await self._client.inclusion(size - 1, target.size, last)
            Frontier.from_inclusion_proof(size, target.size, shown.leaf, shown.path, target.root)
        except (BadProof, LogError):
            return "root_mismatch"
        return "wrong_leaf"

    async def _disproved(
        self, target: TreeHead, kind: ViolationKind, problem: str
    ) -> IntegrityViolation:
        """Name a lie, unless it is that the tree head is not of the tree followed."""
        followed = self._heads.verified
        if followed is None or not 0 < followed.size < target.size:
            return self._lie(kind, problem, target)
        if await check_split_view(self._client, followed, target):
            return self._split(followed, target)
        return self._lie(kind, problem, followed, target)

    def _split(self, first: TreeHead, second: TreeHead) -> IntegrityViolation:
        problem = f"tree heads of {first.size} and {second.size} entries are not of one tree"
        return self._lie("split", problem, first, second)

    def _lie(self, kind: ViolationKind, problem: str, *heads: TreeHead) -> IntegrityViolation:
        return IntegrityViolation(self._log.name, self._log.base, kind, problem, heads)

    def _proven(self) -> None:
        self._sure = True
        self._refusals.proven()
        self.alarms.recovered()


def _is_forged(entry: Entry, resolve: Callable[[bytes], Sequence[bytes]]) -> bool:
    """Whether a precertificate that could be published is not the one of its leaf."""
    return not is_committed(entry, resolve) and _is_readable(entry.certificate)


def _is_readable(certificate: bytes) -> bool:
    """Whether it can be published at all; if not, it will be rejected for that."""
    try:
        CertificateReader().read(certificate)
    except Unreadable:
        return False
    return True
