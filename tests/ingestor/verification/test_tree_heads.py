"""What a new tree head is to the one followed."""

from ctparse.tree_head import TreeHead
from ingestor.verification.tree_heads import (
    Advanced,
    Conflicting,
    Regressed,
    TreeHeadTracker,
    Unchanged,
)

MMD = 60.0


def head(size: int, tree: int = 0) -> TreeHead:
    return TreeHead(size, 1_790_000_000_000, bytes([tree]) + size.to_bytes(31), b"")


def following(*sizes: int) -> TreeHeadTracker:
    heads = TreeHeadTracker(MMD)
    for size in sizes:
        heads.accept(head(size))
    return heads


def test_the_first_head_is_newer_than_nothing() -> None:
    assert TreeHeadTracker(MMD).classify(head(0), 0) == Advanced()


def test_a_larger_head_is_not_followed_before_it_is_proven() -> None:
    heads = following(5)
    assert heads.classify(head(7), 0) == Advanced()
    assert heads.verified == head(5)
    heads.accept(head(7))
    assert heads.verified == head(7)
    assert heads.classify(head(7), 0) == Unchanged()


def test_another_root_for_the_same_size_is_a_split() -> None:
    assert following(5).classify(head(5, tree=1), 0) == Conflicting(head(5))


def test_an_older_head_that_was_followed_is_only_older() -> None:
    heads = following(5, 7)
    assert heads.classify(head(5), 0) == Regressed(proven=True, exceeds_mmd=False)
    assert heads.verified == head(7)


def test_an_older_head_with_another_root_is_a_split() -> None:
    assert following(5, 7).classify(head(5, tree=1), 0) == Conflicting(head(5))


def test_an_unknown_older_head_has_to_be_proven_once() -> None:
    heads = following(5, 7)
    assert heads.classify(head(6), 0) == Regressed(proven=False, exceeds_mmd=False)
    heads.accept(head(6))
    assert heads.verified == head(7)
    assert heads.classify(head(6), 0) == Regressed(proven=True, exceeds_mmd=False)


def test_only_older_heads_for_longer_than_the_mmd_are_a_rewind() -> None:
    heads = following(5, 7)
    assert heads.classify(head(5), 100) == Regressed(proven=True, exceeds_mmd=False)
    assert heads.classify(head(5), 100 + MMD) == Regressed(proven=True, exceeds_mmd=False)
    assert heads.classify(head(5), 101 + MMD) == Regressed(proven=True, exceeds_mmd=True)


def test_one_head_that_is_not_older_ends_a_rewind() -> None:
    heads = following(5, 7)
    heads.classify(head(5), 0)
    assert heads.classify(head(7), MMD) == Unchanged()
    assert heads.classify(head(5), MMD + 1) == Regressed(proven=True, exceeds_mmd=False)


def test_what_is_remembered_is_bounded() -> None:
    heads = following(*range(1, 1000))
    assert heads.classify(head(1, tree=1), 0) == Regressed(proven=False, exceeds_mmd=False)


def test_one_head_is_pursued_however_many_newer_ones_are_shown() -> None:
    heads = following(5)
    assert heads.select_target(head(7), known=5) == head(7)
    assert heads.select_target(head(9), known=5) == head(7)
    assert heads.select_target(head(9), known=7) == head(9)


def test_a_smaller_head_is_nearer() -> None:
    heads = following(5)
    heads.select_target(head(9), known=5)
    assert heads.select_target(head(7), known=5) == head(7)
    # But not one that adds nothing.
    assert heads.select_target(head(5), known=5) == head(7)


def test_the_head_followed_comes_before_any_newer_one() -> None:
    heads = following(5, 7)
    assert heads.select_target(head(9), known=6) == head(7)


def test_a_dropped_target_is_replaced_by_the_newest_head() -> None:
    heads = following(5)
    heads.select_target(head(7), known=5)
    heads.drop_target()
    assert heads.select_target(head(9), known=5) == head(9)


def test_two_roots_of_the_size_pursued_are_a_split() -> None:
    heads = following(5)
    heads.select_target(head(7), known=5)
    assert heads.classify(head(7, tree=1), 0) == Conflicting(head(7))
