"""The command: `python -m tests.mutation [--mutants N] [--seed N] [MODULE ...]`."""

import argparse
import contextlib
import gc
import importlib.util
import io
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest

from tests.mutation.mutants import Mutant, lua_mutants, python_mutants
from tests.paths import ROOT

MIN_KILLED = 0.85
LIMIT_SECS = 300.0
MIN_TEST_SECS = 5.0
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
    "publisher": Target(
        "libs/certbus/streams/publisher.py",
        (*_PUBLISHING[0], "tests/certbus/streams/test_full_redis.py"),
        _PUBLISHING[1],
    ),
    "publish": Target("libs/certbus/streams/lua/publish.lua", *_PUBLISHING),
    "marks": Target("libs/certbus/lua/marks.lua", *_PUBLISHING),
    "ring": Target(
        "services/gateway/delivery/ring_buffer.py",
        (
            "tests/gateway/delivery/test_ring_buffer.py",
            "tests/gateway/delivery/test_packed.py",
            "tests/gateway/delivery/test_history.py",
            "tests/gateway/delivery/test_v2_stream.py",
            "tests/gateway/delivery/test_filter_turns.py",
            "tests/gateway/delivery/test_channel.py",
            _MODEL,
        ),
        "not holds_arrives and not has_dropped_are_forgotten",
    ),
    "replay": Target(
        "services/gateway/clients/replay.py",
        (
            _MODEL,
            "tests/gateway/clients/test_redis_loss.py",
            "tests/gateway/clients/test_progress.py",
            "tests/gateway/clients/test_replay.py",
            "tests/gateway/clients/test_client_replay.py",
        ),
        "not closed and not drops_and_resumes and not (after_any_message and new)",
    ),
    "verifier": Target(
        "services/ingestor/verification/verifier.py",
        (
            "tests/ingestor/verification/test_decisions.py",
            "tests/ingestor/verification/test_starts.py",
            "tests/ingestor/pipeline/test_follower.py",
        ),
    ),
    "filter": Target("libs/ctfilter/index.py", ("tests/ctfilter/test_index.py",), _FILTERS),
    "throttle": Target(
        "services/ingestor/client/throttle.py",
        ("tests/ingestor/client/test_throttle.py",),
        "not leaves_the_log_alone and not is_being_tried and not redirect",
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
    if not tried:
        print(f"{name}: no mutant to try from {part.start} on, of {len(mutants)}", file=sys.stderr)
        return 1
    tests = Tests(target, directory)
    began = time.monotonic()
    if not tests.passes():
        raise SystemExit(f"{name}: its tests fail without a mutant: {tests.last}")
    spent = time.monotonic() - began
    print(
        f"{name}: {len(drawn)} of {len(mutants)} mutants, seed {seed}, "
        f"{len(drawn) - len(tried)} of them equivalent; its tests take {spent:.1f} s",
        flush=True,
    )
    done = killed = 0
    try:
        for mutant in tried:
            file.write_bytes(mutant.apply(source))
            if tests.passes():
                print(f"  survived {target.source}:{mutant.describe(source)}", flush=True)
            else:
                killed += 1
            done += 1
        file.write_bytes(source)
        if not tests.passes():
            raise SystemExit(f"{name}: its tests now fail without a mutant: {tests.last}")
    finally:  # it may be cut off
        file.write_bytes(source)
        print(
            f"{name}: {killed} of {done} killed, {killed / max(done, 1):.0%}, "
            f"in {time.monotonic() - began:.0f} s",
            flush=True,
        )
    return int(killed < MIN_KILLED * done)


def mutants_of(name: str, source: bytes) -> list[Mutant]:
    """Return all mutants of a module."""
    is_lua = TARGETS[name].source.endswith(".lua")
    return (lua_mutants if is_lua else python_mutants)(source)


def equivalent(name: str) -> set[tuple[str, str]]:
    """Return the keys of the mutants of a module that change no promise, from `EQUIVALENT`."""
    rows = [row.split("\t") for row in EQUIVALENT.read_text().splitlines() if row]
    return {(line, changed) for module, line, changed, _ in rows if module == name}


class Tests:
    """The tests of a module; first those that failed most often for their time, then the fastest.

    Attributes:
        last: the test that was run last.
    """

    def __init__(self, target: Target, directory: Path) -> None:
        self.last = ""
        self._target = target
        self._reports = directory / "reports"
        self._spent: dict[str, float] = {}  # seconds of each test, without a mutant
        self._failed = Counter[str]()

    def passes(self) -> bool:
        """Run them in a child process, until one fails; return whether all pass."""
        self._reports.unlink(missing_ok=True)
        child = _FORK.Process(target=self._run)
        child.start()
        try:
            child.join(LIMIT_SECS)
        finally:
            # Its session, with the servers that its tests started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid or 0, signal.SIGKILL)
            child.kill()
            child.join()
        lines = self._reports.read_text().splitlines() if self._reports.exists() else []
        reports = [line.split("\t") for line in lines]
        self.last = reports[-1][1] if reports else ""
        if child.exitcode != 0:
            self._failed[self.last] += 1
            return False
        if not self._spent:
            for seconds, test in reports:
                self._spent[test] = self._spent.get(test, 0) + float(seconds)
        return True

    def _run(self) -> None:
        os.setsid()
        silent = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(silent, descriptor)
        options = ["-q", "-x", "--tb=no", "-p", "no:cacheprovider"]
        status = pytest.main([*options, "-k", self._target.only, *self._target.tests], [self])
        os._exit(status)

    @pytest.hookimpl(trylast=True)  # of those that are selected
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._rank(item.nodeid))
        for item in items if self._spent else ():
            item.add_marker(pytest.mark.timeout(MIN_TEST_SECS + 4 * self._spent[item.nodeid]))

    def _rank(self, test: str) -> tuple[float, float]:
        spent = self._spent.get(test, 0)
        return -self._failed[test] / (0.1 + spent), spent

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._report(0, nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._report(report.duration, report.nodeid)

    def _report(self, seconds: float, test: str) -> None:
        with self._reports.open("a") as file:
            file.write(f"{seconds}\t{test}\n")


def _import_packages(directory: Path) -> None:
    """Import what all tests need and no mutant changes; children import the modules of `directory`.

    It collects all tests, which compiles them and the modules but for those that change, and
    removes the modules of this project again. Hypothesis tries the same examples each time, and
    searches for no simpler one that fails.
    """
    os.chdir(directory)
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutation", derandomize=True, database=None, phases=phases)
    hypothesis.settings.load_profile("mutation")
    paths = [str(directory / part) for part in ("libs", "services", ".")]
    sys.path[:0] = paths
    sys.dont_write_bytecode = False
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    _forget(ROOT)
    tests = {test for target in TARGETS.values() for test in target.tests}
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["-q", "-p", "no:cacheprovider", "--collect-only", *tests])
    sys.dont_write_bytecode = True
    for target in TARGETS.values():
        Path(importlib.util.cache_from_source(target.source)).unlink(missing_ok=True)
    _forget(directory)
    gc.freeze()


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
