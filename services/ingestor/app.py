"""One ingestor process: catalog, worker and trimmer around one Redis and one HTTP client."""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial

import structlog

from certadmin.address import address_of, listen
from certadmin.server import Answer, Page
from certadmin.server import serve as admin_server
from certbus.connection import check_server, connect
from certbus.directory import Directory, snapshot
from certbus.keys import Keys
from certbus.leases import Leases
from certbus.ledger import Ledger
from certbus.publisher import Publisher
from certbus.trimmer import Trimmer
from certconf.present import Present
from certconf.problems import ConfigError, Origin, Problem
from certconf.settings import Config
from ctparse.certificate import CertificateReader
from ingestor.assembly import Assembly
from ingestor.catalog.merge import keep_ids, merge
from ingestor.catalog.sources import GOOGLE, Lists
from ingestor.ctclient.backoff import jittered
from ingestor.ctclient.fetch import Fetcher, Retry, http_client
from ingestor.health import Health
from ingestor.meter import Meter
from ingestor.metrics import metrics
from ingestor.outage import Patience
from ingestor.reload import apply_changes
from ingestor.settings import kinds, publisher_settings, retention, starts
from ingestor.worker import LEASE_TTL, Bus, Worker

# Between attempts to read a log list that could not be read at the start, in seconds.
_LIST_INITIAL = 5.0
_LIST_MAXIMUM = 300.0
_LIST_TIMEOUT = 10.0

_log = structlog.get_logger(__name__)


async def serve(
    config: Config,
    stop: asyncio.Event,
    *,
    worker_id: str | None = None,
    present: Present | None = None,
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
        raise ConfigError((Problem(Origin("ingestor"), "redis_url", "needed, but not set"),))
    name = f"{worker_id or socket.gethostname()}-{secrets.token_hex(4)}"
    present = present or Present(config)
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


async def _work(present: Present, config: Config, redis_url: str, worker_id: str) -> None:
    """All of it, until cancelled."""
    async with AsyncExitStack() as stack:
        redis = connect(redis_url, name=f"ingestor-{worker_id}")
        stack.push_async_callback(redis.aclose)
        admin = stack.enter_context(listen(config.admin)) if config.admin else None
        http = await stack.enter_async_context(http_client(config.contact or ""))
        keys = Keys(config.redis_prefix)
        patience, meter = Patience(), Meter()
        trimmer = Trimmer(redis, keys, retention(config))
        publisher = Publisher(redis, keys, publisher_settings(config), trimmer.free)
        leases = Leases(redis, keys, worker_id, LEASE_TTL)
        ledger = Ledger(redis, keys)
        reader = CertificateReader()
        assembly = Assembly(config, http, publisher, leases, ledger, reader, patience, meter)
        bus = Bus(leases, Directory(redis, keys, LEASE_TTL), partial(snapshot, redis, keys))
        whereabouts = {
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "admin": address_of(admin) if admin else "",
        }
        worker = Worker(worker_id, bus, assembly, patience, starts(config), whereabouts)
        if admin is not None:
            pages = _pages(Health(redis, patience, worker), metrics(meter, worker, patience))
            await stack.enter_async_context(admin_server(admin, pages))
        await patience(partial(check_server, redis))
        await patience(publisher.configure)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(trimmer.run(asyncio.Event()))
            tasks.create_task(apply_changes(present, config, publisher, trimmer, patience))
            tasks.create_task(_keep_catalog(present, config, assembly, worker))
            await worker.run()


def _pages(health: Health, metrics: Callable[[], Answer]) -> Mapping[str, Page]:
    """What is answered at the admin address."""

    async def measured() -> Answer:
        return metrics()

    return {"/health": health.answer, "/health/deep": health.deep_answer, "/metrics": measured}


async def _keep_catalog(
    present: Present, config: Config, assembly: Assembly, worker: Worker
) -> None:
    """Tell the worker which logs there are.

    Again, when a list that was missing is there, and when the configuration has changed.
    """
    lists = _lists(config, assembly)
    logs = None
    attempt = 0
    while True:
        await lists.read_missing()
        found = merge(lists.logs(), (*config.custom_logs, *config.static_logs), kinds(config))
        found = keep_ids(logs or {}, found)
        if found != logs:
            logs = found
            worker.follow(logs)
            _log.info("logs to follow", logs=len(logs))
        if not logs and lists.complete:
            _log.warning("nothing to follow: set log_lists, custom_logs or static_logs")
        pause = None if lists.complete else jittered(attempt, _LIST_INITIAL, _LIST_MAXIMUM)
        attempt += 1
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                newer = await present.newer(than=config)
                if newer.log_lists != config.log_lists:
                    lists, attempt = _lists(newer, assembly), 0
                config = newer


def _lists(config: Config, assembly: Assembly) -> Lists:
    settings = (GOOGLE,) if config.log_lists is None else config.log_lists
    # One quick attempt: configured logs wait for it, as a list may say who they are.
    once = Retry(attempts=1, initial=0, maximum=0)
    return Lists(settings, Fetcher(assembly.http, "log list", once, _LIST_TIMEOUT))
