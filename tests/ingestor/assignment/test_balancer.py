"""Shares by load, that move few logs and come to rest."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.assignment.assigned_log import IDLE_LOAD, LOAD_MEMORY_SECS, Load
from ingestor.assignment.balancer import plan_releases, plan_takeovers
from ingestor.pipeline.publish import EntryCounts

Held = dict[str, dict[str, float]]

costs = st.floats(1, 100)
shares = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.lists(costs, max_size=12),
    min_size=1,
).map(
    lambda held: {
        worker: {f"{worker}{n}": cost for n, cost in enumerate(logs)}
        for worker, logs in held.items()
    }
)


def sums(held: Mapping[str, Mapping[str, float]]) -> list[float]:
    return sorted(sum(logs.values()) for logs in held.values())


def settle(held: Held, free: dict[str, float] | None = None) -> int:
    """Apply the plans of all workers until none plans a move; return the number of moved logs."""
    free = dict(free or {})
    moves = 0
    for _ in range(20):
        given = {worker: plan_releases(held, free, worker) for worker in held}
        taken = {worker: plan_takeovers(held, free, worker) for worker in held}
        for worker, logs in taken.items():
            for log in logs:
                held[worker][log] = free.pop(log)
        for worker, logs in given.items():
            for log in logs:
                free[log] = held[worker].pop(log)
                moves += 1
        if not free:
            return moves
    raise AssertionError(f"they do not come to rest: {held}")


@given(held=shares, free=st.lists(costs, max_size=20))
def test_every_free_log_is_taken_by_one(held: Held, free: list[float]) -> None:
    named = {f"free{n}": cost for n, cost in enumerate(free)}
    taken = [log for worker in held for log in plan_takeovers(held, named, worker)]
    assert sorted(taken) == sorted(named)


@given(held=shares)
def test_they_come_to_rest_and_are_even_but_for_what_one_log_costs(held: Held) -> None:
    before = {worker: dict(logs) for worker, logs in held.items()}
    heaviest = max([cost for logs in held.values() for cost in logs.values()], default=0)
    settle(held)
    least, *_, most = [*sums(held), *sums(held)]
    mean = sum(sums(held)) / len(held)
    assert most - least <= max(1.25 * heaviest, 2 * 0.25 * mean) + 1e-6
    assert most <= sums(before)[-1] + 1e-6
    assert settle(held) == 0


def test_a_joining_worker_takes_its_share_and_nothing_else_moves() -> None:
    held: Held = {w: {f"{w}{n}": 1.0 for n in range(17)} for w in "abc"}
    held["d"] = {}
    assert settle(held) == 12
    assert sums(held) == [12, 13, 13, 13]


def test_what_a_dead_worker_had_is_all_that_moves() -> None:
    held: Held = {w: {f"{w}{n}": 1.0 for n in range(10)} for w in "ab"}
    assert settle(held, {f"c{n}": 1.0 for n in range(10)}) == 0
    assert sums(held) == [15, 15]


def test_load_counts_not_logs() -> None:
    held: Held = {"a": {"busy": 40.0, "quiet": 1.0}, "b": {f"b{n}": 1.0 for n in range(20)}}
    assert settle(held) == 1
    assert held["a"] == {"busy": 40.0}


def test_one_log_heavier_than_all_others_stays() -> None:
    held: Held = {"a": {"busy": 20.0}, "b": {f"b{n}": 1.0 for n in range(8)}, "c": {}}
    settle(held)
    assert held["a"] == {"busy": 20.0}
    assert sums(held) == [4, 4, 20]


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_loads_that_go_up_and_down_move_nothing(workers: int) -> None:
    chance = random.Random(workers)
    held: Held = {
        f"w{w}": {f"{w}-{n}": chance.uniform(1, 10) for n in range(60 // workers)}
        for w in range(workers)
    }
    settle(held)
    moves = 0
    for _ in range(200):
        now = {
            worker: {log: cost * chance.uniform(0.85, 1.15) for log, cost in logs.items()}
            for worker, logs in held.items()
        }
        moves += sum(len(plan_releases(now, {}, worker)) for worker in now)
    assert moves == 0


def test_no_log_is_released_for_one_that_is_being_taken() -> None:
    held: Held = {"a": {f"a{n}": 1.0 for n in range(10)}, "b": {}}
    free = {f"free{n}": 1.0 for n in range(10)}
    assert plan_releases(held, free, "a") == []
    assert len(plan_takeovers(held, free, "b")) == 10


def test_load_follows_what_is_done_and_forgets_slowly() -> None:
    load, tally = Load(), EntryCounts()
    seconds = int(5 * LOAD_MEMORY_SECS)
    for second in range(seconds):
        load.observe(second, tally)
        tally.published += 100
        tally.duplicates += 100
    assert load.value == pytest.approx(IDLE_LOAD + 100 * 0.065, rel=0.05)
    busy = load.value
    load.observe(seconds, tally)
    load.observe(seconds + 1, tally)
    assert 0.8 * busy < load.value < busy
    for second in range(seconds + 2, 2 * seconds):
        load.observe(second, tally)
    assert load.value == pytest.approx(IDLE_LOAD, rel=0.05)


def test_load_continues_from_the_measurement_of_another_worker() -> None:
    load = Load(50.0)
    load.observe(0, EntryCounts(published=7))
    assert load.value == 50.0
