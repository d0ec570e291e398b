"""Every log event, read from the calls in the source."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from docs.generate.tables import code, table

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("libs", "services")

#: The simulated logs are a tool for tests; an operator runs none.
EXCLUDED: Final = ROOT / "services" / "simlog"

LOGGERS: Final = frozenset({"log", "_log"})
LEVELS: Final = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
}


class Event(NamedTuple):
    """One call that writes an event.

    Attributes:
        name: the event's text.
        level: of `LEVELS`.
        fields: names of its fields, in the order of the call.
        file: relative to the checkout.
    """

    name: str
    level: str
    fields: tuple[str, ...]
    file: str


def log_events() -> str:
    """Return the table of all events, by name."""
    rows: dict[str, list[Event]] = {}
    for event in sorted(_events()):
        rows.setdefault(event.name, []).append(event)
    return table(
        ["event", "level", "fields", "file"],
        (
            [
                code(name),
                ", ".join(_unique(event.level for event in events)),
                ", ".join(map(code, _unique(field for event in events for field in event.fields))),
                ", ".join(code(file) for file in _unique(event.file for event in events)),
            ]
            for name, events in rows.items()
        ),
    )


def _events() -> Iterator[Event]:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if EXCLUDED not in path.parents:
                file = str(path.relative_to(ROOT))
                for node in ast.walk(ast.parse(path.read_text())):
                    if isinstance(node, ast.Call) and _is_log_call(node.func):
                        yield read_event(node, file)


def _is_log_call(function: ast.expr) -> bool:
    """Recognise `log.info`, `_log.info` and `structlog.get_logger(__name__).info`."""
    if not isinstance(function, ast.Attribute) or function.attr not in LEVELS:
        return False
    match function.value:
        case ast.Name(id=name):
            return name in LOGGERS
        case ast.Call(func=ast.Attribute(value=ast.Name(id="structlog"), attr="get_logger")):
            return True
        case _:
            return False


def read_event(call: ast.Call, file: str) -> Event:
    """Describe one call.

    Raises:
        ValueError: the event is not a literal string.
    """
    match call:
        case ast.Call(func=ast.Attribute(attr=method), args=[ast.Constant(value=str(name))]):
            fields = tuple(
                keyword.arg for keyword in call.keywords if keyword.arg not in {None, "exc_info"}
            )
            return Event(name, LEVELS[method], tuple(map(str, fields)), file)
        case _:
            raise ValueError(f"{file}:{call.lineno}: the log event is not a literal string")


def _unique(texts: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(texts))
