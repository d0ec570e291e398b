"""The table of docs/guarantees.md of what happened in random runs.

Usage: python -m tests.adversity.table OUTPUT...

An OUTPUT is what `python -m tests.adversity` printed. The table has each kind of fault, the number
of times that it changed something, and the number of times that seeds drew it: 0 if none did.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from tests.adversity.plan import all_kinds
from tests.paths import ROOT

PAGE: Final = ROOT / "docs" / "guarantees.md"
HEADER: Final = "| fault | happened | drawn |"
KIND: Final = re.compile(r" +(\d+) (.+?)(?: \(drawn (\d+) times\))?$")
SUMMARY: Final = re.compile(r"\d+ runs, \d+ passed, \d+ failed$")
TITLES: Final = {
    "ShiftClock": "clock of Redis ahead or behind",
    "Stop": "stopped and continued",
    "Kill": "killed",
    "EmptyRedis": "Redis emptied",
    "Cut": "connections to Redis cut",
    "Delay": "connections to Redis delayed",
    "Restart": "ended by SIGTERM and started again",
    "RewindRedis": "Redis replaced by an older copy",
    "RestartRedis": "Redis restarted with its append-only file",
    "CutAtReply": "connection cut at a reply",
    "Refuse": "connections to Redis refused",
    "FillRedis": "Redis full",
    "CutAtCall": "connection cut at a call of a named script",
    "FillDisk": "disk of Redis full",
    "Roll": "restarted one after the other",
    "Reload": "configuration changed 3 to 12 times in a row",
    "LimitDescriptors": "descriptors exhausted",
    "ShiftHost": "clock of one host ahead or behind",
    "LogFault": "a log slow, broken or untrue",
    "StopAtPublish": "an ingestor stopped within a publication, until another one has its log",
    "FailOver": "primary of three sentinels",
    "field": "logs as the public ones",
    "bounded": "logs further behind than permitted",
}
"""First word of the kind of a fault -> how the table names it."""

WHOLE: Final = ("field profile", "bounded delay")
"""Kinds of which the table has no second part."""


class Row(NamedTuple):
    """How often a kind of fault happened, and was drawn."""

    title: str
    happened: int
    drawn: int


def rows(outputs: Iterable[str]) -> list[Row]:
    """Add up the ends of the outputs of campaigns; the kinds that happened most often first.

    Kinds that no seed drew are the last.
    """
    drawn = Counter(dict.fromkeys(sorted(all_kinds()), 0))
    happened = Counter(drawn)
    for output in outputs:
        lines = output.splitlines()
        start = next(at for at, line in enumerate(lines) if SUMMARY.match(line))
        for line in lines[start + 1 :]:
            if (found := KIND.match(line)) is not None:
                happened[found[2]] += int(found[1])
                drawn[found[2]] += int(found[3] or found[1])
    kinds = sorted(drawn, key=lambda kind: (-happened[kind], drawn[kind] == 0))
    return [Row(title_of(kind), happened[kind], drawn[kind]) for kind in kinds]


def title_of(kind: str) -> str:
    """Return how the table names a kind."""
    word, _, rest = kind.partition(" ")
    return TITLES[word] + (f": {rest}" if rest and kind not in WHOLE else "")


def with_table(page: str, found: Iterable[Row]) -> str:
    """Return a page with these rows in its table."""
    lines = page.split("\n")
    start = lines.index(HEADER) + 2
    end = next(at for at in range(start, len(lines)) if not lines[at].startswith("|"))
    lines[start:end] = [f"| {row.title} | {row.happened} | {row.drawn} |" for row in found]
    return "\n".join(lines)


def main() -> int:
    outputs = [Path(name).read_text() for name in sys.argv[1:]]
    PAGE.write_text(with_table(PAGE.read_text(), rows(outputs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
