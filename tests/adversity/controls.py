"""Control runs: whether the suite finds a product that is broken in one place.

Each break is a change of one place, made in a copy of the source. Seeds run one after the other
until one finds it.

Usage: python -m tests.adversity.controls [--seconds S] [--seed N] [BREAK ...]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.adversity.invariants import Trouble
from tests.adversity.run import RESULT, Result
from tests.paths import ROOT

MAX_SEEDS = 20


class Break(msgspec.Struct, frozen=True):
    """One change that breaks a guarantee.

    Attributes:
        file: where.
        right: the text that is replaced.
        wrong: what replaces it.
        kinds: of trouble, one of which must show it.
    """

    file: str
    right: str
    wrong: str
    kinds: tuple[str, ...]


BREAKS = {
    "publish without fence": Break(
        "libs/certbus/streams/lua/publish.lua",
        "if fence ~= batch.fence then",
        "if false then",
        ("published without the lease",),
    ),
    "mark not written": Break(
        "libs/certbus/streams/lua/publish.lua",
        "      call('HSET', key, field(sha256s, offset), places[position])\n",
        "",
        ("published twice",),
    ),
    "gap not sent": Break(
        "services/gateway/clients/replay.py",
        "        self._client.send_notice(gap_message(requested, oldest, GAP_REASONS[reason]))",
        "        gap_message(requested, oldest, GAP_REASONS[reason])",
        ("lost without a gap", "repeated without a gap before"),
    ),
    "filter index misses a suffix": Break(
        "libs/ctfilter/index.py",
        "                if suffix in domains:",
        '                if suffix in domains and suffix != "sites.test":',
        ("lost although Redis holds them",),
    ),
    "compressed slot left out": Break(
        "services/gateway/delivery/ring_buffer.py",
        "                parts.append(slot.shared.data)",
        """\
                if slot.before.number % 50 or slot.shared.restarts:
                    parts.append(slot.shared.data)
                else:
                    parts.append(self._encoded(slot, encoding))""",
        ("unreadable", "altered"),
    ),
    "frontier ahead of next": Break(
        "services/ingestor/pipeline/publish.py",
        "                batch = msgspec.structs.replace(batch, frontier=frontier.to_bytes())",
        """\
                ahead = frontier.copy()
                ahead.extend(window.leaf_hashes[end - 1 : end])
                batch = msgspec.structs.replace(batch, frontier=ahead.to_bytes())""",
        ("wrong in Redis",),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser("controls", description=__doc__)
    parser.add_argument("breaks", nargs="*", metavar="BREAK", help=", ".join(BREAKS))
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first run (%(default)s)")
    chosen = parser.parse_args()
    names = chosen.breaks or list(BREAKS)
    return max(control(name, chosen.seed, chosen.seconds) for name in names)


def control(name: str, first: int, seconds: float) -> int:
    """Run seeds until one finds a break.

    Returns:
        1 if none of `MAX_SEEDS` does, else 0.
    """
    with tempfile.TemporaryDirectory(prefix="control-") as directory:
        copy = Path(directory)
        for part in ("libs", "services", "tests"):
            shutil.copytree(ROOT / part, copy / part)
        for part in ("pyproject.toml", "Makefile", "README.md"):
            shutil.copy(ROOT / part, copy)
        apply(BREAKS[name], copy)
        for seed in range(first, first + MAX_SEEDS):
            found = _findings(copy, seed, seconds)
            kinds = {trouble.kind for trouble in found}
            if not kinds.isdisjoint(BREAKS[name].kinds):
                print(f"{name}: found by seed {seed}", *found, sep="\n  ", flush=True)
                return 0
            print(f"{name}: seed {seed} found {', '.join(kinds) or 'nothing'}", flush=True)
    print(f"{name}: not found", flush=True)
    return 1


def apply(change: Break, directory: Path) -> None:
    """Make a change in a copy of the source."""
    file = directory / change.file
    source = file.read_text()
    assert source.count(change.right) == 1, f"{change.file} has another text: {change.right}"
    file.write_text(source.replace(change.right, change.wrong))


def _findings(copy: Path, seed: int, seconds: float) -> list[Trouble]:
    paths = os.pathsep.join(str(path) for path in (copy, copy / "libs", copy / "services"))
    result = copy / "runs" / f"seed-{seed}" / RESULT
    subprocess.run(
        [
            *(sys.executable, "-m", "tests.adversity", f"--seed={seed}", f"--seconds={seconds}"),
            *(f"--directory={copy / 'runs'}", "--keep"),
        ],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    return msgspec.json.decode(result.read_bytes(), type=Result).troubles


if __name__ == "__main__":
    sys.exit(main())
