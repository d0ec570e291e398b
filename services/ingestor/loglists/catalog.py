"""The catalog: the logs to follow, kept up to date for one ingestor's worker.

It merges lists and configuration into one set of logs again and again. Every ingestor polls the
list cache in Redis every few seconds, so all use the same lists soon after one has fetched a newer
one. All use the same id for a log, also an ingestor that knows only its URL: one that knows the key
renames the log (`certbus.logs.registry`).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import msgspec
import structlog

from certbus.caches.log_lists import LogListCache
from certbus.keys import operator_key
from certbus.logs.registry import LogRegistry
from certconf.current import ConfigHolder
from certconf.settings import Config, CTLog
from ingestor.client.http import Fetcher
from ingestor.config import kinds
from ingestor.log import Log, url_id
from ingestor.loglists.exclusions import Exclusions
from ingestor.loglists.merge import merge
from ingestor.loglists.retirement import ListedLog, RetirementPlan, plan_retirements
from ingestor.loglists.store import LogListStore
from ingestor.redis_retry import RedisRetry

POLL_INTERVAL_SECS = 2.0
"""Between two polls of Redis."""

# At the start: for the servers of the lists to answer, and between two polls of Redis.
_START_TIMEOUT_SECS = 3.0
_START_POLL_INTERVAL_SECS = 0.1

_log = structlog.get_logger(__name__)


class Catalog:
    """Passes the logs to follow to a worker. Its own task owns its fields.

    Args:
        present: holds the configuration.
        cache: the lists in Redis.
        registry: names and retirements of logs in Redis.
        fetcher: makes what fetches the list of a name.
        redis_retry: repeats Redis calls while Redis is away.
        follow: called with all logs to follow, by id, and with the excluded logs, when any of them
            has changed.

    Attributes:
        lists: the lists.
    """

    def __init__(
        self,
        present: ConfigHolder,
        cache: LogListCache,
        registry: LogRegistry,
        fetcher: Callable[[str], Fetcher],
        redis_retry: RedisRetry,
        follow: Callable[[Mapping[str, Log], Sequence[Log]], None],
    ) -> None:
        self._present = present
        self._cache = cache
        self._registry = registry
        self._fetcher = fetcher
        self._redis_retry = redis_retry
        self._follow = follow
        self._logs: tuple[Mapping[str, Log], Sequence[Log]] | None = None
        self._names_checked: CTLog | None = None  # whose names were compared with the lists
        self._problems: Mapping[str, str] = {}
        self._config = present.config  # with whose lists `lists` was opened
        self.lists = self._open(self._config)

    async def run(self) -> None:
        """Keep the worker up to date, until cancelled."""
        config = self._config  # not a newer one, which may name other lists
        await self._redis_retry(self.lists.load)
        if not config.ct_log.log_refresh_interval_secs:  # otherwise a due time passes
            await self._redis_retry(self._cache.request_refresh)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_refreshing())
            # A list may have the id of a configured log, so wait a moment for the lists.
            with suppress(TimeoutError):
                async with asyncio.timeout(_START_TIMEOUT_SECS):
                    while not self.lists.is_ready:
                        await asyncio.sleep(_START_POLL_INTERVAL_SECS)
                        await self._redis_retry(self.lists.load)
            while True:
                await self._redis_retry(self._update, config)
                newer = await self._wait(config)
                if newer.log_lists != config.log_lists:
                    self.lists = self._open(newer)
                if newer is not config:  # a reload of the configuration reloads the lists too
                    await self._redis_retry(self._cache.request_refresh)
                self._config = config = newer
                await self._redis_retry(self.lists.load)

    async def _keep_refreshing(self) -> None:
        """Request the lists from their servers, in a task that a slow server may delay."""
        while True:
            await self._redis_retry(self.lists.refresh)
            await asyncio.sleep(POLL_INTERVAL_SECS)

    async def _wait(self, config: Config) -> Config:
        """Wait for the next poll or a newer configuration; return the current one."""
        try:
            async with asyncio.timeout(POLL_INTERVAL_SECS):
                return await self._present.wait_for_change(than=config)
        except TimeoutError:
            return config

    def _open(self, config: Config) -> LogListStore:
        interval = config.ct_log.log_refresh_interval_secs
        return LogListStore(config.followed_lists, self._cache, self._fetcher, interval)

    async def _update(self, config: Config) -> None:
        """Merge lists and configuration; write and pass on what has changed."""
        lists = self.lists.lists
        now = await self._registry.now()
        merged = merge(
            [log for source, content in lists if source.is_signed for log in content.logs],
            [log for source, content in lists if not source.is_signed for log in content.logs],
            (*config.custom_logs, *config.static_logs),
            now,
        )
        self._report(merged.problems)
        wanted = await self._with_best_ids(merged.logs.values())
        states = await self._registry.states()
        listed = [
            ListedLog(
                source.id,
                source.name,
                source.is_signed,
                content,
                await self._registry.listed(source.id),
            )
            for source, content in lists
        ]
        keep = config.ct_log.removed_log_policy == "keep"
        plan = plan_retirements(wanted, states, listed, now, keep=keep)
        await self._write(plan, wanted)
        enabled = kinds(config)
        logs = [log for log in plan.logs.values() if log.kind in enabled]
        exclusions = Exclusions(config)
        excluded = [log for log in logs if exclusions.cover(log)]
        self._set({log.id: log for log in logs if log not in excluded}, excluded)
        if self.lists.is_ready:
            self._report_unknown_names(config.ct_log, exclusions, logs)

    async def _write(self, plan: RetirementPlan, wanted: Mapping[str, Log]) -> None:
        """Write a plan to Redis, for all ingestors."""
        for list_id, entries in plan.listed.items():
            await self._registry.record_listed(list_id, entries)
        for list_id, log_id, retirement in plan.retire:
            if await self._registry.retire(log_id, retirement, list_id):
                _log.info("log retired", log_id=log_id, why=retirement.why)
        for log_id in plan.unretire:
            if await self._registry.unretire(log_id, "list"):
                _log.info("log reinstated", log=wanted[log_id].name)

    def _report_unknown_names(
        self, settings: CTLog, exclusions: Exclusions, logs: Sequence[Log]
    ) -> None:
        """Log once for each configuration which of its names match no log."""
        if settings == self._names_checked:
            return
        self._names_checked = settings
        known = [*logs, *(log for _, content in self.lists.lists for log in content.logs)]
        operators = {operator_key(log.operator) for log in known}
        names = {
            "ct_log.excluded_operators": exclusions.unmatched_operators(operators),
            "ct_log.excluded_logs": exclusions.unmatched_logs(known),
            "ct_log.operator_rate_limits": [
                name
                for name in settings.operator_rate_limits
                if operator_key(name) not in operators and name not in CTLog().operator_rate_limits
            ],
        }
        for setting, unmatched in names.items():
            if unmatched:
                _log.warning("configured names unmatched", setting=setting, names=unmatched)

    def _set(self, logs: Mapping[str, Log], excluded: Sequence[Log]) -> None:
        if (logs, excluded) == self._logs:
            return
        if not logs and not excluded and self.lists.has_all:
            _log.warning("logs missing", needed="log_lists, custom_logs or static_logs")
        self._logs = logs, excluded
        self._follow(logs, excluded)
        _log.info("logs selected", logs=len(logs), excluded=len(excluded))

    async def _with_best_ids(self, logs: Iterable[Log]) -> dict[str, Log]:
        """Return the logs by the best ids that any ingestor knows."""
        by_url = {log: url_id(log.url) for log in logs}
        aliases = await self._registry.aliases(list(by_url.values()))
        named: dict[str, Log] = {}
        for log, url in by_url.items():
            if log.id != url and url not in aliases and await self._registry.rename(url, log.id):
                _log.info("log renamed", log=log.name, id=log.id, was=url, why="its key is known")
            best = aliases.get(url, url) if log.id == url else log.id
            named.setdefault(best, msgspec.structs.replace(log, id=best))
        return named

    def _report(self, problems: Mapping[str, str]) -> None:
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                _log.error("configured log rejected", log=name, problem=problem)
        self._problems = problems
