"""YAML text -> nodes that remember where they were written.

PyYAML parses; this module keeps the marks that `yaml.safe_load` throws away, and refuses what a
configuration never needs: a second value for a key, and aliases that unfold without end.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import yaml

from certconf.errors import ConfigProblem, SourceLocation

MAX_BYTES: Final = 256 * 1024
MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 16

_SCALARS = yaml.SafeLoader("")


class YamlNode(msgspec.Struct, frozen=True):
    """A value and its origin.

    Attributes:
        value: a dict or a list of nodes, or a scalar as YAML resolves it.
        text: a scalar as it was written, so that a text setting takes `0123` or `off` literally.
    """

    value: object
    origin: SourceLocation
    text: str | None = None


class DocumentError(Exception):
    """The text is no configuration at all."""

    def __init__(self, problem: ConfigProblem) -> None:
        super().__init__(problem)
        self.problem = problem


def parse(data: bytes, source: str, problems: list[ConfigProblem]) -> YamlNode:
    """The nodes of one YAML document; an empty one is an empty mapping.

    Args:
        data: the file as it is.
        source: how messages call it.
        problems: where keys given twice are reported; the first one counts.

    Raises:
        UnusableError: not YAML, or too much of it.
    """
    if len(data) > MAX_BYTES:
        raise _unusable(source, None, f"is larger than {MAX_BYTES} bytes")
    try:
        root = yaml.compose(data, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ": ".join(part for part in (error.context, error.problem) if part)
        raise _unusable(source, mark.line + 1 if mark else None, f"is not YAML: {what}") from None
    except yaml.YAMLError as error:
        raise _unusable(source, None, f"is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise _unusable(source, None, "is nested too deeply") from None
    if root is None:
        return YamlNode({}, SourceLocation(source, 1))
    return _MergeKeyResolver(source, problems).node(root, "", 0)


def scalar(text: str, origin: SourceLocation) -> YamlNode:
    """A node of text from outside a file, read as YAML reads a plain scalar."""
    tag = _SCALARS.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return YamlNode(_resolved(yaml.ScalarNode(tag, text)), origin, text)


def to_builtin(value: object, origin: SourceLocation) -> YamlNode:
    """A node of a Python value: what `yaml.safe_load` makes, nested as it likes."""
    if isinstance(value, dict):
        return YamlNode({str(key): to_builtin(item, origin) for key, item in value.items()}, origin)
    if isinstance(value, list | tuple):
        return YamlNode([to_builtin(item, origin) for item in value], origin)
    if isinstance(value, str):
        return scalar(value, origin)
    return YamlNode(value, origin, str(value))


def unfolded(node: YamlNode) -> object:
    """A node as dicts, lists, None and texts as they were written: `plain` makes the same of it."""
    if isinstance(node.value, dict):
        return {name: unfolded(child) for name, child in node.value.items()}
    if isinstance(node.value, list):
        return [unfolded(child) for child in node.value]
    return None if node.value is None else node.text


def iter_nodes(node: YamlNode, key: str = "") -> Iterator[tuple[str, YamlNode]]:
    """Every node below `node` with its dotted key, in the order written."""
    if isinstance(node.value, dict):
        members = ((f"{key}.{name}" if key else name, child) for name, child in node.value.items())
    elif isinstance(node.value, list):
        members = ((f"{key}[{number}]", child) for number, child in enumerate(node.value))
    else:
        return
    for path, child in members:
        yield path, child
        yield from iter_nodes(child, path)


class _MergeKeyResolver:
    """One pass over the composed tree, counting nodes: an alias is counted each time it is met."""

    def __init__(self, source: str, problems: list[ConfigProblem]) -> None:
        self._source = source
        self._problems = problems
        self._nodes = 0

    def node(self, node: yaml.Node, key: str, depth: int, line: int | None = None) -> YamlNode:
        origin = SourceLocation(self._source, line or node.start_mark.line + 1)
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _unusable(self._source, origin.line, "is too large once its aliases are unfolded")
        if isinstance(node, yaml.MappingNode):
            return YamlNode(self._mapping(node, key, depth), origin)
        if isinstance(node, yaml.SequenceNode):
            items = [self.node(item, f"{key}[]", depth + 1) for item in node.value]
            return YamlNode(items, origin)
        return YamlNode(_resolved(node), origin, node.value)

    def _mapping(self, node: yaml.MappingNode, key: str, depth: int) -> dict[str, YamlNode]:
        members: dict[str, YamlNode] = {}
        lines: dict[str, int] = {}
        for name_node, value in node.value:
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else "?"
            path = f"{key}.{name}" if key else name
            line = name_node.start_mark.line + 1
            if name in members:
                message = f"is given twice: first in line {lines[name]}"
                self._problems.append(
                    ConfigProblem(SourceLocation(self._source, line), path, message)
                )
                continue
            lines[name] = line
            members[name] = self.node(value, path, depth + 1, line)
        return members


def _resolved(node: yaml.Node) -> object:
    """The scalar as YAML means it; a text where its tag is one no configuration has use for."""
    try:
        return _SCALARS.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, OverflowError, LookupError, TypeError, AttributeError):
        return node.value  # also `!!bool maybe`, for which PyYAML has no error of its own


def _unusable(source: str, line: int | None, message: str) -> DocumentError:
    return DocumentError(ConfigProblem(SourceLocation(source, line), "", message))
