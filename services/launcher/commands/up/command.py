"""The processes of `up`: what is started and stopped, in which order.

Redis is started first and stopped last; in between run simlog (with `--demo`), ingestors and
gateways. The nesting of the blocks in `_run_everything` is the order of the stop: cancelling it
stops the innermost block first.
"""

import argparse
import asyncio
import importlib
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import structlog

from certconf import Config, ConfigHolder, RedisURL
from certconf.settings import DRAIN_MARGIN_SECS
from certhttp.tls import UnusableCertificate, load_certificate
from launcher import cli, optional_modules, options
from launcher.commands.up.addresses import ProbeAddress, check_port_free, urls
from launcher.commands.up.demo import Demo
from launcher.commands.up.memory import embedded_redis
from launcher.runtime import run_service
from launcher.runtime.config_reload import ConfigReloader
from launcher.runtime.forked import can_fork, share_imports
from launcher.runtime.runtime_dir import DEMO_STATE, runtime_dir
from launcher.runtime.supervisor import (
    CERTSTREAM_SERVER,
    ChildSpec,
    ProcessGroup,
    StartError,
    keep_running,
    restart,
)

if TYPE_CHECKING:
    from launcher.commands.up.dashboard import Dashboard

log = structlog.get_logger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("processes")
    group.add_argument("--ingestors", type=options.count, default=1, metavar="N", help="(1)")
    group.add_argument("--gateways", type=options.count, default=1, metavar="N", help="(1)")
    group.add_argument(
        "--demo",
        action="store_true",
        help="follow four simulated logs only, with a Redis whose data is deleted at the end",
    )
    options.add_listening(parser)
    options.add_start(parser)
    options.add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """Run everything until SIGINT or SIGTERM, or until an error that prevents it."""
    config, overrides = options.configuration(args)
    check_port_free(config.host, config.port)
    _check_certificate(config)
    if args.log_format == "auto" and sys.stdout.isatty() and sys.stderr.isatty():
        optional_modules.show()
        from launcher.commands.up.dashboard import Dashboard  # noqa: PLC0415 - it imports rich

        optional_modules.hide()
        with Dashboard(tuple(urls(config))) as dashboard:
            _run(args, config, overrides, dashboard)
    else:
        _run(args, config, overrides, None)
    return 0


def _run(
    args: argparse.Namespace,
    config: Config,
    overrides: Mapping[str, Any],
    dashboard: "Dashboard | None",
) -> None:
    log_format = "console" if dashboard else args.log_format
    run_service.prepare("up", config, log_format, args.parent_pid)
    services = ProcessGroup()
    reloader = ConfigReloader(
        "up", ConfigHolder(config), options.reader(args, config), forward=services.reload
    )
    everything = _run_everything(args, config, overrides, dashboard, services)
    run_service.run(
        lambda stop: run_service.run_until_signal(stop, everything),
        reloader,
        services.answers,
        forks=True,
    )


async def _run_everything(
    args: argparse.Namespace,
    config: Config,
    overrides: Mapping[str, Any],
    dashboard: "Dashboard | None",
    services: ProcessGroup,
) -> None:
    """Run every process until cancelled.

    Args:
        args: the command line.
        config: the configuration at the start.
        overrides: settings of the command line.
        dashboard: shows the log lines of children; None: they write to our stderr.
        services: gets the ingestors and gateways.
    """
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(runtime_dir(config.host, config.port))
        settings = {**overrides, "admin": None}  # each process gets an admin address of its own
        state_dir, redis_url, demo = config.state_dir, config.redis_url, None
        if args.demo:
            state_dir, redis_url, demo = directory / DEMO_STATE, None, Demo(directory)
            settings |= demo.settings
        server = None
        if redis_url is None:
            server, sizes = await stack.enter_async_context(
                embedded_redis(config, state_dir, demo=args.demo)
            )
            settings |= sizes
            redis_url = RedisURL(server.url)
            # It has no password and no replica, which the configuration may have for another one.
            settings |= {"redis_url": server.url}
            settings |= {"redis_read_url": None, "redis_password_file": None}

        log_format, colors, on_line = args.log_format, {}, None
        if dashboard is None:
            _print_urls(config)
        else:  # a child that writes through it cannot find out that there is a terminal
            log_format, colors, on_line = "console", {"FORCE_COLOR": "1"}, dashboard.line
        shared = (f"--parent-pid={os.getpid()}", f"--log-format={log_format}")
        configured = (*options.arguments(config), *shared)
        environ = {**options.environment(settings), **colors}

        def child(
            name: str,
            *arguments: str,
            probe: Callable[[], Awaitable[bool]] | None = None,
            group: ProcessGroup | None = services,
        ) -> Coroutine[Any, Any, None]:
            return keep_running(
                _spec(name, arguments, environ, probe),
                on_line=on_line,
                stop_timeout=config.drain_secs + DRAIN_MARGIN_SECS,
                group=group,
            )

        def service(name: str, command: str) -> Coroutine[Any, Any, None]:
            address = ProbeAddress(directory / f"{name}.sock")
            if not address.fits:
                return child(name, command, *configured)
            return child(name, command, *configured, address.as_argument, probe=address.responds)

        async with asyncio.TaskGroup() as background:
            if server is not None:
                background.create_task(restart("redis", server.run))
            if demo is not None:
                background.create_task(child("simlog", *demo.arguments, *shared, group=None))
                await asyncio.sleep(0)  # simlog starts, and imports its modules at the same time
            _import_services()
            if demo is not None:
                await demo.wait()
            async with asyncio.TaskGroup() as tasks:
                if dashboard is not None:  # it ends before the services: an end is no fault
                    tasks.create_task(dashboard.watch(redis_url.reveal(), config))
                for name, command in _services(args):
                    tasks.create_task(service(name, command))


def _services(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Return the name of each ingestor and gateway, and its subcommand."""
    for number in range(args.ingestors):
        yield f"ingestor-{number + 1}", "ingest"
    for number in range(args.gateways):
        yield f"gateway-{number + 1}", "gateway"


def _import_services() -> None:
    """Import what ingestors and gateways need, for copies of this process to share."""
    if can_fork():
        for command in ("ingest", "gateway"):
            importlib.import_module(f"launcher.commands.{command}")
        share_imports()


def _spec(
    name: str,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    probe: Callable[[], Awaitable[bool]] | None,
) -> ChildSpec:
    """Describe a child that runs a subcommand: a copy of this process where that is possible."""
    if can_fork():
        return ChildSpec(name, arguments, environ, probe, cli.main)
    return ChildSpec(name, (*CERTSTREAM_SERVER, *arguments), environ, probe)


def _check_certificate(config: Config) -> None:
    """Check, before anything starts, the certificate that gateways will use.

    Raises:
        StartError: it is not usable.
    """
    if config.tls_cert is None or config.tls_key is None:
        return
    try:
        load_certificate(config.tls_cert, config.tls_key)
    except UnusableCertificate as error:
        raise StartError(str(error)) from None


def _print_urls(config: Config) -> None:
    for url, description in urls(config):
        print(f"{url}  {description}", flush=True)
