"""Where log lines go and in which form: structlog, and through it the libraries' own logging.

Everything goes to stderr, so that stdout stays what a command prints. A person at a terminal
gets lines to read, anything else one JSON object a line, also for what ends the process. Tracebacks
show no local variables: those hold URLs with passwords, and whole certificates.
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

#: The names certstream-server-rust knows, beside Python's own.
LEVELS: Final[Mapping[str, int]] = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

_SHOWN: Final = 200  # characters of an object's repr

#: Libraries that say at INFO what we count instead.
_CHATTY: Final = ("httpx", "httpcore", "hpack", "websockets", "asyncio", "watchfiles")


def configure(level: str, form: str, service: str) -> None:
    """Send this process's log lines to stderr.

    Args:
        level: a `log_level` of the configuration.
        form: one of `FORMATS`; "auto" asks whether stderr is a terminal.
        service: stands in every line, with the process id.
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
        cache_logger_on_first_use=False,  # they would keep the level of their first line
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
    """Log no lines below a `log_level` of the configuration from now on."""
    number = LEVELS[level]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))
    logging.getLogger().setLevel(number)
    for library in _CHATTY:
        logging.getLogger(library).setLevel(max(number, logging.WARNING))


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Stands for `sys.excepthook`: one line of the log instead of a bare traceback."""
    structlog.get_logger(__name__).critical("failed", exc_info=(kind, error, traceback))


def _log_unraisable(unraisable: Any) -> None:
    """Stands for `sys.unraisablehook`: for errors where nobody could catch one.

    Python's `ssl` is such a place: a client that calls a server by a name that is not ASCII in its
    TLS handshake (RFC 6066 section 3) makes it raise, and then refuses the handshake.
    """
    log, error = structlog.get_logger(__name__), unraisable.exc_value
    if isinstance(error, UnicodeDecodeError) and isinstance(unraisable.object, bytes):
        log.debug("tls handshake refused", why="the server name is not ASCII")
        return
    info = (unraisable.exc_type, error, unraisable.exc_traceback)
    what = f"{unraisable.err_msg or 'in'} {unraisable.object!r}"
    log.error("error ignored", what=what[:_SHOWN], exc_info=info)


def _renderers(*, console: bool) -> list[Any]:
    if console:
        renderer = structlog.dev.ConsoleRenderer(
            colors=_has_colors(),
            pad_event_to=32,
            sort_keys=False,
            exception_formatter=_traceback,
        )
        return [_short, _harmless, renderer]
    tracebacks = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    return [tracebacks, _ordered, structlog.processors.JSONRenderer()]


def _harmless(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape what a terminal would obey, in the event, its values and a stack."""
    return {
        escape_control_chars(name): _without_controls(value, name) for name, value in event.items()
    }


def _without_controls(value: Any, name: str) -> Any:
    """A value of an event; one that is no string is shown by its repr, which escapes by itself."""
    keep = "\n\t" if name in {"exception", "stack"} else ""
    return escape_control_chars(value, keep) if isinstance(value, str) else value


def _traceback(output: TextIO, info: structlog.typing.ExcInfo) -> None:
    """Write a traceback for a person, its messages escaped (`exception_formatter` of structlog)."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, info)
    output.write(escape_control_chars(text.getvalue(), keep="\n\t"))


def _has_colors() -> bool:
    """FORCE_COLOR is for a child whose lines its parent shows on the terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    return sys.stderr.isatty() or bool(os.environ.get("FORCE_COLOR"))


def _ordered(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What every line has comes first, so that lines can be read below each other."""
    common = ("timestamp", "level", "service", "pid", "event")
    return {name: event.pop(name) for name in common if name in event} | {**event}


def _short(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """For a person: `gateway[4711]` instead of two fields."""
    service, pid = event.pop("service", None), event.pop("pid", None)
    if service is not None:
        event["from"] = f"{service}[{pid}]"
    return event
