"""The software bill of materials lists what the lock files pin."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tools.sbom import bill, packages

LOCKS = {"required": "runtime.lock", "optional": "redis.lock"}


@pytest.mark.parametrize("scope", LOCKS)
def test_every_locked_package_is_listed_with_all_its_hashes(scope: str) -> None:
    text = (ROOT / "requirements" / LOCKS[scope]).read_text()
    pins = re.split(r"^(?=[a-zA-Z0-9])", text, flags=re.MULTILINE)
    expected = {
        f"pkg:pypi/{pin.split()[0].replace('==', '@')}": set(re.findall("sha256:(.{64})", pin))
        for pin in pins
        if "==" in pin
    }
    assert all(expected.values())
    document = json.loads(json.dumps(bill(ROOT, 0)))
    listed = {
        each["purl"]: {found["content"] for found in each["hashes"]}
        for each in document["components"]
        if each["scope"] == scope
    }
    assert listed == expected
    assert {found["alg"] for each in document["components"] for found in each["hashes"]} == {
        "SHA-256"
    }


def test_every_package_is_required_by_the_server() -> None:
    document = json.loads(json.dumps(bill(ROOT, 0)))
    requires = {each["ref"]: each["dependsOn"] for each in document["dependencies"]}
    main = document["metadata"]["component"]["bom-ref"]
    reached: set[str] = set()
    new = [main]
    while new:
        ref = new.pop()
        reached.add(ref)
        new += [each for each in requires[ref] if each not in reached]
    assert reached == {main, *(each["bom-ref"] for each in document["components"])}
    names = {ref.partition("@")[0]: required for ref, required in requires.items()}
    assert any(each.startswith("pkg:pypi/httpcore@") for each in names["pkg:pypi/httpx"])


def test_the_same_input_makes_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for number in range(2):
        file = tmp_path / f"{number}.json"
        command = [sys.executable, "-m", "tools.sbom", str(file)]
        subprocess.run(command, cwd=ROOT, check=True, env={"SOURCE_DATE_EPOCH": "1800000000"})
        made.append(file.read_bytes())
    assert made[0] == made[1]
    document = json.loads(made[0])
    assert document["metadata"]["timestamp"] == "2027-01-15T08:00:00+00:00"
    assert re.fullmatch("urn:uuid:[0-9a-f-]{36}", document["serialNumber"])


def test_a_line_that_is_not_understood_is_an_error() -> None:
    with pytest.raises(ValueError, match="neither a pin"):
        list(packages("a==1 --hash=md5:0\nb @ file:///b"))
