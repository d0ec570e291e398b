"""How fast a log that is far behind is read, and what the other logs of its operator notice.

    python -m bench.field_backlog [--operator NAME]... [--seed 1] [--write]

For each operator `simlog --field` serves its logs alone, and one ingestor with default settings
follows them: first each log from its head, then one of them from `BACKLOG` entries before it.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Collection

import msgspec

from bench import page
from bench.field_site import (
    KEYS,
    OPERATORS,
    PROFILES,
    FieldSite,
    delays,
    field_site,
    is_valid,
    median_delay,
)
from bench.page import table
from certbus.logs.leases import Leases
from certconf.settings import CTLog
from ctparse.static_ct import tile_path
from simlog.ctlog.log import LogKey
from simlog.ctlog.tree import TILE
from simlog.field.operators import field_spec
from simlog.profile import ConnectionRate
from simlog.schedule import mean_logs

CASES = {
    "Google": "argon2027h1",
    "DigiCert": "wyvern2027h1",
    "TrustAsia": "hetu2027",
    "Let's Encrypt": "willow2026h2",
}
"""Operator -> which of its logs has the backlog."""

BACKLOG = 50_000
BEFORE_SECS = 40.0
DURING_SECS = 45.0
SETTLED_SECS = 12.0
"""Seconds at the begin of each phase that do not count: pages are learned, logs are assigned."""

TILES_SETTLED_SECS = 2.0
"""The same of a log with tiles, whose pages need not be learned: its backlog lasts some seconds."""

STARTED_SECS = 90.0


class Result(msgspec.Struct, frozen=True):
    """The figures of one backlog.

    Attributes:
        log: its name.
        possible: entries a second that the interval, the requests in flight or the log allow.
        read: entries a second that were read.
        page: entries an answer while it was behind, as a share of the page.
        cpu: of the ingestor, as a share of one core.
        before, during: p50 of the delay of the operator's other logs, in seconds.
        is_valid: whether the world had enough CPU.
    """

    log: str
    possible: float
    read: float
    page: float
    cpu: float
    before: float | None
    during: float | None
    is_valid: bool


def possible(name: str) -> float:
    """Entries a second that a log's profile and the default settings allow."""
    profile, settings = PROFILES[name], CTLog()
    requests = [
        1000 / settings.default_operator_rate_limit_ms,
        settings.fetch_concurrency / profile.entries.median,
        *(
            settings.fetch_concurrency * limit.rate
            for limit in profile.limits
            if isinstance(limit, ConnectionRate)
        ),
    ]
    return profile.page * min(requests)


async def measure(operator: str, seed: int) -> Result:
    """Run the world of one operator."""
    name = CASES[operator]
    spec = field_spec(0.0, seed, operators=[operator])
    growth = sum(log.growth for log in spec.logs)
    own = next(log.growth for log in spec.logs if log.name == name)
    preload = int(1.2 * BACKLOG * growth / own / mean_logs(spec))
    others = [log for log, its in OPERATORS.items() if its == operator and log != name]
    async with field_site(seed, lead=0.0, operators=[operator], preload=preload) as site:
        while (await site.heads())[name][-1].size < BACKLOG:
            await asyncio.sleep(0.5)
        earlier = (await site.usage()).simlog
        await site.start_ingestor()
        before = await delay_of(site, others, BEFORE_SECS)
        await site.stop_ingestors()
        await site.forget()
        start = (await site.heads())[name][-1].size - BACKLOG
        has_tiles = next(log.kind for log in spec.logs if log.name == name) == "static-ct"
        if has_tiles:
            await warm(site, name, range(start // TILE, (start + BACKLOG) // TILE))
        log_id = LogKey(seed, name).log_id.hex()
        await Leases(site.redis, KEYS, "bench", 5.0).set_start(log_id, start)
        await site.start_ingestor()
        await site.until_followed(len(others) + 1, time.time() + STARTED_SECS)
        await asyncio.sleep(TILES_SETTLED_SECS if has_tiles else SETTLED_SECS)
        traffic = (await site.traffic()).logs[name]
        first, began = await site.usage(), time.time()
        position = (await site.logs())[name].next or 0
        target = (await site.heads())[name][-1].size - 2 * PROFILES[name].page
        reached = position
        while time.time() < began + DURING_SECS and reached < target:
            await asyncio.sleep(0.25)
            reached = (await site.logs())[name].next or 0
        ended, last = time.time(), await site.usage()
        later = (await site.traffic()).logs[name]
        during = await delay_between(site, others, began, ended)
    answers = later.behind_answers - traffic.behind_answers
    entries = later.behind_entries - traffic.behind_entries
    return Result(
        name,
        possible(name),
        (reached - position) / (ended - began),
        entries / max(1, answers) / PROFILES[name].page,
        (last.ingestors[-1] - first.ingestors[-1]) / (last.at - first.at),
        before,
        during,
        is_valid(last.simlog, earlier),
    )


async def warm(site: FieldSite, name: str, tiles: Collection[int]) -> None:
    """Let simlog make the data tiles of the backlog before their speed is measured."""
    for number in tiles:
        (await site.http.get(f"/{name}/{tile_path('data', number)}")).raise_for_status()


async def delay_of(site: FieldSite, names: Collection[str], seconds: float) -> float | None:
    """The p50 of the delay of some logs over the next `seconds`, less `SETTLED_SECS`."""
    await site.until_followed(len(names) + 1, time.time() + STARTED_SECS)
    began = time.time() + SETTLED_SECS
    await asyncio.sleep(seconds)
    return await delay_between(site, names, began, time.time())


async def delay_between(
    site: FieldSite, names: Collection[str], begin: float, end: float
) -> float | None:
    """The p50 of the delay of what some logs had published between two times."""
    published = [each for each in await site.published() if begin <= each.at < end]
    return median_delay(delays(published, await site.heads()), names)


def backlog_table(results: Collection[Result]) -> str:
    """Write the results as a table for docs/performance.md."""
    head = [
        "backlog of",
        "possible",
        "read",
        "share",
        "page",
        "ingestor",
        "others' p50 before",
        "during",
    ]
    rows = [
        [
            f"{each.log} ({OPERATORS[each.log]})",
            f"{each.possible:,.0f}/s",
            f"{each.read:,.0f}/s",
            f"{each.read / each.possible:.0%}",
            f"{each.page:.0%}",
            f"{each.cpu:.0%}",
            "" if each.before is None else f"{each.before:.2f} s",
            "" if each.during is None else f"{each.during:.2f} s",
        ]
        for each in results
    ]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser("bench.field_backlog", description=__doc__.partition("\n")[0])
    parser.add_argument("--operator", action="append", choices=CASES, help="only this backlog")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    options = parser.parse_args()
    results = [
        asyncio.run(measure(operator, options.seed)) for operator in options.operator or CASES
    ]
    text = backlog_table(results)
    print(text)
    if invalid := [each.log for each in results if not each.is_valid]:
        sys.exit(f"simlog was the limit: {', '.join(invalid)}")
    if options.write:
        page.PAGE.write_text(page.replace(page.PAGE.read_text(), "backlog", text))


if __name__ == "__main__":
    main()
