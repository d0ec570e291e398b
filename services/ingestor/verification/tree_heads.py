"""The tree heads of one log: which one is verified, how a new one relates to it, which to reach.

    larger             Advanced      verified once it is proven to continue the verified one
    equal              Unchanged
    only equal size    Conflicting   two roots for one size: a split view
    smaller            Regressed     a replica that is behind, unless disproved; if it lasts longer
                                     than the MMD, the log has rewound

`TreeHeadTracker` does no I/O. It accepts only proven heads, so the verified one is never larger
than the one growing tree that the log has shown. It remembers recently proven heads: a replica that
is behind mostly shows one of these, which then needs no proof.

Behind a load balancer, the next replica often does not know the newest head: it has neither the
newest entries nor proofs for them. So the tracker keeps one target until it is reached, however
many newer heads are shown. It replaces the target only by a smaller one, which more replicas know.

`check_split_view` requests the proofs that relate two tree heads.
"""

from collections import OrderedDict

import msgspec

from ctparse.merkle import BadProof, Frontier, verify_consistency
from ctparse.signatures import BadSignature, LogKey, verify_tree_head
from ctparse.tree_head import TreeHead
from ingestor.client.errors import IntegrityViolation, LogError
from ingestor.client.interface import LogClient
from ingestor.log import Log

_MAX_REMEMBERED = 256


class Advanced(msgspec.Struct, frozen=True):
    """It has more leaves than the verified one, or is the first."""


class Unchanged(msgspec.Struct, frozen=True):
    """It has the size and the root of the verified one."""


class Conflicting(msgspec.Struct, frozen=True):
    """It has the size of another head that the log has signed, and another root.

    Attributes:
        other: that one.
    """

    other: TreeHead


class Regressed(msgspec.Struct, frozen=True):
    """It has fewer leaves than the verified one.

    Attributes:
        proven: whether it is known to be consistent with the verified one.
        exceeds_mmd: whether the log has shown only smaller heads for longer than its MMD.
    """

    proven: bool
    exceeds_mmd: bool


Verdict = Advanced | Unchanged | Conflicting | Regressed


class TreeHeadTracker:
    """Classifies the tree heads of one log and selects the one to reach.

    Args:
        mmd: the log's maximum merge delay, seconds.

    Attributes:
        verified: the largest tree head that is proven.
    """

    def __init__(self, mmd: float) -> None:
        self.verified: TreeHead | None = None
        self._mmd = mmd
        self._target: TreeHead | None = None
        self._proven: OrderedDict[int, TreeHead] = OrderedDict()
        self._shown: OrderedDict[int, TreeHead] = OrderedDict()  # newest last, proven or not
        self._below_since: float | None = None

    def restore_regressed_since(self, seconds: float, now: float) -> None:
        """Note that the log has shown only smaller heads for `seconds` until `now`."""
        self._below_since = now - seconds

    def classify(self, head: TreeHead, now: float) -> Verdict:
        """Relate a tree head that the log has shown to the verified one.

        Args:
            head: its signature is verified, if the log's key is known.
            now: seconds of a monotonic clock.
        """
        if (conflict := self.conflict(head)) is not None:
            return conflict
        verified = self.verified
        if verified is not None and head.size < verified.size:
            return self._regressed(head, now)
        self._below_since = None
        if verified is None or head.size > verified.size:
            return Advanced()
        return Unchanged()

    def conflict(self, head: TreeHead) -> Conflicting | None:
        """Compare a tree head with those of its size that the log has shown, and remember it.

        After a conflict the unproven one is forgotten: entries decide which of the two is right.
        """
        shown = self._shown.pop(head.size, None)
        for other in (self.verified, self._target, self._proven.get(head.size), shown):
            if other is not None and other.size == head.size and other.root != head.root:
                return Conflicting(other)
        self._shown[head.size] = head
        if len(self._shown) > _MAX_REMEMBERED:
            self._shown.popitem(last=False)
        return None

    def select_target(self, head: TreeHead, known: int) -> TreeHead:
        """Return the tree head to reach.

        Args:
            head: the newest from the log, with a verdict that is no violation.
            known: leaves that need no proof any more.
        """
        verified, target = self.verified, self._target
        if verified is not None and known < verified.size:
            # The frontier proves a larger tree only from where the verified one ends.
            return verified
        if target is None or target.size <= known or known < head.size < target.size:
            target = head if verified is None or head.size >= verified.size else verified
        self._target = target
        return target

    def drop_target(self) -> None:
        """Drop the target; the next selection takes the newest head."""
        self._target = None

    def accept(self, head: TreeHead) -> None:
        """Note that a tree head is proven; the largest proven one is the verified one."""
        if self.verified is None or head.size > self.verified.size:
            self.verified = head
        self._proven[head.size] = head
        if len(self._proven) > _MAX_REMEMBERED:
            self._proven.popitem(last=False)

    def clear(self) -> None:
        """Forget all heads, after a violation that the operator only wants reported."""
        self.verified = self._target = None
        self._proven.clear()
        self._shown.clear()

    def _regressed(self, head: TreeHead, now: float) -> Regressed:
        if self._below_since is None:
            self._below_since = now
        known = head.size == 0 or head.size in self._proven
        return Regressed(known, now - self._below_since > self._mmd)


def check_signature(log: Log, key: LogKey | None, head: TreeHead) -> None:
    """Verify the signature of a tree head; without a key, do nothing.

    Raises:
        IntegrityViolation: the log did not sign it.
    """
    if key is None:
        return
    try:
        verify_tree_head(key, head)
    except BadSignature as error:
        raise IntegrityViolation(
            log.name, log.base, "bad_signature", str(error), (head,)
        ) from error


async def check_split_view(client: LogClient, smaller: TreeHead, larger: TreeHead) -> bool | None:
    """Return whether two tree heads contradict each other, by what the log itself proves.

    A consistency proof that does not verify leaves open what is wrong: the proof, or one of the
    heads. So the log must prove the contradiction: the inclusion proof of the smaller tree's last
    leaf, if it leads to the larger tree's root, shows the root that the smaller tree should have.

    Args:
        client: reads the log.
        smaller: with at least one leaf.
        larger: with more.

    Returns:
        True if the log proves that the larger tree does not continue the smaller one, False if it
        proves that it does, None if its answers prove neither.
    """
    try:
        proof = await client.consistency(smaller.size, larger.size)
        verify_consistency(smaller.size, larger.size, smaller.root, larger.root, proof)
    except BadProof:
        return await _begins_with_another_tree(client, smaller, larger)
    except LogError:
        return None
    return False


async def _begins_with_another_tree(
    client: LogClient, smaller: TreeHead, larger: TreeHead
) -> bool | None:
    try:
        proof = await client.inclusion(smaller.size - 1, larger.size)
        beginning = Frontier.from_inclusion_proof(
            smaller.size, larger.size, proof.leaf, proof.path, larger.root
        )
    except (BadProof, LogError):
        return None
    return beginning.root() != smaller.root
