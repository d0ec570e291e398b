"""The gateway process: create the components and their tasks, serve, and drain."""

import asyncio
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Final

import msgspec
import structlog
from redis.asyncio import Redis

from certbus.cluster_health import Faults
from certbus.connection import check_server, connect
from certbus.errors import UNAVAILABLE
from certbus.keys import Keys
from certbus.limits.clients import ConnectionCounts, RateLimits
from certbus.streams.reader import StreamReader
from certconf import Config, ConfigHolder, RedisURL
from certhttp import address
from certhttp.server import serve_pages
from certtasks import supervise
from gateway.admission.controller import AdmissionController
from gateway.admission.policy import policy_of
from gateway.clients.replay import Replayer
from gateway.clients.stall_timeout import close_stalled_clients
from gateway.config import Settings, settings_of
from gateway.delivery.channel import Flusher
from gateway.delivery.consumer import consume_streams
from gateway.delivery.history import HistoryReader
from gateway.endpoints.cert import Certificates
from gateway.endpoints.filter_change import FilterChanges
from gateway.endpoints.router import Router
from gateway.endpoints.table import table
from gateway.hub import Hub
from gateway.metrics import Metrics, TaskName
from gateway.monitoring.admin import pages
from gateway.monitoring.collector import MetricsSources, metrics
from gateway.monitoring.host_metrics import HostMetrics
from gateway.monitoring.registration import random_gateway_id, register
from gateway.monitoring.report_cache import ReportCache
from gateway.reload import Reload
from gateway.server.connection import HTTPConnection
from gateway.server.drain import drain
from gateway.server.listener import Listener, limits, listen, set_socket_options, url_of
from gateway.server.tls import TLSContextReloader, server_options

_HEARTBEATS_PER_TTL: Final = 3  # of the connection counts in Redis
_REDIS_RETRY_SECS: Final = 1.0
_RESTART: Final = 1012  # "Service Restart", in the IANA registry of close codes

log = structlog.get_logger(__name__)


class _Redis(msgspec.Struct, frozen=True):
    """The connections to Redis.

    Attributes:
        primary: for everything but reading the streams.
        replica: for replays; may be the primary.
        reader: for the stream reader only: commands for clients cannot delay it.
        reader_primary: to the primary, for the stream reader; None if `reader` is one to it.
        keys: names of the keys.
    """

    primary: Redis
    replica: Redis
    reader: Redis
    reader_primary: Redis | None
    keys: Keys


async def serve(
    config: Config,
    stop: asyncio.Event,
    *,
    settings: Settings | None = None,
    listener: socket.socket | None = None,
    admin: str | None = None,
    ready: Callable[[str], None] | None = None,
    present: ConfigHolder | None = None,
) -> None:
    """Serve clients until `stop` is set, then drain.

    Args:
        config: addresses, streams and policy.
        stop: ends the serving.
        settings: limits and intervals; None for those of `config`.
        listener: a listening socket; None to open the configured address, which several gateways
            can share.
        admin: admin address, see `certhttp.address.listen`; None for none.
        ready: called with the URL once connections are accepted.
        present: receives new configurations; None without reloads.

    Raises:
        ValueError: no Redis is configured, or `admin` is not an address.
        certbus.connection.UnsuitableServer: Redis cannot hold streams.
        OSError: the address is not available, or the certificate is not valid.
    """
    settings = settings or settings_of(config)
    if config.redis_url is None:
        raise ValueError("a gateway needs redis_url (CERTSTREAM_REDIS_URL, --redis-url)")
    async with AsyncExitStack() as stack:

        def client(url: RedisURL, name: str) -> Redis:
            made = connect(
                url.reveal(),
                name=name,
                password_file=url.password_file,
                sentinel_password_file=url.sentinel_password_file,
            )
            stack.push_async_callback(made.aclose)
            return made

        primary = client(config.redis_url, "gateway")
        if config.redis_read_url is None:
            replica, reader_primary = primary, None
            reader = client(config.redis_url, "gateway-reader")
        else:
            replica = client(config.redis_read_url, "gateway")
            reader = client(config.redis_read_url, "gateway-reader")
            reader_primary = client(config.redis_url, "gateway-reader")
        listening = stack.enter_context(listener or listen(config.host, config.port))
        set_socket_options(listening, settings)
        admin_listening = stack.enter_context(address.listen(admin)) if admin else None
        redis = _Redis(primary, replica, reader, reader_primary, Keys(config.redis_prefix))
        present = present or ConfigHolder(config)
        await _serve(config, present, settings, redis, listening, admin_listening, stop, ready)


async def _serve(
    config: Config,
    present: ConfigHolder,
    settings: Settings,
    redis: _Redis,
    listening: socket.socket,
    admin_listening: socket.socket | None,
    stop: asyncio.Event,
    ready: Callable[[str], None] | None,
) -> None:
    primary, replica, keys = redis.primary, redis.replica, redis.keys
    admission = _admission(config, primary, keys)
    reader = StreamReader(redis.reader, keys, settings.streams, primary=redis.reader_primary)
    history = HistoryReader(replica, keys, settings.history_bytes)
    certificate = _certificate(config)
    faults = Faults(time.monotonic)
    recorded = Metrics(faults)
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        replay = Replayer(history, primary, keys, reader, group, recorded)
        hub = Hub(settings, replay.start, recorded)
        filters = FilterChanges(hub)
        hub.clients.receive = filters.receive
        rings = hub.rings
        reader.is_read = hub.is_read
        flusher = Flusher(hub.unfiltered_channels, hub.filters, recorded)
        name = random_gateway_id()
        sources = MetricsSources(
            hub,
            history,
            reader,
            admission.refused,
            present.reloads,
            lambda: reports.problems,
            lambda: reports.reach,
        )
        own_metrics = metrics(recorded, sources)
        own_address = address.address_of(admin_listening) if admin_listening else None
        reports = ReportCache(primary, keys, reader, hub, faults, admission.refused)
        host = HostMetrics(reports, name, own_address, own_metrics)
        certificates = Certificates(primary, replica, keys, hub)
        listed = table(hub, host.get, reports, certificates, lambda: admission.policy)
        routes = Router(hub, listed)
        reload = Reload(hub, reader, admission, filters)
        listener = Listener(
            listening,
            partial(HTTPConnection, hub, routes, admission),
            admission.refused,
            lambda: admission.policy,
            limits(),
            server_options(certificate, settings),
        )
        if admin_listening is not None:
            own_pages = pages(own_metrics, reader, stop)
            await stack.enter_async_context(serve_pages(admin_listening, own_pages))
        url = url_of(listening, "https" if certificate else "http")
        supervised: dict[TaskName, Callable[[], Awaitable[None]]] = {
            "fanout": flusher.run,
            "websockets": hub.clients.websocket_timers.run,
            "events": hub.clients.sse_timers.run,
            "stalled": partial(close_stalled_clients, hub.clients, settings.client_timeout),
            "rates": admission.rates.run,
            "connections": admission.connections.run,
            "announce": partial(
                register, primary, keys, name, hub, reader, url, own_address, faults
            ),
            "machine": reports.watch,
            "reload": partial(reload.run, present, config),
        }
        if certificate is not None:
            supervised["certificate"] = certificate.run
        tasks = [
            # A gateway without these two cannot serve: their errors end the process.
            group.create_task(_check(replica)),
            group.create_task(consume_streams(reader, rings, history, flusher.wake, recorded)),
            *(
                group.create_task(supervise(task, work, partial(recorded.failed, task)))
                for task, work in supervised.items()
            ),
        ]
        log.info("gateway started", url=url, streams=settings.offered)
        if ready is not None:
            ready(url)
        try:
            await stop.wait()
            await drain(listener, hub, _RESTART, "restart")
        finally:
            listener.close()
            for task in tasks:
                task.cancel()


async def _check(client: Redis) -> None:
    """Reject a Redis that cannot hold streams, as soon as it is available."""
    while True:
        with suppress(*UNAVAILABLE):  # the stream reader logs it
            await check_server(client, writable=False)
            return
        await asyncio.sleep(_REDIS_RETRY_SECS)


def _certificate(config: Config) -> TLSContextReloader | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return TLSContextReloader(config.tls_cert, config.tls_key)


def _admission(config: Config, primary: Redis, keys: Keys) -> AdmissionController:
    """Create the admission controller, with an id of its own for the counts in Redis."""
    ttl = config.connection_limit.forget_after_secs
    counts = ConnectionCounts(primary, keys, secrets.token_hex(8), ttl)
    return AdmissionController(
        policy_of(config),
        RateLimits(primary, keys),
        counts,
        heartbeat_secs=ttl / _HEARTBEATS_PER_TTL,
    )
