"""Errors that a client can cause at any rate: all are counted, some are logged."""

import time
from typing import Final

import structlog

_LOG_INTERVAL_SECS: Final = 60.0

log = structlog.get_logger(__name__)


class LogInterval:
    """Limits the log events of one kind to one per minute."""

    def __init__(self) -> None:
        self._next = 0.0
        self._unlogged = 0

    def due(self) -> int | None:
        """Count an event.

        Returns:
            The number of events since the last logged one if this one is to be logged; else None.
        """
        now = time.monotonic()
        if now < self._next:
            self._unlogged += 1
            return None
        self._next = now + _LOG_INTERVAL_SECS
        unlogged, self._unlogged = self._unlogged, 0
        return unlogged


class ErrorLog:
    """Unexpected errors, each of one connection.

    Attributes:
        count: number of errors.
        logged: number of logged errors.
    """

    def __init__(self) -> None:
        self.count = 0
        self.logged = 0
        self._seldom = LogInterval()

    def report(self, error: BaseException, **fields: object) -> None:
        """Count an error; log it with its traceback unless one was logged within a minute.

        Args:
            error: the exception.
            fields: of the log event, such as the connection id.
        """
        self.count += 1
        unlogged = self._seldom.due()
        if unlogged is None:
            return
        self.logged += 1
        log.error("connection failed", **fields, unlogged=unlogged, exc_info=error)
