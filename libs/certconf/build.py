"""Nodes -> frozen structs; collects every problem.

The types of settings.py state what is valid: msgspec converts and checks each value. This module
visits every value, so that one invalid value does not hide the next, and writes the messages.
"""

import difflib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from certconf.addresses import Network
from certconf.errors import ConfigProblem, WrongForm
from certconf.secret import RedisURL, Secret
from certconf.settings import FACTS, Config
from certconf.yaml_document import YamlNode

S = TypeVar("S", bound=msgspec.Struct)

#: Type without a Meta description -> its name in messages.
_NAMES: Final[Mapping[object, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    Network: "an address or a network: 192.0.2.7, 10.0.0.0/8, 2001:db8::/32",
    Secret: "text",
    RedisURL: "a redis://, rediss://, unix:// or redis+sentinel:// URL",
}
_MAX_SHOWN_CHARS: Final = 60


def build(
    cls: type[S],
    node: YamlNode,
    problems: list[ConfigProblem],
    key: str = "",
    base: S | None = None,
) -> S | None:
    """Return the struct of `node`'s members; None if a required one is missing or invalid.

    An invalid optional member gets its default, so that later checks have a complete struct.

    Args:
        cls: a frozen struct of settings.py.
        node: a mapping, or null for the defaults.
        problems: gets every problem.
        key: the dotted key of `node`, for messages.
        base: has the values that `node` omits; None: the defaults of `cls`.
    """
    if node.value is None:
        node = YamlNode({}, node.origin)
    if not isinstance(node.value, dict):
        problems.append(_problem(node, key, "a section with settings of its own"))
        return None
    fields = {
        field.name: field
        for field in msgspec.structs.fields(cls)
        if not (cls is Config and field.name in FACTS)
    }
    values: dict[str, Any] = {}
    wrong = False
    for name, child in node.value.items():
        path = f"{key}.{name}" if key else name
        if name not in fields:
            problems.append(
                ConfigProblem(child.origin, path, f"no such setting{_hint(name, fields)}")
            )
            continue
        value = convert_value(fields[name].type, child, path, problems, fields[name].default)
        if value is not msgspec.UNSET:
            values[name] = value
        else:
            wrong = wrong or (base is None and fields[name].required)
    if base is not None:
        return msgspec.structs.replace(base, **values)
    for name, field in fields.items():
        if field.required and name not in node.value:
            problems.append(
                ConfigProblem(node.origin, key, f"{name} is missing: {allowed_values(field.type)}")
            )
            wrong = True
    return None if wrong else cls(**values)


def iter_settings(cls: type[msgspec.Struct] = Config, key: str = "") -> Iterator[str]:
    """Yield every dotted setting, except those of list items."""
    for field in msgspec.structs.fields(cls):
        if cls is Config and field.name in FACTS:
            continue
        path = f"{key}.{field.name}" if key else field.name
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from iter_settings(field.type, path)
        else:
            yield path


def convert_value(
    kind: Any, node: YamlNode, key: str, problems: list[ConfigProblem], default: object = None
) -> Any:
    """Return the value of one setting, or UNSET after reporting its problem."""
    inner, optional = without_none(kind)
    if node.value is None and optional:
        return None
    if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
        made = build(inner, node, problems, key, default if isinstance(default, inner) else None)
        return msgspec.UNSET if made is None else made
    if get_origin(inner) is tuple:
        return _items(get_args(inner)[0], node, key, problems)
    if get_origin(inner) is Mapping:
        return _mapping(get_args(inner)[1], node, key, problems)
    return _scalar(inner, node, key, problems)


def _items(kind: Any, node: YamlNode, key: str, problems: list[ConfigProblem]) -> Any:
    if node.value is None:
        return ()
    if not isinstance(node.value, list):
        problems.append(_problem(node, key, "a list", secret=_is_secret(kind)))
        return msgspec.UNSET
    items = (
        convert_value(kind, item, f"{key}[{i}]", problems) for i, item in enumerate(node.value)
    )
    return tuple(item for item in items if item is not msgspec.UNSET)


def _mapping(kind: Any, node: YamlNode, key: str, problems: list[ConfigProblem]) -> Any:
    if node.value is None:
        return {}
    if not isinstance(node.value, dict):
        problems.append(_problem(node, key, "names with values"))
        return msgspec.UNSET
    members = {
        name: convert_value(kind, item, f"{key}.{name}", problems)
        for name, item in node.value.items()
    }
    return {name: item for name, item in members.items() if item is not msgspec.UNSET}


def _scalar(kind: Any, node: YamlNode, key: str, problems: list[ConfigProblem]) -> Any:
    value = node.value
    if value is not None and node.text is not None and _is_text(kind):
        value = node.text.lower() if get_origin(kind) is Literal else node.text
    if node.value is False and get_origin(kind) is Literal and "off" in get_args(kind):
        value = "off"  # in YAML of the command line, `off` is false
    try:
        # In lax mode, a number would be a time, too.
        return msgspec.convert(value, kind, strict=_base(kind) is datetime, dec_hook=_custom)
    except (msgspec.ValidationError, OverflowError, UnicodeEncodeError) as error:
        # For our own types, the cause is the reason, without a secret.
        why = f": {error.__cause__}" if isinstance(error.__cause__, WrongForm) else ""
        problems.append(
            _problem(node, key, f"{allowed_values(kind)}{why}", secret=_is_secret(kind))
        )
        return msgspec.UNSET


def _custom(kind: type, value: object) -> object:
    """Convert a value to a type that msgspec does not know."""
    if not isinstance(value, str) or not value:
        raise ValueError("not a text")
    if kind is not Path:
        value.encode()  # fails for bytes of a variable that are not UTF-8
        return kind(value)
    if "\0" in value:
        raise WrongForm("a path has no NUL")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # of pathlib: no such user, or no home directory
        raise WrongForm(str(error)) from None


def _problem(node: YamlNode, key: str, allowed: str, *, secret: bool = False) -> ConfigProblem:
    return ConfigProblem(node.origin, key, f"{_given(node, secret=secret)} is not {allowed}")


def _given(node: YamlNode, *, secret: bool) -> str:
    """Return the invalid value, short and on one line, without a secret or a section."""
    if node.value is None:
        return "an empty value"
    if isinstance(node.value, dict):
        return "a section"
    if isinstance(node.value, list):
        return "a list"
    if secret:
        return "this value (not shown)"
    text = repr(node.text) if isinstance(node.value, str) else str(node.text)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"


_GO_SECTIONS: Final = frozenset({"general", "prometheus", "streamprocessing", "webserver"})
"""Sections of certstream-server-go, whose settings have other names here."""


def _hint(name: str, fields: Mapping[str, object]) -> str:
    """Return the nearest setting: of this section first, then of any."""
    if name in _GO_SECTIONS:
        return (
            " here, but a section of certstream-server-go: docs/deploy.md has a table of what "
            "takes the place of its settings"
        )
    if near := difflib.get_close_matches(name, fields, 1):
        return f": did you mean {near[0]}?"
    everywhere = {setting.rpartition(".")[2]: setting for setting in iter_settings()}
    if near := difflib.get_close_matches(name, everywhere, 1, 0.75):
        return f" here: did you mean {everywhere[near[0]]}?"
    return f" here: expected {', '.join(sorted(fields))}"


def allowed_values(kind: Any) -> str:
    """Return a description of the values that a type and its constraints allow."""
    kind, _ = without_none(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "a section"
    if get_origin(kind) is not Annotated:
        return _NAMES[kind]
    base, meta = get_args(kind)
    if meta.description is not None:
        return str(meta.description)
    name = _NAMES[base]
    if meta.le is not None and meta.ge is not None:
        return f"{name} from {meta.ge} to {meta.le}"
    return f"{name} above {meta.gt}" if meta.gt is not None else f"{name} of at least {meta.ge}"


def without_none(kind: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether it had None."""
    if get_origin(kind) in {UnionType, Union}:
        kinds = [member for member in get_args(kind) if member is not type(None)]
        return kinds[0], len(kinds) < len(get_args(kind))
    return kind, False


def _base(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_text(kind: Any) -> bool:
    return (
        get_origin(kind) is Literal
        or _base(kind) in {str, datetime, Path, Network}
        or _is_secret(kind)
    )


def _is_secret(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Secret)
