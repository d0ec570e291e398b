"""The command: `python -m tests.mutation [--mutants N] [--seed N] [MODULE ...]`."""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.mutation.mutants import Mutant, lua_mutants, python_mutants
from tests.paths import ROOT

MIN_KILLED = 0.85
COPIED = ("libs", "services", "tests", "docs", "bench", "tools", "deploy", "requirements")


class Target(NamedTuple):
    """A module and its tests, which run in under 15 s on an idle core."""

    source: str
    tests: Sequence[str]


_STREAMS = "tests/certbus/streams"
TARGETS = {
    "publisher": Target(
        "libs/certbus/streams/publisher.py",
        (f"{_STREAMS}/test_publisher.py", f"{_STREAMS}/test_issuance.py"),
    ),
    "publish": Target(
        "libs/certbus/streams/lua/publish.lua",
        (f"{_STREAMS}/test_publisher.py", f"{_STREAMS}/test_issuance.py"),
    ),
    "marks": Target(
        "libs/certbus/lua/marks.lua",
        (f"{_STREAMS}/test_publisher.py", f"{_STREAMS}/test_issuance.py"),
    ),
    "ring": Target(
        "services/gateway/delivery/ring_buffer.py", ("tests/gateway/delivery/test_ring_buffer.py",)
    ),
    "replay": Target("services/gateway/clients/replay.py", ("tests/gateway/clients",)),
    "verifier": Target(
        "services/ingestor/verification/verifier.py",
        ("tests/ingestor/verification/test_verifier.py",),
    ),
    "filter": Target("libs/ctfilter/index.py", ("tests/ctfilter/test_index.py",)),
    "throttle": Target(
        "services/ingestor/client/throttle.py", ("tests/ingestor/client/test_throttle.py",)
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser("mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(TARGETS))
    parser.add_argument("--mutants", type=int, default=300, help="for each module")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutation") as directory:
        for name in COPIED:
            shutil.copytree(ROOT / name, Path(directory, name))
        for file in ("pyproject.toml", "Makefile", "README.md"):
            shutil.copy(ROOT / file, directory)
        names = chosen.modules or list(TARGETS)
        return max(run(name, chosen.mutants, chosen.seed, Path(directory)) for name in names)


def run(name: str, count: int, seed: int, directory: Path) -> int:
    """Run the mutants of a module.

    Returns:
        1 if fewer than `MIN_KILLED` were killed, else 0.
    """
    target = TARGETS[name]
    file = directory / target.source
    source = file.read_bytes()
    mutants = (lua_mutants if file.suffix == ".lua" else python_mutants)(source)
    drawn = random.Random(f"{seed} {name}").sample(mutants, min(count, len(mutants)))
    began = time.monotonic()
    if not passes(target, directory, 300):
        raise SystemExit(f"{name}: its tests fail without a mutant")
    limit = 10 + 4 * (time.monotonic() - began)
    print(f"{name}: {len(drawn)} of {len(mutants)} mutants, seed {seed}", flush=True)
    survivors: list[Mutant] = []
    for mutant in drawn:
        file.write_bytes(mutant.apply(source))
        if passes(target, directory, limit):
            survivors.append(mutant)
            print(f"  survived {target.source}:{mutant.describe(source)}", flush=True)
    file.write_bytes(source)
    killed = len(drawn) - len(survivors)
    print(f"{name}: {killed} of {len(drawn)} killed, {killed / len(drawn):.0%}", flush=True)
    return int(killed < MIN_KILLED * len(drawn))


def passes(target: Target, directory: Path, limit: float) -> bool:
    """Whether the tests of a module pass within `limit` seconds."""
    paths = os.pathsep.join(str(directory / part) for part in ("libs", "services", "."))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        [*command, *target.tests],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        # Its session, with the servers that its tests started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
