"""The Lua files: complete, documented and all in use."""

import errno
import importlib
import pkgutil
import re
from functools import cached_property
from importlib import resources
from pathlib import Path

import pytest

import certbus
from certbus import store
from certbus.keys import WINDOW_MS

PACKAGE = Path(str(resources.files("certbus")))
FILES = sorted(PACKAGE.rglob("*.lua"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_script_begins_with_its_four_headings(file: Path) -> None:
    comment = re.match(r"(?:--.*\n)+", file.read_text("utf-8"))
    assert comment is not None
    headings = re.findall(r"^-- (Purpose|KEYS|ARGV|Returns): \S", comment[0], re.MULTILINE)
    assert headings == ["Purpose", "KEYS", "ARGV", "Returns"]


def test_modules_register_exactly_the_files_of_the_package() -> None:
    assert Path(certbus.__file__).parent == PACKAGE
    registered = {
        PACKAGE / path
        for module in PACKAGE.rglob("*.py")
        for path in re.findall(r'"([\w/]+\.lua)"', module.read_text("utf-8"))
    }
    assert registered == set(FILES)


class _Client:
    """Registers scripts without a Redis."""

    def register_script(self, text: str) -> str:
        return text


def test_scripts_are_read_when_modules_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has no descriptors left can still use each of them."""
    for module in pkgutil.walk_packages(certbus.__path__, "certbus."):
        importlib.import_module(module.name)

    def no_descriptors(_: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("certbus.store.resources.files", no_descriptors)
    found = 0
    for kind in store.Store.__subclasses__():
        one = kind.__new__(kind)
        one._redis = _Client()  # type: ignore[assignment]
        for name in dir(kind):
            if isinstance(getattr(kind, name), cached_property):
                assert "redis.call" in getattr(one, name) or "call(" in getattr(one, name)
                found += 1
    assert found > 10


@pytest.mark.parametrize("name", ["lua/marks.lua", "streams/lua/expire_marks.lua"])
def test_windows_of_marks_have_one_length(name: str) -> None:
    text = (PACKAGE / name).read_text("utf-8")
    stated = re.search(r"^local WINDOW_MS = (\d+) \* (\d+) \* (\d+)", text, re.MULTILINE)
    assert stated is not None
    minutes, seconds, milliseconds = map(int, stated.groups())
    assert minutes * seconds * milliseconds == WINDOW_MS
