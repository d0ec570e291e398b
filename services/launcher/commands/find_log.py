"""Which log somebody means."""

import difflib
from collections.abc import Sequence

from certbus.cluster import LogStatus


class UnknownLog(Exception):
    """No log is called so, or several are. Says which there are."""


def find_log(logs: Sequence[LogStatus], wanted: str) -> LogStatus:
    """Find a log by its name (in any case), URL or id.

    Raises:
        NoSuchLog: none is, or several are.
    """
    names = {wanted.casefold(), wanted.rstrip("/").casefold()}
    found = [log for log in logs if names & set(_names(log))]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(log.log_id for log in found)
        raise UnknownLog(f"{len(found)} logs are called {wanted!r}; use an id: {ids}")
    if not logs:
        raise UnknownLog("this Redis knows no log yet")
    near = {name: log for log in logs for name in _names(log)}
    guesses = difflib.get_close_matches(wanted.casefold(), near, n=3, cutoff=0.5)
    among = [near[guess] for guess in guesses] or logs
    shown = ", ".join(sorted({repr(log.name or log.log_id) for log in among}))
    raise UnknownLog(
        f"no log is called {wanted!r}: {'did you mean' if guesses else 'there are'} {shown}"
    )


def _names(log: LogStatus) -> tuple[str, str, str]:
    return log.name.casefold(), log.url.rstrip("/").casefold(), log.log_id.casefold()
