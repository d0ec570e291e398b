"""One service in this process: its event loop, its signals, its exit status."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final

import structlog
import uvloop

from certbus.connection import UnsuitableServer
from certbus.streams.publisher import UnsupportedFormat
from certconf import Config
from certconf.flatten import flatten
from certhttp.client import fetch
from launcher.runtime import logging_setup
from launcher.runtime.config_reload import ConfigReloader, block_sighup
from launcher.runtime.supervisor import exit_with_parent
from launcher.runtime.systemd import Notifier, Probe, always

log = structlog.get_logger(__name__)

_PROBE_TIMEOUT_SECS: Final = 5.0

Serve = Callable[[asyncio.Event], Awaitable[object]]


def run(
    serve: Serve,
    reloader: ConfigReloader | None = None,
    probe: Probe = always,
    *,
    forks: bool = False,
) -> None:
    """Run `serve` until it returns; SIGINT and SIGTERM set its event.

    A second signal ends the process at once.

    Args:
        serve: the work.
        reloader: runs concurrently.
        probe: returns whether the service works, for systemd.
        forks: whether it copies this process (`forked.fork`). libuv, which uvloop runs on, has
            files for all of a process, which a copy could not close.
    """
    run_loop = asyncio.run if forks else uvloop.run
    run_loop(_until_signalled(serve, reloader, probe))


def run_reporting_errors(
    serve: Serve, reloader: ConfigReloader | None = None, probe: Probe = always
) -> int:
    """`run` for a process of its own, which exits when `serve` returns.

    It does not wait for threads: a name look-up that hangs in one would delay the exit until the
    time-out of the resolver.

    Returns:
        1, after a log line, on an error that an operator can fix. Any other error is a bug: it is
        raised, and logged with its traceback (`logging_setup.configure`).
    """

    async def serve_and_exit(stop: asyncio.Event) -> None:
        await serve(stop)
        sys.stdout.flush()
        os._exit(0)

    reasons: list[str] = []
    try:
        run(serve_and_exit, reloader, probe)
    except* (UnsuitableServer, UnsupportedFormat, OSError) as group:
        reasons += map(str, _leaves(group))
    for reason in reasons:
        log.error("fatal error", why=reason)
    return 1 if reasons else 0


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def health_of(admin: str | None) -> Probe:
    """Return a probe that requests /health at an admin address; any status is an answer."""
    if admin is None:
        return always

    async def answers() -> bool:
        return await fetch(admin, "/health", _PROBE_TIMEOUT_SECS) is not None

    return answers


async def _until_signalled(serve: Serve, reloader: ConfigReloader | None, probe: Probe) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    notifier = Notifier(os.environ)

    def on_signal(received: signal.Signals) -> None:
        notifier.stopping()
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        log.info("signal received", signal=received.name)  # last: standard error may be closed

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    if reloader is None:
        await serve(stop)
        return
    reloader.install_handlers()
    tasks = [
        asyncio.create_task(reloader.run(notifier)),
        asyncio.create_task(notifier.run(probe)),
    ]
    try:
        await serve(stop)
    finally:
        for task in tasks:
            task.cancel()
        block_sighup()  # the loop removes its handler when it closes


async def run_until_signal(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do `work` until it is done, or cancel it when `stop` is set; raise its errors."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


def prepare(name: str, config: Config, log_format: str, parent_pid: int | None) -> None:
    """Set up logging and limits, and log the notices of the configuration.

    Args:
        name: of the service, in log lines.
        config: has the log level and the notices.
        log_format: one of `logging_setup.FORMATS`.
        parent_pid: the supervisor to end with, which has logged the notices already.
    """
    if parent_pid is not None:
        exit_with_parent(parent_pid)
    raise_file_limit()
    logging_setup.configure(config.log_level, log_format, name)
    if parent_pid is None:
        defaults = flatten(Config())
        changed = {key: value for key, value in flatten(config).items() if value != defaults[key]}
        log.debug("settings overridden", settings=changed)
        for notice in config.notices:
            log.warning("configuration notice", notice=notice)


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit: each connection is one.

    The soft limit is often 1024, for programs that use select(2).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
