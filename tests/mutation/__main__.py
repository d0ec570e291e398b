"""The command: `python -m tests.mutation [--mutants N] [--seed N] [MODULE ...]`."""

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mutation.mutants import Mutant, lua_mutants, python_mutants
from tests.paths import ROOT

MIN_KILLED = 0.85
MIN_LIMIT_SECS = 10.0
EQUIVALENT = Path(__file__).with_name("equivalent.tsv")
"""Mutants that change no promise: module, line, line with the change, reason."""

_FORK = multiprocessing.get_context("fork")
COPIED = ("libs", "services", "tests", "docs", "bench", "tools", "deploy", "requirements")


class Target(NamedTuple):
    """A module and its tests, which run in under 15 s on an idle core.

    Attributes:
        source: the module.
        tests: files or tests.
        only: expression of pytest that selects among them.
    """

    source: str
    tests: Sequence[str]
    only: str = ""


_PUBLISHING = (
    tuple(
        f"tests/certbus/streams/test_{name}.py"
        for name in (
            *("publisher", "marks", "stored_fields", "issuance"),
            *("lost_writes", "publishing_model"),
        )
    ),
    "not redis7 and not valkey",
)
_FILTERS = "not equals_the_naive and not registrable and not 3000"
_MODEL = "tests/gateway/test_delivery_model.py"
TARGETS = {
    "publisher": Target("libs/certbus/streams/publisher.py", *_PUBLISHING),
    "publish": Target("libs/certbus/streams/lua/publish.lua", *_PUBLISHING),
    "marks": Target("libs/certbus/lua/marks.lua", *_PUBLISHING),
    "ring": Target(
        "services/gateway/delivery/ring_buffer.py",
        (
            "tests/gateway/delivery/test_ring_buffer.py",
            "tests/gateway/delivery/test_packed.py",
            _MODEL,
        ),
        "not holds_arrives",
    ),
    "replay": Target(
        "services/gateway/clients/replay.py",
        (
            _MODEL,
            "tests/gateway/clients/test_redis_loss.py",
            "tests/gateway/clients/test_progress.py",
            "tests/gateway/clients/test_replay.py",
        ),
        "not closed and not holds_arrives and not drops_and_resumes",
    ),
    "verifier": Target(
        "services/ingestor/verification/verifier.py",
        (
            "tests/ingestor/verification/test_decisions.py",
            "tests/ingestor/verification/test_starts.py",
        ),
    ),
    "filter": Target("libs/ctfilter/index.py", ("tests/ctfilter/test_index.py",), _FILTERS),
    "throttle": Target(
        "services/ingestor/client/throttle.py", ("tests/ingestor/client/test_throttle.py",)
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser("mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(TARGETS))
    parser.add_argument("--mutants", type=int, default=300, help="for each module")
    parser.add_argument("--start", type=int, default=0, help="of those drawn, to run in parts")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="mutation") as directory:
        for name in COPIED:
            shutil.copytree(ROOT / name, Path(directory, name))
        for file in ("pyproject.toml", "Makefile", "README.md"):
            shutil.copy(ROOT / file, directory)
        _import_packages(Path(directory))
        names = chosen.modules or list(TARGETS)
        part = slice(chosen.start, chosen.start + chosen.mutants)
        return max(run(name, part, chosen.seed, Path(directory)) for name in names)


def run(name: str, part: slice, seed: int, directory: Path) -> int:
    """Run the mutants of a module.

    Returns:
        1 if none was tried, or fewer than `MIN_KILLED` of those that are not equivalent were
        killed, else 0.
    """
    target = TARGETS[name]
    file = directory / target.source
    source = file.read_bytes()
    mutants = mutants_of(name, source)
    known = equivalent(name)
    drawn = random.Random(f"{seed} {name}").sample(mutants, len(mutants))[part]
    tried = [mutant for mutant in drawn if mutant.key(source) not in known]
    began = time.monotonic()
    if not tried:
        print(f"{name}: no mutant to try from {part.start} on, of {len(mutants)}", file=sys.stderr)
        return 1
    if not passes(target, directory, 300):
        raise SystemExit(f"{name}: its tests fail without a mutant")
    spent = time.monotonic() - began
    limit = MIN_LIMIT_SECS + 4 * spent
    print(
        f"{name}: {len(drawn)} of {len(mutants)} mutants, seed {seed}, "
        f"{len(drawn) - len(tried)} of them equivalent; its tests take {spent:.1f} s",
        flush=True,
    )
    done = killed = 0
    try:
        for mutant in tried:
            file.write_bytes(mutant.apply(source))
            if passes(target, directory, limit):
                print(f"  survived {target.source}:{mutant.describe(source)}", flush=True)
            else:
                killed += 1
            done += 1
    finally:  # it may be cut off
        file.write_bytes(source)
        print(f"{name}: {killed} of {done} killed, {killed / max(done, 1):.0%}", flush=True)
    return int(killed < MIN_KILLED * done)


def mutants_of(name: str, source: bytes) -> list[Mutant]:
    """Return all mutants of a module."""
    is_lua = TARGETS[name].source.endswith(".lua")
    return (lua_mutants if is_lua else python_mutants)(source)


def equivalent(name: str) -> set[tuple[str, str]]:
    """Return the keys of the mutants of a module that change no promise, from `EQUIVALENT`."""
    rows = [row.split("\t") for row in EQUIVALENT.read_text().splitlines() if row]
    return {(line, changed) for module, line, changed, _ in rows if module == name}


def passes(target: Target, directory: Path, limit: float) -> bool:
    """Whether the tests of a module pass within `limit` seconds."""
    child = _FORK.Process(target=_test, args=(target, directory))
    child.start()
    child.join(limit)
    # Its session, with the servers that its tests started.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid or 0, signal.SIGKILL)
    child.kill()
    child.join()
    return child.exitcode == 0


def _test(target: Target, directory: Path) -> None:
    """Run the tests of a module, in a child."""
    os.setsid()
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(silent, descriptor)
    status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-k", target.only, *target.tests])
    os._exit(status)


def _import_packages(directory: Path) -> None:
    """Import what all tests need and no mutant changes; children import the modules of `directory`.

    It collects all tests, and removes the modules of this project again.
    """
    os.chdir(directory)
    paths = [str(directory / part) for part in ("libs", "services", ".")]
    sys.path[:0] = paths
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    _forget(ROOT)
    tests = {test for target in TARGETS.values() for test in target.tests}
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["-q", "-p", "no:cacheprovider", "--collect-only", *tests])
    _forget(directory)


def _forget(root: Path) -> None:
    """Remove the modules of a copy of this project from those that are imported."""
    virtual = f"{ROOT / '.venv'}"
    for name, module in list(sys.modules.items()):
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
        own = [place for place in places if place and not str(place).startswith(virtual)]
        if name != "__main__" and any(str(place).startswith(f"{root}/") for place in own):
            del sys.modules[name]


if __name__ == "__main__":
    sys.exit(main())
