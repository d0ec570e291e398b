"""One ingestor process: catalog, worker and trimmer around one Redis and one HTTP client."""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial

import structlog
from redis.exceptions import RedisError

from certbus.caches.issuers import IssuerCache
from certbus.caches.log_lists import LogListCache
from certbus.cluster import ClusterRegistry, load_workers
from certbus.cluster_health import FAULTS, STREAMS_WRITTEN, Faults
from certbus.connection import check_server, connect
from certbus.keys import Keys
from certbus.limits.operators import OperatorSlots
from certbus.logs.circuit_state import CircuitStore
from certbus.logs.leases import Leases
from certbus.logs.registry import LogRegistry
from certbus.logs.tree_state import TreeStateStore
from certbus.streams.publisher import Publisher
from certbus.streams.retention import MARKS_SHARE, Trimmer
from certconf.current import ConfigHolder
from certconf.errors import ConfigError, ConfigProblem, SourceLocation
from certconf.settings import Config
from certhttp.address import address_of, listen
from certhttp.server import Page, Response, serve_pages
from certtasks import supervise
from ctparse.certificate import CertificateReader
from ingestor.assignment.factory import FollowerFactory
from ingestor.assignment.worker import LEASE_TTL, RedisStores, Worker
from ingestor.backoff import LOG_LIST
from ingestor.client.http import Fetcher, Retry, http_client
from ingestor.config import publisher_settings, retention, starts
from ingestor.loglists.catalog import Catalog
from ingestor.metrics import Metrics, TaskName
from ingestor.monitoring.collector import metrics
from ingestor.monitoring.health import Health
from ingestor.redis_retry import RedisRetry
from ingestor.reload import apply_changes

# Log lists: the library itself tries again, later.
_ONCE = Retry(attempts=1, backoff=LOG_LIST)
_LIST_TIMEOUT = 10.0  # seconds
# Trimming makes room at once where streams are what fills Redis. A batch that was rejected this
# often shows that it does not; the fault is reported until this many seconds after the last time.
_FULL_AFTER = 3
_FULL_FOR = 6.0
# Seconds for which an error that nobody foresaw is reported; it is tried again within.
_FAULT_SHOWN = 60.0

_log = structlog.get_logger(__name__)


async def serve(
    config: Config,
    stop: asyncio.Event,
    *,
    worker_id: str | None = None,
    present: ConfigHolder | None = None,
) -> None:
    """Run one ingestor until `stop` is set; then give its logs back.

    Args:
        config: the settings.
        stop: ends it.
        worker_id: what this process is called in Redis, made unique by what is added to it; None
            is the name of the host.
        present: holds `config`, and newer ones as they come; None if none will.

    Raises:
        ConfigError: there is no `redis_url`.
        UnsuitableServer: that Redis cannot hold the streams.
        UnsupportedFormat: that Redis holds the data of another version.
        ValueError: `admin` is not an address.
        OSError: that address cannot be had.
    """
    if config.redis_url is None:
        raise ConfigError(
            (ConfigProblem(SourceLocation("ingestor"), "redis_url", "needed, but not set"),)
        )
    name = f"{worker_id or socket.gethostname()}-{secrets.token_hex(4)}"
    present = present or ConfigHolder(config)
    working = asyncio.create_task(_work(present, config, config.redis_url.reveal(), name))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    if not working.cancelled():
        working.result()


async def _work(present: ConfigHolder, config: Config, redis_url: str, worker_id: str) -> None:
    """All of it, until cancelled."""
    async with AsyncExitStack() as stack:
        redis = connect(redis_url, name=f"ingestor-{worker_id}")
        stack.push_async_callback(redis.aclose)
        admin = stack.enter_context(listen(config.admin)) if config.admin else None
        http = await stack.enter_async_context(http_client(config.contact or ""))
        keys = Keys(config.redis_prefix)
        patience, meter, faults = RedisRetry(), Metrics(), Faults(time.monotonic)
        trimmer = Trimmer(redis, keys, retention(config), partial(_on_marks, faults))
        publisher = Publisher(
            redis, keys, publisher_settings(config), trimmer.free_bytes, _on_full(meter, faults)
        )
        leases = Leases(redis, keys, worker_id, LEASE_TTL)
        ledger = TreeStateStore(redis, keys)
        reader = CertificateReader()
        circuits, operators = CircuitStore(redis, keys), OperatorSlots(redis, keys)
        issuers = IssuerCache(redis, keys)
        assembly = FollowerFactory(
            config,
            http,
            publisher,
            leases,
            ledger,
            circuits,
            operators,
            issuers,
            reader,
            patience,
            meter,
        )
        bus = RedisStores(
            leases, ClusterRegistry(redis, keys, LEASE_TTL), partial(load_workers, redis, keys)
        )
        whereabouts = {
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "admin": address_of(admin) if admin else "",
        }

        def says() -> Mapping[str, str]:
            streams = publisher_settings(present.config).streams
            _note_costly(faults, worker)
            return {STREAMS_WRITTEN: " ".join(streams), FAULTS: faults.field()}

        worker = Worker(
            worker_id,
            bus,
            assembly,
            patience,
            starts(config),
            whereabouts,
            says,
            partial(_on_log_fault, faults),
        )
        fetcher = partial(Fetcher, http, retry=_ONCE, timeout=_LIST_TIMEOUT)
        shelf, roll = LogListCache(redis, keys), LogRegistry(redis, keys)
        catalog = Catalog(present, shelf, roll, fetcher, patience, worker.follow)
        if admin is not None:
            measured = metrics(meter, worker, catalog, patience, present.reloads, trimmer)
            pages = _pages(Health(redis, patience, worker), measured)
            await stack.enter_async_context(serve_pages(admin, pages))
        await patience(partial(check_server, redis))
        await patience(publisher.configure)
        async with asyncio.TaskGroup() as tasks:
            beside: dict[TaskName, Callable[[], Awaitable[None]]] = {
                "trimming": partial(trimmer.run, asyncio.Event()),
                "reload": partial(apply_changes, present, config, publisher, trimmer, patience),
                "log_lists": catalog.run,
            }
            for name, work in beside.items():
                failed = partial(_on_task_fault, meter, faults, name)
                tasks.create_task(supervise(name, work, failed))
            await worker.run()


def _on_full(meter: Metrics, faults: Faults) -> Callable[[RedisError, int], None]:
    """What counts and reports that a full Redis rejected a batch."""

    def rejected(error: RedisError, attempt: int) -> None:
        if attempt >= _FULL_AFTER:
            meter.rejected(error)
            text = f"Redis is full and rejected a batch {attempt} times; see maxmemory"
            faults.report("redis_full", text, _FULL_FOR)

    return rejected


def _on_marks(faults: Faults, remembered: float, configured: float) -> None:
    """Report deduplication marks that reach back less far than they should."""
    if remembered >= configured:
        return faults.end("dedup_window_shortened")
    text = (
        f"certificates are known for {remembered:,.0f} s instead of {configured:,.0f} s: marks "
        f"have {MARKS_SHARE:.0%} of maxmemory; see maxmemory, dedup.ttl_secs and retention"
    )
    return faults.report("dedup_window_shortened", text, _FAULT_SHOWN)


def _note_costly(faults: Faults, worker: Worker) -> None:
    """Report logs whose entries take too much of the CPU."""
    costly = [
        f"{held.follower.log.name} ({held.cost.per_second:,.0f} ms of CPU a second)"
        for held in worker.held
        if held.is_costly
    ]
    if costly:
        text = f"entries cost unusually much, the log waits for the others: {', '.join(costly)}"
        faults.report("log_costly", text, _FAULT_SHOWN)


def _on_log_fault(faults: Faults, name: str, error: Exception, pause: float) -> None:
    """Report a log that failed, until it has been tried again."""
    if isinstance(error, RedisError):
        text = f"{name}: Redis rejects a command for it; the log of the ingestor has the error"
        faults.report("log_redis_error", text, pause + _FAULT_SHOWN)


def _on_task_fault(meter: Metrics, faults: Faults, name: TaskName) -> None:
    """Count and report a task that failed."""
    meter.task_failed(name)
    text = f"{name}: ended by an error and begun again; the log of the ingestor has the error"
    faults.report("task_failing", text, _FAULT_SHOWN)


def _pages(health: Health, metrics: Callable[[], Response]) -> Mapping[str, Page]:
    """What is answered at the admin address."""

    async def measured() -> Response:
        return metrics()

    return {"/health": health.answer, "/health/deep": health.deep_answer, "/metrics": measured}
