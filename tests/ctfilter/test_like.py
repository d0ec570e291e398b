"""The rule of `like`, by the table of lookalikes, which precedes it."""

from collections import Counter
from pathlib import Path

import pytest

from ctfilter import Certificate, FilterError, Index, parse_filter, parse_line
from ctfilter.lookalike import MIN_EDITED, fold, within_one_edit
from ctfilter.matching import holds
from tests.ctfilter import naive

TABLE = Path(__file__).with_name("like_pairs.txt")
PAIRS = [
    tuple(line.split("|"))
    for line in TABLE.read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]


def test_the_table_is_large_enough() -> None:
    verdicts = Counter(verdict for _, _, verdict, _ in PAIRS)
    assert verdicts["yes"] + verdicts["no"] >= 200
    assert min(verdicts["yes"], verdicts["no"]) >= 80
    assert len({(brand, name) for brand, name, _, _ in PAIRS}) == len(PAIRS)


@pytest.mark.parametrize(("brand", "name", "verdict", "reason"), PAIRS)
def test_table_of_lookalikes(brand: str, name: str, verdict: str, reason: str) -> None:
    if verdict == "error":
        with pytest.raises(FilterError, match="shorter than 3 characters"):
            parse_line(f"like:{brand}")
        return
    expected = {"yes": True, "no": False}[verdict]
    certificate = Certificate([name])
    assert holds(parse_line(f"like:{brand}"), certificate) is expected
    wanted = parse_filter(match=[f"like:{brand}"])
    assert wanted is not None
    index = Index()
    index.add(wanted)
    assert (wanted in index.lookup(Certificate(["other.example", name]))) is expected
    assert naive.name_term(naive.Term("like", brand), name) is expected


def test_all_brands_in_one_index() -> None:
    index = Index()
    brands = {brand for brand, _, verdict, _ in PAIRS if verdict != "error"}
    filters = {brand: parse_filter(match=[f"like:{brand}"]) for brand in brands}
    for wanted in filters.values():
        assert wanted is not None
        index.add(wanted)
    for brand, name, verdict, _ in PAIRS:
        if verdict != "error":
            passed = index.lookup(Certificate([name]))
            assert (filters[brand] in passed) is (verdict == "yes"), (brand, name)


def test_folding_reads_look_alike_characters_as_one() -> None:
    assert fold("\u0440\u0430\u0443\u0440\u0430l-\u217f0") == fold("paypalmo") == "paypalrno"
    assert fold("vv") == fold("w")
    assert fold("a.b-c") == "a.bc"


@pytest.mark.parametrize(
    ("a", "b", "near"),
    [
        ("abc", "abc", True), ("abc", "ab", True), ("abc", "bc", True), ("abc", "abd", True),
        ("abc", "bac", True), ("abc", "acb", True), ("abc", "abcd", True), ("abc", "xabc", True),
        ("", "a", True), ("", "", True), ("abc", "a", False), ("abc", "cba", False),
        ("abcd", "badc", False), ("abc", "bcd", False), ("ab", "ba", True), ("aab", "aba", True),
    ],
)  # fmt: skip
def test_one_edit(a: str, b: str, near: bool) -> None:
    assert within_one_edit(a, b) is within_one_edit(b, a) is near
    assert (naive.distance(a, b) <= 1) is near


def test_the_shortest_brand_with_an_edit() -> None:
    brand = "abcdefgh"[:MIN_EDITED]
    assert holds(parse_line(f"like:{brand}"), Certificate([f"{brand[:-1]}.com"]))
    assert not holds(parse_line(f"like:{brand[:-1]}"), Certificate([f"{brand[:-2]}.com"]))
