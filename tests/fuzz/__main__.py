"""The command: `python -m tests.fuzz [--inputs N | --seconds S] [--seed N] [TARGET ...]`."""

import argparse
import hashlib
import random
import resource
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.mutations import mutate
from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
MAX_SECS = 0.1
MAX_SECS_PER_MIB = 2.0
MAX_GROWTH_MIB = 64
WARM_UP_INPUTS = 2000


def main() -> int:
    parser = argparse.ArgumentParser("fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=sys.maxsize, help="for each target")
    parser.add_argument("--seconds", type=float, help="for all targets together (30)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--coverage", action="store_true", help="let atheris choose the mutations")
    chosen = parser.parse_args()
    names = chosen.targets or list(TARGETS)
    if chosen.seconds is None and chosen.inputs == sys.maxsize:
        chosen.seconds = 30.0
    if chosen.coverage:
        return _with_atheris(names[0], chosen.seconds or 30.0, chosen.seed)
    print(f"seed {chosen.seed}")
    secs = (chosen.seconds or float("inf")) / len(names)
    return max(fuzz(name, chosen.seed, chosen.inputs, secs) for name in names)


def fuzz(name: str, seed: int, inputs: int, seconds: float) -> int:
    """Run mutations until one is a finding; write that to the corpus.

    Returns:
        1 for a finding, else 0.
    """
    target = TARGETS[name]
    chance = random.Random(f"{seed} {name}")
    began = time.monotonic()
    before = done = 0
    while done < inputs and (done % 64 or time.monotonic() - began < seconds):
        data = mutate(chance, target.seeds, target.tokens)
        if (problem := check(target, data)) is not None:
            return _report(name, data, problem)
        done += 1
        if done == WARM_UP_INPUTS:
            before = _peak_kib()
    grown = (_peak_kib() - before) // 1024 if before else 0
    spent = time.monotonic() - began
    print(f"{name:14} {done:9,} inputs  {spent:7.1f} s  {grown:3} MiB more", flush=True)
    return int(grown > MAX_GROWTH_MIB)


def check(target: Target, data: bytes) -> str | None:
    """Run one input and return what is wrong."""
    allowed = MAX_SECS + MAX_SECS_PER_MIB * len(data) / (1 << 20)
    taken = allowed + 1
    for _ in range(3):  # the time counts that is needed each time
        began = time.thread_time()
        try:
            target(data)
        except Exception:  # noqa: BLE001
            return traceback.format_exc()
        taken = min(taken, time.thread_time() - began)
        if taken <= allowed:
            return None
    return f"{taken:.2f} s of CPU time for {len(data):,} bytes"


def _report(name: str, data: bytes, problem: str) -> int:
    file = CORPUS / name / hashlib.sha256(data).hexdigest()[:16]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    print(f"{name}: {file}\n{problem}\nagain: python -m pytest tests/fuzz", flush=True)
    return 1


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _with_atheris(name: str, seconds: float, seed: int) -> int:
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: PLC0415

    def run(data: bytes) -> None:
        if (problem := check(TARGETS[name], data)) is not None:
            _report(name, data, problem)
            raise AssertionError(problem)

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", f"-seed={seed}"], run)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
