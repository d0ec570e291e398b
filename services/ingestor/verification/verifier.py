"""The verifier of one log: requests proofs and decides which entries may be published.

    enforce   unproven entries are withheld: an `IntegrityViolation` or `ProofUnavailable`, which
              the follower retries like any other error of the log
    warn      the same is reported and counted, and the entries are published
    off       nothing is verified

Only the operator selects the mode; no answer of a log changes it. A log whose key is unknown is
verified too: anyone may have made its tree heads, but its entries must lead to them.

A proof that the log refuses (404, 400) is requested again for the same tree head, before it is
reported: the replica may not have what another one has signed. `TwoPassCheck` verifies a log that
returns no proofs.
"""

import time
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise

from certbus.logs.tree_state import TreeStateStore
from certconf.settings import Integrity
from ctparse.merkle import BadProof, Frontier, verify_consistency
from ctparse.signatures import BadSignature, LogKey, verify_tree_head
from ctparse.tree_head import TreeHead
from ctparse.v2_message import Verification, Verified
from ingestor.client.errors import IntegrityViolation, LogError, ProofUnavailable, ViolationKind
from ingestor.client.interface import Inclusion, LogClient
from ingestor.cpu import Cpu
from ingestor.log import Log
from ingestor.redis_retry import RedisRetry
from ingestor.verification.alerts import IntegrityAlerts, State
from ingestor.verification.entry_proofs import (
    MAX_TWO_PASS_ENTRIES,
    TwoPassCheck,
    bare_leaf_hashes,
    describe_rejected,
    extended_frontiers,
    first_unparsed,
    leaf_hashes,
    verify_prefix_inclusion,
)
from ingestor.verification.missing_proofs import MissingProofPolicy
from ingestor.verification.precerts import PrecertCheck
from ingestor.verification.tree_heads import (
    Advanced,
    Conflicting,
    Regressed,
    TreeHeadTracker,
    Unchanged,
    check_signature,
    check_split_view,
)
from ingestor.window import VerifiedWindow, Window


class Verifier:
    """Verifies one log, while one worker follows it. Only the follower's task uses it.

    `mark_verified`, `load` and a failure in `warn` mode change which prefix of the log counts as
    proven; `verify` does not.

    Args:
        log: the log.
        client: reads it.
        key: verifies its tree heads; None if it is not known.
        mode: see above.
        tree_states: stores frontier and evidence.
        redis_retry: repeats Redis calls while Redis is away.
        min_refusal_secs: seconds for which the log must refuse proofs before that is accepted.
        cpu: shared by the logs of this process.
        clock: monotonic, seconds.

    Attributes:
        alerts: the integrity alerts of the log.
    """

    def __init__(
        self,
        log: Log,
        client: LogClient,
        key: LogKey | None,
        mode: Integrity,
        tree_states: TreeStateStore,
        redis_retry: RedisRetry,
        min_refusal_secs: float,
        cpu: Cpu | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.alerts = IntegrityAlerts(log, tree_states, redis_retry, enforced=mode == "enforce")
        self._log = log
        self._client = client
        self._key = key
        self._mode = mode
        self._tree_states = tree_states
        self._redis_retry = redis_retry
        self._clock = clock
        self._cpu = cpu or Cpu()
        self._precerts = PrecertCheck(client, self._cpu)
        self._heads = TreeHeadTracker(log.mmd)
        self._frontier: Frontier | None = None  # of all published entries, if they are proven
        self._two_pass: TwoPassCheck | None = None
        self._signed: TreeHead | None = None  # the last one whose signature was verified
        self._next = 0  # index of the next entry to publish
        self._withheld_at: int | None = None  # from where on a violation withholds entries
        self._unreachable = False  # whether the entries up to the target cannot be read
        self._is_proven = False  # whether the last published entries are proven
        # Whether the leaves of the tree lack the extensions of its tiles; None: not proven yet.
        self._bare_leaves: bool | None = None if log.is_hybrid else False
        self._missing = MissingProofPolicy(min_refusal_secs, enforced=mode == "enforce")

    @property
    def state(self) -> State:
        """What is proven of the log, as the cluster shows it."""
        if self._mode == "off":
            return "off"
        if self.alerts.violating:
            return "lying"
        if self.alerts.unproven or not self._is_proven:
            return "unproven"
        return "unsigned" if self._key is None else "proven"

    @property
    def is_blocking(self) -> bool:
        """Whether the entries of the log are withheld."""
        return self._mode == "enforce" and self.state in {"unproven", "lying"}

    def is_disputed(self, next_index: int) -> bool:
        """Return whether a violation withholds the entries from the next to publish on.

        The worker before may have found it.
        """
        return self._mode == "enforce" and self._withheld_at == next_index

    async def load(self, next_index: int) -> None:
        """Continue from the tree state in Redis."""
        if self._mode == "off":
            return
        stored = await self._redis_retry(self._tree_states.load, self._log.id, next_index)
        self._withheld_at = await self._redis_retry(self._tree_states.withheld_at, self._log.id)
        self._frontier = self._two_pass = None
        if self._log.is_hybrid:
            self._bare_leaves = await self._redis_retry(self._tree_states.bare_leaves, self._log.id)
        if stored is None:
            return
        self._frontier = stored.frontier
        if stored.tree_head is not None:
            self._heads.accept(stored.tree_head)
        if stored.below_for is not None:
            self._heads.restore_regressed_since(stored.below_for, self._clock())

    @property
    def reads_twice(self) -> bool:
        """Whether all entries up to the selected tree head must be read before any is proven."""
        return self._two_pass is not None

    def is_signed(self, head: TreeHead) -> bool:
        """Return whether the log has signed a tree head; True if that is not verified."""
        if self._mode == "off" or self._key is None or head == self._signed:
            return True
        try:
            verify_tree_head(self._key, head)
        except BadSignature:
            return False
        return True

    async def select_tree_head(self, head: TreeHead, next_index: int) -> TreeHead:
        """Return the tree head to read up to.

        Args:
            head: the newest that the log has shown.
            next_index: of the next entry to publish.

        Raises:
            IntegrityViolation, ProofUnavailable: nothing may be published.
        """
        if self._mode == "off":
            return head
        if self._frontier is None and next_index == 0:
            self._frontier = Frontier()
        if self._two_pass is not None and next_index >= self._two_pass.target.size:
            self._two_pass = None
        self._next = next_index
        try:
            await self._check_head(head)
            if self._unreachable:
                await self._replace_unreachable(head)
            if self._two_pass is not None:
                return self._two_pass.target
            starts = self._frontier is None
            target = self._heads.select_target(head, next_index - starts)
            if starts and next_index <= target.size and self._missing.can_request(self._clock()):
                await self._start(next_index, target)
            if self._frontier is None and self._mode == "warn":
                return head  # nothing is proven for now: read all entries
        except (IntegrityViolation, ProofUnavailable) as error:
            await self._handle_failure(error)
            return head
        return target

    async def compare(self, head: TreeHead, next_index: int) -> None:
        """Compare a tree head that is selected later, or never, with the others of its size.

        Args:
            head: signed by the log.
            next_index: of the next entry to publish.

        Raises:
            IntegrityViolation: the log has shown another root for this size.
        """
        if self._mode == "off":
            return
        self._next = next_index
        if (conflict := self._heads.conflict(head)) is not None:
            await self._handle_failure(self._split_view(conflict.other, head))

    async def prove_start(self, next_index: int, head: TreeHead) -> Frontier | None:
        """Return the frontier of the leaves before an entry, proven in a tree.

        The tree must continue the verified one. In `warn` mode a missing proof is accepted.

        Args:
            next_index: the entry, above 0.
            head: of the tree, signed by the log.

        Returns:
            The frontier; None if the entries are published unproven.

        Raises:
            IntegrityViolation: the log contradicts what it signed before.
            ProofUnavailable: there is no proof.
        """
        if self._mode == "off":
            return None
        try:
            await self._check_continues(head)
            return await self._frontier_before(next_index, head)
        except ProofUnavailable:
            if self._mode == "enforce":
                raise
            return None

    async def verify(self, run: Sequence[Window], head: TreeHead) -> list[VerifiedWindow]:
        """Verify consecutive windows, the first of which begins where the frontier ends.

        The frontier stays as it is until `mark_verified`.

        Args:
            run: the windows.
            head: what `select_tree_head` returned.

        Returns:
            The windows to publish, in order. In `warn` mode they may be unproven. Empty if the
            entries up to `head` must be read before any is proven: read them, then read again.

        Raises:
            IntegrityViolation: the entries are not in the tree.
            ProofUnavailable: there is no proof that they are.
        """
        frontier = self._frontier
        self._next = run[0].first
        if self._mode == "off" or frontier is None:
            return self._unproven(run, head, "unverified")
        try:
            self._check_leaves_known(run)
            proven = await self._prove_either_form(run, frontier, head)
        except (IntegrityViolation, ProofUnavailable) as error:
            await self._handle_failure(error)
            contradicted = isinstance(error, IntegrityViolation)
            return self._unproven(run, head, "failed" if contradicted else "unverified")
        if proven is None:
            return []
        hashes, frontiers = proven
        self._note_proof()
        verified: list[VerifiedWindow] = []
        for window, leaves, ends in zip(run, hashes, pairwise(frontiers), strict=True):
            verified += await self._check_precerts(window, head, leaves, ends)
        return verified

    def _signature(self, head: TreeHead) -> Verified:
        """Return whether the signature of a tree head was verified."""
        if self._mode == "off" or self._key is None:
            return "unverified"
        return "verified" if self.is_signed(head) else "failed"

    def _unproven(
        self, run: Sequence[Window], head: TreeHead, inclusion: Verified
    ) -> list[VerifiedWindow]:
        """Return windows that are published without a proof."""
        verification = Verification(self._signature(head), inclusion)
        return [
            VerifiedWindow(window.first, window.entries, head, verification=verification)
            for window in run
        ]

    def mark_verified(self, window: VerifiedWindow) -> None:
        """Advance the frontier: Redis has the window and its `frontier_after`."""
        if window.frontier_after is None:
            return
        self._frontier = window.frontier_after
        self._heads.accept(window.tree_head)
        self._is_proven = True

    def mark_caught_up(self) -> None:
        """Note that all entries up to the selected tree head are published."""
        if self._frontier is not None:
            self._is_proven = True
            self._note_proof()

    def mark_unreachable(self) -> None:
        """Drop the target, whose entries cannot all be read, for the newest tree head."""
        self._unreachable = True
        self._two_pass = None
        self._heads.drop_target()

    async def _replace_unreachable(self, head: TreeHead) -> None:
        """Accept a larger tree head before the verified one is reached, if it continues that.

        Raises:
            IntegrityViolation: it does not.
        """
        verified = self._heads.verified
        if verified is not None and self._next < verified.size < head.size:
            match await check_split_view(self._client, verified, head):
                case True:
                    raise self._split_view(verified, head)
                case None:
                    return
            self._heads.accept(head)
        if verified is None or verified.size <= head.size:
            self._unreachable = False

    async def _handle_failure(self, error: IntegrityViolation | ProofUnavailable) -> None:
        """Report a failure; in `warn` mode, continue without a frontier.

        Raises:
            IntegrityViolation, ProofUnavailable: the same, in `enforce` mode or if a proof may
                still be returned.
        """
        if isinstance(error, IntegrityViolation):
            self._two_pass = None
        elif not error.certain:
            raise error
        else:
            self._missing.reset()
        self._heads.drop_target()
        await self.alerts.report(error, self._next)
        if self._mode == "enforce":
            if isinstance(error, IntegrityViolation):
                await self._record_dispute(error)
            error.problem += self.alerts.way_out(error, self._next)
            raise error
        self._frontier, self._is_proven = None, False
        self._heads.clear()
        self._missing.back_off(self._clock())

    async def _record_dispute(self, error: IntegrityViolation) -> None:
        """Store from which entry on a violation withholds entries, if it concerns entries."""
        # Entries may be read for the first of two times.
        first = self._next if self._frontier is None else self._frontier.size
        if error.kind != "bad_signature" and first != self._withheld_at:
            self._withheld_at = first
            await self._redis_retry(self._tree_states.store_withheld_at, self._log.id, first)

    def _check_leaves_known(self, run: Sequence[Window]) -> None:
        """Raise ProofUnavailable for an entry whose leaf is unknown: no tree can contain it."""
        for window in run:
            if (entry := first_unparsed(window)) is not None:
                problem = (
                    f"the leaf of entry {entry.index} is not known ({entry.reason}); "
                    f"{self._log.skip_hint(entry.index + 1)}"
                )
                raise ProofUnavailable(self._log.name, self._log.base, problem, certain=True)

    async def _check_precerts(
        self,
        window: Window,
        head: TreeHead,
        leaves: Sequence[bytes],
        frontiers: tuple[Frontier, Frontier],
    ) -> list[VerifiedWindow]:
        """Report forged precertificates; return a window whose leaves are proven.

        Forged precertificates do not delay the entries after them. In `enforce` mode they are
        rejected. In `warn` mode the window is split, so that each part has one `Verification`.

        Args:
            window: the window.
            head: of the tree that has the leaves.
            leaves: hash of each entry's leaf.
            frontiers: of all leaves before the window, and up to its end.
        """
        before, last = frontiers
        entries = window.entries.copy()
        inclusion: list[Verified] = ["verified"] * len(entries)
        for each in await self._precerts.mismatches(entries):
            if each.is_certain:
                violation = self._violation("forged_precert", each.rejected.reason)
                await self.alerts.report(violation, self._next)
            if self._mode == "enforce":
                entries[each.position] = each.rejected
            else:
                inclusion[each.position] = "failed" if each.is_certain else "unverified"
        signature, parts, start = self._signature(head), list[VerifiedWindow](), 0
        for included, same in groupby(inclusion):
            end = start + len(list(same))
            own = leaves[start:end]
            after = last if end == len(entries) else extended_frontiers(before, [own])[0]
            verification = Verification(signature, included)
            parts.append(
                VerifiedWindow(
                    window.first + start, entries[start:end], head, own, before, after, verification
                )
            )
            start, before = end, after
        return parts

    async def _check_head(self, head: TreeHead) -> None:
        """Verify the signature of a tree head and relate it to the verified one."""
        if head != self._signed:
            check_signature(self._log, self._key, head)
            self._signed = head
        verified = self._heads.verified
        match self._heads.classify(head, self._clock()):
            case Conflicting(other):
                raise self._split_view(other, head)
            case Regressed(proven, exceeds_mmd) if verified is not None:
                await self.alerts.stale()
                if not proven:
                    await self._check_consistency(head, verified)
                if exceeds_mmd:
                    problem = (
                        f"newest tree head has {head.size} entries, {verified.size} were signed "
                        f"more than {self._log.mmd:g} s ago"
                    )
                    violation = self._violation("rewound", problem, verified, head)
                    await self.alerts.report(violation, self._next)
            case Advanced() | Unchanged():
                await self.alerts.size_recovered()

    async def _check_consistency(self, older: TreeHead, verified: TreeHead) -> None:
        """Prove that an older tree head is consistent; a replica that is behind may not know."""
        match await check_split_view(self._client, older, verified):
            case True:
                raise self._split_view(older, verified)
            case False:
                self._heads.accept(older)

    async def _start(self, next_index: int, target: TreeHead) -> None:
        """Derive the frontier from the inclusion proof of the last entry before it."""
        self._frontier = await self._frontier_before(next_index, target)
        self._heads.accept(target)
        self._is_proven = True
        self._note_proof()

    async def _frontier_before(self, next_index: int, target: TreeHead) -> Frontier:
        """Return the frontier of all leaves before an entry, from the proof of the last of them."""
        proof = await self._inclusion(
            f"no proof of entry {next_index - 1} to start from", next_index, target
        )
        try:
            return Frontier.from_inclusion_proof(
                next_index, target.size, proof.leaf, proof.path, target.root
            )
        except BadProof as error:
            raise await self._disproved(target, "wrong_proof", str(error)) from error

    async def _check_continues(self, head: TreeHead) -> None:
        """Prove that a tree is the verified one, or continues it.

        Raises:
            IntegrityViolation: it does not.
            ProofUnavailable: it is smaller, or there is no proof.
        """
        verified = self._heads.verified
        if verified is None or not verified.size:
            return
        if (verified.size, verified.root) == (head.size, head.root):
            return
        if verified.size < head.size:
            is_split = await check_split_view(self._client, verified, head)
            if is_split:
                raise self._split_view(verified, head)
            if is_split is False:
                return
        problem = f"no proof that the tree of {head.size} continues that of {verified.size}"
        raise ProofUnavailable(
            self._log.name, self._log.base, problem, (verified, head), certain=False
        )

    async def _prove_either_form(
        self, run: Sequence[Window], frontier: Frontier, head: TreeHead
    ) -> tuple[Sequence[Sequence[bytes]], Sequence[Frontier]] | None:
        """Prove windows with their leaves as served; of a hybrid log, else without extensions.

        The form that was proven last comes first; Redis remembers it. A two-pass check keeps to one
        form, and begins only once a form was proven.

        Returns:
            The leaf hashes of each window, and the frontiers before the first and after each; None
            if all entries up to `head` must be read first.
        """
        forms = [bool(self._bare_leaves)]
        if self._log.is_hybrid and self._two_pass is None:
            forms.append(not forms[0])
        failure: IntegrityViolation | ProofUnavailable | None = None
        for bare in forms:
            hashes = [await self._leaf_hashes(window, bare=bare) for window in run]
            frontiers = [frontier, *extended_frontiers(frontier, hashes)]
            try:
                if not await self._prove(
                    run, hashes, frontiers, head, may_read_twice=bare is self._bare_leaves
                ):
                    return None
            except (IntegrityViolation, ProofUnavailable) as error:
                # What is open for one form is open: that one may be the right one.
                failure = error if failure is None else min(failure, error, key=_certainty)
            else:
                if self._bare_leaves is not bare:
                    self._bare_leaves = bare
                    record = self._tree_states.record_bare_leaves
                    await self._redis_retry(record, self._log.id, bare)
                return hashes, frontiers
        assert failure is not None
        raise failure

    async def _leaf_hashes(self, window: Window, *, bare: bool) -> Sequence[bytes]:
        size = sum([len(entry.leaf) for entry in window.entries])
        return await self._cpu.run(size, bare_leaf_hashes if bare else leaf_hashes, window.entries)

    async def _prove(
        self,
        run: Sequence[Window],
        hashes: Sequence[Sequence[bytes]],
        frontiers: Sequence[Frontier],
        target: TreeHead,
        *,
        may_read_twice: bool,
    ) -> bool:
        """Return whether windows are proven; False if that takes reading up to the tree head."""
        before, after = frontiers[0], frontiers[-1]
        if self._two_pass is None:
            try:
                await self._prove_prefix(run, after, hashes[-1][-1], target)
            except ProofUnavailable as error:
                too_many = target.size - before.size > MAX_TWO_PASS_ENTRIES
                can_read_twice = may_read_twice and not too_many and self._mode == "enforce"
                if not (error.certain and can_read_twice):
                    raise
                self._two_pass, self._missing.mute = TwoPassCheck(before, target), True
            else:
                return True
        check = self._two_pass
        if check.state == "right":
            for window, each in zip(run, hashes, strict=True):
                if (index := check.mismatch(window.first, each)) is not None:
                    problem = f"entry {index} differs from the one returned before"
                    raise self._violation("wrong_leaf", problem, target)
            return True
        for window, each in zip(run, hashes, strict=True):
            check.read(window.first, each)
        if check.state == "wrong":
            problem = f"entries {before.size} to {target.size - 1} do not lead to its root"
            raise await self._disproved(target, "root_mismatch", problem)
        return False

    async def _prove_prefix(
        self, run: Sequence[Window], frontier: Frontier, last: bytes, target: TreeHead
    ) -> None:
        """Prove that the leaves of a frontier, the last of which is `last`, are in a tree."""
        entries = f"entries {run[0].first} to {frontier.size - 1}"
        if frontier.size == target.size:
            if frontier.root() != target.root:
                kind = await self._mismatch(frontier.size, last, target)
                rejected = describe_rejected(run)
                problem = f"{entries} do not lead to the root of {target.size}{rejected}"
                raise await self._disproved(target, kind, problem)
            return
        if await self._is_continued(frontier, target):
            return
        problem = f"{entries}: no proof that the tree of {target.size} has them"
        proof = await self._inclusion(problem, frontier.size, target, last)
        self._missing.record()
        try:
            if verify_prefix_inclusion(frontier, last, proof.leaf, proof.path, target):
                return
        except BadProof as error:
            raise await self._disproved(target, "wrong_proof", str(error)) from error
        problem = f"{entries} are not those in the tree of {target.size}{describe_rejected(run)}"
        raise await self._disproved(target, "wrong_leaf", problem)

    async def _is_continued(self, frontier: Frontier, target: TreeHead) -> bool:
        """Return whether a consistency proof shows that a tree continues that of a frontier.

        Of a log with hash tiles, and for whole tiles: the proof takes only the upper hash tiles
        and the last one, which proofs of earlier runs share. An inclusion proof takes one more.
        """
        tile = self._client.tile
        if tile is None or not self._client.has_partial_tiles or frontier.size % tile:
            return False
        try:
            proof = await self._client.consistency(frontier.size, target.size)
            verify_consistency(frontier.size, target.size, frontier.root(), target.root, proof)
        except (BadProof, LogError):
            return False  # the inclusion proof shows why
        self._missing.record()
        return True

    async def _inclusion(
        self, problem: str, size: int, target: TreeHead, last: bytes | None = None
    ) -> Inclusion:
        """Request the inclusion proof of leaf `size - 1`."""
        try:
            return await self._client.inclusion(size - 1, target.size, last)
        except LogError as error:
            problem = f"{problem} ({error.problem})"
            certain = self._missing.accepted(error, self._clock())
            raise ProofUnavailable(
                self._log.name, error.url, problem, (target,), certain=certain
            ) from error

    async def _mismatch(self, size: int, last: bytes, target: TreeHead) -> ViolationKind:
        """Return what is wrong if entries lead to another root: entries or tree head.

        The entries are wrong if an inclusion proof leads to the root of the tree head.
        """
        try:
            proof = await self._client.inclusion(size - 1, target.size, last)
            Frontier.from_inclusion_proof(size, target.size, proof.leaf, proof.path, target.root)
        except (BadProof, LogError):
            return "root_mismatch"
        return "wrong_leaf"

    async def _disproved(
        self, target: TreeHead, kind: ViolationKind, problem: str
    ) -> IntegrityViolation:
        """Return a violation: a split view if the target does not continue the verified head."""
        verified = self._heads.verified
        if verified is None or not 0 < verified.size < target.size:
            return self._violation(kind, problem, target)
        if await check_split_view(self._client, verified, target):
            return self._split_view(verified, target)
        return self._violation(kind, problem, verified, target)

    def _split_view(self, first: TreeHead, second: TreeHead) -> IntegrityViolation:
        problem = f"tree heads of {first.size} and {second.size} entries are not of one tree"
        return self._violation("split", problem, first, second)

    def _violation(self, kind: ViolationKind, problem: str, *heads: TreeHead) -> IntegrityViolation:
        return IntegrityViolation(self._log.name, self._log.base, kind, problem, heads)

    def _note_proof(self) -> None:
        self._missing.proven()
        self.alerts.recovered()


def _certainty(error: IntegrityViolation | ProofUnavailable) -> int:
    """Return how certain it is that entries are not in a tree, as a rank."""
    return 2 if isinstance(error, IntegrityViolation) else int(error.certain)
