"""The units of deploy/systemd, as systemd itself reads them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

UNITS = (
    "certstream-server.service",
    "certstream-ingestor@9111.service",
    "certstream-gateway@9101.service",
)
INSTALLED = "/opt/certstream-server/bin/certstream-server"
WELL_CONFINED = 20  # of 100, where systemd prints OK; a service without any sandboxing has 96

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here"),
]


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with the command where it is in this environment."""
    shutil.copytree(ROOT / "deploy/systemd", tmp_path, dirs_exist_ok=True)
    here = str(Path(sys.executable).with_name("certstream-server"))
    for unit in tmp_path.glob("*.service"):
        text = unit.read_text()
        assert INSTALLED in text
        unit.write_text(text.replace(INSTALLED, here))
    return tmp_path


def analyze(units: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin"},
    )


def test_systemd_finds_nothing_wrong_with_them(units: Path) -> None:
    result = analyze(units, "verify", "--man=no", *UNITS)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_they_are_confined(units: Path, unit: str) -> None:
    path = units / unit.replace("9111", "").replace("9101", "")
    result = analyze(
        units, "security", "--offline=yes", f"--threshold={WELL_CONFINED}", "--no-pager", str(path)
    )
    assert result.returncode == 0, result.stdout + result.stderr
