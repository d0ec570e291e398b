"""Calls of Redis that a client waits for: with a short timeout and a back-off."""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

import structlog

from certbus.errors import UNAVAILABLE

_TIMEOUT_SECS: Final = 0.5
_BACKOFF_SECS: Final = 1.0  # after a failed call

T = TypeVar("T")

log = structlog.get_logger(__name__)


class UnavailableError(Exception):
    """Redis is unavailable: decide without it."""


class RedisWithFallback:
    """Redis with a timeout per call.

    Args:
        limits: what the calls are for, "rates" or "connections", for the log.
    """

    def __init__(self, limits: str) -> None:
        self._limits = limits
        self._unavailable = False
        self._not_before = 0.0

    async def call(self, command: Awaitable[T]) -> T:
        """Await a command.

        An unexpected error is a bug and logged with its traceback; clients do not wait for it.

        Raises:
            UnavailableError: the command failed or timed out.
        """
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(_TIMEOUT_SECS):
                answer = await command
        except Exception as error:
            self._not_before = clock() + _BACKOFF_SECS
            if not self._unavailable:
                self._unavailable = True
                why = str(error) or "no answer in time"
                is_bug = not isinstance(error, (*UNAVAILABLE, TimeoutError))
                log.warning(
                    "cluster limits suspended",
                    limits=self._limits,
                    why=why,
                    exc_info=is_bug,
                )
            raise UnavailableError from error
        if self._unavailable:
            self._unavailable = False
            log.info("cluster limits restored", limits=self._limits)
        return answer

    @property
    def in_backoff(self) -> bool:
        """Whether a call has failed within the back-off time."""
        return asyncio.get_running_loop().time() < self._not_before
