"""What is started and stopped, in which order.

Redis comes first and goes last; between them simlog (for `--demo`), ingestors and gateways. The
order of the end is the nesting of the blocks in `_everything`: cancelling it stops the innermost
first.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog

from certconf import Config, ConfigHolder, RedisURL
from certconf.settings import DRAIN_MARGIN_SECS
from launcher import options
from launcher.commands.up.dashboard import Dashboard
from launcher.commands.up.demo import Demo
from launcher.commands.up.liveness import ProbeAddress
from launcher.commands.up.port_check import PortInUse, check_port_free, urls
from launcher.runtime import run_service
from launcher.runtime.config_reload import ConfigReloader
from launcher.runtime.embedded_redis import MAX_MEMORY, EmbeddedRedis, StartError, StateDirInUse
from launcher.runtime.runtime_dir import DEMO_STATE, runtime_dir
from launcher.runtime.supervisor import CERTSTREAM_SERVER, ChildSpec, ProcessGroup, keep_running

log = structlog.get_logger(__name__)

_REDIS_PAUSE: Final = 1.0  # seconds before a Redis that ended by itself is started again


def run(chosen: argparse.Namespace) -> int:
    """The command `up`: until SIGINT or SIGTERM, or until it turns out that it cannot work."""
    config, overrides = options.configuration(chosen)
    try:
        check_port_free(config.host, config.port)
        _check_certificate(config)
        if chosen.log_format == "auto" and sys.stdout.isatty() and sys.stderr.isatty():
            with Dashboard(tuple(urls(config))) as panel:
                _run(chosen, config, overrides, panel)
        else:
            _run(chosen, config, overrides, None)
    except (PortInUse, StateDirInUse, StartError) as error:
        print(f"certstream-server: {error}", file=sys.stderr)
        return 1
    return 0


def _run(
    chosen: argparse.Namespace,
    config: Config,
    overrides: Mapping[str, Any],
    panel: Dashboard | None,
) -> None:
    run_service.prepare("up", config, "console" if panel else chosen.log_format, chosen.parent_pid)
    running = ProcessGroup()
    everything = _everything(chosen, config, overrides, panel, running)
    reloader = ConfigReloader(
        "up",
        ConfigHolder(config),
        options.reader(chosen, config),
        pass_on=running.hang_up,
    )
    run_service.run(lambda stop: run_service.run_until_signal(stop, everything), reloader)


async def _everything(
    chosen: argparse.Namespace,
    config: Config,
    overrides: Mapping[str, Any],
    panel: Dashboard | None,
    running: ProcessGroup,
) -> None:
    """Run it all until cancelled.

    Args:
        chosen: the command line.
        config: the configuration as it is now.
        overrides: settings of the command line.
        panel: shows what goes on; None: log lines do.
        running: gets the ingestors and gateways.
    """
    async with AsyncExitStack() as stack:
        own = stack.enter_context(runtime_dir(config.host, config.port))
        settings = {**overrides, "admin": None}  # each process gets one of its own
        state_dir, redis_url, demo = config.state_dir, config.redis_url, None
        if chosen.demo:
            state_dir, redis_url, demo = own / DEMO_STATE, None, Demo(own)
            settings |= demo.settings
        server = None
        if redis_url is None:
            server = await stack.enter_async_context(EmbeddedRedis(state_dir, _memory(config)))
            redis_url = RedisURL(server.url)
            # It has no password and no replica, whatever is configured for another one.
            settings |= {"redis_url": server.url}
            settings |= {"redis_read_url": None, "redis_password_file": None}

        if panel is None:
            _print_urls(config)

        shared = (f"--parent-pid={os.getpid()}", f"--log-format={_child_format(chosen, panel)}")
        configured = (*options.arguments(config), *shared)
        environ = {**options.environment(settings), **({"FORCE_COLOR": "1"} if panel else {})}
        on_line = panel.line if panel else None
        grace = _grace(config)

        def child(
            name: str,
            *arguments: str,
            answers: Callable[[], Awaitable[bool]] | None = None,
            among: ProcessGroup | None = running,
        ) -> Coroutine[Any, Any, None]:
            command = (*CERTSTREAM_SERVER, *arguments)
            started = ChildSpec(name, command, environ, answers)
            return keep_running(started, on_line=on_line, grace=grace, running=among)

        def watched(name: str, command: str) -> Coroutine[Any, Any, None]:
            admin = ProbeAddress(own / f"{name}.sock")
            if not admin.fits:
                return child(name, command, *configured)
            return child(name, command, *configured, admin.as_argument, answers=admin.responds)

        async with asyncio.TaskGroup() as background:
            if server is not None:
                background.create_task(_keep_redis(server))
            if demo is not None:
                background.create_task(child("simlog", *demo.arguments, *shared, among=None))
                await demo.wait()
            if panel is not None:
                background.create_task(panel.watch(redis_url.reveal(), config))
            async with asyncio.TaskGroup() as services:
                for number in range(chosen.ingestors):
                    services.create_task(watched(f"ingestor-{number + 1}", "ingest"))
                for number in range(chosen.gateways):
                    services.create_task(watched(f"gateway-{number + 1}", "gateway"))


def _grace(config: Config) -> float:
    """Seconds from SIGTERM to SIGKILL: what a gateway needs with clients that answer nothing."""
    return config.drain_secs + DRAIN_MARGIN_SECS


def _check_certificate(config: Config) -> None:
    """Find out before anything starts whether gateways will have one.

    Raises:
        CannotStart: they will not.
    """
    if config.tls_cert is None or config.tls_key is None:
        return
    from certhttp.tls import UnusableCertificate, load_certificate  # noqa: PLC0415

    try:
        load_certificate(config.tls_cert, config.tls_key)
    except UnusableCertificate as error:
        raise StartError(str(error)) from None


def _print_urls(config: Config) -> None:
    for url, what in urls(config):
        print(f"{url}  {what}", flush=True)


def _child_format(chosen: argparse.Namespace, panel: Dashboard | None) -> str:
    """Children that write through the panel cannot see the terminal themselves."""
    return "console" if panel else str(chosen.log_format)


async def _keep_redis(server: EmbeddedRedis) -> None:
    """Start the embedded Redis again whenever it ends by itself, until it starts."""
    while True:
        status = await server.wait()
        log.error("embedded redis ended, starting it again", status=status)
        started = False
        while not started:
            await asyncio.sleep(_REDIS_PAUSE)
            try:
                await server.start()
                started = True
            except StartError as error:
                log.error("embedded redis does not start", why=str(error))


def _memory(config: Config) -> int:
    """Bytes for the embedded Redis: the usual, or room for what is configured to be kept."""
    retention = config.retention
    kept = sum(limit.max_bytes for limit in (retention.full, retention.lite, retention.domains))
    return max(MAX_MEMORY, 2 * kept)
