"""Tree heads, starts in the middle, stored state and hybrid logs, of the verifier of one log."""

from collections.abc import Sequence
from typing import Literal

import pytest
from msgspec.structs import replace

from certbus.logs.tree_state import TreeState
from certconf.settings import Integrity
from ctparse.entry import Entry, Rejected
from ctparse.merkle import Frontier
from ingestor.client.errors import (
    IntegrityViolation,
    ProofUnavailable,
)
from ingestor.verification.precerts import Mismatch
from ingestor.window import Window
from simlog.ctlog.tree import leaf_hash
from tests.ingestor.verification.memory_log import (
    MMD,
    NOT_FOUND,
    Checked,
    MemoryLog,
    entry,
    leaf,
    window,
)


@pytest.fixture
def checked() -> Checked:
    return Checked()


async def test_a_start_in_the_middle_takes_the_proof_of_the_entry_before(checked: Checked) -> None:
    head = checked.log.head(20)
    assert await checked.verifier.select_tree_head(head, 6) == head
    assert checked.log.calls == [("inclusion", 5, 20)]
    assert checked.state() == "proven"
    await checked.publish(6, 20)
    assert len(checked.log.calls) == 1


async def test_the_tree_of_a_start_is_verified(checked: Checked) -> None:
    await checked.verifier.select_tree_head(checked.log.head(20), 6)
    assert await checked.verifier.prove_start(30, checked.log.head(40)) is not None
    assert checked.log.calls[1:] == [("consistency", 20, 40), ("inclusion", 29, 40)]


async def test_a_start_at_the_end_is_proven(checked: Checked) -> None:
    head = checked.log.head(20)
    assert await checked.verifier.select_tree_head(head, 20) == head
    assert checked.log.calls == [("inclusion", 19, 20)]


async def test_a_start_beyond_the_tree_waits_for_it(checked: Checked) -> None:
    head = checked.log.head(20)
    assert await checked.verifier.select_tree_head(head, 21) == head
    assert checked.log.calls == []
    assert checked.state() == "unproven"


async def test_a_start_that_is_not_proven(checked: Checked) -> None:
    checked.log.refusal = NOT_FOUND
    with pytest.raises(ProofUnavailable, match="no proof of entry 5 to start from") as missing:
        await checked.verifier.select_tree_head(checked.log.head(20), 6)
    assert not missing.value.certain
    assert checked.store.kinds == []
    checked.log.refusal, checked.log.wrong = None, ("inclusion",)
    with pytest.raises(IntegrityViolation) as wrong:
        await checked.verifier.select_tree_head(checked.log.head(20), 6)
    assert wrong.value.kind == "wrong_proof"
    assert checked.store.changes[-1] == ("withheld", 6)


async def test_a_larger_tree_waits_until_the_verified_one_is_reached(checked: Checked) -> None:
    await checked.publish(0, 20, end=10)
    newest = checked.log.head(30)
    assert await checked.verifier.select_tree_head(newest, 10) == checked.log.head(20)
    await checked.publish(10, 20)
    assert await checked.verifier.select_tree_head(newest, 20) == newest


async def test_two_roots_of_one_size_are_a_split_view(checked: Checked) -> None:
    await checked.publish(0, 30)
    with pytest.raises(IntegrityViolation) as raised:
        await checked.verifier.select_tree_head(checked.log.head(30, tree=1), 30)
    assert raised.value.kind == "split"
    assert raised.value.what == "tree heads of 30 and 30 entries are not of one tree"
    assert raised.value.heads == (checked.log.head(30), checked.log.head(30, tree=1))


async def test_a_split_view_ends_with_the_verified_tree(checked: Checked) -> None:
    await checked.publish(0, 30)
    with pytest.raises(IntegrityViolation):
        await checked.verifier.select_tree_head(checked.log.head(30, tree=1), 30)
    assert checked.verifier.is_blocking
    await checked.verifier.select_tree_head(checked.log.head(30), 30)
    checked.verifier.mark_caught_up()
    assert (checked.state(), checked.verifier.is_blocking) == ("proven", False)


async def test_warn_continues_with_the_other_tree() -> None:
    checked = Checked("warn")
    await checked.publish(0, 30)
    other = checked.log.head(30, tree=1)
    assert await checked.verifier.select_tree_head(other, 30) is other
    assert (checked.store.kinds, checked.state()) == (["split"], "lying")
    checked.now, checked.log.served = 60, 1
    assert await checked.verifier.select_tree_head(other, 30) == other
    assert (checked.store.kinds, checked.state()) == (["split"], "proven")


async def test_entries_of_another_tree_are_a_split_view(checked: Checked) -> None:
    await checked.publish(0, 30)
    checked.log.served = 1
    other = checked.log.head(40, tree=1)
    await checked.verifier.select_tree_head(other, 30)
    with pytest.raises(IntegrityViolation) as raised:
        await checked.verify(30, 40, other)
    assert raised.value.kind == "split"
    assert raised.value.heads == (checked.log.head(30), other)
    assert checked.store.changes[-1] == ("withheld", 30)


async def test_a_tree_of_one_leaf_may_be_split(checked: Checked) -> None:
    checked.log.trees = MemoryLog(fork_at=0).trees
    await checked.publish(0, 1)
    checked.log.served = 1
    other = checked.log.head(2, tree=1)
    await checked.verifier.select_tree_head(other, 1)
    with pytest.raises(IntegrityViolation) as raised:
        await checked.verify(1, 2, other)
    assert raised.value.kind == "split"


async def test_a_wrong_entry_after_a_verified_tree_is_no_split_view(checked: Checked) -> None:
    await checked.publish(0, 20)
    newest = checked.log.head(30)
    await checked.verifier.select_tree_head(newest, 20)
    served = Window(20, [entry(20, other=True)])
    with pytest.raises(IntegrityViolation) as raised:
        await checked.verifier.verify([served], newest)
    assert raised.value.kind == "wrong_leaf"
    assert raised.value.heads == (checked.log.head(20), newest)


async def test_a_wrong_entry_of_a_verified_tree_takes_no_other_tree(checked: Checked) -> None:
    await checked.publish(0, 20, end=10)
    calls = len(checked.log.calls)
    with pytest.raises(IntegrityViolation) as raised:
        await checked.verifier.verify([Window(10, [entry(10, other=True)])], checked.log.head(20))
    assert raised.value.heads == (checked.log.head(20),)
    assert checked.log.calls[calls:] == [("inclusion", 10, 20)]


async def test_a_replica_that_is_behind(checked: Checked) -> None:
    await checked.publish(0, 30)
    assert checked.store.changes == [("not stale",)]
    older = checked.log.head(20)
    for _ in range(2):
        assert await checked.verifier.select_tree_head(older, 30) == checked.log.head(30)
    # Its proof is requested once.
    assert checked.log.calls == [("consistency", 20, 30)]
    assert checked.store.kinds == ["stale", "stale"]
    assert checked.state() == "proven"
    checked.now = MMD
    await checked.verifier.select_tree_head(older, 30)
    assert checked.store.kinds == ["stale"] * 3
    checked.now = MMD + 1
    await checked.verifier.select_tree_head(older, 30)
    assert checked.store.kinds == [*["stale"] * 4, "rewound"]
    assert checked.state() == "lying"
    alarm = next(change for change in checked.store.changes if change[0] == "rewound")
    assert alarm[1:] == (
        "newest tree head has 20 entries, 30 were signed more than 100 s ago", (30, 20),
    )  # fmt: skip
    await checked.verifier.select_tree_head(checked.log.head(30), 30)
    assert checked.state() == "proven"
    assert checked.store.changes[-1] == ("not stale",)


async def test_a_smaller_tree_of_another_log_is_a_split_view(checked: Checked) -> None:
    await checked.publish(0, 40)
    with pytest.raises(IntegrityViolation) as raised:
        await checked.verifier.select_tree_head(checked.log.head(30, tree=1), 40)
    assert raised.value.kind == "split"
    assert raised.value.heads == (checked.log.head(30, tree=1), checked.log.head(40))


async def test_a_smaller_tree_that_is_not_proven_is_accepted_for_now(checked: Checked) -> None:
    await checked.publish(0, 30)
    checked.log.refusal = NOT_FOUND
    for _ in range(2):
        await checked.verifier.select_tree_head(checked.log.head(20), 30)
    assert checked.log.calls == [("consistency", 20, 30)] * 2


async def test_a_tree_whose_entries_cannot_be_read_is_replaced(checked: Checked) -> None:
    await checked.publish(0, 20, end=10)
    checked.verifier.mark_unreachable()
    newest = checked.log.head(30)
    checked.log.refusal, checked.log.refused = NOT_FOUND, ("consistency",)
    assert await checked.verifier.select_tree_head(newest, 10) == checked.log.head(20)
    checked.log.refusal = None
    assert await checked.verifier.select_tree_head(newest, 10) == newest
    calls = len(checked.log.calls)
    assert await checked.verifier.select_tree_head(checked.log.head(35), 10) == newest
    assert len(checked.log.calls) == calls, "once"
    await checked.publish(10, 30)
    assert checked.state() == "proven"


async def test_only_a_tree_that_is_not_reached_takes_a_proof_to_be_replaced(
    checked: Checked,
) -> None:
    await checked.publish(0, 20, end=10)
    checked.verifier.mark_unreachable()
    assert await checked.verifier.select_tree_head(checked.log.head(15), 10) == checked.log.head(20)
    assert checked.log.calls[1:] == [("consistency", 15, 20)], "a replica that is behind"
    assert await checked.verifier.select_tree_head(checked.log.head(20), 10) == checked.log.head(20)
    assert await checked.verifier.select_tree_head(checked.log.head(30), 10) == checked.log.head(20)
    assert len(checked.log.calls) == 2, "a replica that is not behind may have the entries"
    await checked.publish(10, 20)
    checked.verifier.mark_unreachable()
    assert await checked.verifier.select_tree_head(checked.log.head(30), 20) == checked.log.head(30)
    assert len(checked.log.calls) == 2


async def test_a_tree_that_replaces_one_must_continue_it(checked: Checked) -> None:
    await checked.publish(0, 30, end=10)
    checked.verifier.mark_unreachable()
    checked.log.served = 1
    with pytest.raises(IntegrityViolation) as raised:
        await checked.verifier.select_tree_head(checked.log.head(40, tree=1), 10)
    assert raised.value.kind == "split"
    assert raised.value.heads == (checked.log.head(30), checked.log.head(40, tree=1))


async def test_a_target_that_cannot_be_read_is_dropped_at_once(checked: Checked) -> None:
    await checked.verifier.select_tree_head(checked.log.head(20), 0)
    checked.verifier.mark_unreachable()
    assert await checked.verifier.select_tree_head(checked.log.head(30), 0) == checked.log.head(30)


@pytest.mark.parametrize("mode", ["enforce", "warn"])
async def test_a_later_start_must_continue_the_verified_tree(mode: Integrity) -> None:
    checked = Checked(mode)
    newest = checked.log.head(40)
    started = await checked.verifier.prove_start(25, newest)
    assert started is not None
    assert started.to_bytes() == checked.log.frontier(25).to_bytes()
    assert checked.log.calls == [("inclusion", 24, 40)], "no tree is verified yet"
    await checked.publish(0, 20)
    checked.log.calls.clear()
    assert await checked.verifier.prove_start(25, newest) is not None
    assert checked.log.calls == [("consistency", 20, 40), ("inclusion", 24, 40)]
    checked.log.calls.clear()
    assert await checked.verifier.prove_start(15, checked.log.head(20)) is not None
    assert checked.log.calls == [("inclusion", 14, 20)]
    signed_again = checked.log.head(20, timestamp=2)
    assert await checked.verifier.prove_start(15, signed_again) is not None
    assert checked.log.calls[1:] == [("inclusion", 14, 20)]
    checked.log.refusal, checked.log.refused = NOT_FOUND, ("consistency",)
    other = replace(signed_again, root=bytes(32))
    for head in (newest, checked.log.head(10), other):
        if mode == "warn":
            assert await checked.verifier.prove_start(5, head) is None
        else:
            with pytest.raises(ProofUnavailable) as raised:
                await checked.verifier.prove_start(5, head)
            assert not raised.value.certain
            assert raised.value.heads == (checked.log.head(20), head)
    assert ("consistency", 20, 20) not in checked.log.calls


async def test_a_later_start_in_another_tree_is_a_split_view(checked: Checked) -> None:
    await checked.publish(0, 30)
    checked.log.served = 1
    with pytest.raises(IntegrityViolation) as raised:
        await checked.verifier.prove_start(35, checked.log.head(40, tree=1))
    assert raised.value.kind == "split"


async def test_a_start_after_an_empty_tree_needs_no_consistency_proof(checked: Checked) -> None:
    await checked.verifier.load(0)
    checked.store.state = TreeState(Frontier(), checked.log.head(0), None)
    await checked.verifier.load(0)
    assert await checked.verifier.prove_start(5, checked.log.head(40)) is not None
    assert checked.log.calls == [("inclusion", 4, 40)]


async def test_it_continues_from_the_stored_state() -> None:
    checked = Checked()
    head = checked.log.head(20)
    checked.store.state, checked.store.disputed = TreeState(checked.log.frontier(10), head, 90), 10
    await checked.verifier.load(10)
    assert checked.verifier.is_disputed(10)
    assert await checked.verifier.select_tree_head(checked.log.head(30), 10) == head
    checked.now = 20
    # The log has shown smaller heads for 90 s before.
    checked.store.state = TreeState(checked.log.frontier(10), head, 90)
    await checked.verifier.load(10)
    checked.now = 25
    await checked.verifier.select_tree_head(checked.log.head(15), 10)
    assert "rewound" not in checked.store.kinds
    checked.now = 31
    await checked.verifier.select_tree_head(checked.log.head(15), 10)
    assert "rewound" in checked.store.kinds


@pytest.mark.parametrize("below_for", [None, 0.0])
async def test_a_stored_state_without_a_tree_head(below_for: float | None) -> None:
    checked = Checked()
    checked.store.state = TreeState(checked.log.frontier(10), None, below_for)
    await checked.verifier.load(10)
    await checked.publish(10, 20)
    assert checked.log.calls == []
    assert checked.state() == "proven"


async def test_a_log_whose_state_is_unknown_starts_in_the_middle(checked: Checked) -> None:
    await checked.publish(0, 20)
    await checked.verifier.load(20)
    await checked.verifier.select_tree_head(checked.log.head(30), 20)
    assert checked.log.calls == [("inclusion", 19, 20)]


async def test_the_form_of_the_leaves_of_a_hybrid_log_is_found_and_stored() -> None:
    checked = Checked(is_hybrid=True)
    head = checked.log.head(20)
    await checked.verifier.load(0)
    await checked.verifier.select_tree_head(head, 0)
    served = [window(0, 20, extended=True)]
    (verified,) = await checked.verifier.verify(served, head)
    assert verified.leaf_hashes == [leaf_hash(leaf(index)) for index in range(20)]
    assert checked.store.kinds == [("bare")]
    assert checked.store.changes[-1] == ("bare", True)
    checked.verifier.mark_verified(verified)
    newest = checked.log.head(40)
    await checked.verifier.select_tree_head(newest, 20)
    assert await checked.verifier.verify([window(20, 30, extended=True)], newest)
    assert checked.store.kinds == ["bare"], "the form that was proven last comes first"


async def test_the_stored_form_comes_first() -> None:
    checked = Checked(is_hybrid=True)
    checked.store.bare = True
    await checked.verifier.load(0)
    head = checked.log.head(30)
    await checked.verifier.select_tree_head(head, 0)
    assert await checked.verifier.verify([window(0, 10, extended=True)], head)
    assert checked.log.calls == [("inclusion", 9, 30)]
    assert checked.store.kinds == []
    assert await checked.verifier.verify([window(0, 10)], head), "the same leaves in either form"


async def test_a_hybrid_log_with_neither_form_is_a_violation() -> None:
    checked = Checked(is_hybrid=True)
    head = checked.log.head(30)
    await checked.verifier.load(0)
    await checked.verifier.select_tree_head(head, 0)
    served = window(0, 10, extended=True)
    served.entries[9] = entry(9, extended=True, other=True)
    with pytest.raises(IntegrityViolation, match="wrong_leaf"):
        await checked.verifier.verify([served], head)
    assert checked.store.kinds == ["wrong_leaf", "withheld"]


async def test_a_hybrid_log_is_read_twice_once_a_form_is_proven() -> None:
    checked = Checked(is_hybrid=True)
    head = checked.log.head(20)
    await checked.verifier.load(0)
    await checked.verifier.select_tree_head(head, 0)
    checked.log.refusal = NOT_FOUND
    # In no form: that would be another tree if the form is the other one.
    for now in range(0, 40, 5):
        checked.now = now
        with pytest.raises(ProofUnavailable):
            await checked.verifier.verify([window(0, 10, extended=True)], head)
    assert not checked.verifier.reads_twice
    checked.log.refusal = None
    (verified,) = await checked.verifier.verify([window(0, 10, extended=True)], head)
    checked.verifier.mark_verified(verified)
    checked.log.refusal = NOT_FOUND
    for now in (50, 51):
        checked.now = now
        with pytest.raises(ProofUnavailable):
            await checked.verifier.verify([window(10, 15, extended=True)], head)
    checked.now = 70
    assert await checked.verifier.verify([window(10, 15, extended=True)], head) == []
    assert await checked.verifier.verify([window(10, 15, extended=True)], head) == []
    assert await checked.verifier.verify([window(15, 20, extended=True)], head) == []
    assert await checked.verifier.verify([window(10, 20, extended=True)], head)


async def test_entries_that_differ_from_the_first_reading_are_a_violation() -> None:
    checked = Checked(is_hybrid=True)
    head = checked.log.head(20)
    await checked.verifier.load(0)
    await checked.verifier.select_tree_head(head, 0)
    (verified,) = await checked.verifier.verify([window(0, 10)], head)
    checked.verifier.mark_verified(verified)
    checked.log.refusal = NOT_FOUND
    for now in (50, 51):
        checked.now = now
        with pytest.raises(ProofUnavailable):
            await checked.verifier.verify([window(10, 15)], head)
    checked.now = 70
    for first, end in ((10, 15), (10, 15), (15, 20)):
        assert await checked.verifier.verify([window(first, end)], head) == []
    with pytest.raises(IntegrityViolation, match="entry 10 differs from the one returned before"):
        await checked.verifier.verify([window(10, 20, extended=True)], head)


class Forged:
    """Precertificates at some positions are forged, or may be."""

    def __init__(self, **positions: bool) -> None:
        self._positions = {int(name[1:]): certain for name, certain in positions.items()}

    async def mismatches(self, entries: Sequence[Entry | Rejected]) -> list[Mismatch]:
        return [
            Mismatch(
                position,
                Rejected(
                    entries[position].index,
                    "forged" if certain else "unclear",
                    b"",
                    entries[position].leaf,
                ),
                certain,
            )
            for position, certain in self._positions.items()
        ]


@pytest.mark.parametrize("mode", ["enforce", "warn"])
async def test_forged_precertificates(mode: Literal["enforce", "warn"]) -> None:
    checked = Checked(mode)
    checked.verifier._precerts = Forged(p1=True, p2=True, p4=False)  # type: ignore[assignment]
    await checked.publish(0, 10)
    newest = checked.log.head(16)
    await checked.verifier.select_tree_head(newest, 10)
    served = window(10, 16)
    verified = await checked.verifier.verify([served], newest)
    parts = [
        (each.first, len(each.entries), each.verification.inclusion, len(each.leaf_hashes))
        for each in verified
    ]
    if mode == "enforce":
        assert parts == [(10, 6, "verified", 6)]
        rejected = [one.index for one in verified[0].entries if isinstance(one, Rejected)]
        assert rejected == [11, 12, 14]
    else:
        assert parts == [
            *((10, 1, "verified", 1), (11, 2, "failed", 2), (13, 1, "verified", 1)),
            *((14, 1, "unverified", 1), (15, 1, "verified", 1)),
        ]
        assert [one for each in verified for one in each.entries] == served.entries
    assert served == window(10, 16), "what was fetched is not changed"
    for each in verified:
        assert each.frontier_before is not None
        assert each.frontier_after is not None
        end = each.first + len(each.entries)
        assert each.frontier_before.to_bytes() == checked.log.frontier(each.first).to_bytes()
        assert each.frontier_after.to_bytes() == checked.log.frontier(end).to_bytes()
        assert each.leaf_hashes == [leaf_hash(leaf(index)) for index in range(each.first, end)]
    reported = [change[1] for change in checked.store.changes if change[0] == "forged_precert"]
    assert reported == ["forged"] * 2, "in each of two windows"
    assert checked.state() == "lying"
