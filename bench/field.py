"""The backlog of the server on logs that answer as the public ones do.

    python -m bench.field [--seconds 150] [--seed 1] [--ingestors 2] [--json FILE] [--write]

`simlog --field` serves the world, Redis and the ingestors are the product's own processes with
default settings and a contact. Every second the bench compares what the tree heads cover that
simlog has shown for at least `GRACE_SECS` with the position of each log in Redis. A second, short
run without a contact has the logs of `ANONYMOUS` alone.

The run fails when simlog itself was the limit: it used more than `MAX_CPU` of a core, or the p99
of its answers came more than `MAX_LATE_MS` later than planned.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import page
from bench.field_budget import unavoidable
from bench.field_site import (
    CONTACT,
    GRACE_SECS,
    MEASURED_SECS,
    OPERATORS,
    PROFILES,
    FieldSite,
    Heads,
    delays,
    field_site,
    is_valid,
    median_delay,
    share_of_core,
    shares,
)
from bench.page import table
from certbus.cluster import LogStatus
from simlog.api.request_stats import RequestCounts
from simlog.profile import Budget

LEAD_SECS = 12.0
"""Seconds before the world's time zero, for the ingestors to begin."""

ANONYMOUS = "Geomys"
ANONYMOUS_SECS = 90.0
COLUMNS = (
    "operator",
    "logs",
    "appeared",
    "read",
    "requests",
    "429",
    "mean page",
    "while behind",
    "behind",
    "unavoidable",
    "delay p50",
    "allowed",
)


async def measure(
    seconds: float,
    seed: int,
    ingestors: int,
    settings: Sequence[str],
    operators: Sequence[str] = (),
    contact: str | None = CONTACT,
) -> dict[str, Any]:
    """Run the world once."""
    names = [name for name in OPERATORS if not operators or OPERATORS[name] in operators]
    async with field_site(
        seed, lead=LEAD_SECS, settings=settings, operators=operators, contact=contact
    ) as site:
        for _ in range(ingestors):
            await site.start_ingestor()
        await site.until_followed(len(names), site.zero - 1)
        before = await site.usage()
        seen = await site.watch(site.zero + seconds)
        after = await site.usage()
        logs, heads, traffic = await site.logs(), await site.heads(), await site.traffic()
        of_logs = delays(await site.published(), heads)
        warnings = site.warnings()
    return {
        "seconds": seconds,
        "seed": seed,
        "simlog": {
            "cpu": share_of_core(after.simlog, before.simlog),
            "late_p99_ms": after.simlog.late_p99_ms,
        },
        "valid": is_valid(after.simlog, before.simlog),
        "ingestor_cpu": [
            (late - early) / seconds
            for early, late in zip(before.ingestors, after.ingestors, strict=True)
        ],
        "redis_cpu": (after.redis - before.redis) / seconds,
        "behind": shares(seen, logs),
        "operators": figures(site, seconds, logs, heads, traffic, of_logs),
        "logs": {
            name: {
                "read": (log.next or 0) - (log.start or 0),
                "missing": heads[name][-1].size - (log.next or 0),
                "requests": traffic.logs[name].total,
                "pages": traffic.logs[name].answers,
                "refused": traffic.logs[name].statuses.get(429, 0),
                "delay": median_delay(of_logs, [name]),
                "errors": log.errors,
                "last_error": log.last_error,
            }
            for name, log in logs.items()
            if name in heads
        },
        "warnings": warnings,
    }


def figures(
    site: FieldSite,
    seconds: float,
    logs: Mapping[str, LogStatus],
    heads: Heads,
    traffic: RequestCounts,
    of_logs: Mapping[str, Sequence[float]],
) -> dict[str, dict[str, Any]]:
    """The figures of each operator's logs."""
    found = {}
    span = site.zero - LEAD_SECS, site.zero + seconds
    for operator, counted in traffic.operators.items():
        names = [name for name in heads if OPERATORS[name] == operator]
        own = [logs[name] for name in names if name in logs]
        size = max(PROFILES[name].page for name in names)
        mean = counted.entries / counted.answers if counted.answers else 0.0
        behind = counted.behind_answers
        found[operator] = {
            "logs": len(names),
            "appeared": sum(heads[name][-1].size - heads[name][0].size for name in names),
            "read": sum((log.next or 0) - (log.start or 0) for log in own),
            "requests": counted.total,
            "refused": counted.statuses.get(429, 0),
            "page": mean,
            "page_behind": counted.behind_entries / behind / size if behind else None,
            "delay": median_delay(of_logs, names),
            "allowed": None if _counts_requests(names) else 1.5 + _answers(names),
            "unavoidable": unavoidable(
                {name: PROFILES[name] for name in names}, heads, span, GRACE_SECS, MEASURED_SECS
            ),
        }
    return found


def _counts_requests(names: Sequence[str]) -> bool:
    return any(isinstance(limit, Budget) for name in names for limit in PROFILES[name].limits)


def _answers(names: Sequence[str]) -> float:
    """The longest median answer of a head and one of entries, of these logs, in seconds."""
    return max(PROFILES[name].head.median + PROFILES[name].entries.median for name in names)


def field_table(result: Mapping[str, Any], anonymous: Mapping[str, Any] | None = None) -> str:
    """Write the result as a table for docs/performance.md.

    Args:
        result: of the run with all operators.
        anonymous: of the one without a contact.
    """
    rows = [row(name, name, result) for name in result["operators"]]
    every = result["operators"].values()
    total = {
        column: sum(each[column] for each in every)
        for column in ("logs", "appeared", "read", "requests", "refused")
    }
    rows.append(
        [
            "all",
            f"{total['logs']}",
            f"{total['appeared']:,}",
            f"{total['read']:,}",
            f"{total['requests']:,}",
            f"{total['refused'] / max(1, total['requests']):.1%}",
            *("", ""),
            f"{result['behind']['all']:.1%}",
            *("", "", ""),
        ]
    )
    if anonymous is not None:
        rows.append(row(ANONYMOUS, f"{ANONYMOUS}, no contact", anonymous))
    return table(list(COLUMNS), rows)


def row(operator: str, label: str, result: Mapping[str, Any]) -> list[str]:
    """The row of one operator."""
    its = result["operators"][operator]
    return [
        label,
        f"{its['logs']}",
        f"{its['appeared']:,}",
        f"{its['read']:,}",
        f"{its['requests']:,}",
        f"{its['refused'] / max(1, its['requests']):.1%}",
        f"{its['page']:.0f}",
        "" if its["page_behind"] is None else f"{its['page_behind']:.0%}",
        f"{result['behind'][operator]:.1%}",
        f"{its['unavoidable']:.1%}" if its["allowed"] is None else "",  # with a request budget
        "" if its["delay"] is None else f"{its['delay']:.2f} s",
        "" if its["allowed"] is None else f"{its['allowed']:.2f} s",
    ]


def main() -> None:
    parser = argparse.ArgumentParser("bench.field", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ingestors", type=int, default=2)
    parser.add_argument("--operator", action="append", default=[], help="only its logs")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SETTING")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    options = parser.parse_args()
    result = asyncio.run(
        measure(
            options.seconds, options.seed, options.ingestors, options.settings, options.operator
        )
    )
    anonymous = None
    if not options.operator:
        alone = measure(ANONYMOUS_SECS, options.seed, 1, options.settings, [ANONYMOUS], None)
        anonymous = asyncio.run(alone)
    if options.json:
        options.json.write_text(json.dumps({**result, "anonymous": anonymous}, indent=2))
    text = field_table(result, anonymous)
    print(text)
    if options.write and result["valid"]:
        page.PAGE.write_text(page.replace(page.PAGE.read_text(), "field", text))
    print(
        json.dumps(
            {name: result[name] for name in ("simlog", "valid", "ingestor_cpu", "redis_cpu")}
        )
    )
    if not result["valid"]:
        sys.exit("simlog was the limit: this run does not measure the server")


if __name__ == "__main__":
    main()
