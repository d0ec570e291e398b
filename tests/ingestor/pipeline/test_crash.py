"""An ingestor killed at any point of a publish: the next one continues from Redis, proven."""

import signal
import sys
from pathlib import Path

import yaml

from certbus.logs.tree_state import TreeStateStore
from tests.e2e.processes import Process
from tests.ingestor.pipeline.crashing import POINTS
from tests.ingestor.site import Site
from tests.ingestor.verification.proofs import (
    PAIR,
    assert_frontier_leads_to_head,
    by_path,
    findings,
    shown,
    switch,
)
from tests.paths import ROOT
from tests.waiting import until

START = 500


class Crashing:
    """Ingestors one after the other, each a process that dies at a point."""

    def __init__(self, site: Site, directory: Path) -> None:
        self._site = site
        self._directory = directory
        self._arguments = [
            "ingest",
            f"--redis-url={site.server.url}",
            f"--from-index={START}",
            "--set=ct_log.poll_interval_ms=50",
            "--set=ct_log.retry_initial_delay_ms=20",
            "--set=ct_log.retry_max_delay_ms=200",
            "--set=ct_log.default_operator_rate_limit_ms=0",
            "--set=ct_log.health_check_interval_secs=0.2",
            # Several batches a window, several windows a run.
            "--set=ct_log.batch_size=512",
        ]

    def start(self, config: Path, point: str, times: int) -> Process:
        command = [sys.executable, "-m", "tests.ingestor.pipeline.crashing", point, str(times)]
        root = str(ROOT)
        environment = {"PYTHONPATH": root}
        arguments = [*command, *self._arguments, f"--config={config}"]
        return Process(f"{point} {times}", arguments, self._directory, environment)

    async def until_killed(self, config: Path, point: str, times: int) -> None:
        process = self.start(config, point, times)
        try:
            try:
                await until(lambda: not process.running, f"death at {point}")
            except AssertionError as error:
                raise AssertionError(f"{error}\n{process}") from None
            assert process._popen.returncode == -signal.SIGKILL, str(process)
        finally:
            if process.running:
                process.kill()
        for log in (await self._site.logs()).values():
            await self._site.redis.delete(self._site.keys.lease(log.log_id))  # it expires


async def test_the_frontier_is_where_the_log_is_whenever_it_is_killed(
    site: Site, tmp_path: Path
) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=4000, rate=0)
    config, ingestors = await site.simlog.config(), Crashing(site, tmp_path)
    # Each log alone, so that both have a frontier, and none is complete.
    for kind, logs in site.simlog.settings(config).items():
        one = tmp_path / f"{kind}.yaml"
        one.write_text(yaml.safe_dump({"log_lists": [], kind: logs}))
        await ingestors.until_killed(one, "published", 2)
    sizes = await site.simlog.sizes()
    for path, log in (await by_path(site)).items():
        assert START < (log.next or 0) < sizes[log.name], path
    # From now on no frontier can be started from a proof.
    await switch(site, "*", {"kind": "status", "code": 404, "only": "proofs"})
    ledger = TreeStateStore(site.redis, site.keys)
    for point in POINTS:
        await ingestors.until_killed(config, point, 2)
        for log in (await by_path(site)).values():
            assert log.next is not None
            kept = await ledger.load(log.log_id, log.next)
            assert kept is not None, f"{log.name} at {log.next}, killed at {point!r}"
            assert kept.frontier.size == log.next > START
            done = log.published + log.duplicates + log.rejected
            assert done == log.next - START
    last = ingestors.start(config, "never", 0)
    try:
        await until(site.complete, f"complete Redis\n{last}")
        await until(lambda: shown(site, "proven"), f"proven logs\n{last}")
    finally:
        last.kill()
    await assert_frontier_leads_to_head(site)
    found = await findings(site)
    assert (found.repeated, found.uncommitted, found.unknown, found.altered) == ((), (), (), ())
    # Only the entries before the start are missing: they were not requested.
    assert found.received == sum(log.published for log in (await by_path(site)).values())
    for path in PAIR:
        assert (await by_path(site))[path].alarms == 0
