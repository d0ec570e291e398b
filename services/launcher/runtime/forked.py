"""Children that are copies of this process: they share the memory of the modules it has imported.

A child that is executed imports its modules again: 0.8 s of CPU, and some 25 MB that a copy shares.
The copy keeps nothing else: `fork` resets its signal handlers, closes its files and gives it a
session, arguments and an environment of its own. It never returns to the event loop of its parent.

Linux from 5.3 on, which has pidfd_open(2). Elsewhere children are executed.

Tests: tests/launcher/runtime/test_forked.py.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn, Protocol

_STDERR: Final = 2
_FIRST_OTHER_FILE: Final = 3
_MAX_FILES: Final = 1 << 20  # without a limit of open files
_UNKNOWN_STATUS: Final = 255  # as of asyncio

Main = Callable[[Sequence[str]], int]
"""Runs with the arguments of a command line, and returns an exit status."""


class Process(Protocol):
    """What `asyncio.subprocess.Process` and `ForkedProcess` have in common."""

    @property
    def pid(self) -> int:
        """Its id."""

    @property
    def returncode(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""

    async def wait(self) -> int:
        """Wait until it exits, and return its exit status."""

    def send_signal(self, signal: int) -> None:
        """Send it a signal."""


class ForkedProcess:
    """A child made by `fork`.

    Args:
        pid: its id; a child of this process that nothing else waits for.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._exited = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._file = os.pidfd_open(pid)
        try:
            self._loop.add_reader(self._file, self._on_exit)
        except BaseException:
            os.close(self._file)
            raise

    async def wait(self) -> int:
        """Wait until it exits, and return its exit status."""
        await self._exited.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal.

        Raises:
            ProcessLookupError: it has exited.
        """
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._file)
        os.close(self._file)
        try:
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
        except ChildProcessError:  # SIGCHLD is ignored: the kernel has dropped the status
            self.returncode = _UNKNOWN_STATUS
        self._exited.set()


def can_fork() -> bool:
    """Return whether `fork` works here."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an older kernel, or a sandbox
        return False
    return True


def share_imports() -> None:
    """Exempt all present objects from garbage collection, which would write to shared memory."""
    gc.collect()
    gc.freeze()


def fork(
    main: Main,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    stderr: int | None,
    before: Callable[[], None],
) -> ForkedProcess:
    """Run `main` in a copy of this process, in a session of its own.

    SIGHUP is blocked in it, as in a process that starts (`launcher.__main__`).

    Args:
        main: the copy exits with its result.
        arguments: passed to `main`.
        environ: of the copy.
        stderr: descriptor that the copy writes to; None: ours.
        before: called in the copy, before `main`.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # broken, closed, absent
            stream.flush()
    # No handler of this process may run in the copy.
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of other threads. Those of `up` wait for a process or a change of a
            # file, or look up a name; a copy that inherits a lock of the latter is replaced once
            # its probe fails.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _run_copy(main, arguments, environ, stderr, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        return ForkedProcess(pid)
    except BaseException:  # no descriptor is free
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        raise


def replace_arguments(text: str) -> None:
    """Show a text as the command line of this process, cut to the length of the present one.

    The arguments of a parent may have a secret, and every user can read those of a process.
    """
    # proc(5): the fields 48 and 49 of stat are the addresses of the arguments; 3 follows the name.
    try:
        stat = Path("/proc/self/stat").read_text("ascii", "replace")
    except OSError:
        return
    fields = stat.rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if 0 < start < end:
        shown = text.encode()[: end - start - 1]
        ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


def _run_copy(
    main: Main,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    stderr: int | None,
    before: Callable[[], None],
) -> NoReturn:
    code = 1
    try:
        before()
        os.setsid()
        _reset_signals()
        _reset_files(stderr)
        os.environ.clear()
        os.environ.update(environ)
        code = main(arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:  # noqa: BLE001 - as at the end of an interpreter
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _reset_signals() -> None:
    """Give each signal the action that it has when Python starts; unblock all but SIGHUP."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(number)):  # not those ignored, as SIGPIPE, or of faulthandler
            with contextlib.suppress(OSError, ValueError):  # reserved by the C library
                signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # one that came before this ends the copy
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGHUP})
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _reset_files(stderr: int | None) -> None:
    """Read from /dev/null, and close what the parent has opened: locks, pipes, its event loop."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if stderr is not None:
        os.dup2(stderr, _STDERR)
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(_FIRST_OTHER_FILE, limit if 0 < limit < _MAX_FILES else _MAX_FILES)
    # A dashboard replaces them by its own.
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
