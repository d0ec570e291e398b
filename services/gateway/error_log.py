"""Faults that a client can cause as often as it likes: counted, and logged once in a while."""

import time
from typing import Final

import structlog

_EVERY: Final = 60.0  # seconds

log = structlog.get_logger(__name__)


class LogInterval:
    """Says whether an event is to be logged: at most one a minute is."""

    def __init__(self) -> None:
        self._next = 0.0
        self._unlogged = 0

    def due(self) -> int | None:
        """Note that the event has happened.

        Returns:
            How often it happened since the last one that was logged, if this one is to be logged;
            else None.
        """
        now = time.monotonic()
        if now < self._next:
            self._unlogged += 1
            return None
        self._next = now + _EVERY
        unlogged, self._unlogged = self._unlogged, 0
        return unlogged


class ErrorLog:
    """Errors that nobody foresaw, each of one connection. They must not reach another one.

    Attributes:
        count: how many there were.
        logged: how many of them the log shows.
    """

    def __init__(self) -> None:
        self.count = 0
        self.logged = 0
        self._seldom = LogInterval()

    def report(self, error: BaseException, **fields: object) -> None:
        """Count an error, and log it with its traceback unless one was logged a moment ago.

        Args:
            error: what was raised.
            fields: of the log event, such as the number of the connection.
        """
        self.count += 1
        unlogged = self._seldom.due()
        if unlogged is None:
            return
        self.logged += 1
        log.error("unexpected error in a connection", **fields, unlogged=unlogged, exc_info=error)
