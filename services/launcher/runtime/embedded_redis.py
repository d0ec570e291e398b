"""A private redis-server for one machine.

Its data is in the state directory: an append-only file, synced every second, so that a restarted
server has it again. Two locks (flock, so the kernel releases them however a process ends) keep the
data consistent:

- `owner.lock` is held by the process that uses the state directory. A second process fails with
  the id of the first, and changes nothing.
- `redis.lock` is held by the redis-server itself, which inherits it; its content is the path of the
  server's socket. When the owner is killed, the kernel sends the server SIGTERM
  (PR_SET_PDEATHSIG). The next owner shuts down a server that still runs, and waits until it has
  finished writing. So two servers never write the same file, and none is left behind.

Tests: tests/launcher/runtime/test_embedded_redis.py, tests/launcher/runtime/test_redis_restart.py.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import redis.exceptions
import structlog

from certbus.connection import connect
from launcher.runtime.supervisor import StartError, exit_with_parent, stop_process
from launcher.terminal import CommandError

MAX_MEMORY_BYTES = 1536 * 1024 * 1024

_START_TIMEOUT_SECS = 60.0  # without any answer; one that loads its data answers BUSYLOADING
_STOP_TIMEOUT_SECS = 10.0
_CHECK_INTERVAL_SECS = 0.02
_MAX_SOCKET_PATH_BYTES = 100  # the kernel's limit is 108 on Linux, 104 elsewhere
_MAX_LOG_BYTES = 1024 * 1024  # of redis.log before it is moved to redis.log.1
#: Files of redis-server: the append-only file (from 7.0 on a directory of them), a snapshot,
#: temporary files of both, and its log.
_DATA = ("appendonly*", "appendonlydir/*", "dump.rdb", "temp-*", "redis.log*")
_GROUP_AND_OTHERS = 0o077  # permission bits

log = structlog.get_logger(__name__)


class StateDirInUse(CommandError):
    """Another process uses the state directory. The text has its id."""


class EmbeddedRedis:
    """A redis-server as a child process: `async with EmbeddedRedis(path) as server: server.url`.

    Args:
        state_dir: directory of its data; created if missing.
        max_memory: bytes. It evicts nothing: when they are used up, it rejects writes.
        executable: the server to run; None: the one of `find_executable`.

    Attributes:
        url: of its unix socket, for `connect`.
    """

    def __init__(
        self,
        state_dir: Path,
        max_memory: int = MAX_MEMORY_BYTES,
        executable: str | None = None,
    ) -> None:
        self._dir = state_dir.absolute()
        self._max_memory = max_memory
        self._executable = executable
        self._owner_lock: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._socket_dir: Path | None = None  # temporary, if the state directory's path is too long
        self.url = ""

    async def __aenter__(self) -> Self:
        with self._explained():
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
        """Process id of the redis-server."""
        return None if self._process is None else self._process.pid

    async def run(self) -> int:
        """Start the redis-server unless it runs, wait until it exits, and return its exit status.

        Raises:
            StartError: as for `start`.
        """
        await self.start()
        return await self.wait()

    async def wait(self) -> int:
        """Wait until the redis-server exits, and return its exit status."""
        assert self._process is not None
        return await self._process.wait()

    async def start(self) -> None:
        """Start the redis-server unless it runs, and wait until it answers.

        Raises:
            StartError: no redis-server is installed, it exits at once, an earlier one does not
                exit, or the state directory is not writable.
        """
        if self._process is not None and self._process.returncode is None:
            return
        executable = self._executable or find_executable()
        with self._explained():
            await self._spawn(executable)
        await self._wait_ready()
        log.info(
            "embedded redis started",
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
                    pass_fds=[redis_lock],  # it holds redis.lock until it exits
                    start_new_session=True,  # Ctrl-C signals only its owner, which stops it last
                    preexec_fn=partial(_before_exec, os.getpid()),
                )
        finally:
            os.close(redis_lock)
        self.url = f"unix://{socket}"

    async def _wait_ready(self) -> None:
        process = self._process
        assert process is not None
        client = connect(self.url)
        last_error = "no attempt"
        try:
            async with asyncio.timeout(_START_TIMEOUT_SECS) as deadline:
                while process.returncode is None:
                    try:
                        await client.ping()
                    except redis.exceptions.BusyLoadingError:  # it loads its data: 20 s per GB
                        deadline.reschedule(asyncio.get_running_loop().time() + _START_TIMEOUT_SECS)
                        await asyncio.sleep(_CHECK_INTERVAL_SECS)
                    except (redis.exceptions.RedisError, OSError) as error:
                        last_error = str(error)
                        await asyncio.sleep(_CHECK_INTERVAL_SECS)
                    else:
                        return
        except TimeoutError:
            await self._stop()
            raise StartError(
                f"redis-server did not answer within {_START_TIMEOUT_SECS:.0f} s ({last_error}); "
                f"see {self._log_path}"
            ) from None
        finally:
            await client.aclose()
        raise StartError(
            f"redis-server exited with status {process.returncode}:\n{_tail(self._log_path)}"
        )

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:  # on SIGTERM, it writes its data before it exits
            await stop_process(process, "redis", _STOP_TIMEOUT_SECS)

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
    def _explained(self) -> Iterator[None]:
        """Turn an error of the file system into a `StartError`."""
        try:
            yield
        except OSError as error:
            where = error.filename or self._dir
            raise StartError(
                f"the state directory {self._dir} cannot be used: {where}: {error.strerror}. "
                "Fix the permissions or choose another directory with state_dir, "
                "CERTSTREAM_STATE_DIR or --state-dir"
            ) from None

    def _make_private(self) -> None:
        """Make existing data readable for the owner only: the directory may be open to others."""
        for pattern in _DATA:
            for path in self._dir.glob(pattern):
                mode = stat.S_IMODE(path.lstat().st_mode)
                if not path.is_symlink() and mode & _GROUP_AND_OTHERS:
                    path.chmod(mode & ~_GROUP_AND_OTHERS)

    def _lock_state(self) -> int:
        path = self._dir / "owner.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 20).decode("ascii", "replace") or "unknown"
            os.close(lock)
            raise StateDirInUse(
                f"the state directory {self._dir} is in use by process {owner}: stop that one, or "
                "choose another directory with state_dir, CERTSTREAM_STATE_DIR or --state-dir"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        return lock

    async def _lock_data(self) -> int:
        """Lock the data; shut down a redis-server of an earlier owner, and wait until it exits."""
        lock = os.open(self._dir / "redis.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = asyncio.get_running_loop().time() + _STOP_TIMEOUT_SECS
        requested = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    os.close(lock)
                    raise StartError(
                        f"a redis-server of an earlier run still holds {self._dir}/redis.lock and "
                        "does not exit: find it with `fuser` of that file, and stop it"
                    ) from None
                if not requested:
                    requested = True
                    log.warning("orphaned redis shut down", state=str(self._dir))
                    await _shut_down(os.read(lock, 4096).decode())
                await asyncio.sleep(0.05)
            else:
                return lock

    def _socket_path(self) -> Path:
        socket = self._dir / "redis.sock"
        if len(os.fsencode(socket)) <= _MAX_SOCKET_PATH_BYTES:
            return socket
        if self._socket_dir is None:
            self._socket_dir = Path(tempfile.mkdtemp(prefix="certstream-"))
        return self._socket_dir / "redis.sock"

    @property
    def _log_path(self) -> Path:
        return self._dir / "redis.log"

    def _open_log(self) -> BinaryIO:
        if self._log_path.exists() and self._log_path.stat().st_size > _MAX_LOG_BYTES:
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        return os.fdopen(os.open(self._log_path, flags, 0o600), "ab")


def find_running(state_dir: Path, parent: int | None = None) -> str | None:
    """Return the URL of the redis-server that runs with this state directory, if one does.

    Args:
        state_dir: its path.
        parent: descriptor of the directory that a relative path begins at; None: the current one.
    """
    try:
        lock = os.open(state_dir.expanduser() / "redis.lock", os.O_RDONLY, dir_fd=parent)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        socket = os.read(lock, 4096).decode()  # empty while it starts
        return f"unix://{socket}" if socket else None
    finally:
        os.close(lock)
    return None


def find_executable() -> str:
    """Return redis-server or valkey-server on PATH, else the one of this virtual environment.

    Raises:
        StartError: none is installed.
    """
    own = str(Path(sys.prefix) / "bin" / "redis-server")
    for name in ("redis-server", "valkey-server", own):
        if found := shutil.which(name):
            return found
    raise StartError(
        "no redis-server found: install one (apt install redis-server), or give the address of a "
        "Redis with CERTSTREAM_REDIS_URL"
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


def _before_exec(parent_pid: int) -> None:
    os.umask(_GROUP_AND_OTHERS)
    exit_with_parent(parent_pid, signal.SIGTERM)


async def _shut_down(socket: str) -> None:
    """Shut down an orphan by its socket: its process id might be reused."""
    client = connect(f"unix://{socket}")
    try:
        await client.shutdown()
    except (redis.exceptions.RedisError, OSError):
        return  # success closes the connection; on failure the lock stays
    finally:
        await client.aclose()


def _tail(path: Path) -> str:
    return path.read_text("utf-8", "replace")[-2000:]
