"""The mutants themselves: each is one change, and valid source."""

import ast
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from tests.mutation.__main__ import TARGETS, equivalent, mutants_of, run
from tests.mutation.mutants import lua_mutants, python_mutants
from tests.paths import ROOT


@pytest.mark.parametrize("name", TARGETS)
def test_each_module_has_mutants_and_tests(name: str) -> None:
    target = TARGETS[name]
    source = (ROOT / target.source).read_bytes()
    is_lua = target.source.endswith(".lua")
    mutants = (lua_mutants if is_lua else python_mutants)(source)
    assert len(mutants) > 30
    assert all(mutant.apply(source) != source for mutant in mutants)
    assert all((ROOT / test).exists() for test in target.tests)
    if not is_lua:
        parts = list(_statements(source))
        for mutant in mutants:
            part = next((each for each in parts if mutant.start in each), range(len(source)))
            moved = mutant._replace(start=mutant.start - part.start, end=mutant.end - part.start)
            text = moved.apply(source[part.start : part.stop])
            ast.parse(b"if 1:\n" + text if text.startswith(b" ") else text)


def _statements(source: bytes) -> Iterator[range]:
    """Yield where the lines of each statement of the module, or of a class in it, are.

    If the statement that has a change is valid with it, the module is: to parse the module for each
    change takes ten times as long.
    """
    lines = [0, *accumulate(map(len, source.splitlines(keepends=True)))]
    for node in ast.parse(source).body:
        for each in node.body if isinstance(node, ast.ClassDef) else [node]:
            decorators = getattr(each, "decorator_list", [])
            first = min(part.lineno for part in (each, *decorators))
            yield range(lines[first - 1], lines[each.end_lineno or first])


def test_the_statements_have_all_of_a_module() -> None:
    source = (ROOT / TARGETS["ring"].source).read_bytes()
    covered = {at for part in _statements(source) for at in part}
    outside = bytes(byte for at, byte in enumerate(source) if at not in covered).splitlines()
    words = {line.split()[0] for line in outside if line.strip()}
    assert words <= {b"class", b"#"}, "all but the first lines of classes"


@pytest.mark.parametrize("name", TARGETS)
def test_equivalent_mutants_are_those_of_the_present_source(name: str) -> None:
    source = (ROOT / TARGETS[name].source).read_bytes()
    assert equivalent(name) <= {mutant.key(source) for mutant in mutants_of(name, source)}


def test_no_mutant_to_try_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / TARGETS["marks"].source
    copy.parent.mkdir(parents=True)
    copy.write_bytes((ROOT / TARGETS["marks"].source).read_bytes())
    assert run("marks", slice(9999, 10299), 1, tmp_path) == 1
    assert "marks: no mutant to try from 9999 on" in capsys.readouterr().err


def test_python() -> None:
    source = b"""\
def f(a: int = 1) -> bool:
    '1 < 2'
    if a < 2:
        g(a)
    return not a
"""
    assert [mutant.describe(source) for mutant in python_mutants(source)] == [
        "1: 1 -> 2",
        "3: a < 2 -> (a <= 2)",
        "3: a < 2 -> not (a < 2)",
        "3: 2 -> 3",
        "4: g(a) -> pass",
        "5: not a -> None",
        "5: not a -> bool(a)",
    ]


def test_lua() -> None:
    source = b"-- 1 < 2\nif a == 1 and not b then\n  call('DEL', x)\nend\n"
    found = {mutant.describe(source) for mutant in lua_mutants(source)}
    assert found == {
        "2: == -> ~=",
        "2: 1 -> 2",
        "2: and -> or",
        "2: not -> nothing",
        "3: call('DEL', x) -> nothing",
    }


def test_equal_lines_have_numbers() -> None:
    source = b"  x = 1\n  if x == 1 then\n    x = 1\n"
    keys = {mutant.key(source) for mutant in lua_mutants(source)}
    assert ("x = 1", "x = 2") in keys
    assert ("x = 1 (2)", "x = 2") in keys
