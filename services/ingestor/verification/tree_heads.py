"""The tree head followed, what a new one is to it, and which to catch up with. Pure.

    larger            Newer    to be followed once it is proven to continue the one followed
    equal             Same
    equal size only   Split    two roots for one tree: the log shows different trees
    smaller           Older    by a replica that is behind, unless it is disproved; when nothing
                               newer is seen for longer than the MMD, the log has rewound

A head is followed only when it is proven, so the one followed is never larger than what the log has
shown to be one growing tree. Heads proven lately are remembered: a replica that is behind shows one
of these, mostly, and costs no proof.

Behind a balancer the newest head is often one that the replica asked next does not know: it has
neither the newest entries nor proofs of them. Running after whatever is newest might then never
succeed. So one head is pursued until it is reached, however many newer ones are shown meanwhile,
and given up only for a smaller one, which more replicas know.
"""

from collections import OrderedDict

import msgspec

from ctparse.tree_head import TreeHead

_REMEMBERED = 256


class Advanced(msgspec.Struct, frozen=True):
    """It has more leaves than the one followed, or is the first."""


class Unchanged(msgspec.Struct, frozen=True):
    """It is about the tree that is followed."""


class Conflicting(msgspec.Struct, frozen=True):
    """It contradicts another one that the log has signed.

    Attributes:
        other: that one.
    """

    other: TreeHead


class Regressed(msgspec.Struct, frozen=True):
    """It has fewer leaves than the one followed.

    Attributes:
        proven: whether it is known to be consistent with that.
        rewound: whether the log has shown nothing newer for longer than its MMD.
    """

    proven: bool
    exceeds_mmd: bool


Verdict = Advanced | Unchanged | Conflicting | Regressed


class TreeHeadTracker:
    """Judges the tree heads of one log, and chooses among them.

    Args:
        mmd: the log's maximum merge delay, seconds.

    Attributes:
        followed: the largest tree head that is proven.
    """

    def __init__(self, mmd: float) -> None:
        self.verified: TreeHead | None = None
        self._mmd = mmd
        self._target: TreeHead | None = None
        self._proven: OrderedDict[int, TreeHead] = OrderedDict()
        self._below_since: float | None = None

    def restore_regressed_since(self, seconds: float, now: float) -> None:
        """For so long, until now, the log has shown smaller heads than the one followed only."""
        self._below_since = now - seconds

    def classify(self, head: TreeHead, now: float) -> Verdict:
        """Judge a tree head that the log has shown.

        Args:
            head: with a signature that was verified, if the log's key is known.
            now: seconds, of a clock that only goes on.
        """
        for other in (self.verified, self._target, self._proven.get(head.size)):
            if other is not None and other.size == head.size and other.root != head.root:
                return Conflicting(other)
        followed = self.verified
        if followed is not None and head.size < followed.size:
            return self._older(head, now)
        self._below_since = None
        if followed is None or head.size > followed.size:
            return Advanced()
        return Unchanged()

    def select_target(self, head: TreeHead, known: int) -> TreeHead:
        """Choose the tree to catch up with.

        Args:
            head: what the log has just shown, judged to be no lie.
            known: leaves that need no proof any more.
        """
        followed, pursued = self.verified, self._target
        if followed is not None and known < followed.size:
            # The frontier proves a larger tree only from where the one followed ends.
            return followed
        if pursued is None or pursued.size <= known or known < head.size < pursued.size:
            pursued = head if followed is None or head.size >= followed.size else followed
        self._target = pursued
        return pursued

    def drop_target(self) -> None:
        """Pursue another head than until now: the newest, when one is chosen next."""
        self._target = None

    def accept(self, head: TreeHead) -> None:
        """A tree head has been proven: follow it, unless a larger one is followed."""
        if self.verified is None or head.size > self.verified.size:
            self.verified = head
        self._proven[head.size] = head
        if len(self._proven) > _REMEMBERED:
            self._proven.popitem(last=False)

    def clear(self) -> None:
        """Begin anew, after a lie that the operator only wants to be told of."""
        self.verified = self._target = None
        self._proven.clear()

    def _older(self, head: TreeHead, now: float) -> Regressed:
        if self._below_since is None:
            self._below_since = now
        known = head.size == 0 or head.size in self._proven
        return Regressed(known, now - self._below_since > self._mmd)
