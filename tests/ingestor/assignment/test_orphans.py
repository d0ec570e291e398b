"""Logs that only some workers know."""

from ingestor.assignment.balancer import ORPHAN_AFTER_SECS, PIN_SECS, OrphanTracker
from tests.ingestor.loglists import lists
from tests.ingestor.site import Site
from tests.waiting import until


def test_what_is_free_for_long_is_taken_and_kept_for_a_term() -> None:
    unclaimed = OrphanTracker()
    assert unclaimed.overdue(["a", "b"], 100) == []
    assert unclaimed.overdue(["a"], 101 + ORPHAN_AFTER_SECS) == ["a"]
    assert unclaimed.overdue(["a", "b"], 101 + ORPHAN_AFTER_SECS) == ["a"], "b was taken in between"
    unclaimed.pin("a", 200)
    assert unclaimed.pinned(["a", "b"], 199 + PIN_SECS) == {"a"}
    assert unclaimed.pinned(["a", "b"], 200 + PIN_SECS) == set()
    unclaimed.pin("a", 300)
    assert unclaimed.pinned(["b"], 301) == set()
    assert unclaimed.pinned(["a", "b"], 301) == set(), "it was given back"


async def test_every_log_is_followed_by_a_worker_that_knows_it(site: Site) -> None:
    await site.simlog.start(rfc6962=3, static_ct=1, preload=200, rate=0)
    await site.ingestor("a", **{"ct_log.start_index": 0})
    await until(lambda: holds(site, a=4), "all logs at the only one")
    await site.ingestor("b", **lists.LISTED_ONLY, log_lists=[])  # knows none
    await until(lambda: holds(site, a=4, b=0), "all logs at the only one that knows them", 60)
    await until(site.complete, "all entries")


async def holds(site: Site, **expected: int) -> bool:
    return await site.holders() == expected
