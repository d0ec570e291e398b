"""The admin address of one ingestor: what it reports, with and without Redis."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from certbus.cluster import snapshot
from certhttp.client import ClientResponse, fetch
from tests.ingestor.site import Site
from tests.waiting import until

Samples = Mapping[tuple[str, ...], float]


async def get(admin: str, path: str) -> ClientResponse:
    """Wait until the ingestor listens, and get a page."""
    replies: list[ClientResponse] = []

    async def answers() -> bool:
        reply = await fetch(admin, path, 5)
        replies.extend([] if reply is None else [reply])
        return reply is not None

    await until(answers)
    return replies[-1]


async def samples(admin: str) -> Samples:
    """Metrics by name and the values of their labels."""
    text = (await get(admin, "/metrics")).body.decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_what_is_done_is_counted(site: Site, tmp_path: Path) -> None:
    await site.simlog.start(preload=600, rfc6962=1, static_ct=1, duplicates=0.2, rate=0)
    admin = f"unix:{tmp_path}/admin.sock"
    await site.ingestor("a", admin=admin, **{"ct_log.start_index": 0})
    await until(site.complete)

    async def caught_up() -> bool:
        found = await samples(admin)
        return all(found.get(("certstream_ingestor_log_lag_entries", name)) == 0 for name in logs)

    logs = await site.logs()
    await until(caught_up)
    found = await samples(admin)
    now = (await snapshot(site.redis, site.keys)).now
    for name, log in logs.items():
        counted = {
            outcome: found["certstream_ingestor_entries_total", name, outcome]
            for outcome in ("published", "duplicate", "rejected")
        }
        assert counted == {
            "published": log.published,
            "duplicate": log.duplicates,
            "rejected": log.rejected,
        }
        assert found["certstream_ingestor_log_next_index", name] == log.next
        assert found["certstream_ingestor_log_tree_size", name] == log.tree_size
        assert found["certstream_ingestor_log_lag_seconds", name] == 0
        assert found["certstream_ingestor_integrity_state", name, "proven"] == 1
        assert found["certstream_ingestor_circuit_state", name] == 0
        assert found["certstream_ct_log_lag_entries", name] == 0
        assert found["certstream_ct_log_rate_limited_total", name] == 0
        assert found["certstream_ingestor_log_tree_head_max_age_seconds", name] == 86400
        for metric, age in (
            ("certstream_ingestor_log_tree_head_age_seconds", log.tree_head_age(now)),
            ("certstream_ct_log_ingest_delay_seconds", log.ingest_delay(now)),
        ):
            assert age is not None
            assert found[metric, name] == pytest.approx(age, abs=20)
    fetches = found["certstream_ingestor_fetches_total", "Simulated Operator 1", "ok"]
    assert fetches == found["certstream_ingestor_fetch_seconds_count", "Simulated Operator 1"] > 0
    assert found["certstream_ingestor_operator_wait_seconds_total", "Simulated Operator 1"] == 0
    assert found["certstream_operator_request_interval_ms", "Simulated Operator 1"] == 0
    assert found["certstream_ingestor_publish_seconds_count",] > 0
    assert found["certstream_ingestor_logs", "followed"] == 2
    assert found["certstream_ingestor_logs", "held"] == 0
    assert found["certstream_ingestor_redis_up",] == 1
    assert found["process_cpu_seconds_total",] > 0
    (worker,) = (await snapshot(site.redis, site.keys)).workers
    assert worker.fields["admin"] == admin


async def test_429_answers_are_counted_by_log(site: Site, tmp_path: Path) -> None:
    await site.simlog.start(
        preload=20, rfc6962=2, static_ct=0, rate=0, fault="rfc1:status:code=429,share=0.5"
    )
    admin = f"unix:{tmp_path}/admin.sock"
    await site.ingestor("a", admin=admin, **{"ct_log.default_operator_rate_limit_ms": 7})
    names = await site.simlog.sizes()
    limited, other = sorted(names)

    async def counted() -> bool:
        found = await samples(admin)
        return found.get(("certstream_ct_log_rate_limited_total", limited), 0) > 2

    await until(counted)
    found = await samples(admin)
    assert found["certstream_ct_log_rate_limited_total", other] == 0
    assert found["certstream_operator_request_interval_ms", "Simulated Operator 1"] >= 7


async def test_an_old_tree_head_shows_its_age(site: Site, tmp_path: Path) -> None:
    """Replicas that are further behind do not change it. The next ingestor knows the delay."""
    stale = "*1:stale:entries=5,seconds=7200"
    await site.simlog.start(preload=50, rfc6962=1, static_ct=1, rate=0, fault=stale)
    admin = f"unix:{tmp_path}/admin.sock"
    options = {"admin": admin, "ct_log.start_index": 0}
    first = await site.ingestor("a", **options)
    await until(site.complete)

    async def ages() -> list[float]:
        """The ages of the tree heads and the delays of both logs, by the metrics."""
        found = await samples(admin)
        return [
            value
            for (metric, *_), value in sorted(found.items())
            if metric.endswith(("_tree_head_age_seconds", "_ingest_delay_seconds"))
        ]

    async def complete() -> bool:
        return len(await ages()) == 4

    async def newest() -> bool:
        """Whether the newest replica has answered: its head counts, not the one shown last."""
        found = await ages()
        return len(found) == 4 and all(age < 7200 for age in found[2:])

    await until(newest)
    before = await ages()
    fetched = ("certstream_ingestor_fetches_total", "Simulated Operator 1", "ok")
    polls = (await samples(admin))[fetched]

    async def polled() -> bool:
        return (await samples(admin))[fetched] > polls + 20

    await until(polled)  # about half of the polls are answered by a stale replica
    assert await newest()
    await first.stop()
    await site.ingestor("b", **options)
    await until(complete)
    assert (await ages())[:2] == pytest.approx(before[:2], abs=60), "delays: nothing is new"
    await until(newest)


async def test_trouble_is_reported(site: Site, tmp_path: Path) -> None:
    await site.simlog.start(preload=10, rfc6962=1, static_ct=0, rate=0)
    admin = f"unix:{tmp_path}/admin.sock"
    await site.ingestor("a", admin=admin, **{"ct_log.start_index": 0})
    await until(site.complete)
    (name,) = await site.logs()

    async def deep() -> dict[str, Any]:
        health: dict[str, Any] = msgspec.json.decode((await get(admin, "/health/deep")).body)
        return health

    async def well() -> bool:
        return bool((await deep())["status"] == "healthy")

    async def troubled() -> bool:
        return bool((await deep())["status"] == "degraded")

    await until(well)
    assert (await deep())["logs"] == [
        {
            "name": name,
            "next": 10,
            "tree_size": 10,
            "lag_entries": 0,
            "lag_secs": 0,
            "integrity": "proven",
            "circuit": "closed",
            "last_error": None,
        }
    ]
    site.simlog.stop()
    await until(troubled)
    assert (await deep())["logs"][0]["last_error"].startswith(site.simlog.url)
    assert (await get(admin, "/health")).status == 200  # it is the log's trouble
    failed = ("certstream_ingestor_fetches_total", "Simulated Operator 1", "unreachable")
    assert (await samples(admin))[failed] > 0


async def test_without_redis_it_reports_why_it_is_unhealthy(site: Site, tmp_path: Path) -> None:
    await site.simlog.start(preload=10, rfc6962=1, static_ct=0, rate=0)
    admin = f"unix:{tmp_path}/admin.sock"
    nowhere = f"unix://{tmp_path}/nowhere.sock"
    await site.ingestor("a", admin=admin, redis_url=nowhere)

    async def answers() -> bool:
        return await fetch(admin, "/health", 5) is not None

    await until(answers)
    reply = await get(admin, "/health")
    assert reply.status == 503
    health = msgspec.json.decode(reply.body)
    assert health["status"] == "unhealthy"
    assert "nowhere.sock" in health["reason"]
    assert (await get(admin, "/health/deep")).status == 503
    assert (await samples(admin))["certstream_ingestor_redis_up",] == 0


async def test_there_is_nothing_else(site: Site, tmp_path: Path) -> None:
    await site.simlog.start(preload=10, rfc6962=1, static_ct=0)
    admin = f"unix:{tmp_path}/admin.sock"
    await site.ingestor("a", admin=admin)

    async def healthy() -> bool:
        reply = await fetch(admin, "/health", 5)
        return reply is not None and reply == ClientResponse(200, b"OK")

    await until(healthy)
    reply = await get(admin, "/")
    assert reply.status == 404
    assert b"/health, /health/deep, /metrics" in reply.body
