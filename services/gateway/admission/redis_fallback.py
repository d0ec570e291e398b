"""Asking Redis where a client waits for the answer: soon, or not at all."""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

import structlog

from certbus.errors import UNAVAILABLE

_PATIENCE: Final = 0.5  # seconds that Redis may take
_PAUSE: Final = 1.0  # seconds before it is asked again once it did not answer

T = TypeVar("T")

log = structlog.get_logger(__name__)


class UnavailableError(Exception):
    """Redis cannot be asked now: decide without it."""


class RedisWithFallback:
    """Redis, as far as it answers in time.

    Args:
        what: is asked for, for the log.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._away = False
        self._not_before = 0.0

    async def call(self, question: Awaitable[T]) -> T:
        """Wait for an answer.

        Whatever else goes wrong is a bug, and logged as one, but clients must not wait for it.

        Raises:
            UnavailableError: there is none in time, or there was none a moment ago.
        """
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(_PATIENCE):
                answer = await question
        except Exception as error:
            self._not_before = clock() + _PAUSE
            if not self._away:
                self._away = True
                why = str(error) or "no answer in time"
                is_bug = not isinstance(error, (*UNAVAILABLE, TimeoutError))
                log.warning(
                    "limits hold for this gateway alone",
                    what=self._what,
                    why=why,
                    exc_info=is_bug,
                )
            raise UnavailableError from error
        if self._away:
            self._away = False
            log.info("limits hold over all gateways again", what=self._what)
        return answer

    @property
    def in_backoff(self) -> bool:
        """Whether Redis has just not answered, and is not to be asked yet."""
        return asyncio.get_running_loop().time() < self._not_before
