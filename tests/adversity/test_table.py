"""The table of runs."""

from typing import get_args

from tests.adversity.faults import AnyFault
from tests.adversity.plan import draw
from tests.adversity.table import BOUNDED, FIELD, NONE, PAGE, SERVERS, TITLES, counts, with_column


def test_each_fault_has_a_row() -> None:
    assert set(TITLES) == {kind.__name__ for kind in get_args(AnyFault)}
    assert len(set(TITLES.values())) == len(TITLES)


def test_a_column_has_what_its_seeds_draw() -> None:
    plans = [draw(seed, 60, 30, SERVERS, clock=True) for seed in range(1, 41)]
    found = counts(plans)
    assert sum(found.values()) == sum(len(plan.drawn()) for plan in plans)
    page = with_column(PAGE.read_text(), "1 to 40", found)
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    shown = {row[0][2:]: row[-1][:-2] for row in rows}
    assert shown["fault"] == "1 to 40"
    assert {shown[title] for title in (FIELD, BOUNDED)} == {
        str(found[FIELD]),
        str(found[BOUNDED]),
    }
    assert all(shown[title] == str(found[title]) for title in found)


def test_a_column_is_replaced() -> None:
    page = PAGE.read_text()
    once = with_column(page, "1 to 2", {"Redis full": 1})
    assert with_column(once, "1 to 2", {"Redis full": 1}) == once
    assert with_column(once, "1 to 2", {"Redis full": 3}) == with_column(
        page, "1 to 2", {"Redis full": 3}
    )
    assert once != page


def test_a_column_keeps_its_place() -> None:
    table = "| fault | 1 to 2 | 3 to 4 |\n| --- | --- | --- |\n| Redis full | 5 | 6 |\n"
    page = f"| fault | lost |\n\n{table}"
    once = with_column(page, "1 to 2", {"Redis full": 7, "Redis emptied": 8})
    assert once == page.replace("| 5 |", "| 7 |") + f"| Redis emptied | 8 | {NONE} |\n"
    assert (
        with_column(once, "3 to 4", {"Redis full": 9}).splitlines()[4] == "| Redis full | 7 | 9 |"
    )
