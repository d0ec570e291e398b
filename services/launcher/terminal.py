"""What is written for a person: to a terminal, or a pipe that may be closed.

Names in certificates, descriptions and errors of logs, and messages of servers may hold characters
that a terminal obeys or that change what a person reads: controls (C0, C1, with ESC the start of
most commands) and format characters, which turn the direction of text. All of these, and only
these, separators and unassigned characters are not printable for `str.isprintable`.
"""

import os
import sys
from collections.abc import Iterator
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_WHITESPACE: Final = frozenset("\t\n\r")
_UNREADABLE: Final = "\N{REPLACEMENT CHARACTER}"


def escape_control_chars(text: str, keep: str = "") -> str:
    r"""Return text from outside with its unprintable characters as Python writes them: `\x1b`.

    Args:
        text: of anybody.
        keep: characters that stay, as `\n` in a traceback.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def harmless_json(text: str) -> str:
    r"""Return JSON for a terminal: the same value, its unprintable characters as `\uXXXX`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _in_json(c) for c in text)


def print_json(data: bytes) -> None:
    """Print JSON on a line of its own: as it is, or on a terminal with its characters escaped."""
    text = data.decode()
    print(harmless_json(text) if sys.stdout.isatty() else text)


def _in_json(character: str) -> str:
    if character in _WHITESPACE:  # outside of strings, as those cannot hold them (RFC 8259)
        return " "
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


class Printable:
    """Something of rich's, with a mark for each unprintable character that is left in its text.

    Args:
        content: what to show; its styles and layout stay.
    """

    def __init__(self, content: RenderableType) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._content, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                yield Segment(marked(segment.text), segment.style)


def marked(text: str) -> str:
    """Return text of the same length with a mark for each unprintable character but line ends."""
    return "".join(c if c.isprintable() or c == "\n" else _UNREADABLE for c in text)


def silence_broken_pipe() -> None:
    """Write the rest of the output nowhere, as with `| head`: else Python complains at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
