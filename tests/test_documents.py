"""The documents name files, tests, settings and commands that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from certconf.build import iter_settings
from launcher import cli
from tests.paths import ROOT

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FOLDERS = ("libs", "services", "tests", "bench", "docs", "deploy")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_exist(document: Path) -> None:
    text = document.read_text()
    links = {document.parent / link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text)}
    code = {ROOT / name for name in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./]+)`", text)}
    assert links | code, "a document that names nothing is not tested by this"
    assert [str(path) for path in links | code if not path.exists()] == []


def test_the_readme_speaks_of_settings_that_exist() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)`", (ROOT / "README.md").read_text(), re.MULTILINE)
    parts = [setting.split(".") for setting in iter_settings()]
    known = {".".join(names[:depth]) for names in parts for depth in range(1, len(names) + 1)}
    assert {"redis_url", "dedup.ttl_secs"} <= set(rows) <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document: Path) -> None:
    for command in sorted(set(re.findall(r"\bcertstream-server ([a-z-]+)", document.read_text()))):
        with pytest.raises(SystemExit) as ended:
            cli._parser([command]).parse_args([command, "--help"])
        assert ended.value.code == 0, command


def test_the_arithmetic_of_scaling_is_what_it_says() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    blocks = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)
    assert blocks is not None
    done = subprocess.run([sys.executable, "-c", blocks[1]], capture_output=True, text=True)
    assert done.stdout == blocks[2], done.stderr
