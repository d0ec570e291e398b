"""A log without proofs, read twice."""

from hashlib import sha256

import pytest

from ctparse.merkle import Frontier
from ctparse.tree_head import TreeHead
from ingestor.verification.entry_proofs import TwoPassCheck

LEAVES = [sha256(bytes([n])).digest() for n in range(20)]
START = 4


def frontier(size: int) -> Frontier:
    made = Frontier()
    made.extend(LEAVES[:size])
    return made


def head(size: int) -> TreeHead:
    return TreeHead(size, 0, frontier(size).root(), b"")


@pytest.fixture
def survey() -> TwoPassCheck:
    return TwoPassCheck(frontier(START), head(20))


def test_it_is_right_if_all_leaves_lead_to_the_root(survey: TwoPassCheck) -> None:
    survey.read(4, LEAVES[4:12])
    states = [survey.state]
    survey.read(12, LEAVES[12:])
    states.append(survey.state)
    assert states == ["open", "right"]
    assert survey.mismatch(4, LEAVES[4:]) is None


def test_one_other_leaf_is_wrong(survey: TwoPassCheck) -> None:
    survey.read(4, [*LEAVES[4:7], LEAVES[0], *LEAVES[8:]])
    assert survey.state == "wrong"


def test_what_was_seen_before_an_interruption_counts_once(survey: TwoPassCheck) -> None:
    survey.read(4, LEAVES[4:12])
    for again in range(4, 20, 4):
        survey.read(again, LEAVES[again : again + 4])
    assert survey.state == "right"


def test_leaves_after_a_gap_are_refused(survey: TwoPassCheck) -> None:
    with pytest.raises(ValueError, match="leaf 5 does not follow leaf 3"):
        survey.read(5, LEAVES[5:])
    assert survey.state == "open"


def test_the_second_time_each_leaf_has_to_be_what_it_was(survey: TwoPassCheck) -> None:
    survey.read(4, LEAVES[4:])
    assert survey.mismatch(8, LEAVES[8:12]) is None
    assert survey.mismatch(8, [*LEAVES[8:10], LEAVES[0], LEAVES[11]]) == 10


def test_the_frontier_it_began_with_does_not_grow() -> None:
    begun = frontier(START)
    TwoPassCheck(begun, head(20)).read(4, LEAVES[4:])
    assert begun.size == START
