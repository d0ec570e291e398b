"""The setting that keeps a log behind is named in a log event and in Redis."""

import pytest
from structlog.testing import capture_logs

from ingestor.pipeline import follower
from tests.ingestor.site import Site
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
