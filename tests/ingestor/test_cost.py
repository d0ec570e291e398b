"""What the entries of a log cost, and when that is too much."""

import time
from types import SimpleNamespace
from typing import Any

from ingestor.assignment.assigned_log import AssignedLog, Load
from ingestor.cpu import Cpu, Slices
from ingestor.pipeline.publish import EntryCounts


def work(seconds: float) -> str:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return "done"


async def test_time_on_the_loop_and_in_a_thread_is_counted_but_no_waiting() -> None:
    slices = Slices(Cpu())
    slices.begin()
    work(0.02)
    assert await slices.in_thread(work, 0.05) == "done"
    work(0.02)
    await slices.wait()
    work(0.01)
    slices.pause()
    counted = slices.total
    assert counted >= 0.1
    work(0.01)  # of another task
    slices.begin()
    slices.pause()
    assert slices.total - counted < 0.01


def held(entries: int, milliseconds: int) -> AssignedLog:
    """A log that did so much in ten seconds."""
    publisher: Any = SimpleNamespace(counts=EntryCounts(), spent=0.0)
    follower: Any = SimpleNamespace(publisher=publisher)
    log = AssignedLog(follower, None, Load())  # type: ignore[arg-type]
    log.observe(0.0)
    publisher.counts.rejected = entries
    publisher.spent = milliseconds / 1000
    log.observe(10.0)
    return log


def test_a_log_is_costly_by_what_its_entries_cost() -> None:
    assert held(entries=10, milliseconds=5_000).is_costly
    assert held(entries=0, milliseconds=5_000).is_costly
    assert not held(entries=50_000, milliseconds=8_000).is_costly, "it catches up"
    assert not held(entries=10, milliseconds=100).is_costly, "it costs little"
