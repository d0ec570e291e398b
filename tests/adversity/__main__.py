"""The command: `python -m tests.adversity`, or `make adversity SEED=1 RUNS=60 SECONDS=60`."""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import msgspec

from launcher.runtime.supervisor import exit_with_parent
from tests.adversity.plan import Server, draw
from tests.adversity.run import MOVE_SECS, NOT_CHECKED, NOT_QUIET, RESULT, Result, judge, run
from tests.certbus.servers import FAKETIME, executables
from tests.paths import ROOT


def main() -> int:
    parser = argparse.ArgumentParser("adversity", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first run (%(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="each with the next seed (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults (%(default)s)")
    parser.add_argument("--rate", type=float, default=30.0, help="certificates/s (%(default)s)")
    parser.add_argument("--parallel", type=int, default=1, help="runs at once (%(default)s)")
    parser.add_argument(
        "--move-secs",
        type=float,
        default=MOVE_SECS,
        help="after the last fault, for each client; more for a busy machine (%(default)s)",
    )
    parser.add_argument("--directory", type=Path, help="for evidence (a temporary one)")
    parser.add_argument("--keep", action="store_true", help="also that of runs that passed")
    parser.add_argument("--judge", action="store_true", help="only judge the evidence again")
    parser.add_argument("--parent-pid", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.directory = chosen.directory or Path(tempfile.mkdtemp(prefix="adversity-"))
    chosen.directory.mkdir(parents=True, exist_ok=True)
    if chosen.judge:
        return _judge_again(_directory(chosen, chosen.seed))
    if chosen.parent_pid is not None:
        exit_with_parent(chosen.parent_pid)
        return _one(chosen)
    status = asyncio.run(_many(chosen))
    with suppress(OSError):
        chosen.directory.rmdir()  # unless it has evidence
    return status


def _one(chosen: argparse.Namespace) -> int:
    found = executables()
    servers: list[Server] = [name for name in ("redis6", "redis7") if name in found]
    if not FAKETIME.exists():
        print(f"adversity: without {FAKETIME} all clocks are right", file=sys.stderr)
    plan = draw(chosen.seed, chosen.seconds, chosen.rate, servers, clock=FAKETIME.exists())
    directory = _directory(chosen, chosen.seed)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that every child is ended
    result = asyncio.run(run(plan, directory, chosen.move_secs))
    (directory / RESULT).write_bytes(msgspec.json.encode(result))
    (directory / "verdict.txt").write_text(f"{result.details}\n")
    return 1 if result.troubles else 0


def _judge_again(directory: Path) -> int:
    result = msgspec.json.decode((directory / RESULT).read_bytes(), type=Result)
    quiet = all(trouble.kind != NOT_QUIET for trouble in result.troubles)
    troubles, numbers = judge(directory, result.plan, result.lost_since, quiet=quiet)
    again = msgspec.structs.replace(result, troubles=troubles, numbers=numbers)
    print(again.details)
    return 1 if troubles else 0


def _directory(chosen: argparse.Namespace, seed: int) -> Path:
    return Path(chosen.directory).absolute() / f"seed-{seed}"


async def _many(chosen: argparse.Namespace) -> int:
    """Run each seed in a process of its own, and print what came of it."""
    places = asyncio.Semaphore(chosen.parallel)
    results: list[Result] = []
    broken: list[int] = []

    async def one(seed: int) -> None:
        async with places:
            arguments = [
                *(f"--parent-pid={os.getpid()}", f"--directory={chosen.directory}"),
                *(f"--seed={seed}", f"--seconds={chosen.seconds}", f"--rate={chosen.rate}"),
                f"--move-secs={chosen.move_secs}",
            ]
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.adversity", *arguments
            )
            await process.wait()
            directory = _directory(chosen, seed)
            if not (directory / RESULT).exists():
                broken.append(seed)
                print(f"seed {seed}: the run itself broke off; see {directory}", flush=True)
                return
            result = msgspec.json.decode((directory / RESULT).read_bytes(), type=Result)
            results.append(result)
            print(result, flush=True)
            if result.troubles:
                print(f"  evidence: {directory}", flush=True)
                again = f"make adversity SEED={seed} SECONDS={chosen.seconds:g}"
                if chosen.move_secs != MOVE_SECS:
                    again += f' ARGS="--move-secs {chosen.move_secs:g}"'
                print(f"  again: {again}", flush=True)
            elif not chosen.keep:
                shutil.rmtree(directory)

    async with asyncio.TaskGroup() as group:
        for seed in range(chosen.seed, chosen.seed + chosen.runs):
            group.create_task(one(seed))
    print(summary(results, broken))
    return 1 if broken or any(result.troubles for result in results) else 0


def summary(results: list[Result], broken: list[int]) -> str:
    """Return the end of the output of a campaign.

    Args:
        results: of its runs.
        broken: seeds of those that broke off.
    """
    drawn = Counter(name for result in results for name in result.plan.drawn())
    happened = Counter(name for result in results for name in result.happened)
    failed = sorted(result.plan.seed for result in results if result.troubles)
    unchecked = sorted(result.plan.seed for result in results if result.numbers.get(NOT_CHECKED))
    return "\n".join(
        [
            f"{len(results)} runs, {len(results) - len(failed)} passed, {len(failed)} failed",
            *(
                f"  {happened[kind]:4} {kind}"
                + (f" (drawn {number} times)" if number != happened[kind] else "")
                for kind, number in drawn.most_common()
            ),
            *([f"failed: seeds {', '.join(map(str, failed))}"] if failed else []),
            *([f"{NOT_CHECKED}: seeds {', '.join(map(str, unchecked))}"] if unchecked else []),
            *([f"broken off: seeds {', '.join(map(str, sorted(broken)))}"] if broken else []),
        ]
    )


if __name__ == "__main__":
    if os.environ.get("PYTHONPATH") is None:
        os.environ["PYTHONPATH"] = str(ROOT)
    sys.exit(main())
