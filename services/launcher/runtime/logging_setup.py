"""Configuration of structlog and of the standard library's logging.

Log lines go to stderr, so that stdout has only the output of a command. A terminal gets lines for
a person, anything else one JSON object per line, also for an uncaught exception. Tracebacks have
no local variables: those hold URLs with passwords, and whole certificates.
"""

import io
import logging
import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, TextIO

import structlog

from launcher.terminal import escape_control_chars

FORMATS: Final = ("auto", "console", "json")

#: Names of certstream-server-rust and of Python.
LEVELS: Final[Mapping[str, int]] = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

_MAX_REPR_CHARS: Final = 200

#: Libraries that log at INFO what metrics count.
_VERBOSE_LIBRARIES: Final = ("httpx", "httpcore", "hpack", "websockets", "asyncio", "watchfiles")


def configure(level: str, form: str, service: str) -> None:
    """Send this process's log lines to stderr.

    Args:
        level: a `log_level` of the configuration.
        form: one of `FORMATS`; "auto" is "console" if stderr is a terminal, else "json".
        service: field of every line, with the process id.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a cached logger would keep its level
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(console=console),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], force=True)
    set_level(level)
    structlog.contextvars.bind_contextvars(service=service, pid=os.getpid())
    sys.excepthook = _log_uncaught
    sys.unraisablehook = _log_unraisable


def set_level(level: str) -> None:
    """Set the lowest level of log lines to a `log_level` of the configuration."""
    number = LEVELS[level]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))
    logging.getLogger().setLevel(number)
    for library in _VERBOSE_LIBRARIES:
        logging.getLogger(library).setLevel(max(number, logging.WARNING))


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Log an uncaught exception (`sys.excepthook`)."""
    structlog.get_logger(__name__).critical("uncaught exception", exc_info=(kind, error, traceback))


def _log_unraisable(unraisable: Any) -> None:
    """Log an exception that cannot be raised (`sys.unraisablehook`).

    Python's `ssl` causes one for a server name in a TLS handshake (RFC 6066 section 3) that is not
    ASCII; it then rejects the handshake.
    """
    log, error = structlog.get_logger(__name__), unraisable.exc_value
    if isinstance(error, UnicodeDecodeError) and isinstance(unraisable.object, bytes):
        log.debug("tls handshake rejected", why="the server name is not ASCII")
        return
    info = (unraisable.exc_type, error, unraisable.exc_traceback)
    what = f"{unraisable.err_msg or 'in'} {unraisable.object!r}"
    log.error("error ignored", what=what[:_MAX_REPR_CHARS], exc_info=info)


def _renderers(*, console: bool) -> list[Any]:
    if console:
        renderer = structlog.dev.ConsoleRenderer(
            colors=_has_colors(),
            pad_event_to=32,
            sort_keys=False,
            exception_formatter=_traceback,
        )
        return [_short, _escape, renderer]
    tracebacks = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    return [tracebacks, _ordered, structlog.processors.JSONRenderer()]


def _escape(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape control characters in the names and values of an event."""
    return {escape_control_chars(name): _escape_value(value, name) for name, value in event.items()}


def _escape_value(value: Any, name: str) -> Any:
    """Escape a string; of any other value, structlog writes the repr, which is escaped."""
    keep = "\n\t" if name in {"exception", "stack"} else ""
    return escape_control_chars(value, keep) if isinstance(value, str) else value


def _traceback(output: TextIO, info: structlog.typing.ExcInfo) -> None:
    """Write an escaped traceback (`exception_formatter` of structlog)."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, info)
    output.write(escape_control_chars(text.getvalue(), keep="\n\t"))


def _has_colors() -> bool:
    """Return whether to use colours; FORCE_COLOR is for a child whose parent has the terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    return sys.stderr.isatty() or bool(os.environ.get("FORCE_COLOR"))


def _ordered(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Order the common fields first."""
    common = ("timestamp", "level", "service", "pid", "event")
    return {name: event.pop(name) for name in common if name in event} | {**event}


def _short(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Join service and process id, as in `gateway[4711]`."""
    service, pid = event.pop("service", None), event.pop("pid", None)
    if service is not None:
        event["from"] = f"{service}[{pid}]"
    return event
