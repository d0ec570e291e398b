"""The tree head followed, and what a new one is to it. Pure: no I/O, no clock.

    larger            Newer    to be followed once it is proven to continue the one followed
    equal             Same
    equal size only   Split    two roots for one tree: the log shows different trees
    smaller           Older    by a replica that is behind, unless it is disproved; when nothing
                               newer is seen for longer than the MMD, the log has rewound

A head is followed only when it is proven, so the one followed is never larger than what the log has
shown to be one growing tree. Heads proven lately are remembered: a replica that is behind shows one
of these, mostly, and costs no proof.
"""

from collections import OrderedDict

import msgspec

from ctparse.treehead import TreeHead

_REMEMBERED = 256


class Newer(msgspec.Struct, frozen=True):
    """It has more leaves than the one followed, or is the first."""


class Same(msgspec.Struct, frozen=True):
    """It is about the tree that is followed."""


class Split(msgspec.Struct, frozen=True):
    """It contradicts the one followed."""


class Older(msgspec.Struct, frozen=True):
    """It has fewer leaves than the one followed.

    Attributes:
        proven: whether it is known to be consistent with that.
        rewound: whether the log has shown nothing newer for longer than its MMD.
    """

    proven: bool
    rewound: bool


Verdict = Newer | Same | Split | Older


class Heads:
    """Judges the tree heads of one log.

    Args:
        mmd: the log's maximum merge delay, seconds.

    Attributes:
        followed: the largest tree head that is proven.
    """

    def __init__(self, mmd: float) -> None:
        self.followed: TreeHead | None = None
        self._mmd = mmd
        self._proven: OrderedDict[int, bytes] = OrderedDict()  # size -> root
        self._below_since: float | None = None

    def receive(self, head: TreeHead, now: float) -> Verdict:
        """Judge a tree head that the log has shown.

        Args:
            head: with a signature that was verified, if the log's key is known.
            now: seconds, of a clock that only goes on.
        """
        followed = self.followed
        if followed is not None and head.size < followed.size:
            return self._older(head, now)
        self._below_since = None
        if followed is None or head.size > followed.size:
            return Newer()
        return Same() if head.root == followed.root else Split()

    def follow(self, head: TreeHead) -> None:
        """A tree head has been proven: follow it, unless a larger one is followed."""
        if self.followed is None or head.size > self.followed.size:
            self.followed = head
        self._proven[head.size] = head.root
        if len(self._proven) > _REMEMBERED:
            self._proven.popitem(last=False)

    def forget(self) -> None:
        """Begin anew, after a lie that the operator only wants to be told of."""
        self.followed = None
        self._proven.clear()

    def _older(self, head: TreeHead, now: float) -> Verdict:
        if self._below_since is None:
            self._below_since = now
        known = self._proven.get(head.size)
        if known is not None and known != head.root:
            return Split()
        return Older(known is not None or head.size == 0, now - self._below_since > self._mmd)
