"""Which entries the verifier of one log publishes, withholds and reports."""

import pytest

from certbus.logs.tree_state import TreeState
from certconf.settings import Integrity
from ctparse.entry import Rejected
from ctparse.merkle import Frontier
from ctparse.tree_head import TreeHead
from ctparse.v2_message import Verification, Verified
from ingestor.client.errors import (
    IntegrityViolation,
    ProofUnavailable,
    UnexpectedStatus,
)
from ingestor.verification import verifier as module
from ingestor.window import VerifiedWindow, Window
from simlog.ctlog.tree import leaf_hash
from tests.ingestor.verification.memory_log import (
    NOT_FOUND,
    REFUSAL_SECS,
    Checked,
    entry,
    leaf,
    window,
)


@pytest.fixture
def checked() -> Checked:
    return Checked()


def test_it_begins_unproven() -> None:
    assert [Checked(mode).state() for mode in ("enforce", "warn", "off")] == [
        *("unproven", "unproven", "off")
    ]
    assert [Checked(mode).verifier.is_blocking for mode in ("enforce", "warn", "off")] == [
        *(True, False, False)
    ]
    assert not any(Checked(mode).verifier.is_disputed(0) for mode in ("enforce", "warn", "off"))
    assert not Checked().verifier.reads_twice


@pytest.mark.parametrize("has_key", [True, False])
async def test_entries_up_to_a_tree_head_are_proven_by_its_root(has_key: bool) -> None:
    checked = Checked(has_key=has_key)
    verifier, head = checked.verifier, checked.log.head(10)
    assert await verifier.select_tree_head(head, 0) == head
    run = [window(0, 4), window(4, 10)]
    verified = await verifier.verify(run, head)
    signature: Verified = "verified" if has_key else "unverified"
    for each, original in zip(verified, run, strict=True):
        assert each == VerifiedWindow(
            original.first,
            original.entries,
            head,
            [leaf_hash(one.leaf) for one in original.entries],
            each.frontier_before,
            each.frontier_after,
            Verification(signature, "verified"),
        )
    roots = [(each.frontier_before, each.frontier_after) for each in verified]
    assert [tuple(frontier and frontier.to_bytes() for frontier in both) for both in roots] == [
        (checked.log.frontier(0).to_bytes(), checked.log.frontier(4).to_bytes()),
        (checked.log.frontier(4).to_bytes(), checked.log.frontier(10).to_bytes()),
    ]
    assert checked.state() == "unproven", "nothing is published yet"
    verifier.mark_verified(verified[0])
    assert checked.state() == ("proven" if has_key else "unsigned")
    assert not verifier.is_blocking
    assert checked.log.calls == []
    assert checked.store.changes == [("not stale",)]


async def test_a_log_without_new_entries_is_proven(checked: Checked) -> None:
    checked.verifier.mark_caught_up()
    assert checked.state() == "unproven", "nothing is known of it"
    await checked.verifier.select_tree_head(checked.log.head(0), 0)
    checked.verifier.mark_caught_up()
    assert checked.state() == "proven"


async def test_a_window_without_a_frontier_changes_nothing(checked: Checked) -> None:
    checked.verifier.mark_verified(VerifiedWindow(0, [entry(0)], checked.log.head(1)))
    assert checked.state() == "unproven"


async def test_off_requests_and_stores_nothing() -> None:
    checked = Checked("off")
    verifier, head = checked.verifier, checked.log.head(10, signed=False)
    checked.store.state = TreeState(Frontier(), None, None)  # is not read
    await verifier.load(5)
    assert verifier.is_signed(head)
    assert await verifier.select_tree_head(head, 5) is head
    assert await verifier.prove_start(5, head) is None
    wrong = Window(5, [entry(5, other=True)])
    (verified,) = await verifier.verify([wrong], head)
    assert verified == VerifiedWindow(5, wrong.entries, head)
    assert (checked.log.calls, checked.store.changes) == ([], [])


async def test_entries_before_a_tree_head_take_an_inclusion_proof(checked: Checked) -> None:
    await checked.publish(0, 30, end=7)
    await checked.publish(7, 30, end=9)
    assert checked.log.calls == [("inclusion", 6, 30), ("inclusion", 8, 30)]
    await checked.publish(9, 30)
    assert checked.state() == "proven"


@pytest.mark.parametrize(
    ("end", "partial", "refused", "calls"),
    [
        (8, True, (), ["consistency"]),
        (8, True, ("consistency",), ["consistency", "inclusion"]),
        (8, False, (), ["inclusion"]),
        (9, True, (), ["inclusion"]),
    ],
)
async def test_whole_tiles_take_a_consistency_proof(
    checked: Checked, end: int, partial: bool, refused: tuple[str, ...], calls: list[str]
) -> None:
    checked.log.tile, checked.log.has_partial_tiles = 4, partial
    checked.log.refusal, checked.log.refused = NOT_FOUND, refused
    await checked.publish(0, 30, end=end)
    assert [call[0] for call in checked.log.calls] == calls
    assert checked.state() == "proven"


async def test_a_wrong_consistency_proof_is_no_violation(checked: Checked) -> None:
    checked.log.tile, checked.log.wrong = 4, ("consistency",)
    await checked.publish(0, 30, end=8)
    assert [call[0] for call in checked.log.calls] == ["consistency", "inclusion"]
    assert checked.store.kinds == []


@pytest.mark.parametrize(
    ("size", "wrong", "kind"),
    [
        (10, (), "wrong_leaf"),
        (10, ("inclusion",), "root_mismatch"),
        (30, (), "wrong_leaf"),
        (30, ("inclusion",), "wrong_proof"),
    ],
)
async def test_a_wrong_entry_is_a_violation(
    checked: Checked, size: int, wrong: tuple[str, ...], kind: str
) -> None:
    head = checked.log.head(size)
    await checked.verifier.select_tree_head(head, 0)
    checked.log.wrong = wrong
    served = window(0, 10)
    served.entries[9] = entry(9, other=True)
    served.entries[3] = Rejected(3, "unreadable", b"", leaf(3))
    with pytest.raises(IntegrityViolation) as raised:
        await checked.verifier.verify([served], head)
    assert raised.value.kind == kind
    assert raised.value.heads == (head,)
    assert raised.value.problem.startswith(f"{kind}: {raised.value.what}; entries from 0 on are")
    expected = {
        ("wrong_leaf", 10): "entries 0 to 9 do not lead to the root of 10 (entry 3: unreadable)",
        ("root_mismatch", 10): "entries 0 to 9 do not lead to the root of 10 (entry 3: unreadable)",
        ("wrong_leaf", 30): "entries 0 to 9 are not those in the tree of 30 (entry 3: unreadable)",
    }
    assert raised.value.what == expected.get((kind, size), raised.value.what)
    assert checked.store.kinds == [kind, "withheld"]
    assert checked.store.changes[-1] == ("withheld", 0)
    assert (checked.state(), checked.verifier.is_blocking) == ("lying", True)
    assert checked.verifier.is_disputed(0)
    assert not checked.verifier.is_disputed(1)
    checked.log.wrong = ()
    newest = checked.log.head(40)
    assert await checked.verifier.select_tree_head(newest, 0) == newest, "not the target before"
    await checked.publish(0, 40)
    assert checked.state() == "proven"


async def test_one_violation_is_reported_and_stored_once(checked: Checked) -> None:
    head = checked.log.head(10)
    for _ in range(2):
        await checked.verifier.select_tree_head(head, 0)
        with pytest.raises(IntegrityViolation):
            await checked.verifier.verify([Window(0, [entry(0, other=True)])], checked.log.head(1))
    assert checked.store.kinds == ["wrong_leaf", "withheld"]


async def test_a_tree_head_that_the_log_did_not_sign_withholds_no_entry(checked: Checked) -> None:
    head = checked.log.head(10, signed=False)
    assert not checked.verifier.is_signed(head)
    with pytest.raises(IntegrityViolation, match="bad_signature"):
        await checked.verifier.select_tree_head(head, 0)
    assert checked.store.kinds == ["bad_signature"]
    assert not checked.verifier.is_disputed(0)
    assert checked.verifier.is_signed(checked.log.head(10))
    assert Checked(has_key=False).verifier.is_signed(head)


async def test_warn_publishes_what_is_wrong(checked: Checked) -> None:
    checked = Checked("warn")
    head = checked.log.head(10)
    await checked.verifier.select_tree_head(head, 0)
    served = window(0, 10)
    served.entries[9] = entry(9, other=True)
    (verified,) = await checked.verifier.verify([served], head)
    assert verified == VerifiedWindow(
        0, served.entries, head, verification=Verification("verified", "failed")
    )
    assert checked.store.kinds == ["wrong_leaf"]
    assert checked.store.errors[0].endswith("; entries from 0 on are published unproven")
    assert (checked.state(), checked.verifier.is_blocking) == ("lying", False)
    assert not checked.verifier.is_disputed(0)
    checked.verifier.mark_verified(verified)
    # It waits before it requests a proof to start from again.
    newest = checked.log.head(20, signed=True)
    assert await checked.verifier.select_tree_head(newest, 10) is newest
    assert [each.verification.inclusion for each in await checked.verify(10, 20, newest)] == [
        "unverified"
    ]
    later = checked.log.head(30)
    assert await checked.verifier.select_tree_head(later, 10) is later, "there is no target"
    calls = len(checked.log.calls)
    checked.now += 60
    assert await checked.verifier.select_tree_head(newest, 10) == newest
    assert checked.log.calls[calls:] == [("inclusion", 9, 20)]
    assert await checked.verifier.select_tree_head(later, 10) == newest
    assert checked.state() == "proven"


async def test_a_failure_in_warn_mode_lasts_until_entries_are_proven() -> None:
    checked = Checked("warn")
    await checked.publish(0, 10)
    head = checked.log.head(20)
    await checked.verifier.select_tree_head(head, 10)
    (failed,) = await checked.verifier.verify([Window(10, [entry(10, other=True)])], head)
    assert failed.verification.inclusion == "failed"
    checked.store.state = TreeState(checked.log.frontier(10), None, None)
    await checked.verifier.load(10)
    await checked.verifier.select_tree_head(head, 10)
    (verified,) = await checked.verify(10, 20, head)
    assert checked.state() == "unproven"
    checked.verifier.mark_verified(verified)
    assert checked.state() == "proven"


async def test_only_leaves_of_hybrid_logs_may_lack_extensions(checked: Checked) -> None:
    await checked.verifier.select_tree_head(checked.log.head(10), 0)
    with pytest.raises(IntegrityViolation):
        await checked.verifier.verify([window(0, 10, extended=True)], checked.log.head(10))


async def test_warn_reads_what_it_cannot_verify(checked: Checked) -> None:
    checked = Checked("warn")
    head = checked.log.head(10, signed=False)
    assert await checked.verifier.select_tree_head(head, 0) is head
    (verified,) = await checked.verify(0, 10, head)
    assert verified.verification == Verification("failed", "unverified")
    assert verified.frontier_after is None


@pytest.mark.parametrize("mode", ["enforce", "warn"])
async def test_an_entry_without_a_leaf_cannot_be_proven(mode: Integrity) -> None:
    checked = Checked(mode)
    head = checked.log.head(10)
    await checked.verifier.select_tree_head(head, 0)
    served = Window(0, [entry(0), Rejected(1, "cut off", b"")])
    if mode == "enforce":
        with pytest.raises(ProofUnavailable) as raised:
            await checked.verifier.verify([served], head)
        assert raised.value.certain
        assert "leaf of entry 1 is not known (cut off); " in raised.value.problem
        assert "--to 2`" in raised.value.problem
        assert raised.value.problem.endswith("publishes them unproven")
        assert checked.store.kinds == ["no_proof"]
        assert checked.state() == "unproven"
    else:
        (verified,) = await checked.verifier.verify([served], head)
        assert verified.verification == Verification("verified", "unverified")
    assert checked.store.kinds == ["no_proof"]


async def refuse(checked: Checked, head: TreeHead, times: int, end: int = 10) -> None:
    """Let the log refuse a proof some times; it must not be accepted."""
    for _ in range(times):
        with pytest.raises(ProofUnavailable) as raised:
            await checked.verify(0, end, head)
        assert not raised.value.certain
        assert raised.value.heads == (head,)
        assert raised.value.problem == (
            f"entries 0 to {end - 1}: no proof that the tree of {head.size} has them (HTTP 404)"
        )


async def refuse_proofs(checked: Checked, size: int) -> TreeHead:
    """Select the tree head of a log that refuses proofs for long enough to be read twice."""
    checked.log.refusal = NOT_FOUND
    head = checked.log.head(size)
    await checked.verifier.select_tree_head(head, 0)
    await refuse(checked, head, 2)
    checked.now = REFUSAL_SECS
    return head


@pytest.mark.parametrize("mode", ["enforce", "warn"])
async def test_an_outage_delays_entries_for_ever_only_if_they_wait_for_proofs(
    mode: Integrity,
) -> None:
    checked = Checked(mode)
    head = checked.log.head(20)
    checked.log.refusal = UnexpectedStatus(
        "log", "https://log.example/proof", "HTTP 503", 503, None
    )
    for now in (0, 0, 0, REFUSAL_SECS - 1):
        checked.now = now
        with pytest.raises(ProofUnavailable):
            await checked.verifier.select_tree_head(head, 6)
    checked.now = 100 * REFUSAL_SECS
    if mode == "warn":
        assert await checked.verifier.select_tree_head(head, 6) is head
        assert checked.store.kinds == ["no_proof"]
    else:
        with pytest.raises(ProofUnavailable) as raised:
            await checked.verifier.select_tree_head(head, 6)
        assert not raised.value.certain
        assert checked.store.kinds == []


async def test_a_log_without_proofs_is_read_twice(checked: Checked) -> None:
    head = await refuse_proofs(checked, 20)
    assert await checked.verify(0, 10, head) == []
    assert bool(checked.verifier.reads_twice)
    assert checked.store.kinds == []
    # Newer heads wait until the one that is read twice is reached.
    assert await checked.verifier.select_tree_head(checked.log.head(30), 0) == head
    calls = len(checked.log.calls)
    assert await checked.verify(0, 10, head) == []
    assert await checked.verify(10, 20, head) == []
    for part in ((0, 10), (10, 20)):
        (verified,) = await checked.verify(*part, head)
        assert verified.verification == Verification("verified", "verified")
        checked.verifier.mark_verified(verified)
    assert len(checked.log.calls) == calls
    assert checked.state() == "proven"
    await checked.verifier.select_tree_head(head, 19)
    assert bool(checked.verifier.reads_twice)
    await checked.verifier.select_tree_head(head, 20)
    assert not checked.verifier.reads_twice
    # A log that was accepted without proofs is accepted at once until it returns one.
    newest = checked.log.head(30)
    assert await checked.verifier.select_tree_head(newest, 20) == newest
    assert await checked.verify(20, 25, newest) == []


@pytest.mark.parametrize("tile", [None, 5])
async def test_a_log_that_returns_a_proof_again_is_no_longer_read_twice(
    checked: Checked, tile: int | None
) -> None:
    checked.log.refusal, checked.log.tile = NOT_FOUND, tile
    head = checked.log.head(10)
    await checked.verifier.select_tree_head(head, 0)
    await refuse(checked, head, 2, end=5)
    checked.now = REFUSAL_SECS
    assert await checked.verify(0, 5, head) == []
    assert await checked.verify(5, 10, head) == []
    (verified,) = await checked.verify(0, 10, head)
    checked.verifier.mark_verified(verified)
    checked.log.refusal = None
    await checked.publish(10, 30, end=15)
    checked.log.refusal = NOT_FOUND
    with pytest.raises(ProofUnavailable) as raised:
        await checked.verify(15, 20, checked.log.head(30))
    assert not raised.value.certain


async def test_an_entry_that_differs_the_second_time_is_a_violation(checked: Checked) -> None:
    head = await refuse_proofs(checked, 20)
    await checked.verify(0, 12, head)
    await checked.verify(12, 20, head)
    served = window(0, 12)
    served.entries[7] = entry(7, other=True)
    with pytest.raises(IntegrityViolation, match="entry 7 differs from the one returned before"):
        await checked.verifier.verify([served], head)
    assert not checked.verifier.reads_twice


async def test_entries_that_lead_to_another_root_are_a_violation(checked: Checked) -> None:
    head = await refuse_proofs(checked, 20)
    await checked.verify(0, 10, head)
    served = window(10, 20)
    served.entries[0] = entry(10, other=True)
    with pytest.raises(IntegrityViolation) as raised:
        await checked.verifier.verify([served], head)
    assert raised.value.kind == "root_mismatch"
    assert raised.value.what == "entries 0 to 19 do not lead to its root"


@pytest.mark.parametrize(("most", "certain"), [(19, True), (20, False)])
async def test_a_backlog_may_be_too_large_to_be_read_twice(
    checked: Checked, monkeypatch: pytest.MonkeyPatch, most: int, certain: bool
) -> None:
    monkeypatch.setattr(module, "MAX_TWO_PASS_ENTRIES", most)
    head = await refuse_proofs(checked, 20)
    if certain:
        with pytest.raises(ProofUnavailable) as raised:
            await checked.verify(0, 10, head)
        assert raised.value.certain
        assert checked.store.kinds == ["no_proof"]
        # Another tree head has its own refusals.
        with pytest.raises(ProofUnavailable) as raised:
            await checked.verify(0, 10, head)
        assert not raised.value.certain
    else:
        assert await checked.verify(0, 10, head) == []


async def test_published_entries_do_not_count_as_a_backlog(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_TWO_PASS_ENTRIES", 20)
    await checked.publish(0, 10)
    checked.log.refusal = NOT_FOUND
    head = checked.log.head(30)
    await checked.verifier.select_tree_head(head, 10)
    for _ in range(2):
        with pytest.raises(ProofUnavailable):
            await checked.verify(10, 20, head)
    checked.now = REFUSAL_SECS
    assert await checked.verify(10, 20, head) == []
    assert checked.verifier.reads_twice


async def test_warn_publishes_a_backlog_without_proofs(checked: Checked) -> None:
    checked = Checked("warn")
    head = await refuse_proofs(checked, 20)
    (verified,) = await checked.verify(0, 10, head)
    assert verified.verification == Verification("verified", "unverified")
    assert checked.store.kinds == ["no_proof"]
    assert checked.state() == "unproven"
    assert not checked.verifier.reads_twice
