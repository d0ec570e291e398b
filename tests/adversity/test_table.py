"""The table of runs."""

from typing import get_args

from tests.adversity.faults import AnyFault
from tests.adversity.plan import all_kinds, draw
from tests.adversity.table import PAGE, TITLES, Row, rows, title_of, with_table

FIRST = """\
seed 1: passed (redis6, 262144 bytes retained)
  12 seconds to quiet
2 runs, 2 passed, 0 failed
     5 Kill ingestor
     2 field profile (drawn 3 times)
     0 CutAtCall before the call (drawn 4 times)
rc 0
"""
SECOND = """\
1 runs, 0 passed, 1 failed
     9 FillDisk
     1 Kill ingestor (drawn 2 times)
failed: seeds 7
"""


def test_each_fault_has_a_title() -> None:
    assert {kind.__name__ for kind in get_args(AnyFault)} <= set(TITLES)
    drawn = {
        kind for seed in range(60) for kind in draw(seed, 60, 30, ["redis6"], clock=True).drawn()
    }
    titles = {title_of(kind) for kind in drawn}
    assert len(titles) == len(drawn)


def test_outputs_are_added_up() -> None:
    found = rows([FIRST, SECOND])
    assert found[:4] == [
        Row("disk of Redis full", 9, 9),
        Row("killed: ingestor", 6, 7),
        Row("logs as the public ones", 2, 3),
        Row("connection cut at a call of a named script: before the call", 0, 4),
    ]
    assert all(row[1:] == (0, 0) for row in found[4:])
    assert {row.title for row in found} == set(map(title_of, all_kinds()))


def test_the_table_is_replaced() -> None:
    page = PAGE.read_text()
    once = with_table(page, [Row("Redis full", 1, 2)])
    assert "| Redis full | 1 | 2 |\n" in once
    again = with_table(once, [Row("Redis full", 3, 3), Row("Redis emptied", 2, 2)])
    assert again == once.replace("| 1 | 2 |", "| 3 | 3 |\n| Redis emptied | 2 | 2 |")
