"""The judgement of the whole service: which fault has which code, and what the codes come to."""

import json
import resource
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis.exceptions
from redis.asyncio import Redis

from certbus.cluster import LogStatus, ProcessInfo, Snapshot, StreamStatus
from certbus.cluster_health import CODES, Faults, HealthReport, evaluate
from certbus.connection import connect
from certbus.server_state import ServerState, server_state
from tests.certbus.servers import RedisServer
from tests.certbus.streams.test_full_redis import allow
from tests.waiting import until

NOW = 1_800_000_000_000
WELL = ServerState(NOW, used_memory=10, max_memory=100)
LOG = LogStatus("1", name="log1", integrity="proven", last_success=NOW, owner="w")
WORKER = ProcessInfo("w", {"writes": "full lite domains", "logs": "1"})
GATEWAY = ProcessInfo("g", {"serves": "full lite domains", "following": "1"})
STREAMS = [StreamStatus(name, True, 1, 1, 1) for name in ("full", "lite", "domains", "rejected")]
SEEN = Snapshot(NOW, "epoch", f"{NOW}-0", [LOG], [WORKER], [GATEWAY], STREAMS)


def judged(server: ServerState | str = WELL, **changed: Any) -> HealthReport:
    own = changed.pop("own", None)
    starting = changed.pop("starting", False)
    seen = msgspec.structs.replace(SEEN, **changed)
    return evaluate(seen, server, unhealthy_threshold=5, own=own, starting=starting)


def codes(judgement: HealthReport) -> list[str]:
    return [problem.code for problem in judgement.problems]


def changed(base: Any, **fields: Any) -> list[Any]:
    return [msgspec.structs.replace(base, **fields)]


def test_all_is_well() -> None:
    assert judged() == HealthReport("healthy", [], {"1": "healthy"})


def test_an_excluded_log_is_no_problem() -> None:
    silent = msgspec.structs.replace(LOG, log_id="2", state="excluded", last_success=1, owner=None)
    report = judged(logs=[LOG, silent])
    assert report == HealthReport("healthy", [], {"1": "healthy", "2": "excluded"})
    assert judged(logs=[silent]).status == "healthy"


LOST = ProcessInfo("g", {"following": "0"})
OLD_RELEASE = ProcessInfo("old", {"following": "1"})
"""A process of a release that reports nothing of its streams."""


@pytest.mark.parametrize(
    ("server", "fields", "expected"),
    [
        ("ConnectionError", {}, ["redis_unreachable"]),
        (ServerState(NOW, 0, 100, 100), {}, ["redis_full"]),
        (ServerState(NOW, 0, 105, 100, 10), {}, []),
        (ServerState(NOW, 0, 100, 0), {}, []),
        (ServerState(NOW, disk_error="no room"), {"workers": []}, ["redis_misconf"]),
        (ServerState(NOW, is_replica=True), {"gateways": []}, ["redis_read_only"]),
        (ServerState(NOW, lacks_replicas=True), {"workers": []}, ["redis_lacks_replicas"]),
        (ServerState(NOW + 120_000, 120_000), {}, ["redis_clock_ahead"]),
        (ServerState(NOW - 120_000, -120_000), {}, ["redis_clock_behind", "stream_ids_ahead"]),
        (ServerState(NOW - 4_000, -4_000), {}, []),
        (WELL, {"last": f"{NOW + 30 * 86_400_000}-0"}, ["stream_ids_ahead"]),
        (WELL, {"last": "not an id"}, []),
        (WELL, {"workers": []}, ["no_ingestor"]),
        (WELL, {"gateways": []}, ["no_gateway"]),
        (
            WELL,
            {"gateways": changed(GATEWAY, fields={"following": "0"})},
            ["gateway_not_following"],
        ),
        (WELL, {"logs": []}, []),
        (WELL, {"logs": changed(LOG, failures=1)}, ["log_failing"]),
        (WELL, {"logs": changed(LOG, circuit="open")}, ["no_log_healthy", "log_unhealthy"]),
        (
            WELL,
            {"logs": [*changed(LOG, circuit="open"), *changed(LOG, log_id="2")]},
            ["log_unhealthy"],
        ),
        (WELL, {"logs": changed(LOG, last_success=None)}, ["log_failing"]),
        (
            WELL,
            {"logs": [LOG, *changed(LOG, log_id="2", integrity="lying")]},
            ["log_unhealthy", "log_misbehaving"],
        ),
        (WELL, {"logs": changed(LOG, integrity="unproven")}, []),
        (
            WELL,
            {"logs": changed(LOG, integrity="unproven", alarms_by_kind={"no_proof": 1})},
            ["log_unproven"],
        ),
        (WELL, {"workers": [OLD_RELEASE], "gateways": [OLD_RELEASE]}, []),
        (
            WELL,
            {"streams": [msgspec.structs.replace(STREAMS[0], written=False), *STREAMS[1:]]},
            ["stream_not_written"],
        ),
        (WELL, {"workers": [WORKER, ProcessInfo("v", {"writes": "lite"})]}, ["ingestors_differ"]),
    ],
)
def test_each_fault_has_its_code(
    server: ServerState | str, fields: dict[str, Any], expected: list[str]
) -> None:
    found = judged(server, **fields)
    assert codes(found) == expected
    critical = any(CODES[code] == "critical" for code in expected)
    assert found.status == ("unhealthy" if critical else "degraded" if expected else "healthy")


def test_texts_name_the_process() -> None:
    streams = [msgspec.structs.replace(STREAMS[0], written=False), *STREAMS[1:]]
    workers = [WORKER, ProcessInfo("v", {"writes": "lite"})]
    written, differ = judged(streams=streams, workers=workers).problems
    assert "the stream full" in written.text
    assert "v writes lite, w writes full lite domains" in differ.text


def test_texts_show_nothing_that_a_log_answered() -> None:
    """The public sees them."""
    (failing,) = judged(
        logs=changed(LOG, failures=1, last_error="https://10.0.0.1/: secret")
    ).problems
    assert "log1" in failing.text
    assert "10.0.0.1" not in failing.text


def test_reported_faults_are_shown_with_the_names_of_processes() -> None:
    reported = json.dumps({"descriptors_exhausted": "no descriptor is left", "made_up": "?"})
    fields = {**GATEWAY.fields, "faults": reported}
    gateways = [
        ProcessInfo("g", fields),
        ProcessInfo("h", {**fields, "faults": "no JSON"}),
        ProcessInfo("i", fields),
    ]
    own = {"descriptors_exhausted": "no descriptor is left"}
    (problem,) = judged(gateways=gateways, own=own).problems
    assert problem.code == "descriptors_exhausted"
    (problem,) = judged(gateways=gateways).problems
    assert problem.text == "g: no descriptor is left; i: no descriptor is left"


def test_missing_processes_are_no_failure_at_the_start() -> None:
    assert codes(judged(workers=[], gateways=[], starting=True)) == ["starting"]
    assert codes(judged("not read yet", starting=True)) == ["starting"]
    assert judged("not read yet", starting=True).status == "degraded"


def test_a_fault_lasts_for_a_while_after_it_was_last_noted() -> None:
    now = 0.0
    faults = Faults(lambda: now)
    faults.report("redis_emptied", "a", 10)
    now = 9.0
    faults.report("redis_emptied", "b", 10)
    faults.report("redis_rewound", "c", 1)
    assert json.loads(faults.field()) == {"redis_emptied": "b", "redis_rewound": "c"}
    now = 18.0
    assert faults.current() == {"redis_emptied": "b"}
    faults.end("redis_emptied")
    assert faults.current() == {}


async def test_the_state_of_a_real_server(client: Redis) -> None:
    state = await server_state(client)
    assert (state.is_full, state.ahead) == (False, 0)
    assert (state.disk_error, state.is_replica) == (None, False)
    assert abs(state.now - (await client.time())[0] * 1000) < 60_000
    await allow(client, 1)
    assert (await server_state(client)).is_full


async def test_a_server_that_lacks_replicas(executable: str, tmp_path: Path) -> None:
    server = RedisServer(executable, tmp_path)
    server.start()
    client = connect(server.url)
    try:
        assert not (await server_state(client)).lacks_replicas
        await client.config_set("min-replicas-to-write", 1)
        with pytest.raises(redis.exceptions.ResponseError, match="NOREPLICAS"):
            await client.set("x", 1)
        assert (await server_state(client)).lacks_replicas
        await client.config_set("min-replicas-to-write", 0)
        assert not (await server_state(client)).lacks_replicas
    finally:
        await client.aclose()
        server.kill()


async def test_a_snapshot_that_fails_counts_only_if_redis_then_rejects_writes(
    executable: str, tmp_path: Path
) -> None:
    server = RedisServer(executable, tmp_path, appendonly="no")
    server.start()
    client = connect(server.url)

    async def failed() -> bool:
        return bool((await client.info("persistence"))["rdb_last_bgsave_status"] == "err")

    try:
        (tmp_path / "data").rmdir()
        await client.bgsave()
        await until(failed)
        await client.set("x", 1)
        assert (await server_state(client)).disk_error is None
        await client.config_set("save", "3600 1")
        with pytest.raises(redis.exceptions.ResponseError, match="MISCONF"):
            await client.set("x", 1)
        assert (await server_state(client)).disk_error == "it could not save its last snapshot"
    finally:
        await client.aclose()
        server.kill()


async def test_an_append_only_file_that_cannot_be_written(executable: str, tmp_path: Path) -> None:
    """With the error of a full disk: no file of this server may grow."""
    wrapper = tmp_path / "server"
    wrapper.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {executable} \"$@\"\n")
    wrapper.chmod(0o700)
    server = RedisServer(str(wrapper), tmp_path, appendfsync="everysec")
    server.start()
    client = connect(server.url)
    try:
        pid = (await client.info("server"))["process_id"]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))

        async def rejected() -> bool:
            try:
                await client.set("x", 1)
            except redis.exceptions.ResponseError as error:
                return "MISCONF" in str(error)
            return False

        await until(rejected)
        assert (await server_state(client)).disk_error == "it cannot write its append-only file"
    finally:
        await client.aclose()
        server.kill()
