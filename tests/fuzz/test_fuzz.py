"""Kept inputs, and some new mutations of each target; what the fuzzing finds."""

import random
import re
from contextlib import suppress
from pathlib import Path

import pytest

from ctparse.entry import Unreadable
from tests.ctparse.reading import leaf_cert, write
from tests.fuzz import seeds
from tests.fuzz.__main__ import check, check_grown, fuzz
from tests.fuzz.growth import around, check_growth, repeat_element
from tests.fuzz.mutations import mutate
from tests.fuzz.seeds import kept
from tests.fuzz.targets import TARGETS, Target

MUTATIONS = 300
GROWN_BYTES = 8 * 1024


@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_errors(name: str) -> None:
    target = TARGETS[name]
    chance = random.Random(name)
    for seed in target.seeds:
        target.run(seed)  # without what it may raise
    inputs = [*target.seeds, *kept(name)]
    inputs += [mutate(chance, inputs, target.tokens) for _ in range(MUTATIONS)]
    for data in inputs:
        assert check(target, data) is None, data


@pytest.mark.parametrize("name", TARGETS)
def test_cpu_time_is_linear(name: str) -> None:
    target = TARGETS[name]
    chance = random.Random(name)
    repeats = [target.repeat(chance, seed, target.tokens) for seed in target.seeds]
    for grown in (*target.grown, *repeats):
        assert check_grown(target, grown, GROWN_BYTES) is None, grown(GROWN_BYTES)


def test_a_fault_is_found() -> None:
    target = TARGETS["checkpoint"]
    fails = type(target)(lambda _: 1 // 0, target.seeds, target.tokens, target.documented)
    problem = check(fails, b"")
    assert problem is not None
    assert "ZeroDivisionError" in problem


def _strips_spaces(data: bytes) -> None:
    """Take time in proportion to the square of the spaces in a row."""
    re.sub(rb" +$", b"", data)


def test_quadratic_time_is_found() -> None:
    spaces = around(b"a", b" ", b"a")
    # On a machine with much other work, an attempt misses it.
    attempts = (check_growth(_strips_spaces, spaces, 3072) for _ in range(20))
    problem = next((found for found in attempts if found is not None), "")
    assert "not linear" in problem
    assert check_growth(_strips_spaces, around(b"a", b"a ", b"a"), 3072) is None


def test_an_input_that_costs_more_from_some_length_on_is_linear() -> None:
    def is_valid_when_long(data: bytes) -> None:
        if len(data) > 1500:
            _strips_spaces(b" " * 3000 + b"a")

    def has_a_payload(data: bytes) -> None:
        for _ in data[600:]:
            _strips_spaces(b" " * 30 + b"a")

    assert check_growth(is_valid_when_long, around(b"", b" "), 2048) is None
    assert check_growth(has_a_payload, around(b"", b" "), 2048) is None


def test_random_repeats_find_quadratic_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(seeds, "CORPUS", tmp_path)
    target = Target(_strips_spaces, [b"a: b\nc: d\n"], [b" ", b": "], max_bytes=2048)
    monkeypatch.setitem(TARGETS, "spaces", target)
    assert fuzz("spaces", 1, 1_000_000, float("inf")) == 1
    assert "not linear" in capsys.readouterr().out
    (found,) = kept("spaces")
    assert b" " * 1000 in found


def test_an_element_repeats_with_correct_lengths() -> None:
    chance = random.Random(1)
    target = TARGETS["certificate"]
    longest = 0
    while longest < GROWN_BYTES // 2:  # as JSON
        data = repeat_element(chance, chance.choice(target.seeds), target.tokens)(GROWN_BYTES)
        with suppress(Unreadable):
            longest = max(
                longest, len(leaf_cert(write(data))["extensions"].get("subjectAltName", ""))
            )


@pytest.mark.parametrize("data", [b"text\r\n", b"\x00\xff", "ß".encode(), b""])
def test_an_input_is_kept(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "CORPUS", tmp_path)
    assert kept("target") == []
    file = seeds.keep("target", data)
    assert file.suffix == (".b64" if data[:1] == b"\x00" else ".txt")
    assert kept("target") == [data]
