"""What is written for a person: to a terminal, or a pipe that may be closed."""

import os
import sys


def harmless(text: str) -> str:
    """Text of strangers (names in certificates, names and errors of logs), for a terminal.

    As it is, unless it would write more than itself: then with its escapes spelt out.
    """
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def nobody_reads() -> None:
    """Write the rest of the output nowhere, as with `| head`: else Python complains at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
