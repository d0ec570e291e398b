"""Alerts against series of real processes: a fault fires them, an hour without one does not."""

import asyncio
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import redis.exceptions

from certbus.connection import connect
from launcher.runtime.embedded_redis import find_executable
from tests.certbus.servers import RedisServer
from tests.e2e.processes import Process, free_port
from tests.e2e.site import Site
from tests.gateway.client_helpers import websocket
from tests.manifests.scraped import (
    Phase,
    Scrape,
    firing,
    firing_only,
    present,
    scrape,
    silent,
)
from tests.manifests.test_monitoring import dashboard_expressions, names
from tests.manifests.tools import require
from tests.waiting import until

ENOUGH = 60.0
SCRAPE_INTERVAL_SECS = 4.0  # seconds between the two scrapes of a state: a rate is taken over them


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    require("promtool")
    opened = Site(tmp_path)
    try:
        yield opened
    finally:
        await opened.close()


class Measured:
    """One ingestor and one gateway, each scraped at its own address."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.admins = {name: free_port() for name in ("ingestor", "gateway")}
        self.gateway = ""

    async def start(self) -> None:
        self.site.start_ingestor(None, f"--admin=127.0.0.1:{self.admins['ingestor']}")
        admin = f"--admin=127.0.0.1:{self.admins['gateway']}"
        self.gateway = await self.site.start_gateway(admin)

    async def scrape(self) -> Scrape:
        return await scrape(
            {name: f"http://127.0.0.1:{port}/metrics" for name, port in self.admins.items()}
        )

    async def phase(self, minutes: int) -> Phase:
        """The state as it is now, stretched."""
        first = await self.scrape()
        await asyncio.sleep(SCRAPE_INTERVAL_SECS)  # what is measured is a rate
        return Phase(first, await self.scrape(), minutes)

    async def problems(self) -> set[str]:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            report = (await http.get(f"http://{self.gateway}/health/deep")).json()
        return {problem["code"] for problem in report["problems"]}

    async def shows(self, *codes: str) -> None:
        """Wait until these problems are shown, in the metric too; none means none."""

        async def shown() -> bool:
            text = await self.scrape()
            measured = {
                dict(labels)["code"]
                for (name, labels), value in text.values.items()
                if name == "certstream_gateway_problem" and value
            }
            if not codes:
                return not measured and not await self.problems()
            return set(codes) <= measured

        await until(shown, f"{codes} are shown", ENOUGH)


async def test_an_hour_without_a_fault_and_faults_of_redis(site: Site, tmp_path: Path) -> None:
    await site.start_redis()
    await site.start_logs(rfc6962=1, static_ct=1, rate=40, duplicates=0.1)
    limit = {"enabled": True, "max_connections": 1, "per_ip_limit": 9}
    config = await site.configure(connection_limit=limit)
    measured = Measured(site)
    await measured.start()
    place = tmp_path / "test.yml"
    client = connect(site.redis_admin_url)
    try:
        await measured.shows()
        async with websocket(f"ws://{measured.gateway}/domains-only"):
            well = await measured.phase(60)
            silent([well], place)
            panels = [
                expression.replace("$namespace", ".*").replace("$job", ".*")  # as "All" does
                for expression in dashboard_expressions()
                if not names([expression], "redis_")
                and "log_list_age" not in expression  # this deployment has no log list
            ]
            assert len(panels) > 35
            present([well], place, panels)
            well = Phase(well.first, well.last, 10)

            async with httpx.AsyncClient(trust_env=False) as http:
                first = await measured.scrape()
                assert (await http.get(f"http://{measured.gateway}/sse")).status_code == 503
            refused = Phase(first, await measured.scrape(), 20)
            firing([well, refused], place, ["CertstreamClientsRefused"])

        await client.config_set("maxmemory", 1)
        await measured.shows("redis_full")
        full = await measured.phase(20)
        alerts = ["CertstreamPublishFailing", "CertstreamUnhealthy", "CertstreamNothingPublished"]
        firing([well, full], place, alerts)
        ups = [value for (name, _), value in full.last.values.items() if name.endswith("redis_up")]
        assert ups == [1, 1], "a full Redis answers"
        await client.config_set("maxmemory", 0)
        await measured.shows()

        saved = config.read_text()
        config.write_text("ports: nonsense")
        gateway = next(each for each in site.processes if each.name == "gateway-1")
        first = await measured.scrape()
        gateway.send(signal.SIGHUP)

        async def rejected() -> bool:
            name = "certstream_gateway_reloads_total"
            return any(
                value
                for (metric, labels), value in (await measured.scrape()).values.items()
                if metric == name and dict(labels)["result"] == "refused"
            )

        await until(rejected, "the configuration is rejected", ENOUGH)
        reload = Phase(first, await measured.scrape(), 5)
        firing([well, reload], place, ["CertstreamReloadRefused"])
        config.write_text(saved)

        first = await measured.scrape()
        await client.flushall()
        await measured.shows("redis_emptied")
        emptied = Phase(first, await measured.scrape(), 5)
        firing([well, emptied], place, ["CertstreamMessagesLost"])

        site.ingestors[0].kill()
        await measured.shows("no_ingestor")
        headless = await measured.phase(20)
        alerts = ["CertstreamNoIngestor", "CertstreamUnhealthy", "CertstreamStreamStalled"]
        firing([well, headless], place, alerts)

        next(each for each in site.processes if each.name == "redis").kill()
        await measured.shows("redis_unreachable")
        away = await measured.phase(20)
        firing([well, away], place, ["CertstreamRedisUnreachable", "CertstreamUnhealthy"])
        gateway.kill()
        gone = Phase(await measured.scrape(), await measured.scrape(), 20)
        firing([well, gone], place, ["CertstreamNoGateway"])
    finally:
        await client.aclose()


async def test_a_server_that_never_got_anything(site: Site, tmp_path: Path) -> None:
    await site.start_redis()
    await site.start_logs(rfc6962=1, static_ct=0, rate=0)
    await site.configure()
    next(each for each in site.processes if each.name == "simlog").kill()
    measured = Measured(site)
    await measured.start()
    await measured.shows("log_unhealthy", "no_log_healthy")
    alerts = ["CertstreamNothingPublished", "CertstreamStreamStalled", "CertstreamUnhealthy"]
    dead = await measured.phase(40)
    firing([dead], tmp_path / "test.yml", [*alerts, "CertstreamFetchesFailing"])
    fetches = {
        dict(labels)["outcome"]
        for (name, labels), value in dead.last.values.items()
        if name == "certstream_ingestor_fetches_total" and value
    }
    assert fetches == {"unreachable"}


async def test_logs_that_misbehave(site: Site, tmp_path: Path) -> None:
    await site.start_redis()
    await site.start_logs(rfc6962=2, static_ct=1, rate=20, duplicates=0.1)
    await site.configure()
    measured = Measured(site)
    await measured.start()
    await measured.shows()
    well = await measured.phase(10)
    await site.put(f"{site.logs_url}/control/rfc1/faults", b'{"kind": "bad_signature"}')
    await site.put(f"{site.logs_url}/control/static1/faults", b'{"kind": "status", "code": 503}')
    await measured.shows("log_misbehaving", "log_unhealthy")

    async def is_open() -> bool:
        circuits = (await measured.scrape()).values
        return any(v == 2 for (n, _), v in circuits.items() if n.endswith("_circuit_state"))

    await until(is_open, "a circuit opens", ENOUGH)
    bad = await measured.phase(60)
    alerts = ["CertstreamIntegrityAlarm", "CertstreamLogUnproven", "CertstreamCircuitOpen"]
    firing([well, bad], tmp_path / "test.yml", alerts[1:])
    # That alert covers the last hour, and ends after it.
    short = Phase(bad.first, bad.last, 30)
    firing([well, short], tmp_path / "test.yml", alerts[:1])


async def test_a_log_that_signs_no_new_tree_head(site: Site, tmp_path: Path) -> None:
    await site.start_redis()
    await site.start_logs(rfc6962=1, static_ct=1, rate=40, duplicates=0.1)
    # Every replica of the log shows a tree head of yesterday.
    stale = b'{"kind": "stale", "share": 1, "entries": 1, "seconds": 90000}'
    await site.put(f"{site.logs_url}/control/rfc1/faults", stale)
    await site.configure()
    measured = Measured(site)
    await measured.start()
    await measured.shows()
    old = await measured.phase(20)
    ages = {
        dict(labels)["log"]: value
        for (name, labels), value in old.last.values.items()
        if name == "certstream_ingestor_log_tree_head_age_seconds"
    }
    assert sorted(age > 90_000 for age in ages.values()) == [False, True]
    firing_only([old], tmp_path / "test.yml", "StaleTreeHead")


async def test_a_full_redis_and_a_full_disk(tmp_path: Path) -> None:
    program = require("prometheus-redis-exporter", "redis_exporter")
    # A file that may not grow gives the error of a full disk, if the signal is ignored.
    wrapper = tmp_path / "redis-server"
    wrapper.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {find_executable()} \"$@\"\n")
    wrapper.chmod(0o700)
    server = RedisServer(str(wrapper), tmp_path, maxmemory="3mb", appendfsync="everysec")
    server.start()
    port = free_port()
    address = ("-redis.addr", server.url, "-web.listen-address", f"127.0.0.1:{port}")
    exporter = Process("exporter", [program, *address], tmp_path)
    client = connect(server.url)
    targets = {"redis": f"http://127.0.0.1:{port}/metrics"}

    async def measured() -> bool:
        assert exporter.running, exporter
        found = (await scrape(targets)).values
        return any(name == "redis_memory_used_bytes" for name, _ in found)

    try:
        await until(measured, "Redis is measured", ENOUGH)
        well = Phase(await scrape(targets), await scrape(targets), 20)
        high = ["CertstreamRedisMemoryHigh"]
        number = 0
        while (await client.info("memory"))["used_memory"] < 0.95 * 3 * 1024 * 1024:
            number += 1
            await client.set(f"filling:{number}", "x" * 10_000)
        full = Phase(await scrape(targets), await scrape(targets), 20)
        firing([well, full], tmp_path / "test.yml", high)
        pid = (await client.info("server"))["process_id"]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

        async def failed() -> bool:
            with suppress(redis.exceptions.RedisError):
                await client.set("x", "y")
            return bool((await client.info("persistence"))["aof_last_write_status"] == "err")

        await until(failed, "the file cannot be written", ENOUGH)
        worse = Phase(await scrape(targets), await scrape(targets), 20)
        firing([well, worse], tmp_path / "test.yml", ["CertstreamRedisNotDurable"])
    finally:
        await client.aclose()
        exporter.kill()
        server.kill()
