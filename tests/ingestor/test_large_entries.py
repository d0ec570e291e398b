"""A log that serves as much as it can, beside honest ones, with real processes."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from certhttp.client import fetch
from tests.ctparse.derbuild import certificate, dns, extension, subject_alt_name
from tests.e2e.processes import CERTSTREAM_SERVER, Process
from tests.ingestor.odd import OddEntry, OddLog, odd_logs
from tests.ingestor.site import HURRIED, ONCE, Site
from tests.waiting import until

# As `up` does: a process that does not answer for 20 s is ended.
LIVENESS = 20.0
# Three times what a process takes that follows honest logs.
MAX_MEMORY_BYTES = 400 << 20


def many_names(index: int, count: int) -> bytes:
    names = [dns(f"{index:03}-{number:06}.example") for number in range(count)]
    return certificate(subject_alt_name(*names))


def large_logs() -> list[OddLog]:
    """Each costs an ingestor what it can in another way."""
    just_read = [OddEntry(many_names(index, 22_000)) for index in range(20)]
    too_large = [
        OddEntry(certificate(extension("2.5.29.99", index.to_bytes(4) + bytes(1_990_000))))
        for index in range(40)
    ]
    chains = [
        OddEntry(certificate(subject_alt_name(dns(f"{index}.example"))), chain=(issuer,) * 10)
        for index, issuer in enumerate([many_names(each, 2_000) for each in range(20)])
    ]
    return [
        OddLog("many-names", just_read),
        OddLog("too-large", too_large),
        OddLog("chains", chains),
    ]


def resident(pid: int) -> int:
    """Bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


class Watch:
    """How an ingestor does beside large entries: the longest delays, the most memory."""

    def __init__(self, site: Site, admin: str, pid: int) -> None:
        self._site, self._admin, self._pid = site, admin, pid
        self.answer = self.honest = 0.0
        self.memory = 0
        self._shown: dict[str, dict[int, float]] = {}

    async def measure(self) -> None:
        began = time.monotonic()
        assert await fetch(self._admin, "/health", LIVENESS) is not None, "it does not answer"
        self.answer = max(self.answer, time.monotonic() - began)
        sizes, logs = await self._site.simlog.sizes(), await self._site.logs()
        now = time.monotonic()
        for name, size in sizes.items():
            shown = self._shown.setdefault(name, {})
            shown.setdefault(size, now)
            at = logs[name].next if name in logs else None
            for published in [each for each in shown if at is not None and each <= at]:
                self.honest = max(self.honest, now - shown.pop(published))
        self.memory = max(self.memory, resident(self._pid))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
async def test_large_entries_stop_no_other_log(site: Site, tmp_path: Path) -> None:
    await site.simlog.start(rfc6962=2, static_ct=1, rate=60, preload=100)
    honest = site.simlog.settings(await site.simlog.config())
    admin = f"unix:{tmp_path / 'admin'}"
    logs = large_logs()
    async with odd_logs(*logs) as served:
        settings = {
            **HURRIED,
            **ONCE,
            "log_lists": [],
            **{kind: [*honest[kind], *each] for kind, each in served.settings.items()},
        }
        config = tmp_path / "large.json"
        config.write_text(json.dumps(nested(settings)))
        command = [*CERTSTREAM_SERVER, "ingest", f"--config={config}", f"--admin={admin}"]
        ingestor = Process("ingestor", [*command, f"--redis-url={site.server.url}"], tmp_path)
        try:

            async def follows() -> bool:
                assert ingestor.running, str(ingestor)
                found = await site.logs()
                return all((found[name].next or 0) > 0 for name in found) and len(found) == 6

            await until(follows, "all logs are followed", 60)
            watch = Watch(site, admin, ingestor.pid)

            async def done() -> bool:
                await watch.measure()
                found = await site.logs()
                return all(found[log.name].next == log.size for log in logs)

            await until(done, "all large entries", 120)
            found = await site.logs()
        finally:
            ingestor.stop()
    print(f"answer {watch.answer:.3f} s, honest {watch.honest:.3f} s, {watch.memory >> 20} MiB")
    assert "lease lost" not in ingestor.log.read_text()
    assert (found["many-names"].published, found["many-names"].rejected) == (20, 0)
    assert (found["too-large"].published, found["too-large"].rejected) == (0, 40)
    assert (found["chains"].published, found["chains"].rejected) == (20, 0)
    kept: Any = await site.redis.xrevrange(site.keys.rejected, count=1)
    assert b"more than 524,288" in kept[0][1][b"reason"]
    # What is measured is a tenth of this, but no test depends on how fast a machine is: parsed in
    # one go, these windows block the event loop for minutes.
    assert watch.answer < LIVENESS / 4
    assert watch.honest < LIVENESS / 2
    assert watch.memory < MAX_MEMORY_BYTES


def nested(settings: dict[str, object]) -> dict[str, object]:
    """Dotted settings as a configuration file has them."""
    found: dict[str, object] = {}
    for name, value in settings.items():
        *path, last = name.split(".")
        at = found
        for part in path:
            at = at.setdefault(part, {})  # type: ignore[assignment]
        at[last] = value
    return found
