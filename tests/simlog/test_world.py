"""A world is a function of its specification and the time."""

import itertools

import pytest

from ctparse import signatures
from ctparse.tree_head import TreeHead
from simlog import fault_types
from simlog.spec import LogSpec
from tests.simlog.worlds import START, grown, small


def test_a_world_started_again_holds_the_same_entries() -> None:
    spec = small(rate=1000.0)
    first, second = grown(spec, START + 0.5), grown(spec, START + 0.5, limit=3)
    assert list(first.entries()) == list(second.entries())
    for name, log in first.logs.items():
        assert log.head.root == second.logs[name].head.root
        assert log.head.size == len(log.tree) > 100


def test_no_fault_that_is_set_while_it_runs_changes_the_tree() -> None:
    wrong = fault_types.Malformed(share=0.2, since=0.1, until=0.3)
    spec = small(logs=(LogSpec("rfc1", "rfc6962", "Operator", (wrong,)),), rate=1000.0)
    changed, started_again = grown(spec, START + 0.2), grown(spec, START + 0.5)
    changed.faults.put("rfc1", [fault_types.Fork()], START + 0.2)
    assert not changed.advance(START + 0.5, limit=10_000)
    assert list(changed.entries()) == list(started_again.entries())
    assert changed.logs["rfc1"].head.root == started_again.logs["rfc1"].head.root
    malformed = [entry for entry in changed.entries() if entry.malformed]
    stamps = [entry.timestamp / 1000 - START for entry in malformed]
    assert 0.1 <= min(stamps) < 0.2 <= max(stamps) < 0.3


def test_a_later_world_continues_the_earlier_one() -> None:
    spec = small(rate=1000.0)
    before, after = grown(spec, START + 0.3), grown(spec, START + 0.6)
    for name, log in before.logs.items():
        grown_on = after.logs[name]
        assert grown_on.head.size > log.head.size
        assert grown_on.tree.root(log.head.size) == log.head.root


def test_nothing_shows_before_a_tree_head_includes_it() -> None:
    world = grown(small(), limit=10_000)
    assert world.complete
    unpublished = grown(small(delay=60.0))
    assert sum(log.head.size for log in unpublished.logs.values()) == 0
    assert not unpublished.complete
    interrupted = grown(small(delay=60.0))
    assert interrupted.advance(START + 100, limit=5)
    assert list(interrupted.entries()) == []


def test_entries_are_stamped_when_they_were_due_and_heads_when_they_were_made() -> None:
    world = grown(small(rate=10.0), START + 2.0)
    for log in world.logs.values():
        stamps = [log.entry(index).timestamp for index in range(log.head.size)]
        assert stamps == sorted(stamps)
        assert stamps[-1] <= log.head.timestamp == 1000 * START + 2000


def test_tree_heads_are_signed_by_the_log() -> None:
    for log in grown(small()).logs.values():
        head = log.head
        claimed = TreeHead(head.size, head.timestamp, head.root, head.signature)
        signatures.verify_tree_head(signatures.load_log_key(log.key.public), claimed)


@pytest.mark.parametrize("total", [0, 1, 900])
def test_it_ends_with_the_total(total: int) -> None:
    spec = small(rate=1000.0, preload=0, total=total)
    world = grown(spec, START + 60)
    assert world.complete
    assert len({entry.sha256 for entry in world.entries()}) == total


def test_the_record_is_every_entry_in_order() -> None:
    world = grown(small())
    places = [(entry.log, entry.index) for entry in world.entries()]
    expected = itertools.chain.from_iterable(
        [(name, index) for index in range(log.head.size)] for name, log in world.logs.items()
    )
    assert places == list(expected)
