"""Output to a terminal, or to a pipe that may be closed.

Names in certificates, descriptions and errors of logs, and messages of servers may have characters
that a terminal executes or that change the displayed text: controls (C0 and C1; ESC begins most
commands) and format characters, which change the direction of text. Exactly these, separators and
unassigned characters are not printable for `str.isprintable`.
"""

import os
import sys
from typing import Final

_WHITESPACE: Final = frozenset("\t\n\r")
_MARK: Final = "\N{REPLACEMENT CHARACTER}"


def escape_control_chars(text: str, keep: str = "") -> str:
    r"""Return text with its unprintable characters escaped as in Python: `\x1b`.

    Args:
        text: untrusted.
        keep: characters that stay, as `\n` in a traceback.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def escape_json(text: str) -> str:
    r"""Return JSON of the same value with its unprintable characters escaped: `\uXXXX`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape_in_json(c) for c in text)


def print_json(data: bytes) -> None:
    """Print JSON on one line, on a terminal with its unprintable characters escaped."""
    text = data.decode()
    print(escape_json(text) if sys.stdout.isatty() else text)


def _escape_in_json(character: str) -> str:
    if character in _WHITESPACE:  # between tokens, as strings cannot have it (RFC 8259)
        return " "
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def marked(text: str) -> str:
    """Return text of the same length with a mark for each unprintable one, except line ends."""
    return "".join(c if c.isprintable() or c == "\n" else _MARK for c in text)


class CommandError(Exception):
    """A command cannot do its work. The text states why, and what to do; `main` prints it."""


def print_error(problem: object) -> None:
    """Print why a command fails or warns; it may be text of a log or a server.

    Further lines of it are indented.
    """
    lines = map(escape_control_chars, str(problem).split("\n"))
    print("certstream-server:", "\n  ".join(lines), file=sys.stderr)


def silence_broken_pipe() -> None:
    """Discard the rest of the output, as with `| head`: Python would report an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
