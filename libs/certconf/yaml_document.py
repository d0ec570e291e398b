"""YAML text -> nodes with their file and line.

PyYAML parses; this module keeps the marks that `yaml.safe_load` discards, and rejects what no
configuration needs: a second value for a key, and aliases that expand beyond a limit.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import yaml

from certconf.errors import ConfigProblem, SourceLocation

MAX_BYTES: Final = 256 * 1024
MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 16
_MAX_OPEN_BRACKETS: Final = 64

_SCALARS = yaml.SafeLoader("")


class _Loader(yaml.SafeLoader):
    """Rejects brackets nested too deeply: PyYAML visits all open ones at each token."""

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:  # noqa: N803
        """Open a bracket.

        Raises:
            RecursionError: `_MAX_OPEN_BRACKETS` are open.
        """
        if self.flow_level == _MAX_OPEN_BRACKETS:
            raise RecursionError
        super().fetch_flow_collection_start(TokenClass)


class YamlNode(msgspec.Struct, frozen=True):
    """A value and its origin.

    Attributes:
        value: a dict or a list of nodes, or a scalar as YAML resolves it.
        text: a scalar as in the file, so that a text setting gets `0123` or `off` literally.
    """

    value: object
    origin: SourceLocation
    text: str | None = None


class DocumentError(Exception):
    """The text cannot be parsed as a configuration."""

    def __init__(self, problem: ConfigProblem) -> None:
        super().__init__(problem)
        self.problem = problem


def parse(data: bytes, source: str, problems: list[ConfigProblem]) -> YamlNode:
    """Return the nodes of one YAML document; an empty one is an empty mapping.

    Args:
        data: content of the file.
        source: its name in messages.
        problems: gets duplicate keys, of which the first one counts.

    Raises:
        DocumentError: not YAML, or too large.
    """
    if len(data) > MAX_BYTES:
        raise _unusable(source, None, f"is larger than {MAX_BYTES} bytes")
    try:
        root = yaml.compose(data, Loader=_Loader)
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
    """Return the node of a text that is not in a file, resolved like a plain scalar of YAML."""
    tag = _SCALARS.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return YamlNode(_resolved(yaml.ScalarNode(tag, text)), origin, text)


def to_builtin(value: object, origin: SourceLocation) -> YamlNode:
    """Return the node of a Python value, as of `yaml.safe_load`."""
    if isinstance(value, dict):
        return YamlNode({str(key): to_builtin(item, origin) for key, item in value.items()}, origin)
    if isinstance(value, list | tuple):
        return YamlNode([to_builtin(item, origin) for item in value], origin)
    if isinstance(value, str):
        return scalar(value, origin)
    return YamlNode(value, origin, str(value))


def unfolded(node: YamlNode) -> object:
    """Return a node as dicts, lists, None and literal texts; `to_builtin` is the inverse."""
    if isinstance(node.value, dict):
        return {name: unfolded(child) for name, child in node.value.items()}
    if isinstance(node.value, list):
        return [unfolded(child) for child in node.value]
    return None if node.value is None else node.text


def iter_nodes(node: YamlNode, key: str = "") -> Iterator[tuple[str, YamlNode]]:
    """Yield every node below `node` with its dotted key, in the order of the document."""
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
    """One pass over the composed tree that counts nodes; each use of an alias counts."""

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
    """Return the value of a scalar by its tag; its text, if the tag is unsupported."""
    try:
        return _SCALARS.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, OverflowError, LookupError, TypeError, AttributeError):
        return node.value  # also `!!bool maybe`, for which PyYAML has no error of its own
    finally:  # else the loader keeps each node for the life of the process
        _SCALARS.constructed_objects.clear()
        _SCALARS.recursive_objects.clear()


def _unusable(source: str, line: int | None, message: str) -> DocumentError:
    return DocumentError(ConfigProblem(SourceLocation(source, line), "", message))
