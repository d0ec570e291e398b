"""Every setting: types and defaults from certconf's structs, descriptions from their source."""

import inspect
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any, Final, get_args, get_origin

import msgspec

from certconf import env_vars
from certconf.build import allowed_values
from certconf.compat_rust import UNUSED
from certconf.reload_policy import policy_of
from certconf.schema import field_notes
from certconf.settings import FACTS, Config
from docs.generate.tables import code, table

_VARIABLES: Final = {
    setting: f"{env_vars.PREFIX}{name}" for name, setting in env_vars.SETTINGS.items()
}
_DEFAULT: Final = Config()


def settings() -> str:
    """Return a table of each section, after one of the settings without a section."""
    notes = field_notes()
    parts = []
    own: list[list[str]] = []
    for field in msgspec.structs.fields(Config):
        if field.name in FACTS:
            continue
        if _is_section(field.type):
            about = _about(field.type)
            rows = [_row(*each, notes) for each in _settings(field.type, f"{field.name}.")]
            parts.append(f"### `{field.name}`\n\n{about}\n\n{table(_HEAD, rows)}")
        else:
            own.append(_row(Config, field, field.name, notes))
    return "\n\n".join([table(_HEAD, own), *parts])


def items() -> str:
    """Return a table of each list, with the settings of its items."""
    notes = field_notes()
    parts = []
    for _, field, path in _settings(Config, ""):
        for kind in _item_types(field.type):
            rows = [
                [code(it.name), _default(it), allowed_words(it.type), _note(notes, kind, it)]
                for it in msgspec.structs.fields(kind)
            ]
            head = ["setting", "default", "allowed", "meaning"]
            parts.append(f"### `{path}[]`\n\n{_about(kind)}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def without_effect() -> str:
    """Return the table of settings that are accepted without effect."""
    return table(
        ["setting", "replaced by"],
        [[code(k), unused.instead] for k, unused in UNUSED.items() if unused.instead],
    )


_HEAD: Final = ["setting", "default", "allowed", "variable", "change applies", "meaning"]


def _row(cls: type, field: Any, path: str, notes: Mapping[tuple[str, str], str]) -> list[str]:
    return [
        code(path),
        _shown(attrgetter(path)(_DEFAULT)),
        allowed_words(field.type),
        code(_VARIABLES.get(path, "")),
        _applies(path),
        _note(notes, cls, field),
    ]


def allowed_words(kind: Any) -> str:
    """Describe the values of a type, also of lists and maps."""
    inner = next((each for each in get_args(kind) if each is not type(None)), kind)
    optional = type(None) in get_args(kind)
    kind = inner if optional else kind
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return "a list, see below" if _is_section(inner) else f"a list: {allowed_values(inner)}"
    if get_origin(kind) is not None and issubclass(_plain(get_origin(kind)), Mapping):
        return f"names, each with {allowed_words(get_args(kind)[1])}"
    return allowed_values(kind).replace("<", "\\<")


def _plain(kind: Any) -> type:
    return kind if isinstance(kind, type) else object


def _applies(path: str) -> str:
    use = policy_of(path)
    if not use.restart:
        return "at once"
    if not use.live:
        return "after a restart"
    return f"at once ({', '.join(use.live)}), after a restart ({', '.join(use.restart)})"


def _default(field: Any) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    return _shown(value)


def _shown(value: object) -> str:
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, Mapping):
        value = ", ".join(f"{name}: {each}" for name, each in value.items())
    return code(str(value).lower() if isinstance(value, bool) else str(value))


def _settings(cls: Any, prefix: str) -> Iterator[tuple[type, Any, str]]:
    """Yield the settings of a section and of its subsections."""
    for field in msgspec.structs.fields(cls):
        if _is_section(field.type):
            yield from _settings(field.type, f"{prefix}{field.name}.")
        else:
            yield cls, field, f"{prefix}{field.name}"


def _item_types(kind: Any) -> Iterator[Any]:
    for inner in (kind, *get_args(kind)):
        if get_origin(inner) is tuple and _is_section(get_args(inner)[0]):
            yield get_args(inner)[0]


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _about(cls: Any) -> str:
    return " ".join(inspect.getdoc(cls).split())  # type: ignore[union-attr]


def _note(notes: Mapping[tuple[str, str], str], cls: type, field: Any) -> str:
    text = notes.get((cls.__name__, field.name), "")
    return f"{text[:1].upper()}{text[1:]}".replace("None ", "none ").removesuffix(".")
