"""A log with a large backlog: a failure does not stop it, and a setting that limits it is named."""

import pytest
from structlog.testing import capture_logs

from ingestor.pipeline import follower
from tests.ingestor.site import ONCE, Site
from tests.ingestor.verification.proofs import switch
from tests.waiting import until

BACKLOG = {"ct_log.start_index": 0}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ct_log.fetch_concurrency": 1}, "ct_log.fetch_concurrency"),
        ({"ct_log.default_operator_rate_limit_ms": 200}, "ct_log.operator_rate_limits"),
    ],
)
async def test_the_setting_that_keeps_a_log_behind_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], named: str
) -> None:
    monkeypatch.setattr(follower, "LIMITED_AFTER_SECS", 0.5)
    monkeypatch.setattr("ingestor.pipeline.prefetch.GATHER_SECS", 0.2)
    await site.simlog.start(
        rfc6962=1, static_ct=0, preload=4000, rate=0, max_entries=16, fault="*:latency"
    )
    with capture_logs() as events:
        await site.ingestor("a", **BACKLOG, **settings)

        async def is_named() -> bool:
            return [log.limited_by for log in (await site.logs()).values()] == [named]

        await until(is_named, "the setting in Redis")
    (event,) = [event for event in events if event["event"] == "log limited"]
    assert event["setting"] == named
    assert event["behind"] > 0


async def test_a_failure_in_a_backlog_is_retried(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound on entries fetched ahead keeps more than a round of requests missing."""
    monkeypatch.setattr("ingestor.pipeline.prefetch.MAX_LOG_BYTES", 1 << 19)
    await site.simlog.start(rfc6962=1, static_ct=0, preload=4000, rate=0, max_entries=16)
    await switch(site, "*", {"kind": "status", "code": 503, "index": 2000})
    await site.ingestor("a", **ONCE)

    async def has_failed() -> bool:
        return [log.errors >= 2 for log in (await site.logs()).values()] == [True]

    await until(has_failed, "failures at one entry")
    await switch(site, "*")
    await until(site.complete, "complete Redis")
