"""The catalog: which logs there are now, kept up to date for one ingestor's worker.

Lists and configuration become one set of logs, again and again: every ingestor looks at the shelf
in Redis every few seconds, so all of them go by the same lists soon after one has fetched a newer
one. And they call each log by the same id, even those that know no more of it than its URL: who
knows better renames it (`certbus.logs.registry`).
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial

import msgspec
import structlog

from certbus.caches.log_lists import LogListCache
from certbus.logs.registry import LogRegistry
from certconf.current import ConfigHolder
from certconf.settings import Config
from ingestor.client.http import Fetcher
from ingestor.config import kinds
from ingestor.log import Log, url_id
from ingestor.loglists.merge import merge
from ingestor.loglists.retirement import ListedLog, RetirementPlan, plan_retirements
from ingestor.loglists.source import DEFAULT
from ingestor.loglists.store import LogListStore
from ingestor.redis_retry import RedisRetry

LOOK = 2.0
"""Seconds from one look at Redis to the next."""

# At the start, seconds.
_FIRST_ANSWERS = 3.0
_FIRST_LOOK = 0.1

_log = structlog.get_logger(__name__)


class Catalog:
    """Tells a worker which logs to follow.

    Args:
        present: has the configuration, and newer ones as they come.
        shelf: has the lists.
        roll: knows what logs are called, and which are over.
        fetcher: makes what fetches the list of that name.
        patience: what to do while Redis is away.
        follow: is told all logs, by id, whenever something about them has changed.

    Attributes:
        library: the lists.
    """

    def __init__(
        self,
        present: ConfigHolder,
        shelf: LogListCache,
        roll: LogRegistry,
        fetcher: Callable[[str], Fetcher],
        patience: RedisRetry,
        follow: Callable[[Mapping[str, Log]], None],
    ) -> None:
        self._present = present
        self._shelf = shelf
        self._roll = roll
        self._fetcher = fetcher
        self._patience = patience
        self._follow = follow
        self._logs: Mapping[str, Log] | None = None
        self._problems: Mapping[str, str] = {}
        self.library = self._open(present.config)

    async def run(self) -> None:
        """Keep the worker informed, until cancelled."""
        config = self._present.config
        await self._patience(self.library.load)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_asking())
            # Configured logs wait a moment for the answers: a list may say who they are.
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_ANSWERS):
                    while not self.library.is_ready:
                        await asyncio.sleep(_FIRST_LOOK)
                        await self._patience(self.library.load)
            while True:
                await self._patience(partial(self._update, config))
                newer = await self._newer(config)
                if newer.log_lists != config.log_lists:
                    self.library = self._open(newer)
                if newer is not config:  # whoever has it read again wants what is newest
                    await self._patience(self._shelf.request_refresh)
                config = newer
                await self._patience(self.library.load)

    async def _keep_asking(self) -> None:
        """Ask the lists' servers; one that hangs delays nothing but itself."""
        while True:
            await self._patience(self.library.refresh)
            await asyncio.sleep(LOOK)

    async def _newer(self, config: Config) -> Config:
        """Wait for the next look, or for a newer configuration."""
        try:
            async with asyncio.timeout(LOOK):
                return await self._present.wait_for_change(than=config)
        except TimeoutError:
            return config

    def _open(self, config: Config) -> LogListStore:
        settings = DEFAULT if config.log_lists is None else config.log_lists
        return LogListStore(settings, self._shelf, self._fetcher)

    async def _update(self, config: Config) -> None:
        lists = self.library.lists
        merged = merge(
            [log for source, says in lists if source.is_signed for log in says.logs],
            [log for source, says in lists if not source.is_signed for log in says.logs],
            (*config.custom_logs, *config.static_logs),
            time.time(),
        )
        self._tell(merged.problems)
        wanted = await self._called(merged.logs.values())
        standings = await self._roll.states()
        listed = [
            ListedLog(
                source.id, source.name, source.is_signed, says, await self._roll.listed(source.id)
            )
            for source, says in lists
        ]
        verdict = plan_retirements(wanted, standings, listed, time.time())
        await self._write(verdict, wanted)
        enabled = kinds(config)
        self._set({log.id: log for log in verdict.logs.values() if log.kind in enabled})

    async def _write(self, verdict: RetirementPlan, wanted: Mapping[str, Log]) -> None:
        """Let every other ingestor know."""
        for list_id, namings in verdict.names.items():
            await self._roll.record_listed(list_id, namings)
        for list_id, log_id, retirement in verdict.retire:
            if await self._roll.retire(log_id, retirement, list_id):
                _log.info("log is over, it is drained", log_id=log_id, why=retirement.why)
        for log_id in verdict.unretire:
            if await self._roll.unretire(log_id, "list"):
                _log.info("log is wanted again", log=wanted[log_id].name)

    def _set(self, logs: Mapping[str, Log]) -> None:
        if logs == self._logs:
            return
        if not logs and self.library.has_all:
            _log.warning("nothing to follow: set log_lists, custom_logs or static_logs")
        self._logs = logs
        self._follow(logs)
        _log.info("logs to follow", logs=len(logs))

    async def _called(self, logs: Iterable[Log]) -> dict[str, Log]:
        """The logs by the best ids that anybody knows."""
        by_url = {log: url_id(log.url) for log in logs}
        better = await self._roll.aliases(list(by_url.values()))
        called: dict[str, Log] = {}
        for log, url in by_url.items():
            if log.id != url and url not in better and await self._roll.rename(url, log.id):
                _log.info("log renamed, as its key is known now", log=log.name, id=log.id, was=url)
            best = better.get(url, url) if log.id == url else log.id
            called.setdefault(best, msgspec.structs.replace(log, id=best))
        return called

    def _tell(self, problems: Mapping[str, str]) -> None:
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                _log.error("configured log left out", log=name, problem=problem)
        self._problems = problems
