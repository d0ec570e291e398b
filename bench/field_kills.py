"""Nothing lost and nothing twice in the field world while ingestors are killed.

    python -m bench.field_kills [--seconds 600] [--every 5] [--ingestors 3] [--seed 1]

Every few seconds one ingestor is killed with SIGKILL and another one starts. At each kill, of each
log: published + duplicates + rejected + skipped = next - start. After the last kill the ingestors
have a minute; then the backlog of each operator is measured as in `bench.field`. At the end each
certificate of the entries that Redis accounts for was published in exactly one message: the
sequence of submissions states which certificate each entry has.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from bench.field import LEAD_SECS
from bench.field_site import (
    MEASURED_SECS,
    OPERATORS,
    Published,
    field_site,
    is_valid,
    share_of_core,
    shares,
)
from certbus.cluster import LogStatus
from simlog.field.operators import field_spec
from simlog.schedule import submissions

PRELOAD = 500
SETTLED_SECS = 60.0
"""Seconds after the last kill before the backlog is measured."""


async def measure(seconds: float, every: float, ingestors: int, seed: int) -> dict[str, Any]:
    """Run the world once."""
    chance = random.Random(seed)
    published: list[Published] = []
    broken: list[str] = []
    kills = 0
    async with field_site(seed, lead=LEAD_SECS, preload=PRELOAD) as site:
        for _ in range(ingestors):
            await site.start_ingestor()
        await site.until_followed(len(OPERATORS), site.zero - 1)
        before = (await site.usage()).simlog
        due, end = time.time() + every, site.zero + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.time()))
            site.kill(chance.choice(site.ingestors))
            await site.start_ingestor()
            kills, due = kills + 1, due + every
            broken += unequal(await site.logs())
            published += await site.published()
        await asyncio.sleep(SETTLED_SECS)
        seen = await site.watch(time.time() + MEASURED_SECS)
        after = (await site.usage()).simlog
        await site.stop_ingestors()
        logs = await site.logs()
        broken += unequal(logs)
        published += await site.published()
        zero = site.zero
    expected = certificates_of(seed, zero, logs)
    found = Counter(expected.get((each.log, each.index)) for each in published)
    unknown = found.pop(None, 0)
    wanted = set(expected.values())
    return {
        "kills": kills,
        "entries": len(expected),
        "certificates": len(wanted),
        "messages": len(published),
        "unequal": broken,
        "lost": len(wanted - found.keys()),
        "twice": sum(count > 1 for count in found.values()),
        "unknown": unknown,
        "behind": shares(seen, logs),
        "simlog": {
            "cpu": share_of_core(after, before),
            "late_p99_ms": after.late_p99_ms,
        },
        "valid": is_valid(after, before),
    }


def unequal(logs: Mapping[str, LogStatus]) -> list[str]:
    """Return the logs whose counters do not add up."""
    return [
        f"{log.name}: {counted} != {log.next} - {log.start}"
        for log in logs.values()
        for counted in [log.published + log.duplicates + log.rejected + log.skipped]
        if log.next is not None and counted != log.next - (log.start or 0)
    ]


def certificates_of(
    seed: int, zero: float, logs: Mapping[str, LogStatus]
) -> dict[tuple[str, int], int]:
    """Return the number of the certificate of each entry that Redis accounts for."""
    spec = field_spec(zero, seed, preload=PRELOAD)
    until = int(1000 * time.time())
    sizes = [0] * len(spec.logs)
    ranges = [
        range(log.start or 0, log.next or 0) if log is not None else range(0)
        for log in (logs.get(each.name) for each in spec.logs)
    ]
    found = {}
    for submission in takewhile(lambda each: each.time <= until, submissions(spec)):
        index = sizes[submission.log]
        sizes[submission.log] += 1
        if index in ranges[submission.log]:
            found[spec.logs[submission.log].name, index] = submission.certificate
    return found


def main() -> None:
    parser = argparse.ArgumentParser("bench.field_kills", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="with kills (600)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two kills (5)")
    parser.add_argument("--ingestors", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    result = asyncio.run(measure(options.seconds, options.every, options.ingestors, options.seed))
    print(json.dumps(result, indent=2))
    if result["unequal"] or result["lost"] or result["twice"] or result["unknown"]:
        sys.exit("entries were lost, repeated or not counted")
    if not result["valid"]:
        sys.exit("simlog was the limit: this run does not measure the server")


if __name__ == "__main__":
    main()
