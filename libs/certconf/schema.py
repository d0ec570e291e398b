"""JSON Schema of config.yaml, for editors and for checks without this program."""

import ast
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec

from certconf import settings
from certconf.addresses import Network
from certconf.build import allowed_values, without_none
from certconf.compat_rust import RENAMED, UNUSED
from certconf.secret import RedisURL, Secret
from certconf.settings import FACTS, Config


def json_schema() -> dict[str, Any]:
    """Return the schema. Names of certstream-server-rust are accepted, as deprecated ones."""
    schema = _struct(Config, field_notes(), Config())
    for key in (*RENAMED, *UNUSED):
        *sections, name = key.split(".")
        properties = schema["properties"]
        for section in sections:
            empty = {"type": ["object", "null"], "deprecated": True, "properties": {}}
            properties = properties.setdefault(section, empty)["properties"]
        properties[name] = {"deprecated": True}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "config.yaml of certstream-server",
        **schema,
    }


def field_notes() -> dict[tuple[str, str], str]:
    """Return the comments (`#:`) and `Attributes:` of fields, by class and field."""
    source = inspect.getsource(settings)
    lines = source.splitlines()
    found = {}
    for cls in ast.parse(source).body:
        if not isinstance(cls, ast.ClassDef):
            continue
        for name, text in re.findall(
            r"^ {4}(\w+): (.*(?:\n {8}.*)*)", ast.get_docstring(cls) or "", re.MULTILINE
        ):
            found[cls.name, name] = " ".join(text.split())
        for field in cls.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                comment: list[str] = []
                for line in reversed(lines[: field.lineno - 1]):
                    if not line.strip().startswith("#:"):
                        break
                    comment.insert(0, line.strip().removeprefix("#:").strip())
                if comment:
                    found[cls.name, field.target.id] = " ".join(comment)
    return found


def _struct(
    cls: type[msgspec.Struct],
    texts: Mapping[tuple[str, str], str],
    defaults: msgspec.Struct | None = None,
) -> dict[str, Any]:
    """Describe a section, or without `defaults` an item of a list."""
    properties, required = {}, []
    for field in msgspec.structs.fields(cls):
        if cls is Config and field.name in FACTS:
            continue
        default = field.default if defaults is None else getattr(defaults, field.name)
        properties[field.name] = described = _value(field.type, texts, default)
        if text := texts.get((cls.__name__, field.name)):
            described["description"] = text
        if field.required and defaults is None:
            required.append(field.name)
        elif not _is_struct(field.type):
            described["default"] = msgspec.to_builtins(default, enc_hook=str)
    return {
        "type": "object" if required else ["object", "null"],
        "description": " ".join((inspect.getdoc(cls) or "").partition("\n\nAttr")[0].split()),
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _value(
    kind: Any, texts: Mapping[tuple[str, str], str], default: object = None
) -> dict[str, Any]:
    """Describe the values of a type."""
    kind, optional = without_none(kind)
    if _is_struct(kind):
        return _struct(kind, texts, default if isinstance(default, kind) else None)
    if get_origin(kind) is tuple:
        return {"type": ["array", "null"], "items": _value(get_args(kind)[0], texts)}
    if get_origin(kind) is Mapping:
        values = _value(get_args(kind)[1], texts)
        return {"type": ["object", "null"], "additionalProperties": values}
    schema = _scalar(kind)
    return {"anyOf": [schema, {"type": "null"}]} if optional else schema


def _scalar(kind: Any) -> dict[str, Any]:
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if base in {Secret, RedisURL, Path, Network}:
        return {"type": "string", "minLength": 1, "description": allowed_values(kind)}
    return dict(msgspec.json.schema(kind))


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
