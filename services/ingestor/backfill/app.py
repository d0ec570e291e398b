"""Finds the logs that can be read, and opens one."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from certbus.caches.log_lists import LogListCache
from certbus.keys import Keys, operator_key
from certconf.settings import Config
from ctparse.signatures import BadKey, LogKey, load_log_key
from ingestor.backfill.pace import LocalSlots, LowestPriority, SharedSlots
from ingestor.backfill.reader import Backfill, Part, Unproven
from ingestor.client.errors import LogError
from ingestor.client.http import Fetcher, http_client, user_agent
from ingestor.client.hybrid import HybridLog
from ingestor.client.interface import LogClient
from ingestor.client.issuers import Issuers
from ingestor.client.log_availability import LogAvailability, circuit_policy
from ingestor.client.rfc6962 import Rfc6962Log
from ingestor.client.static_ct import Identity, StaticCtLog
from ingestor.client.throttle import request_interval
from ingestor.cpu import Cpu
from ingestor.log import Kind, Log
from ingestor.loglists.merge import merge
from ingestor.loglists.source import ListRejected, Source, VerifiedList
from ingestor.redis_retry import RedisRetry

__all__ = ("Backfill", "Log", "LogError", "Part", "Unproven", "find_logs", "open_log")


async def find_logs(config: Config, redis: Redis | None) -> list[Log]:
    """Return all logs of the configuration and the log lists, in any state.

    Args:
        config: names the lists and configured logs.
        redis: has the newest copies of the lists; only read. None: the copy in this package.
    """
    signed: list[Log] = []
    unsigned: list[Log] = []
    cache = None if redis is None else LogListCache(redis, Keys(config.redis_prefix))
    for setting in config.followed_lists:
        source = Source(setting)
        current = await _copy(source, cache) or source.bundled()
        if current is not None:
            (signed if source.is_signed else unsigned).extend(current.content.logs)
    merged = merge(signed, unsigned, [*config.custom_logs, *config.static_logs], time.time())
    return list({log.id: log for log in [*signed, *unsigned, *merged.logs.values()]}.values())


async def _copy(source: Source, cache: LogListCache | None) -> VerifiedList | None:
    raw = None if cache is None else await cache.load(source.id)
    try:
        return None if raw is None else source.verify(raw)
    except ListRejected:
        return None


@asynccontextmanager
async def open_log(config: Config, log: Log, redis: Redis | None) -> AsyncIterator["Backfill"]:
    """Read the tree head of a log, for a backfill from it.

    Args:
        config: the settings.
        log: the log.
        redis: has the request slots of the operator; None: the interval is kept here.

    Raises:
        LogError: the log cannot be read, or has not signed its tree head.
    """
    async with http_client(user_agent(config)) as http:
        keys = Keys(config.redis_prefix)
        slots = LocalSlots() if redis is None else SharedSlots(redis, keys)
        interval = request_interval(log.operator, config.ct_log)
        throttle = LowestPriority(operator_key(log.slots), interval, slots, RedisRetry())
        availability = LogAvailability(log, circuit_policy(config.ct_log), throttle)
        availability.is_behind = True
        timeout = config.ct_log.request_timeout_secs
        fetcher = Fetcher(
            http, log.name, timeout, availability=availability, listed_at=log.listed_at
        )
        cpu = Cpu()
        backfill = Backfill(log, _client(log, fetcher, cpu), _key(log), cpu, config.ct_log)
        await backfill.read_head()
        yield backfill


def _client(log: Log, fetcher: Fetcher, cpu: Cpu) -> LogClient:
    if log.kind is Kind.RFC6962:
        return Rfc6962Log(log.base, fetcher, cpu)
    issuers = Issuers(log.base, fetcher)
    if log.is_hybrid:
        return HybridLog(log.base, fetcher, issuers, cpu)
    return StaticCtLog(log.base, fetcher, issuers, Identity(log.key_sha256, log.origin), cpu)


def _key(log: Log) -> LogKey | None:
    try:
        return None if log.key is None else load_log_key(log.key)
    except BadKey:
        return None
