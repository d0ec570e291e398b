"""Every fault is shown by its code, by /health/deep, `status` and the metrics, while it lasts.

Real processes, real faults. docs/runbook.md has the table of what is seen.
"""

import json
import os
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from certbus.cluster_report import read_report
from certbus.connection import connect
from certbus.ids import parse_cursor, parse_entry_id
from certbus.keys import Keys
from launcher.runtime.embedded_redis import find_executable
from tests.certbus.servers import FAKETIME, RedisServer, ShiftedRedisServer
from tests.e2e.invariants import broken
from tests.e2e.processes import CERTSTREAM_SERVER, Process
from tests.e2e.site import Site
from tests.gateway.client_helpers import certificates, websocket
from tests.waiting import until

SHOWN = 15.0 if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) <= 2 else 45.0
"""Seconds within which a fault is shown; other tests that run beside these take their time."""
RECOVERY = 60.0
"""Seconds for what is no promise: a recovery, the end of a command."""


class Watched:
    """A deployment, and what it shows of itself."""

    def __init__(self, site: Site, redis: RedisServer) -> None:
        self.site = site
        self.redis = redis
        self.client = connect(redis.url)
        self.address = ""
        self._http = httpx.AsyncClient(trust_env=False, timeout=20)

    async def close(self) -> None:
        await self._http.aclose()
        await self.client.aclose()

    async def deep(self) -> tuple[int, set[str], str]:
        """Status code, codes of the problems and status that /health/deep gives."""
        answer = await self._http.get(f"http://{self.address}/health/deep")
        report = answer.json()
        return answer.status_code, {each["code"] for each in report["problems"]}, report["status"]

    async def status(self) -> set[str]:
        """The codes that `status` shows."""
        report = await read_report(self.client, Keys(), 5)
        return {each.code for each in report.problems}

    async def measured(self) -> set[str]:
        """The codes of which the metric is 1."""
        text = (await self._http.get(f"http://{self.address}/metrics")).text
        return {
            sample.labels["code"]
            for family in text_string_to_metric_families(text)
            if family.name == "certstream_gateway_problem"
            for sample in family.samples
            if sample.value == 1
        }

    async def shows(
        self, code: str, *, status: str, by_redis: bool = True, within: float = SHOWN
    ) -> None:
        """Wait until all three show the code; `by_redis` if `status` can reach Redis at all."""
        last: list[object] = []

        async def everywhere() -> bool:
            last[:] = [await self.deep(), await self.measured()]
            if by_redis:
                last.append(await self.status())
            answer, codes, report = await self.deep()
            shown = code in codes and code in await self.measured()
            if by_redis:
                shown = shown and code in await self.status()
            return shown and report == status and answer == (503 if status == "unhealthy" else 200)

        began = time.monotonic()
        try:
            await until(everywhere, f"{code}, {status}", within)
        except AssertionError as error:
            raise AssertionError(f"{error}; shown: {last}") from None
        print(f"{code} is shown after {time.monotonic() - began:.1f} s")

    async def recovers(self, *lasting: str) -> None:
        """Wait until nothing but those is shown."""
        last: set[str] = set()

        async def well() -> bool:
            last.clear()
            last.update((await self.deep())[1] | await self.status())
            return last <= set(lasting)

        try:
            await until(well, f"nothing but {lasting}", RECOVERY)
        except AssertionError as error:
            raise AssertionError(f"{error}; shown: {last}") from None


@pytest.fixture
async def watched(site: Site, tmp_path: Path) -> AsyncIterator[Watched]:
    """Two logs that grow, an ingestor and a gateway, all of them well."""
    # A file that may not grow gives the error of a full disk, if the signal is ignored.
    wrapper = tmp_path / "redis-server"
    wrapper.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {find_executable()} \"$@\"\n")
    wrapper.chmod(0o700)
    server = ShiftedRedisServer if FAKETIME.exists() else RedisServer
    redis = server(str(wrapper), tmp_path, appendfsync="everysec")
    redis.start()
    site.redis_url = redis.url
    await site.start_logs(rfc6962=1, static_ct=1, rate=20, duplicates=0.1)
    limit = {"enabled": True, "max_connections": 3, "per_ip_limit": 100}
    await site.configure(connection_limit=limit)
    watched = Watched(site, redis)
    site.start_ingestor()
    watched.address = await site.start_gateway()
    try:
        await watched.recovers()
        assert (await watched.deep())[2] == "healthy"
        yield watched
        assert await broken(site) == []
    finally:
        site.redis_url = ""
        await watched.close()
        redis.kill()


async def test_of_redis(watched: Watched, tmp_path: Path) -> None:
    client, redis = watched.client, watched.redis
    # As a Redis that others have filled: trimming the streams does not help.
    await client.config_set("maxmemory", 1)
    await watched.shows("redis_full", status="unhealthy")
    assert "no_ingestor" not in (await watched.deep())[1], "their heartbeats arrive"
    await client.config_set("maxmemory", 0)
    await watched.recovers()

    await client.config_set("min-replicas-to-write", 1)
    await watched.shows("redis_lacks_replicas", status="unhealthy")
    assert not {"no_ingestor", "no_gateway"} & (await watched.deep())[1]
    await client.config_set("min-replicas-to-write", 0)
    await watched.recovers()

    pid = (await client.info("server"))["process_id"]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    await watched.shows("redis_misconf", status="unhealthy")
    assert not {"no_ingestor", "no_gateway"} & (await watched.deep())[1]
    command = [*CERTSTREAM_SERVER, "status", f"--redis-url={redis.url}", "--json"]
    once = Process("status", command, tmp_path)
    await until(lambda: not once.running, "status ends", RECOVERY)
    report = json.loads(once.log.read_text().splitlines()[-1])
    assert "redis_misconf" in {problem["code"] for problem in report["problems"]}
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await watched.recovers()

    redis.kill()
    await watched.shows("redis_unreachable", status="unhealthy", by_redis=False)
    once = Process("status-away", command, tmp_path)
    await until(lambda: not once.running, "status ends", RECOVERY)
    report = json.loads(once.log.read_text().splitlines()[-1])
    assert [problem["code"] for problem in report["problems"]] == ["redis_unreachable"]
    redis.start()
    await watched.recovers("redis_rewound")

    await client.flushall()
    await watched.shows("redis_emptied", status="degraded")


async def test_of_what_redis_has_lost(watched: Watched) -> None:
    watched.redis.save_aside()
    last = await watched.client.hget(Keys().head, "last")
    assert isinstance(last, bytes)
    # The gateway must have read more, else it misses nothing.
    async with websocket(f"ws://{watched.address}/domains-only") as client:
        while True:
            (message,) = await certificates(client, 1)
            if parse_cursor(message["id"]).entry > parse_entry_id(last.decode()):
                break
    watched.redis.wind_back()
    await watched.shows("redis_rewound", status="degraded")


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed")
async def test_of_the_clock_of_redis(watched: Watched) -> None:
    redis = watched.redis
    assert isinstance(redis, ShiftedRedisServer)
    redis.shift(-120)
    await watched.shows("redis_clock_behind", status="degraded")
    await watched.shows("stream_ids_ahead", status="degraded")
    redis.shift(120)
    await watched.shows("redis_clock_ahead", status="degraded")


async def test_of_processes(watched: Watched) -> None:
    site = watched.site
    other = site.save("other.yaml", {"streams": {"full": False}})
    second = site.start_ingestor(other)
    await watched.shows("ingestors_differ", status="degraded")

    def logged() -> bool:
        return any("ingestor streams differ" in each.log.read_text() for each in site.ingestors)

    await until(logged, "an ingestor logs that streams differ", SHOWN)
    # The ingestor that was configured last decides: no ingestor writes a stream that is served.
    await watched.shows("stream_not_written", status="degraded")
    second.kill()
    site.ingestors[0].kill()
    await watched.shows("no_ingestor", status="unhealthy")
    site.ingestors[0].restart()
    await watched.recovers()

    url = f"ws://{watched.address}/domains-only"
    async with websocket(url), websocket(url), websocket(url):
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(f"http://{watched.address}/sse")
        assert answer.status_code == 503
        await watched.shows("connections_exhausted", status="degraded")

    gateway = next(each for each in site.processes if each.name == "gateway-1")
    gateway.kill()

    async def none_left() -> bool:
        return "no_gateway" in await watched.status()

    await until(none_left, "no_gateway", SHOWN)
    site.redis_url = ""  # `full` was not written for a time: its ids differ from the others'


async def test_of_logs(watched: Watched) -> None:
    site = watched.site
    await site.put(f"{site.logs_url}/control/static1/faults", b'{"kind": "status", "code": 503}')
    await watched.shows("log_failing", status="degraded")
    # As soon as it has failed `unhealthy_threshold` times in a row.
    await watched.shows("log_unhealthy", status="degraded", within=RECOVERY)
    await site.put(f"{site.logs_url}/control/rfc1/faults", b'{"kind": "bad_signature"}')
    await watched.shows("log_misbehaving", status="unhealthy")
    assert "no_log_healthy" in await watched.status()
