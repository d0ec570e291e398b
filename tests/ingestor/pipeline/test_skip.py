"""`skip` and `rejected`, as an operator runs them beside ingestors that are held up."""

import json
import re
import shlex
from asyncio import create_subprocess_exec, timeout
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from subprocess import CompletedProcess
from typing import Any

import httpx

from ctparse.entry import Entry
from ctparse.rfc6962 import decode_entries
from tests.e2e.processes import CERTSTREAM_SERVER
from tests.ingestor.site import Site
from tests.ingestor.verification.proofs import FROM_START, by_path, findings, shown
from tests.waiting import until

BAD = 620
# What is skipped when entry 620 cannot be fetched: of a static-ct log, its whole tile.
SKIPPED = {"rfc1": range(BAD, BAD + 1), "rfc2": range(BAD, BAD + 1), "static1": range(512, 768)}


async def command(site: Site, *arguments: str, text: str = "") -> CompletedProcess[bytes]:
    """Run a command without blocking the ingestors of this process."""
    whole = [*CERTSTREAM_SERVER, *arguments, f"--redis-url={site.server.url}"]
    process = await create_subprocess_exec(*whole, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    async with timeout(30):
        output, errors = await process.communicate(text.encode())
    return CompletedProcess(whole, process.returncode or 0, output, errors)


async def advice(site: Site) -> Mapping[str, str]:
    """The command that each log that is held up names."""
    logs = await by_path(site)
    found = {
        name: re.search(r"`certstream-server (skip [^`]+)`", log.last_error or "")
        for name, log in logs.items()
    }
    return {name: match[1] for name, match in found.items() if match}


async def rejected(site: Site) -> list[Any]:
    """The lines of `rejected --json`."""
    done = await command(site, "rejected", "--json")
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_an_entry_that_cannot_be_fetched_is_skipped(site: Site) -> None:
    faults = {"rfc1": "status", "rfc2": "oversized", "static1": "status"}
    await site.simlog.start(rfc6962=2, static_ct=1, preload=2400, rate=20)
    async with httpx.AsyncClient(trust_env=False) as http:
        for log, kind in faults.items():
            url = f"{site.simlog.url}/control/{log}/faults"
            fault = {"kind": kind, "index": BAD, "only": "entries"}
            (await http.put(url, json=fault)).raise_for_status()
    await site.ingestor("a", **FROM_START)

    async def all_named() -> bool:
        return (await advice(site)).keys() == faults.keys()

    await until(all_named, "commands that lead past the entry", 60)
    for name, status in (await by_path(site)).items():
        assert status.next == SKIPPED[name].start
        assert shlex.split((await advice(site))[name]) == [
            "skip",
            name,
            "--to",
            str(SKIPPED[name].stop),
        ]

    refused = await command(site, "skip", "rfc1", "--to", "621", text="n\n")
    assert (refused.returncode, b"1 entries, 620 to 620" in refused.stdout) == (1, True)
    assert (await by_path(site))["rfc1"].next == BAD
    for name, advised in (await advice(site)).items():
        skipped = await command(site, *shlex.split(advised), "--yes", "--reason=test")
        assert skipped.returncode == 0, skipped.stderr
        assert f"{name}: skipped" in skipped.stdout.decode()

    async def gone_on() -> bool:
        return all((log.next or 0) > 800 for log in (await by_path(site)).values())

    await until(gone_on, "entries behind what was skipped")
    await until(lambda: shown(site, "proven"), "proven logs")
    logs = await by_path(site)
    for name, status in logs.items():
        assert status.skipped == len(SKIPPED[name])
        done = status.published + status.duplicates + status.rejected + status.skipped
        assert done == (status.next or 0) - (status.start or 0)
        assert status.alarms == 0
    found = await findings(site)
    assert (found.repeated, found.uncommitted, found.unknown, found.altered) == ((), (), (), ())

    lines = await rejected(site)
    assert {(line["log"], line["index"], line["last"]) for line in lines} == {
        (name, skipped.start, skipped.stop - 1) for name, skipped in SKIPPED.items()
    }
    assert {line["reason"] for line in lines} == {"test"}


async def test_what_skip_refuses(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=0, preload=100, rate=0)
    await site.ingestor("a", **FROM_START)
    await until(site.complete, "complete Redis")
    for arguments, problem in (
        (("nobody", "--to=1"), "no log named 'nobody'; known logs: \"rfc1\""),
        (("rfc", "--to=1"), 'did you mean "rfc1"'),
        (("rfc1", "--to=7"), "--to must be above 100, the position of the log, not 7"),
        (("RFC1", "--to=1000", "--yes"), "--to must be at most 100, the size of the newest"),
    ):
        done = await command(site, "skip", *arguments)
        assert done.returncode == 1
        assert problem in done.stderr.decode()


async def test_rejected_shows_what_could_not_be_read(site: Site) -> None:
    await site.simlog.start(
        rfc6962=1, static_ct=0, preload=300, rate=0, fault="*:malformed:share=0.02"
    )
    await site.ingestor("a", **FROM_START)
    await until(site.complete, "complete Redis")
    (log,) = (await site.logs()).values()
    assert log.rejected > 1
    table = (await command(site, "rejected")).stdout.decode().splitlines()
    assert len(table) == 1 + log.rejected
    assert (await command(site, "rejected", "--limit=1")).stdout.decode().splitlines() == table[:2]
    lines = await rejected(site)
    newest = lines[0]
    assert newest["reason"] in table[1]
    raw = await command(site, "rejected", "--log", log.url, "--raw", str(newest["index"]))
    assert raw.returncode == 0
    assert len(raw.stdout) == newest["size"] == newest["kept"]
    async with httpx.AsyncClient(trust_env=False) as http:
        at = newest["index"]
        query = f"ct/v1/get-entries?start={at}&end={at}"
        (entry,) = decode_entries((await http.get(log.url + query)).content, at)
    assert isinstance(entry, Entry)
    assert raw.stdout == entry.certificate
    assert log.alarms == 0
    unknown = await command(site, "rejected", "--log=rfc1", "--raw=1000000")
    assert b"entry 1000000 is not among the stored rejected entries" in unknown.stderr
    assert b"--raw needs --log" in (await command(site, "rejected", "--raw=1")).stderr
