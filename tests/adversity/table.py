"""The column of a campaign in the table of docs/guarantees.md.

Usage: python -m tests.adversity.table FIRST LAST [--seconds 60] [--rate 30]

Each fault with the number of times that the seeds FIRST to LAST draw it. A column of the same seeds
is replaced in its place.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from tests.adversity.plan import Plan, Server, draw
from tests.paths import ROOT

PAGE: Final = ROOT / "docs" / "guarantees.md"
HEADER: Final = re.compile(r"\| fault \| \d")  # of no other table of the page
NONE: Final = "–"  # noqa: RUF001
SERVERS: Final[tuple[Server, ...]] = ("redis6", "redis7")
FIELD: Final = "logs as the public ones"
BOUNDED: Final = "logs further behind than permitted"
TITLES: Final = {
    "ShiftClock": "clock of Redis ahead or behind",
    "Stop": "a process, or Redis, stopped and continued",
    "Kill": "a process, or Redis, killed",
    "EmptyRedis": "Redis emptied",
    "Cut": "connections to Redis cut",
    "Delay": "connections to Redis delayed",
    "Restart": "a process ended by SIGTERM and started again",
    "RewindRedis": "Redis replaced by an older copy",
    "RestartRedis": "Redis restarted with its append-only file",
    "CutAtReply": "a connection cut before or after a reply",
    "Refuse": "connections to Redis refused",
    "FillRedis": "Redis full",
    "CutAtCall": "a connection cut before or after a call of a named script",
    "FillDisk": "disk of Redis full",
    "Roll": "all processes of a kind, or all, restarted one after the other",
    "Reload": "configuration changed 3 to 12 times in a row",
    "LimitDescriptors": "descriptors of a process exhausted",
    "ShiftHost": "clock of one host ahead or behind",
    "LogFault": "a log slow, broken or untrue",
    "StopAtPublish": "an ingestor stopped within a publication, until another one has its log",
    "FailOver": "primary of three sentinels killed, stopped or cut off",
}
"""Name of the class of a fault -> its row."""


def counts(plans: Iterable[Plan]) -> Counter[str]:
    """Count what plans have, by row."""
    found: Counter[str] = Counter()
    for plan in plans:
        found.update(TITLES[type(fault).__name__] for fault in plan.faults)
        found.update({FIELD: bool(plan.operators), BOUNDED: plan.is_bounded})
    return found


def with_column(page: str, header: str, found: Mapping[str, int]) -> str:
    """Return a page whose table has this column; rows that it lacks are added."""
    lines = page.split("\n")
    start = next(at for at, line in enumerate(lines) if HEADER.match(line))
    end = next(at for at in range(start, len(lines)) if not lines[at].startswith("|"))
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[start:end])
    if header not in head:
        head.append(header)
    column, width = head.index(header), len(head)
    known = {row[0] for row in rows}
    rows += [
        [title]
        for title in (*TITLES.values(), FIELD, BOUNDED)
        if found.get(title) and title not in known
    ]
    for row in rows:
        row.extend([NONE] * (width - len(row)))
        row[column] = str(found.get(row[0], 0) or NONE)
    table = [head, ["---"] * width, *rows]
    lines[start:end] = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser("table", description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run (%(default)s)")
    parser.add_argument("--rate", type=float, default=30.0, help="certificates/s (%(default)s)")
    chosen = parser.parse_args()
    seeds = range(chosen.first, chosen.last + 1)
    plans = [draw(seed, chosen.seconds, chosen.rate, SERVERS, clock=True) for seed in seeds]
    header = f"{chosen.first} to {chosen.last}"
    PAGE.write_text(with_column(PAGE.read_text(), header, counts(plans)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
