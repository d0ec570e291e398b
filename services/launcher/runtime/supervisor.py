"""Child processes: started, restarted when they die or hang, stopped in time, none left behind.

A child leads a session of its own, so that Ctrl-C at the terminal reaches the supervisor alone,
which then stops its children in order. A supervisor killed by SIGKILL takes them along: each
asks the kernel for that when it starts (`service.die_with`).
"""

import asyncio
import contextlib
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

log = structlog.get_logger(__name__)

#: Seconds a child gets between SIGTERM and SIGKILL, unless its supervisor says otherwise.
GRACE: Final = 4.0
#: Seconds before a dead child is started again: doubling from the first to the last ...
FIRST_PAUSE: Final = 0.25
LAST_PAUSE: Final = 15.0
#: ... and starting over once one has lived so long.
SETTLED: Final = 3.0

#: Seconds between two times that a child is asked whether it is well ...
ASK_EVERY: Final = 2.0
#: ... and how long it may be without an answer, or take for the first one.
SILENCE: Final = 20.0

#: `certstream-server`, as this very process runs it; -P: no module of the working directory stands
#: in for one of ours.
CERTSTREAM_SERVER: Final = (sys.executable, "-P", "-m", "launcher")

_LINE_BYTES: Final = 1 << 20
_LOOK_EVERY: Final = 0.02  # seconds between two looks whether a child handles a signal by now


class ChildSpec(msgspec.Struct, frozen=True):
    """A process to keep running.

    Attributes:
        name: how log lines call it.
        command: the program and its arguments.
        environ: its environment.
        answers: asks it whether it is well, and gives up after a while; None: it is not asked.
    """

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    answers: Callable[[], Awaitable[bool]] | None = None


class ProcessGroup:
    """The children that read their configuration again on SIGHUP, while they run.

    SIGHUP ends a process that has no handler for it, and a child gets none from its parent: its
    loop starts it with every signal at its default. So a child that is still starting gets the
    signal once it has its handler.
    """

    def __init__(self) -> None:
        self._due: set[asyncio.Event] = set()

    @contextlib.contextmanager
    def child(self) -> Iterator[asyncio.Event]:
        """Count one more child among them for the length of the block: what `hang_up` sets."""
        due = asyncio.Event()
        self._due.add(due)
        try:
            yield due
        finally:
            self._due.discard(due)

    def hang_up(self) -> None:
        """Send SIGHUP to each of them, as soon as it has a handler."""
        for due in self._due:
            due.set()


async def keep_running(
    child: ChildSpec,
    *,
    on_line: Callable[[str], None] | None = None,
    grace: float = GRACE,
    running: ProcessGroup | None = None,
) -> None:
    """Run a child, again and again, until cancelled; then stop it.

    Args:
        child: what to run.
        on_line: gets what the child writes to stderr, line by line; None leaves it our own.
        grace: seconds the child gets to end by itself when this is cancelled.
        running: the child is among them while it runs; None if nobody wants to know.
    """
    running = running or ProcessGroup()
    pause = FIRST_PAUSE
    while True:
        born = time.monotonic()
        try:
            why = _why(await _run(child, on_line, grace, running))
        except OSError as error:  # no process, no memory or no descriptor for another one
            why = f"cannot be started: {error}"
        if time.monotonic() - born >= SETTLED:
            pause = FIRST_PAUSE
        log.error("child died, starting it again", child=child.name, why=why, seconds=pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)


async def _run(
    child: ChildSpec, on_line: Callable[[str], None] | None, grace: float, running: ProcessGroup
) -> int:
    with running.child() as due:
        process = await asyncio.create_subprocess_exec(
            *child.command,
            env=dict(child.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=None if on_line is None else asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LINE_BYTES,
        )
        log.info("child started", child=child.name, child_pid=process.pid)
        async with asyncio.TaskGroup() as group:
            if process.stderr is not None and on_line is not None:
                group.create_task(_relay(process.stderr, on_line))
            attending = (
                group.create_task(_stop_if_silent(child, process, grace)),
                group.create_task(_hang_up(process, due)),
            )
            try:
                return await process.wait()
            finally:
                for task in attending:
                    task.cancel()
                await _stop(process, grace)


async def _hang_up(process: asyncio.subprocess.Process, due: asyncio.Event) -> None:
    """Send SIGHUP to a process whenever it is due, and not before it has a handler."""
    born = time.monotonic()
    while True:
        await due.wait()
        if not _catches(process.pid, signal.SIGHUP, time.monotonic() - born):
            await asyncio.sleep(_LOOK_EVERY)
            continue
        due.clear()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGHUP)


def _catches(pid: int, number: signal.Signals, age: float) -> bool:
    """Whether a process of this age, in seconds, has a handler for a signal (Linux proc(5)).

    Where the system does not say, one that has lived for a while is supposed to.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return age >= SETTLED
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


async def _stop_if_silent(
    child: ChildSpec, process: asyncio.subprocess.Process, grace: float
) -> None:
    if child.answers is None:
        return
    heard = time.monotonic()
    while time.monotonic() - heard < SILENCE:
        await asyncio.sleep(ASK_EVERY)
        if await child.answers():
            heard = time.monotonic()
    log.error("child does not answer, stopping it", child=child.name, child_pid=process.pid)
    await _stop(process, grace)


async def _stop(process: asyncio.subprocess.Process, grace: float) -> None:
    """Ask, wait, insist. Nothing happens to a process that has ended already."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    # Not asyncio.timeout: in a task that is being cancelled, as this one may be, its own time-out
    # is taken for that cancellation before Python 3.11.3.
    ended = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({ended}, timeout=grace)
    finally:
        if not ended.done():
            log.warning("child does not stop, killing it", child_pid=process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    await ended


async def _relay(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than the limit: what was read of it is dropped
            continue
        if not line:
            return
        on_line(line.decode(errors="replace").rstrip("\n"))


def _why(code: int) -> str:
    """Words for a return code as `Process.returncode` gives it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
