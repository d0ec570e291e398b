"""Former findings, and some new mutations of each target."""

import random

import pytest

from tests.fuzz.__main__ import CORPUS, check
from tests.fuzz.mutations import mutate
from tests.fuzz.targets import TARGETS

MUTATIONS = 300


@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_errors(name: str) -> None:
    target = TARGETS[name]
    chance = random.Random(name)
    for seed in target.seeds:
        target.run(seed)  # without what it may raise
    inputs = [file.read_bytes() for file in sorted((CORPUS / name).glob("*"))]
    inputs += [mutate(chance, target.seeds, target.tokens) for _ in range(MUTATIONS)]
    for data in inputs:
        assert check(target, data) is None, data


def test_a_fault_is_found() -> None:
    target = TARGETS["checkpoint"]
    fails = type(target)(lambda _: 1 // 0, target.seeds, target.tokens, target.documented)
    problem = check(fails, b"")
    assert problem is not None
    assert "ZeroDivisionError" in problem
