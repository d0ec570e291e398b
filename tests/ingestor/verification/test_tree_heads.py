"""What a new tree head is to the one followed."""

from ctparse.tree_head import TreeHead
from ingestor.verification.tree_heads import Heads, Newer, Older, Same, Split

MMD = 60.0


def head(size: int, tree: int = 0) -> TreeHead:
    return TreeHead(size, 1_790_000_000_000, bytes([tree]) + size.to_bytes(31), b"")


def following(*sizes: int) -> Heads:
    heads = Heads(MMD)
    for size in sizes:
        heads.follow(head(size))
    return heads


def test_the_first_head_is_newer_than_nothing() -> None:
    assert Heads(MMD).receive(head(0), 0) == Newer()


def test_a_larger_head_is_not_followed_before_it_is_proven() -> None:
    heads = following(5)
    assert heads.receive(head(7), 0) == Newer()
    assert heads.followed == head(5)
    heads.follow(head(7))
    assert heads.followed == head(7)
    assert heads.receive(head(7), 0) == Same()


def test_another_root_for_the_same_size_is_a_split() -> None:
    assert following(5).receive(head(5, tree=1), 0) == Split(head(5))


def test_an_older_head_that_was_followed_is_only_older() -> None:
    heads = following(5, 7)
    assert heads.receive(head(5), 0) == Older(proven=True, rewound=False)
    assert heads.followed == head(7)


def test_an_older_head_with_another_root_is_a_split() -> None:
    assert following(5, 7).receive(head(5, tree=1), 0) == Split(head(5))


def test_an_unknown_older_head_has_to_be_proven_once() -> None:
    heads = following(5, 7)
    assert heads.receive(head(6), 0) == Older(proven=False, rewound=False)
    heads.follow(head(6))
    assert heads.followed == head(7)
    assert heads.receive(head(6), 0) == Older(proven=True, rewound=False)


def test_only_older_heads_for_longer_than_the_mmd_are_a_rewind() -> None:
    heads = following(5, 7)
    assert heads.receive(head(5), 100) == Older(proven=True, rewound=False)
    assert heads.receive(head(5), 100 + MMD) == Older(proven=True, rewound=False)
    assert heads.receive(head(5), 101 + MMD) == Older(proven=True, rewound=True)


def test_one_head_that_is_not_older_ends_a_rewind() -> None:
    heads = following(5, 7)
    heads.receive(head(5), 0)
    assert heads.receive(head(7), MMD) == Same()
    assert heads.receive(head(5), MMD + 1) == Older(proven=True, rewound=False)


def test_what_is_remembered_is_bounded() -> None:
    heads = following(*range(1, 1000))
    assert heads.receive(head(1, tree=1), 0) == Older(proven=False, rewound=False)


def test_one_head_is_pursued_however_many_newer_ones_are_shown() -> None:
    heads = following(5)
    assert heads.choose(head(7), known=5) == head(7)
    assert heads.choose(head(9), known=5) == head(7)
    assert heads.choose(head(9), known=7) == head(9)


def test_a_smaller_head_is_nearer() -> None:
    heads = following(5)
    heads.choose(head(9), known=5)
    assert heads.choose(head(7), known=5) == head(7)
    # But not one that adds nothing.
    assert heads.choose(head(5), known=5) == head(7)


def test_the_head_followed_comes_before_any_newer_one() -> None:
    heads = following(5, 7)
    assert heads.choose(head(9), known=6) == head(7)


def test_a_head_that_is_given_up_makes_way_for_the_newest() -> None:
    heads = following(5)
    heads.choose(head(7), known=5)
    heads.give_up()
    assert heads.choose(head(9), known=5) == head(9)


def test_two_roots_of_the_size_pursued_are_a_split() -> None:
    heads = following(5)
    heads.choose(head(7), known=5)
    assert heads.receive(head(7, tree=1), 0) == Split(head(7))
