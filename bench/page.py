"""docs/performance.md: prose by hand, tables by the benchmarks.

A table is enclosed by two comments that name it, and is replaced as a whole:

    <!-- bench: ingest -->
    | … |
    <!-- end -->
"""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def replace(page: str, name: str, text: str) -> str:
    """Put a benchmark's text in its place on the page.

    Raises:
        ValueError: the page has no place of this name, or several.
    """
    pattern = re.compile(rf"(<!-- bench: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    changed, places = pattern.subn(lambda found: f"{found[1]}{text.strip()}\n{found[2]}", page)
    if places != 1:
        raise ValueError(f"{PAGE.name} has {places} places for the benchmark {name!r}, not one")
    return changed


def table(head: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table: the first column to the left, the others to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
