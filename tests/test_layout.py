"""The layout of the source: imports, names of Redis keys, tests of each folder.

A module is a node of the graph of files. In the graph of folders, each folder and each file at the
top of a package is one node, so that a package may have a root file that wires its folders.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.paths import ROOT

SOURCE = (ROOT / "libs", ROOT / "services")
TESTS = ROOT / "tests"
MAX_FILES = 20
"""Python files at one level of one folder."""

MAY_IMPORT = {
    "ctparse": set(),
    "ctfilter": set(),
    "certconf": {"ctfilter"},  # which is pure, and checks the lines of named filters
    "certhttp": set(),
    "certtasks": set(),
    "certbus": {"ctparse"},
    "simlog": {"certhttp"},
    "ingestor": {"certbus", "certconf", "certhttp", "certtasks", "ctparse"},
    "gateway": {"certbus", "certconf", "certhttp", "certtasks", "ctfilter", "ctparse"},
    "launcher": {
        "certbus",
        "certconf",
        "certhttp",
        "ctfilter",
        "ctparse",
        "gateway",
        "ingestor",
        "simlog",
    },
}
"""Package -> the packages of this repository that it may import."""

SERVICE_ENTRY_POINTS = {"gateway.app", "ingestor.app", "ingestor.backfill.app", "simlog.cli"}
"""The modules of the services that the launcher may import."""

IMPURE_MODULES = {
    "asyncio", "http", "httpx", "importlib", "io", "logging", "os", "pathlib", "random", "redis",
    "secrets", "select", "socket", "ssl", "structlog", "subprocess", "sys", "tempfile",
    "threading", "time", "urllib",
}  # fmt: skip
"""Modules that read a clock or the environment, draw a random number or do I/O."""

IMPURE_CALLS = {"now", "today", "utcnow", "open", "print", "input", "__import__"}
"""Functions and methods that do the same; `datetime` itself may be used for calendar arithmetic."""

REDIS_KEY = re.compile(
    r"(certstream:)?((stream|cert|sha1|log|evidence|list|listed|issuers|lease|worker|gateway):$"
    r"|stream:(full|lite|domains|rejected)$|limit:(rate|operator|gateways|connections)\b)"
    r"|certstream:\w"
)
"""A string literal, or the literal part of an f-string before a value, that names a Redis key."""

FOLDER_CIRCLES: Mapping[str, str] = {}
"""Package -> a circle that remains to be broken."""


def each_package(known: Mapping[str, str] | None = None) -> list[ParameterSet]:
    """A parameter for each package; those whose failure is known must fail."""
    return [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=known[name]))
        if known and name in known
        else pytest.param(name)
        for name in sorted(MAY_IMPORT)
    ]


def module_of(file: Path, top: Path) -> str:
    parts = file.relative_to(top).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> Mapping[str, Path]:
    """Every module of libs and services -> its file."""
    return {module_of(file, top): file for top in SOURCE for file in sorted(top.rglob("*.py"))}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text("utf-8"))


def imported_by(module: str) -> Iterator[str]:
    """The modules that a file imports, in functions and for type checkers included."""
    here = module.split(".")
    if modules()[module].name != "__init__.py":
        here = here[:-1]
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield full if full in modules() else source


@cache
def imports() -> Mapping[str, frozenset[str]]:
    """Every module of libs and services -> the modules that it imports."""
    return {module: frozenset(imported_by(module)) for module in modules()}


def package(module: str) -> str:
    return module.partition(".")[0]


def folder(module: str) -> str:
    """The node of a module in the graph of folders."""
    parts = module.split(".")
    is_package = modules()[module].name == "__init__.py"
    if len(parts) > 2 or (is_package and len(parts) == 2):
        return ".".join(parts[:2])
    return module


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the nodes of each circle, in groups of nodes that reach each other."""

    def reachable(node: str) -> set[str]:
        found: set[str] = set()
        new = [node]
        while new:
            for target in graph.get(new.pop(), set()) - found:
                found.add(target)
                new.append(target)
        return found

    reached = {node: reachable(node) for node in graph}
    groups = {
        frozenset(other for other in reached[node] & graph.keys() if node in reached[other])
        for node in graph
        if node in reached[node]
    }
    return sorted(sorted(group) for group in groups)


def python_files(directory: Path) -> list[Path]:
    return sorted(file for file in directory.glob("*.py") if file.name != "__init__.py")


@cache
def folders_with_code() -> Mapping[Path, Path]:
    """Each folder of libs and services with code -> the folder of the same name in tests."""
    return {
        directory: TESTS / directory.relative_to(top)
        for top in SOURCE
        for directory in sorted({file.parent for file in top.rglob("*.py")})
        if python_files(directory)
    }


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_no_circle_of_files(name: str) -> None:
    graph = {
        module: set(targets) & modules().keys()
        for module, targets in imports().items()
        if package(module) == name
    }
    assert circles(graph) == []


@pytest.mark.parametrize("name", each_package(FOLDER_CIRCLES))
def test_no_circle_of_folders(name: str) -> None:
    graph: dict[str, set[str]] = {}
    edges = []
    for module, targets in imports().items():
        for target in targets & modules().keys():
            if package(module) == package(target) == name and folder(module) != folder(target):
                graph.setdefault(folder(module), set()).add(folder(target))
                edges.append((module, target))
    found = circles(graph)
    nodes = {node for circle in found for node in circle}
    assert found == [], "\n".join(
        f"{module} imports {target}"
        for module, target in edges
        if folder(module) in nodes and folder(target) in nodes
    )


@pytest.mark.parametrize("name", each_package())
def test_a_package_imports_only_what_it_may(name: str) -> None:
    ours = {package(module) for module in modules()}
    for module, targets in imports().items():
        if package(module) == name:
            used = {package(target) for target in targets} & ours - {name}
            assert used <= MAY_IMPORT[name], f"{module} imports {used - MAY_IMPORT[name]}"


def test_every_package_has_a_rule() -> None:
    assert {package(module) for module in modules()} == set(MAY_IMPORT)


def test_the_launcher_imports_only_the_entry_points_of_a_service() -> None:
    services = {"gateway", "ingestor", "simlog"}
    for module, targets in imports().items():
        if package(module) == "launcher":
            used = {target for target in targets if package(target) in services}
            assert used <= SERVICE_ENTRY_POINTS, f"{module} imports {used - SERVICE_ENTRY_POINTS}"


def test_source_imports_no_tests_and_no_benches() -> None:
    for module, targets in imports().items():
        assert not {package(target) for target in targets} & {"tests", "bench", "docs"}, module


@pytest.mark.parametrize("pure", ["ctparse", "ctfilter"])
def test_a_package_is_pure(pure: str) -> None:
    for module, targets in imports().items():
        if package(module) == pure:
            assert not {package(target) for target in targets} & IMPURE_MODULES, module
            called = {
                node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                for node in ast.walk(tree_of(module))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)
            }
            assert not called & IMPURE_CALLS, module


def literals(module: str) -> Iterator[tuple[int, str]]:
    """Line and value of each string literal that is not a docstring."""
    tree = tree_of(module)
    docstrings = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str() as value) if node not in docstrings:
                yield node.lineno, value


def test_only_certbus_keys_names_redis_keys() -> None:
    settings = {"certconf.settings"}  # the default of redis_prefix, which is not a key
    for module in modules().keys() - {"certbus.keys"} - settings:
        named = [found for found in literals(module) if REDIS_KEY.match(found[1])]
        assert named == [], f"{module} names Redis keys; certbus/keys.py does"


def test_only_certbus_uses_redis_keys() -> None:
    """A service holds a `Keys` and passes it on; no service reads the name of a key from it."""
    for module in modules():
        if package(module) != "certbus":
            read = [
                ast.unparse(node)
                for node in ast.walk(tree_of(module))
                if isinstance(node, ast.Attribute)
                and re.search(r"(^|[._])keys$", ast.unparse(node.value), re.IGNORECASE)
            ]
            assert read == [], f"{module} reads names of Redis keys"


def test_no_folder_holds_too_much() -> None:
    for directory in folders_with_code():
        count = len(list(directory.glob("*.py")))
        assert count <= MAX_FILES, f"{directory.relative_to(ROOT)} has {count} Python files"


@pytest.mark.parametrize(
    "directory", folders_with_code(), ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_folder_has_tests(directory: Path) -> None:
    """In the folder of the same name, or in a file named after the folder or one of its files."""
    mirror = folders_with_code()[directory]
    if list(mirror.glob("test_*.py")):
        return
    package_tests = TESTS / mirror.relative_to(TESTS).parts[0]
    names = {directory.name, *(file.stem for file in python_files(directory))}
    named = {file.stem.removeprefix("test_") for file in package_tests.rglob("test_*.py")}
    assert names & named, f"no {mirror.relative_to(ROOT)}/test_*.py, and no test named after it"


def test_a_folder_of_tests_has_a_folder_of_source() -> None:
    for package_tests in {TESTS / package(module) for module in modules()}:
        for directory in package_tests.rglob("*/"):
            if list(directory.glob("test_*.py")):
                relative = directory.relative_to(TESTS)
                assert any((top / relative).is_dir() for top in SOURCE), f"tests/{relative}"
