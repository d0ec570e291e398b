"""Whole ingestors between simulated logs and a real Redis."""

import asyncio
import itertools
import os
import signal
from collections import Counter
from importlib.metadata import version

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from certbus.cluster import ClusterRegistry, LogStatus
from certbus.logs.leases import Lease, Leases
from ctparse.tree_head import TreeHead
from ingestor.client.rfc6962 import Rfc6962Log
from tests.ingestor.hostile import NOWHERE, Answer, hostile_server, redirect
from tests.ingestor.site import Site
from tests.paths import FIXTURES
from tests.waiting import until


def adds_up(log: LogStatus) -> bool:
    assert log.start is not None
    assert log.next is not None
    return log.published + log.duplicates + log.rejected + log.skipped == log.next - log.start


async def assert_exactly_once(site: Site) -> None:
    """Every certificate of every log is in Redis once, and every entry accounted for."""
    logs = await site.logs()
    # Logs that grow have more by the time that the stream is read.
    published = [
        (name, index, sha256)
        for name, index, sha256 in await site.published()
        if name in logs and index < (logs[name].next or 0)
    ]
    assert max(Counter(sha256 for _, _, sha256 in published).values()) == 1
    assert all(adds_up(log) for log in logs.values())
    assert len(published) == sum(log.published for log in logs.values())
    for name in logs:
        indexes = [index for log, index, _ in published if log == name]
        assert indexes == sorted(indexes)


async def test_three_ingestors_publish_every_certificate_once(site: Site) -> None:
    await site.simlog.start(rfc6962=2, static_ct=2, preload=3000, duplicates=0.3, rate=0)
    for name in ("a", "b", "c"):
        await site.ingestor(name, **{"ct_log.start_index": 0})
    await until(site.complete, "complete Redis", 60)
    await assert_exactly_once(site)
    logs = await site.logs()
    assert sum(log.duplicates for log in logs.values()) > 0
    assert {log.start for log in logs.values()} == {0}


@pytest.mark.parametrize(
    ("settings", "agent", "is_anonymous"),
    [
        ({}, f"certstream-server/{version('certstream-server')}", True),
        (
            {"contact": "ops@example.com"},
            f"certstream-server/{version('certstream-server')} (+ops@example.com)",
            False,
        ),
        ({"contact": "x@example.com", "ct_log.user_agent": "Mine/1"}, "Mine/1", False),
    ],
)
async def test_requests_state_who_sends_them(
    site: Site, settings: dict[str, object], agent: str, is_anonymous: bool
) -> None:
    async with hostile_server() as server:
        logs = {"custom_logs": [{"name": "Log", "url": f"{server.url}/log"}]}
        with capture_logs() as lines:
            await site.odd_ingestor(logs, **settings)
            await until(lambda: len(server.requests) > 1, "requests")
    assert {request.headers["user-agent"] for request in server.requests} == {agent.lower()}
    missing = [line for line in lines if line["event"] == "contact missing"]
    assert len(missing) == is_anonymous
    assert all("limit anonymous clients" in line["effect"] for line in missing)


async def test_logs_move_to_workers_that_join_and_from_workers_that_leave(site: Site) -> None:
    await site.simlog.start(rfc6962=2, static_ct=2, preload=500, rate=50)
    first = await site.ingestor("first", **{"ct_log.start_index": 0})

    async def shared(**expected: int) -> bool:
        return await site.holders() == expected

    async def fair() -> bool:
        return sorted((await site.holders()).values()) == [1, 1, 2]

    await until(lambda: shared(first=4), what="all logs at the first")
    await site.ingestor("second")
    await until(lambda: shared(first=2, second=2), what="two logs each")
    third = await site.ingestor("third")
    await until(fair, "fair shares of three")
    await first.stop()
    await until(lambda: shared(second=2, third=2), "released logs, before a lease expires", 4)
    await third.stop()
    await until(lambda: shared(second=4), "all logs at the last", 4)
    sizes = await site.simlog.sizes()

    async def beyond() -> bool:
        logs = await site.logs()
        return all((logs[name].next or 0) >= size for name, size in sizes.items())

    await until(beyond, what="entries that came after the moves")
    await assert_exactly_once(site)


async def test_a_new_log_starts_at_the_head_and_a_restart_continues(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=1000, rate=0)
    sizes = await site.simlog.sizes()
    ingestor = await site.ingestor("a", **{"ct_log.start_overlap_leaves": 50})
    await until(site.complete, what="complete Redis")
    await ingestor.stop()
    before = await site.logs()
    assert {name: log.start for name, log in before.items()} == {
        name: size - 50 for name, size in sizes.items()
    }
    with capture_logs() as lines:
        again = await site.ingestor("b", **{"ct_log.start_index": 0})
        await until(lambda: sum(line["event"] == "log assigned" for line in lines) == 2)
        await again.stop()
    assert {line["log"]: line["at"] for line in lines if line["event"] == "log assigned"} == sizes
    assert {name: log.start for name, log in (await site.logs()).items()} == {
        name: log.start for name, log in before.items()
    }


async def test_an_outage_of_a_log_is_reported_once_and_followed_by_recovery(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=0, preload=300, rate=0, start=1_790_000_000)
    await site.ingestor("a", **{"ct_log.start_index": 0, "ct_log.retry_max_attempts": 1})
    await until(site.complete, what="complete Redis")
    with capture_logs() as lines:
        site.simlog.stop()

        async def several_failures() -> bool:
            (log,) = (await site.logs()).values()
            first = log.last_error_at
            await until(lambda: _failed_since(site, first), what="another failure")
            return True

        await until(lambda: any(line["event"].startswith("log unavailable") for line in lines))
        await until(several_failures)
        await site.simlog.restart()
        await until(lambda: any(line["event"] == "log recovered" for line in lines))
    events = [line["event"] for line in lines]
    assert events.count("log unavailable") == 1
    assert events.count("log recovered") == 1
    (outage,) = [line for line in lines if line["event"].startswith("log unavailable")]
    assert outage["url"].startswith(site.simlog.url)
    assert outage["problem"]
    (log,) = (await site.logs()).values()
    assert log.last_error is not None
    assert site.simlog.url in log.last_error


async def test_a_log_that_leads_nowhere_does_not_stop_the_others(site: Site) -> None:
    await site.simlog.start(rfc6962=0, static_ct=1, preload=300, rate=0)
    async with hostile_server() as hostile:
        hostile.answers["*"] = [redirect(location) for location in NOWHERE]
        evil = [{"name": "Evil", "url": hostile.url}]
        await site.ingestor("a", **{"ct_log.start_index": 0, "custom_logs": evil})

        async def reported() -> bool:
            logs = await site.logs()
            return "Evil" in logs and bool(logs["Evil"].last_error)

        await until(reported, what="error of the hostile log")
        await until(site.complete, what="complete Redis")


async def test_a_log_that_never_answers_slows_no_other(site: Site) -> None:
    await site.simlog.start(rfc6962=2, static_ct=0, preload=1000, rate=0)
    async with hostile_server() as hostile:
        hostile.answers["*"] = [Answer(silent=True)]
        evil = [{"name": f"Evil {n}", "url": f"{hostile.url}/{n}"} for n in range(20)]
        config = {"ct_log.start_index": 0, "ct_log.request_timeout_secs": 3600}
        await site.ingestor("a", **config, static_logs=evil)
        await until(lambda: len(hostile.requests) == len(evil), "a request to each of them")
        await until(site.complete, "the others are complete")
        assert len(hostile.requests) == len(evil)


async def test_a_new_owner_keeps_the_circuit(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=0, preload=100, rate=0)
    config = {
        "ct_log.start_index": 0,
        "ct_log.retry_max_attempts": 1,
        "ct_log.retry_initial_delay_ms": 60_000,
        "ct_log.retry_max_delay_ms": 60_000,
        "ct_log.health_check_interval_secs": 60,
        "ct_log.unhealthy_threshold": 1,
    }
    async with hostile_server() as hostile:
        hostile.answers["*"] = [Answer(status="500 Internal Server Error")]
        evil = [{"name": "Evil", "url": hostile.url}]
        first = await site.ingestor("a", **config, static_logs=evil)

        async def opened() -> bool:
            logs = await site.logs()
            return "Evil" in logs and logs["Evil"].circuit == "open"

        await until(opened, "the circuit is open")
        await first.stop()
        assert len(hostile.requests) == 1
        await site.ingestor("b", **config, static_logs=evil)
        await until(lambda: held_by(site, "b", 2), "both logs are at the other")
        await until(site.complete, "the good log is complete")
        assert len(hostile.requests) == 1
        evil_log = (await site.logs())["Evil"]
        assert (evil_log.circuit, evil_log.failures, evil_log.errors) == ("open", 1, 1)


async def held_by(site: Site, name: str, logs: int) -> bool:
    """Whether this worker alone holds `logs` logs, including those whose start it determines."""
    loads = (await ClusterRegistry(site.redis, site.keys).load_workers()).loads
    return {worker.rpartition("-")[0]: len(held) for worker, held in loads.items()} == {name: logs}


@pytest.mark.parametrize(
    ("heads", "failure", "doing"),
    [
        (0, RuntimeError, "finding where it starts"),
        (1, asyncio.CancelledError, "following it"),
    ],
)
async def test_an_unexpected_failure_stays_with_its_log(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    heads: int,
    failure: type[BaseException],
    doing: str,
) -> None:
    """While its start is looked up, and after that."""
    await site.simlog.start(rfc6962=1, static_ct=1, preload=300, rate=0)
    tree_head, requests = Rfc6962Log.tree_head, itertools.count()

    async def broken(log: Rfc6962Log) -> TreeHead:
        if next(requests) < heads:
            return await tree_head(log)
        raise failure(log)

    monkeypatch.setattr(Rfc6962Log, "tree_head", broken)
    with capture_logs() as lines:
        await site.ingestor("a", **{"ct_log.start_index": 0})

        async def other_is_complete() -> bool:
            sizes, logs = await site.simlog.sizes(), await site.logs()
            return any(logs[name].next == size for name, size in sizes.items() if name in logs)

        await until(lambda: any(line["event"] == "log failed" for line in lines))
        await until(other_is_complete, what="the other log complete")
    assert {line["doing"] for line in lines if line["event"] == "log failed"} == {doing}


async def _failed_since(site: Site, moment: int | None) -> bool:
    (log,) = (await site.logs()).values()
    return log.last_error_at != moment


async def test_an_emptied_redis_is_filled_from_where_its_owner_was(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=1000, rate=100)
    await site.ingestor("a", **{"ct_log.start_index": 0})

    async def some() -> bool:
        return len(await site.published()) >= 1000

    await until(some, what="thousand certificates")
    await site.redis.flushall()
    emptied_at = await site.simlog.sizes()

    async def continued() -> bool:
        logs = await site.logs()
        return all(
            name in logs and (logs[name].next or 0) > size + 10 for name, size in emptied_at.items()
        )

    await until(continued, what="logs made again")
    for name, log in (await site.logs()).items():
        assert log.start is not None
        assert 500 <= log.start <= emptied_at[name], "continues neither from zero nor from the head"
    await assert_exactly_once(site)


async def test_an_emptied_redis_in_which_a_log_was_started_later_loses_nothing(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=50, rate=0)
    await site.ingestor("a", **{"ct_log.start_index": 0})
    await until(site.complete, what="complete Redis")
    sizes = await site.simlog.sizes()
    ids = [log.log_id for log in (await site.logs()).values()]
    async with site.redis.pipeline(transaction=True) as another_worker:
        another_worker.flushall()
        for log_id in ids:
            another_worker.sadd(site.keys.logs, log_id)
            another_worker.hset(site.keys.log(log_id), mapping={"start": 10**6, "next": 10**6})
        await another_worker.execute()

    async def restored() -> bool:
        logs = await site.logs()
        return {name: logs[name].start for name in sizes if name in logs} == sizes

    await until(restored, "the position of the owner", 30)


_SAVE = """
local saved = {}
for i, key in ipairs(redis.call('KEYS', '*')) do
  saved[i] = {key, math.max(redis.call('PTTL', key), 0), redis.call('DUMP', key)}
end
return saved
"""

_REWIND = """
redis.call('FLUSHALL')
for i = 1, #ARGV, 3 do
  redis.call('RESTORE', ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
"""


async def test_what_redis_lost_is_published_again_though_the_log_has_nothing_new(
    site: Site,
) -> None:
    """No publication shows the loss."""
    await site.simlog.start(rfc6962=1, static_ct=1, rate=100, total=200)
    await site.ingestor("a", **{"ct_log.start_index": 0})

    async def some() -> bool:
        return len(await site.published()) >= 100

    await until(some, "a hundred certificates")
    saved = await site.redis.eval(_SAVE, 0)

    async def complete() -> bool:
        return len(await site.published()) == 200

    await until(complete, "all certificates")
    await site.redis.eval(_REWIND, 0, *(each for key in saved for each in key))
    assert not await complete()
    await until(complete, "all certificates again", 30)
    await assert_exactly_once(site)


async def test_what_redis_lost_is_published_again_though_the_next_entry_cannot_be_read(
    site: Site,
) -> None:
    await site.simlog.start(rfc6962=1, static_ct=0, preload=100, rate=0)
    await site.withhold(40, 60)
    await site.ingestor("a", **{"ct_log.start_index": 0, "ct_log.batch_size": 20})

    async def publishes_up_to(end: int) -> None:
        async def has_next() -> bool:
            return [log.next for log in (await site.logs()).values()] == [end]

        await until(has_next, f"the entries before {end}")

    await publishes_up_to(40)
    saved = await site.redis.eval(_SAVE, 0)
    await site.withhold(60)
    await publishes_up_to(60)
    await site.redis.eval(_REWIND, 0, *(each for key in saved for each in key))
    await publishes_up_to(60)


async def test_redis_killed_and_restarted_is_waited_for(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=500, rate=100)
    with capture_logs() as lines:
        await site.ingestor("a", **{"ct_log.start_index": 0})
        await site.ingestor("b", **{"ct_log.start_index": 0})

        async def some() -> bool:
            return len(await site.published()) >= 500

        await until(some, what="some certificates")
        assert site.server.pid is not None
        os.kill(site.server.pid, signal.SIGKILL)
        await site.server.wait()
        away = [line for line in lines if line["event"].startswith("redis unavailable")]
        assert not away
        await until(
            lambda: sum(line["event"].startswith("redis unavailable") for line in lines) == 2
        )
        await site.server.start()
        sizes = await site.simlog.sizes()

        async def beyond() -> bool:
            logs = await site.logs()
            return all((logs[name].next or 0) >= size for name, size in sizes.items())

        await until(beyond, "entries of the outage", 30)
    assert sum(line["event"] == "redis recovered" for line in lines) == 2
    await assert_exactly_once(site)


async def test_leases_that_expired_while_redis_was_away_are_kept(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=300, rate=20)
    await site.ingestor("a", **{"ct_log.start_index": 0})
    await until(site.complete, what="complete Redis")
    ids = [log.log_id for log in (await site.logs()).values()]
    leases = [site.keys.lease(log_id) for log_id in ids]

    async def fences() -> list[object]:
        return [await site.redis.hget(site.keys.log(log_id), "fence") for log_id in ids]

    before = await fences()
    with capture_logs() as lines:
        await site.redis.delete(*leases)  # as all expire in a Redis that is away for 5 s

        async def renewed() -> bool:
            return await site.redis.exists(*leases) == len(leases)

        await until(renewed, what="renewed leases")
        sizes = await site.simlog.sizes()

        async def beyond() -> bool:
            logs = await site.logs()
            return all((logs[name].next or 0) >= size for name, size in sizes.items())

        await until(beyond, what="entries that came after that")
    assert await fences() == before
    assert [line for line in lines if line["event"] == "lease lost"] == []
    await assert_exactly_once(site)


async def test_a_redis_that_hangs_does_not_keep_an_ingestor_from_stopping(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=100, rate=0)
    ingestor = await site.ingestor("a", **{"ct_log.start_index": 0})
    await until(site.complete, what="complete Redis")
    assert site.server.pid is not None
    os.kill(site.server.pid, signal.SIGSTOP)
    try:
        with capture_logs() as lines:
            await ingestor.stop()
    finally:
        os.kill(site.server.pid, signal.SIGCONT)
    assert "leases not released" in [line["event"] for line in lines]


async def test_an_error_of_one_lease_does_not_keep_the_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.simlog.start(rfc6962=2, static_ct=1, preload=100, rate=0)
    ingestor = await site.ingestor("a", **{"ct_log.start_index": 0})
    await until(site.complete, what="complete Redis")
    release, called = Leases.release, list[Lease]()

    async def first_fails(leases: Leases, lease: Lease) -> None:
        called.append(lease)
        if len(called) == 1:
            raise ResponseError("WRONGTYPE not a hash")
        await release(leases, lease)

    monkeypatch.setattr(Leases, "release", first_fails)
    with capture_logs() as lines:
        await ingestor.stop()
    (line,) = [line for line in lines if line["event"] == "leases not released"]
    assert "WRONGTYPE" in line["problem"]
    assert len(called) == 3
    for log_id in (lease.log_id for lease in called[1:]):
        assert not await site.redis.exists(site.keys.lease(log_id))
    assert (await ClusterRegistry(site.redis, site.keys).load_workers()).writes == {}


async def test_an_unavailable_list_is_logged_and_configured_logs_are_followed(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=0, preload=100, rate=0)
    lists = [{"url": "http://127.0.0.1:1/list.json", "unsigned": True}]
    with capture_logs() as lines:
        await site.ingestor("a", **{"ct_log.start_index": 0, "log_lists": lists})
        await until(site.complete, what="complete Redis")
    (line,) = [line for line in lines if line["event"] == "log list rejected"]
    assert (line["list"], line["reason"]) == ("http://127.0.0.1:1/list.json", "unreachable")
    assert line["log_level"] == "warning"


async def test_a_signed_list_names_the_logs(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=100, rate=0)
    url = site.simlog.url
    key = await site.simlog.save("log_list_pubkey.pem")
    signed = {
        "url": f"{url}/log_list.json",
        "signature_url": f"{url}/log_list.sig",
        "key": str(key),
    }
    only_listed = {"custom_logs": [], "static_logs": [], "ct_log.start_index": 0}
    await site.ingestor("a", **only_listed, log_lists=[signed])
    await until(site.complete, what="complete Redis")
    assert {log.state for log in (await site.logs()).values()} == {"usable"}


async def test_a_list_with_the_wrong_signature_is_refused(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=0, preload=100, rate=0)
    url = site.simlog.url
    google = FIXTURES / "log_list_pubkey.pem"
    signed = {
        "url": f"{url}/log_list.json",
        "signature_url": f"{url}/log_list.sig",
        "key": str(google),
    }
    only_listed = {"custom_logs": [], "static_logs": [], "ct_log.start_index": 0}
    with capture_logs() as lines:
        await site.ingestor("a", **only_listed, log_lists=[signed])
        await until(lambda: any(line["event"] == "log list rejected" for line in lines))
        await until(lambda: any(line["event"] == "logs selected" for line in lines))
    assert [line["logs"] for line in lines if line["event"] == "logs selected"] == [0]
    assert await site.logs() == {}
