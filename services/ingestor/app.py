"""One ingestor process: catalog, worker and trimmer with one Redis and one HTTP client."""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from certbus.caches.issuers import IssuerCache
from certbus.caches.log_lists import LogListCache
from certbus.cluster import ClusterRegistry
from certbus.cluster_health import FAULTS, STREAMS_WRITTEN, Faults
from certbus.connection import check_server, connect
from certbus.keys import Keys
from certbus.limits.operators import OperatorSlots
from certbus.logs.circuit_state import CircuitStore
from certbus.logs.leases import Leases
from certbus.logs.registry import LogRegistry
from certbus.logs.tree_state import TreeStateStore
from certbus.server_state import server_state
from certbus.streams.memory import HEADROOM, mib, plan
from certbus.streams.publisher import Publisher
from certbus.streams.retention import MARKS_SHARE, Trimmer
from certconf.current import ConfigHolder
from certconf.errors import ConfigError, ConfigProblem, SourceLocation
from certconf.secret import RedisURL
from certconf.settings import Config
from certhttp.address import address_of, listen
from certhttp.server import Page, Response, serve_pages
from certtasks import supervise
from ctparse.certificate import CertificateReader
from ingestor.assignment.factory import FollowerFactory
from ingestor.assignment.worker import LEASE_TTL_SECS, Worker
from ingestor.client.http import Fetcher, http_client, user_agent
from ingestor.config import publisher_settings, retention, start_settings
from ingestor.loglists.catalog import Catalog
from ingestor.metrics import Metrics, TaskName
from ingestor.monitoring.collector import metrics_page
from ingestor.monitoring.health import Health
from ingestor.redis_retry import RedisRetry

# Log lists: `LogListStore` itself retries, later.
_LIST_TIMEOUT_SECS = 10.0
# Trimming frees memory at once if the streams fill Redis. A batch that is rejected this often
# shows that they do not. The fault is reported until these seconds after the last rejection.
_FULL_AFTER_REJECTIONS = 3
_FULL_SHOWN_SECS = 6.0
# For which an unexpected error is reported; it is retried within.
_FAULT_SHOWN_SECS = 60.0

_log = structlog.get_logger(__name__)


async def serve(
    config: Config,
    stop: asyncio.Event,
    *,
    worker_id: str | None = None,
    present: ConfigHolder | None = None,
) -> None:
    """Run one ingestor until `stop` is set; then release its logs.

    Args:
        config: the settings.
        stop: ends it.
        worker_id: name of this process in Redis; a random suffix makes it unique. None is the name
            of the host.
        present: holds `config` and newer ones; None if it never changes.

    Raises:
        ConfigError: there is no `redis_url`.
        UnsuitableServer: that Redis cannot hold the streams.
        UnsupportedFormat: that Redis holds the data of another release.
        ValueError: `admin` is not an address.
        OSError: that address cannot be bound.
    """
    if config.redis_url is None:
        raise ConfigError(
            (ConfigProblem(SourceLocation("ingestor"), "redis_url", "required, but not set"),)
        )
    name = f"{worker_id or socket.gethostname()}-{secrets.token_hex(4)}"
    present = present or ConfigHolder(config)
    working = asyncio.create_task(_work(present, config, config.redis_url, name))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    if not working.cancelled():
        working.result()


async def _work(present: ConfigHolder, config: Config, redis_url: RedisURL, worker_id: str) -> None:
    """Make all parts and run them, until cancelled."""
    async with AsyncExitStack() as stack:
        redis = connect(
            redis_url.reveal(),
            name=f"ingestor-{worker_id}",
            password_file=redis_url.password_file,
            sentinel_password_file=redis_url.sentinel_password_file,
        )
        stack.push_async_callback(redis.aclose)
        admin = stack.enter_context(listen(config.admin)) if config.admin else None
        if config.contact is None and config.ct_log.user_agent is None:
            _log.info("contact missing", effect="some log operators limit anonymous clients")
        http = await stack.enter_async_context(http_client(user_agent(config)))
        keys = Keys(config.redis_prefix)
        redis_retry, metrics, faults = RedisRetry(), Metrics(), Faults(time.monotonic)
        trimmer = Trimmer(redis, keys, retention(config), partial(_on_marks, faults))
        publisher = Publisher(
            redis, keys, publisher_settings(config), trimmer.free_bytes, _on_full(metrics, faults)
        )
        leases = Leases(redis, keys, worker_id, LEASE_TTL_SECS)
        factory = FollowerFactory(
            config=config,
            http=http,
            publisher=publisher,
            leases=leases,
            tree_states=TreeStateStore(redis, keys),
            circuits=CircuitStore(redis, keys),
            operators=OperatorSlots(redis, keys),
            issuers=IssuerCache(redis, keys),
            reader=CertificateReader(),
            redis_retry=redis_retry,
            metrics=metrics,
        )
        process_fields = {
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "admin": address_of(admin) if admin else "",
        }

        def status_fields() -> Mapping[str, str]:
            streams = publisher_settings(present.config).streams
            _report_costly(faults, worker)
            return {STREAMS_WRITTEN: " ".join(streams), FAULTS: faults.field()}

        worker = Worker(
            worker_id,
            leases,
            ClusterRegistry(redis, keys, LEASE_TTL_SECS),
            factory,
            redis_retry,
            start_settings(config),
            process_fields,
            status_fields,
            partial(_on_log_fault, faults),
        )
        fetcher = partial(Fetcher, http, timeout=_LIST_TIMEOUT_SECS)
        cache, registry = LogListCache(redis, keys), LogRegistry(redis, keys)
        catalog = Catalog(present, cache, registry, fetcher, redis_retry, worker.follow)
        if admin is not None:
            measured = metrics_page(metrics, worker, catalog, redis_retry, present.reloads, trimmer)
            pages = _pages(Health(redis, redis_retry, worker), measured)
            await stack.enter_async_context(serve_pages(admin, pages))
        await redis_retry(check_server, redis)
        await redis_retry(_check_memory, redis, config)
        await redis_retry(publisher.configure)
        async with asyncio.TaskGroup() as tasks:
            background: dict[TaskName, Callable[[], Awaitable[None]]] = {
                "trimming": partial(trimmer.run, asyncio.Event()),
                "reload": partial(_reload, present, config, publisher, trimmer, redis_retry),
                "log_lists": catalog.run,
            }
            for name, work in background.items():
                failed = partial(_on_task_fault, metrics, faults, name)
                tasks.create_task(supervise(name, work, failed))
            await worker.run()


async def _check_memory(redis: Redis, config: Config) -> None:
    """Warn of a Redis whose maxmemory is less than the retention needs at the public rate."""
    planned = plan(retention(config), config.dedup.ttl_secs, config.dedup.by)
    state = await server_state(redis)
    if 0 < state.max_memory * HEADROOM < planned.max_memory:
        needed = str(planned)
        _log.warning("redis memory insufficient", max_memory=mib(state.max_memory), needed=needed)


async def _reload(
    present: ConfigHolder,
    config: Config,
    publisher: Publisher,
    trimmer: Trimmer,
    redis_retry: RedisRetry,
) -> None:
    """Apply each newer configuration to what is written and retained, until cancelled.

    The catalog applies it to the logs.
    """
    while True:
        config = await present.wait_for_change(than=config)
        trimmer.set_limits(retention(config))
        await redis_retry(publisher.configure, publisher_settings(config))


def _on_full(metrics: Metrics, faults: Faults) -> Callable[[RedisError, int], None]:
    """Make the callback that counts and reports batches which a full Redis rejected."""

    def rejected(error: RedisError, attempt: int) -> None:
        if attempt >= _FULL_AFTER_REJECTIONS:
            metrics.count_rejected(error)
            text = f"Redis is full and rejected a batch {attempt} times; see maxmemory"
            faults.report("redis_full", text, _FULL_SHOWN_SECS)

    return rejected


def _on_marks(faults: Faults, remembered: float, configured: float) -> None:
    """Report deduplication marks that are retained for less time than configured."""
    if remembered >= configured:
        return faults.end("dedup_window_shortened")
    text = (
        f"certificates are known for {remembered:,.0f} s instead of {configured:,.0f} s: marks "
        f"have {MARKS_SHARE:.0%} of maxmemory; see maxmemory, dedup.ttl_secs and retention"
    )
    return faults.report("dedup_window_shortened", text, _FAULT_SHOWN_SECS)


def _report_costly(faults: Faults, worker: Worker) -> None:
    """Report logs whose entries take too much CPU time."""
    costly = [
        f"{each.log.name} ({each.cost_rate.per_second:,.0f} ms of CPU a second)"
        for each in worker.assigned
        if each.is_costly
    ]
    if costly:
        text = f"entries cost unusually much, the log waits for the others: {', '.join(costly)}"
        faults.report("log_costly", text, _FAULT_SHOWN_SECS)


def _on_log_fault(faults: Faults, name: str, error: Exception, pause: float) -> None:
    """Report a log that failed, until it is retried."""
    if isinstance(error, RedisError):
        text = f"{name}: Redis rejects a command for it; the log of the ingestor has the error"
        faults.report("log_redis_error", text, pause + _FAULT_SHOWN_SECS)


def _on_task_fault(metrics: Metrics, faults: Faults, name: TaskName) -> None:
    """Count and report a task that failed."""
    metrics.task_failed(name)
    text = f"{name}: ended by an error and restarted; the log of the ingestor has the error"
    faults.report("task_failing", text, _FAULT_SHOWN_SECS)


def _pages(health: Health, metrics: Callable[[], Response]) -> Mapping[str, Page]:
    """Return the pages of the admin listener."""

    async def measured() -> Response:
        return metrics()

    return {"/health": health.answer, "/health/deep": health.deep_answer, "/metrics": measured}
