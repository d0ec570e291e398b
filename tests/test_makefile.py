"""`make` on a machine that lacks something: it names the command that helps, and leaves nothing."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")

#: Debian's Python without python3-venv: `-m venv` makes a part, and fails for want of ensurepip.
WITHOUT_VENV = """\
#!/bin/sh
[ "$1" = -c ] && exit 0
mkdir -p "$3/bin" && touch "$3/bin/python"
echo "The virtual environment was not created successfully because ensurepip is not available."
exit 1
"""
WITH_VENV = """\
#!/bin/sh
[ "$1" = -c ] && exit 0
mkdir -p "$3/bin" && touch "$3/bin/python" "$3/bin/pip"
"""


def make(directory: Path, python: str) -> subprocess.CompletedProcess[str]:
    executable = directory / "python3"
    executable.write_text(python)
    executable.chmod(0o755)
    shutil.copy(ROOT / "Makefile", directory)
    return subprocess.run(
        ["make", f"PYTHON={executable}", ".venv/bin/pip"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_missing_for_a_virtual_environment_is_named(tmp_path: Path) -> None:
    result = make(tmp_path, WITHOUT_VENV)
    assert result.returncode != 0
    assert "apt install python3-venv" in result.stderr
    assert not (tmp_path / ".venv").exists()
    assert make(tmp_path, WITH_VENV).returncode == 0, "once it is installed, the same command works"


def test_a_part_of_a_virtual_environment_is_completed(tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    assert make(tmp_path, WITH_VENV).returncode == 0
    assert (tmp_path / ".venv/bin/pip").exists()


@pytest.mark.parametrize("target", [".venv/.runtime", ".venv/.dev"])
def test_everything_installed_comes_after_that(target: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for file in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    planned = subprocess.run(
        ["make", "--dry-run", target], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert planned.index("-m venv .venv") < planned.index(".venv/bin/pip install")
