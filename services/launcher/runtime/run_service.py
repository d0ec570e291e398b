"""One service in this process: its event loop, its signals, its end."""

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import structlog
import uvloop

from certbus.connection import UnsuitableServer
from certbus.streams.publisher import UnsupportedFormat
from certconf import Config
from certconf.flatten import flatten
from launcher.runtime import logging_setup
from launcher.runtime.config_reload import ConfigReloader, block_sighup

log = structlog.get_logger(__name__)

Serve = Callable[[asyncio.Event], Awaitable[object]]

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def run(serve: Serve, reloader: ConfigReloader | None = None) -> None:
    """Run `serve` until it returns; SIGINT and SIGTERM set the event it is given.

    A second signal ends the process at once: whoever asks twice does not want to wait.

    Args:
        serve: the work.
        reloader: run beside it.
    """
    uvloop.run(_until_signalled(serve, reloader))


def run_reporting_errors(serve: Serve, reloader: ConfigReloader | None = None) -> int:
    """`run` for a process of its own.

    It ends with `serve`: a name look-up that hangs, in a thread that nobody can stop, would hold
    up the loop's own end for as long as the resolver likes.

    Returns:
        1, after a line in the log, for what an operator has to mend. Anything else is a fault of
        ours: it is raised, and logged with its traceback (`logsetup.configure`).
    """

    async def serve_and_leave(stop: asyncio.Event) -> None:
        await serve(stop)
        sys.stdout.flush()
        os._exit(0)

    reasons: list[str] = []
    try:
        run(serve_and_leave, reloader)
    except* (UnsuitableServer, UnsupportedFormat, OSError) as group:
        reasons += map(str, _leaves(group))
    for reason in reasons:
        log.error("cannot go on", why=reason)
    return 1 if reasons else 0


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _until_signalled(serve: Serve, reloader: ConfigReloader | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    if reloader is None:
        await serve(stop)
        return
    reloader.install_handlers()
    reloading = asyncio.create_task(reloader.run())
    try:
        await serve(stop)
    finally:
        reloading.cancel()
        block_sighup()  # the loop removes its handler when it closes


async def run_until_signal(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do `work` until it is done, or cancel it when `stop` is set; what it raises is raised."""
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
    """Set up logging, and tell once what the configuration has to tell.

    Args:
        name: the service, as log lines call it.
        config: says the log level and the notices.
        log_format: one of `logsetup.FORMATS`.
        parent_pid: the supervisor to end with; it has logged the notices already.
    """
    if parent_pid is not None:
        exit_with_parent(parent_pid)
    raise_file_limit()
    logging_setup.configure(config.log_level, log_format, name)
    if parent_pid is None:
        usual = flatten(Config())
        said = {key: value for key, value in flatten(config).items() if value != usual[key]}
        log.debug("settings other than the defaults", settings=said)
        for notice in config.notices:
            log.warning("configuration", notice=notice)


def raise_file_limit() -> None:
    """Let this process open as many files as it may at all: each connection is one.

    The soft limit that it begins with is often 1024, for programs that still use select(2).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def exit_with_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent dies, even by SIGKILL.

    Nothing is lost by dying so: what is not in Redis yet is read again.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before we could ask
        sys.exit(1)
