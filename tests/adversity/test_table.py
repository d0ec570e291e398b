"""The table of runs."""

from typing import get_args

from tests.adversity.faults import AnyFault
from tests.adversity.plan import draw
from tests.adversity.table import BOUNDED, FIELD, PAGE, SERVERS, TITLES, counts, with_column


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
