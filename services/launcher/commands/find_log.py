"""Find a log by what an operator calls it."""

import difflib
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from launcher.terminal import CommandError

MAX_NAMES: Final = 8
"""Names of logs in one error."""


class NamedLog(Protocol):
    """What identifies a log."""

    @property
    def log_id(self) -> str:
        """Its id."""

    @property
    def name(self) -> str:
        """Its name, for people."""

    @property
    def url(self) -> str:
        """Where its entries are read."""


L = TypeVar("L", bound=NamedLog)


def find_log(logs: Sequence[L], wanted: str) -> L:
    """Return the log with this name (in any case), URL or id.

    Raises:
        CommandError: no log has it, or several have it.
    """
    names = {wanted.casefold(), wanted.rstrip("/").casefold()}
    found = [log for log in logs if names & set(_names(log))]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(log.log_id for log in found)
        raise CommandError(f"{len(found)} logs are named {wanted!r}; use an id: {ids}")
    if not logs:
        raise CommandError("no logs are known yet")
    near = {name: log for log in logs for name in _names(log)}
    guesses = difflib.get_close_matches(wanted.casefold(), near, n=3, cutoff=0.5)
    candidates = [near[guess] for guess in guesses] or logs
    known = sorted({log.name or log.log_id for log in candidates})
    shown = ", ".join(f'"{name}"' for name in known[:MAX_NAMES])
    if len(known) > MAX_NAMES:
        shown += f" and {len(known) - MAX_NAMES} more"
    hint = f"did you mean {shown}?" if guesses else f"known logs: {shown}"
    raise CommandError(f"no log named {wanted!r}; {hint}")


def _names(log: NamedLog) -> tuple[str, str, str]:
    return log.name.casefold(), log.url.rstrip("/").casefold(), log.log_id.casefold()
