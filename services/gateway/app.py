"""The process: wiring, start and stop."""

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
from certconf import Config, ConfigHolder
from certconf.secret import Secret
from certhttp import address
from certhttp.server import serve_pages
from certtasks import supervise
from gateway.admission.controller import AdmissionController
from gateway.admission.policy import policy_of
from gateway.clients.replay import Replayer
from gateway.clients.stall_timeout import close_stalled_clients
from gateway.cluster_snapshot import SnapshotCache
from gateway.config import Settings, settings_of
from gateway.delivery.channel import Flusher
from gateway.delivery.consumer import consume_streams
from gateway.delivery.history import HistoryReader
from gateway.endpoints.cert import Certificates
from gateway.endpoints.router import Router
from gateway.endpoints.table import table
from gateway.hub import Hub
from gateway.metrics import Metrics, TaskName
from gateway.monitoring.admin import pages
from gateway.monitoring.collector import MetricsSources, metrics
from gateway.monitoring.host_metrics import HostMetrics
from gateway.monitoring.registration import random_gateway_id, register
from gateway.reload import Reload
from gateway.server.connection import HTTPConnection
from gateway.server.drain import drain
from gateway.server.listener import Listener, limits, listen, set_socket_options, url_of
from gateway.server.tls import TLSContextReloader, server_options

_BEATS: Final = 3  # signs of life before a gateway is forgotten
_REDIS_PAUSE: Final = 1.0  # seconds between attempts to look at Redis
_RESTART: Final = 1012  # "Service Restart", in the IANA registry of close codes

log = structlog.get_logger(__name__)


class _Redis(msgspec.Struct, frozen=True):
    """Where everything is read from, and little is written to.

    Attributes:
        primary: for everything but reading the streams.
        replica: for reading the streams where clients ask for it; may be the primary.
        reader: a client for the reader of the streams alone, which no client may hold up.
        reader_primary: likewise, to the primary; None if `reader` reads from it.
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
    """Serve clients until `stop` is set, then send them elsewhere.

    Args:
        config: where Redis is, where to listen, what to offer.
        stop: ends the serving.
        settings: limits and intervals; None for those of `config`.
        listener: a listening socket; None for one of the configured address, which any number of
            gateways share.
        admin: address of this process alone, see `certhttp.address.listen`; None for none.
        ready: called with the URL once connections are accepted.
        present: holds `config`, and newer ones as they come; None if none will.

    Raises:
        ValueError: no Redis is configured, or `admin` is not an address.
        certbus.connection.UnsuitableServer: Redis cannot hold streams.
        OSError: the address cannot be had, or the certificate not be served.
    """
    settings = settings or settings_of(config)
    if config.redis_url is None:
        raise ValueError("a gateway needs redis_url (CERTSTREAM_REDIS_URL, --redis-url)")
    async with AsyncExitStack() as stack:

        def client(url: Secret, name: str) -> Redis:
            made = connect(url.reveal(), name=name)
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
        bus = _Redis(primary, replica, reader, reader_primary, Keys(config.redis_prefix))
        present = present or ConfigHolder(config)
        await _serve(config, present, settings, bus, listening, admin_listening, stop, ready)


async def _serve(
    config: Config,
    present: ConfigHolder,
    settings: Settings,
    bus: _Redis,
    listening: socket.socket,
    admin_listening: socket.socket | None,
    stop: asyncio.Event,
    ready: Callable[[str], None] | None,
) -> None:
    primary, replica, keys = bus.primary, bus.replica, bus.keys
    door = _door(config, primary, keys)
    follower = StreamReader(bus.reader, keys, settings.streams, primary=bus.reader_primary)
    history = HistoryReader(replica, keys, settings.history_bytes)
    certificate = _certificate(config)
    faults = Faults(time.monotonic)
    meter = Metrics(faults)
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        replay = Replayer(history, primary, keys, follower, group, meter)
        service = Hub(settings, replay.start, meter)
        rings = service.rings
        fanout = Flusher(service.channels.values(), meter)
        name = random_gateway_id()
        numbers = MetricsSources(
            service,
            history,
            follower,
            door.refused,
            present.reloads,
            lambda: machine.problems,
        )
        own_metrics = metrics(meter, numbers)
        own_address = address.address_of(admin_listening) if admin_listening else None
        sight = SnapshotCache(primary, keys)
        machine = HostMetrics(
            sight, name, own_address, own_metrics, follower, service, faults, door.refused
        )
        certificates = Certificates(primary, replica, keys)
        listed = table(
            service, machine.metrics, machine.health, sight, certificates, lambda: door.policy
        )
        routes = Router(service, listed)
        reload = Reload(service, follower, door)
        listener = Listener(
            listening,
            partial(HTTPConnection, service, routes, door),
            door.refused,
            lambda: door.policy,
            limits(),
            server_options(certificate, settings),
        )
        if admin_listening is not None:
            own_pages = pages(own_metrics, follower, stop)
            await stack.enter_async_context(serve_pages(admin_listening, own_pages))
        url = url_of(listening, "https" if certificate else "http")
        supervised: dict[TaskName, Callable[[], Awaitable[None]]] = {
            "fanout": fanout.run,
            "websockets": service.clients.websocket_timers.run,
            "events": service.clients.sse_timers.run,
            "stalled": partial(close_stalled_clients, service.clients, settings.client_timeout),
            "rates": door.rates.run,
            "connections": door.connections.run,
            "announce": partial(
                register, primary, keys, name, service, follower, url, own_address, faults
            ),
            "machine": machine.watch,
            "reload": partial(reload.run, present, config),
        }
        if certificate is not None:
            supervised["certificate"] = certificate.run
        tasks = [
            # Without these two a gateway serves nobody: their errors end the process.
            group.create_task(_check(replica)),
            group.create_task(consume_streams(follower, rings, history, fanout.wake, meter)),
            *(
                group.create_task(supervise(task, work, partial(meter.failed, task)))
                for task, work in supervised.items()
            ),
        ]
        log.info("clients can connect", url=url, streams=settings.streams)
        if ready is not None:
            ready(url)
        try:
            await stop.wait()
            await drain(listener, service, _RESTART, "restart")
        finally:
            listener.close()
            for task in tasks:
                task.cancel()


async def _check(client: Redis) -> None:
    """Refuse a Redis that cannot hold streams, as soon as it can be asked."""
    while True:
        with suppress(*UNAVAILABLE):  # the reader of the streams says so in the log
            await check_server(client, writable=False)
            return
        await asyncio.sleep(_REDIS_PAUSE)


def _certificate(config: Config) -> TLSContextReloader | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return TLSContextReloader(config.tls_cert, config.tls_key)


def _door(config: Config, primary: Redis, keys: Keys) -> AdmissionController:
    """Who may come in, counted together with all gateways."""
    ttl = config.connection_limit.forget_after_secs
    counts = ConnectionCounts(primary, keys, secrets.token_hex(8), ttl)
    return AdmissionController(
        policy_of(config), RateLimits(primary, keys), counts, beat=ttl / _BEATS
    )
