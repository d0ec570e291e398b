"""The command: `python -m tests.fuzz [--inputs N | --seconds S] [--seed N] [TARGET ...]`."""

import argparse
import contextlib
import logging
import random
import resource
import sys
import time
import traceback
from pathlib import Path

import structlog

from tests.fuzz.growth import Grown, check_growth
from tests.fuzz.mutations import mutate
from tests.fuzz.seeds import keep, kept
from tests.fuzz.targets import TARGETS, Target

MAX_SECS = 1.0
MAX_SECS_PER_MIB = 20.0
"""With `MAX_SECS`, the CPU time of an input on a slow machine; `check_growth` compares instead."""
MAX_GROWTH_MIB = 64
WARM_UP_INPUTS = 200
GROWN_EVERY = 64
"""One input of this number repeats a part of itself, up to the `max_bytes` of its target."""


def main() -> int:
    parser = argparse.ArgumentParser("fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=sys.maxsize, help="for each target")
    parser.add_argument("--seconds", type=float, help="for all targets together (30)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    chosen = parser.parse_args()
    names = chosen.targets or list(TARGETS)
    if chosen.seconds is None and chosen.inputs == sys.maxsize:
        chosen.seconds = 30.0
    quiet()
    print(f"seed {chosen.seed}")
    secs = (chosen.seconds or float("inf")) / len(names)
    return max(fuzz(name, chosen.seed, chosen.inputs, secs) for name in names)


def quiet() -> None:
    """Write no log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def fuzz(name: str, seed: int, inputs: int, seconds: float) -> int:
    """Run mutations until one is a finding; write that to the corpus.

    Returns:
        1 for a finding, else 0.
    """
    target = TARGETS[name]
    chance = random.Random(f"{seed} {name}")
    seeds = [*target.seeds, *kept(name)]
    began = time.monotonic()
    before, done = None, 0  # `before`: KiB after the warm-up
    while done < inputs and (done % 64 or time.monotonic() - began < seconds):
        if done % GROWN_EVERY == GROWN_EVERY - 1:
            grown = target.repeat(chance, chance.choice(seeds), target.tokens)
            size = target.max_bytes >> chance.randrange(4)
            data, problem = grown(size), check_grown(target, grown, size)
        else:
            data = mutate(chance, seeds, target.tokens)
            problem = check(target, data)
        if problem is not None:
            return _report(name, data, problem)
        done += 1
        if done == WARM_UP_INPUTS:
            before = _peak_kib(restart=True)
    more = None if before is None else (_peak_kib() - before) // 1024
    spent = time.monotonic() - began
    memory = "memory not measured" if more is None else f"{more:3} MiB more"
    print(f"{name:14} {done:9,} inputs  {spent:7.1f} s  {memory}", flush=True)
    return int(more is not None and more > MAX_GROWTH_MIB)


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


def check_grown(target: Target, grown: Grown, size: int) -> str | None:
    """Run an input that repeats a part of itself, and return what is wrong."""
    return check(target, grown(size)) or check_growth(target, grown, size)


def _report(name: str, data: bytes, problem: str) -> int:
    print(f"{name}: {keep(name, data)}\n{problem}\nagain: python -m pytest tests/fuzz", flush=True)
    return 1


def _peak_kib(*, restart: bool = False) -> int:
    """Return the most memory that the process had, since the last `restart` if Linux permits it."""
    if restart:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
