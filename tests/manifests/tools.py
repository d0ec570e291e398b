"""Programs that these tests need and that pip cannot install; `.ci/run` does."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.paths import ROOT

DEPLOY = ROOT / "deploy"


def require(*names: str) -> str:
    """The path of the first of these programs that there is; else the test is skipped.

    Where continuous integration runs (CI=true), it fails instead: a check that no person notices to
    be missing is none.
    """
    for name in names:
        if (path := shutil.which(name)) is not None:
            return path
    why = f"{' or '.join(names)} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def run(command: Sequence[str | Path]) -> str:
    """What a program prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def promtool(*arguments: str | Path) -> str:
    """Run promtool, of Debian's package `prometheus`."""
    return run([require("promtool"), *arguments])


def kustomize(directory: Path) -> str:
    """Build a kustomization, as `kubectl apply -k` does."""
    program = require("kubectl", "kustomize")
    command = "kustomize" if Path(program).name == "kubectl" else "build"
    return run([program, command, directory])
