"""Child processes: started, restarted when they exit or hang, stopped in time, none left behind.

A child leads a session of its own, so that Ctrl-C at the terminal signals only the supervisor,
which then stops its children in order. If SIGKILL ends the supervisor, the kernel ends its
children (`exit_with_parent`).
"""

import asyncio
import contextlib
import ctypes
import math
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import structlog

from launcher.runtime.forked import Main, Process, fork, replace_arguments
from launcher.terminal import CommandError

log = structlog.get_logger(__name__)

STOP_TIMEOUT_SECS: Final = 4.0
"""Default time from SIGTERM to SIGKILL."""

MIN_RESTART_DELAY_SECS: Final = 0.25
MAX_RESTART_DELAY_SECS: Final = 15.0
STABLE_AFTER_SECS: Final = 3.0
"""The delay doubles from the minimum to the maximum, and starts over after a run of this length."""

PROBE_INTERVAL_SECS: Final = 2.0
PROBE_TIMEOUT_SECS: Final = 20.0
"""Time without an answer to a probe, or until the first one, after which a child is replaced."""

#: `certstream-server`, as this process runs it; -P: no module of the working directory replaces
#: one of ours.
CERTSTREAM_SERVER: Final = (sys.executable, "-P", "-m", "launcher")

_MAX_LINE_BYTES: Final = 1 << 20
_SIGNAL_CHECK_INTERVAL_SECS: Final = 0.02

_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
_PR_SET_NAME: Final = 15  # of 15 bytes
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class StartError(CommandError):
    """`up` or one of its children cannot be started."""


class ChildSpec(msgspec.Struct, frozen=True):
    """A process to keep running.

    Attributes:
        name: in log lines.
        command: the program and its arguments; with `main`, the arguments.
        environ: its environment.
        probe: returns whether the child answers, within a few seconds; None: it is not probed.
        main: runs in a copy of this process; None: `command` is executed.
    """

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    probe: Callable[[], Awaitable[bool]] | None = None
    main: Main | None = None


class ProcessGroup:
    """The children that read their configuration again on SIGHUP, and when they last answered.

    SIGHUP ends a process that has no handler for it, and a child inherits none. So a child that is
    still starting gets the signal once it has its handler.
    """

    def __init__(self) -> None:
        self._requested: set[asyncio.Event] = set()
        self._answered: dict[str, float | None] = {}  # by name of the child; None: never

    @contextlib.contextmanager
    def member(self) -> Iterator[asyncio.Event]:
        """Add a child for the length of the block; `reload` sets the event."""
        requested = asyncio.Event()
        self._requested.add(requested)
        try:
            yield requested
        finally:
            self._requested.discard(requested)

    def expect(self, name: str) -> None:
        """Expect answers of a child."""
        self._answered[name] = None

    def on_answer(self, name: str, at: float) -> None:
        """Keep the time of an answer, of `time.monotonic()`."""
        self._answered[name] = at

    async def answers(self) -> bool:
        """Whether each expected child, also one that restarts, has answered lately."""
        oldest = time.monotonic() - PROBE_TIMEOUT_SECS
        return bool(self._answered) and all(
            answered is not None and answered > oldest for answered in self._answered.values()
        )

    def reload(self) -> None:
        """Send SIGHUP to each child, as soon as it has a handler."""
        for requested in self._requested:
            requested.set()


async def keep_running(
    child: ChildSpec,
    *,
    on_line: Callable[[str], None] | None = None,
    stop_timeout: float = STOP_TIMEOUT_SECS,
    group: ProcessGroup | None = None,
) -> NoReturn:
    """Run a child, again and again, until cancelled; then stop it.

    Args:
        child: what to run.
        on_line: gets each line that the child writes to stderr; None: it writes to our stderr.
        stop_timeout: seconds from SIGTERM to SIGKILL.
        group: has the child as a member while it runs.
    """
    group = group or ProcessGroup()
    group.expect(child.name)
    await restart(child.name, lambda: _run(child, on_line, stop_timeout, group))


async def restart(name: str, run: Callable[[], Awaitable[int]]) -> NoReturn:
    """Run a child, again and again, until cancelled.

    Args:
        name: of the child, in log lines.
        run: runs it once, and returns its exit status as `Process.returncode`. It may raise
            `StartError` or `OSError`.
    """
    delay = MIN_RESTART_DELAY_SECS
    while True:
        started = time.monotonic()
        try:
            why = _describe(await run())
        except (StartError, OSError) as error:  # also: no process, memory or descriptor left
            why = f"cannot be started: {error}"
        if time.monotonic() - started >= STABLE_AFTER_SECS:
            delay = MIN_RESTART_DELAY_SECS
        log.error("child exited", child=name, why=why, restart_in_secs=delay)
        await asyncio.sleep(delay)
        delay = min(2 * delay, MAX_RESTART_DELAY_SECS)


async def stop_process(process: Process, name: str, timeout: float) -> None:  # noqa: ASYNC109
    """Send SIGTERM, wait, and send SIGKILL after `timeout` seconds or when cancelled."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    # Not wait_for or timeout: a task that is being cancelled, as this one may be, would lose its
    # cancellation in the one (before Python 3.12), the time-out in the other (before 3.11.3).
    exited = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({exited}, timeout=timeout)
    finally:
        if not exited.done():
            log.warning("child killed", child=name, child_pid=process.pid, after_secs=timeout)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
    await exited


def exit_with_parent(parent_pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends, even by SIGKILL.

    Linux only. Exits at once if the parent has ended already. Safe between fork and exec.
    """
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent_pid:
        os._exit(1)


async def _run(
    child: ChildSpec,
    on_line: Callable[[str], None] | None,
    stop_timeout: float,
    group: ProcessGroup,
) -> int:
    with group.member() as reload_requested:
        process, stderr = await _start(child, piped=on_line is not None)
        log.info("child started", child=child.name, child_pid=process.pid)
        async with asyncio.TaskGroup() as tasks:
            if stderr is not None and on_line is not None:
                tasks.create_task(_relay(stderr, on_line))
            background = (
                tasks.create_task(_stop_if_unresponsive(child, process, stop_timeout, group)),
                tasks.create_task(_forward_reloads(process, reload_requested)),
            )
            try:
                return await process.wait()
            finally:
                for task in background:
                    task.cancel()
                await stop_process(process, child.name, stop_timeout)


async def _start(child: ChildSpec, *, piped: bool) -> tuple[Process, asyncio.StreamReader | None]:
    """Start a child; return it, and what it writes to stderr if that is `piped`."""
    if child.main is None:
        executed = await asyncio.create_subprocess_exec(
            *child.command,
            env=dict(child.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE if piped else None,
            start_new_session=True,
            limit=_MAX_LINE_BYTES,
        )
        return executed, executed.stderr
    before = partial(_begin_copy, child.name, os.getpid())
    if not piped:
        return fork(child.main, child.command, child.environ, None, before), None
    reading, writing = os.pipe()
    try:
        forked = fork(child.main, child.command, child.environ, writing, before)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    stream = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
    protocol = asyncio.StreamReaderProtocol(stream)
    pipe = os.fdopen(reading, "rb")
    try:
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    except BaseException:
        pipe.close()
        with contextlib.suppress(ProcessLookupError):
            forked.send_signal(signal.SIGKILL)
        raise
    return forked, stream


def _begin_copy(name: str, parent_pid: int) -> None:
    """End with the parent, and take a name of its own."""
    exit_with_parent(parent_pid)
    if _prctl is not None:
        _prctl(_PR_SET_NAME, name.encode())
    replace_arguments(f"certstream-server {name}")


async def _forward_reloads(process: Process, requested: asyncio.Event) -> None:
    """Send SIGHUP to a process on each request, but not before it has a handler."""
    started = time.monotonic()
    while True:
        await requested.wait()
        if not _handles(process.pid, signal.SIGHUP, time.monotonic() - started):
            await asyncio.sleep(_SIGNAL_CHECK_INTERVAL_SECS)
            continue
        requested.clear()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGHUP)


def _handles(pid: int, number: signal.Signals, age: float) -> bool:
    """Return whether a process has a handler for a signal (Linux proc(5)).

    Without /proc, a process is assumed to have one after `STABLE_AFTER_SECS`.

    Args:
        pid: its id.
        number: of the signal.
        age: seconds since its start.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return age >= STABLE_AFTER_SECS
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


async def _stop_if_unresponsive(
    child: ChildSpec,
    process: Process,
    stop_timeout: float,
    group: ProcessGroup,
) -> None:
    if child.probe is None:
        group.on_answer(child.name, math.inf)
        return
    answered = time.monotonic()
    while time.monotonic() - answered < PROBE_TIMEOUT_SECS:
        await asyncio.sleep(PROBE_INTERVAL_SECS)
        if await child.probe():
            answered = time.monotonic()
            group.on_answer(child.name, answered)
    log.error("child unresponsive", child=child.name, child_pid=process.pid)
    await stop_process(process, child.name, stop_timeout)


async def _relay(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than the limit: its beginning was dropped
            continue
        if not line:
            return
        on_line(line.decode(errors="replace").rstrip("\n"))


def _describe(code: int) -> str:
    """Return a text for an exit status as in `Process.returncode`."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
