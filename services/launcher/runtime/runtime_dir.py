"""A private directory with the lifetime of one `up`: sockets, and the state of a demo."""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from launcher.runtime.supervisor import StartError

DEMO_STATE: Final = "state"
"""Name of the state directory of a demo in it."""

DEMO_LISTS: Final = "log_lists.json"
"""Name of the file with the value of `log_lists` of a demo in it."""

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def runtime_dir_path(host: str, port: int) -> Path:
    """Return the path of the directory of an `up` that listens there."""
    return Path(tempfile.gettempdir(), f"certstream-{os.getuid()}-{host}-{port}")


@contextmanager
def open_runtime_dir(host: str, port: int) -> Iterator[int | None]:
    """Open the directory of an `up` that listens there, for the length of the block.

    Its parent is open to all users and has the sticky bit: they cannot replace a directory of this
    user, but can create one with its name before.

    Yields:
        A descriptor; None if there is no directory that only this user can have written.
    """
    try:
        directory = os.open(runtime_dir_path(host, port), _FLAGS)
    except OSError:
        yield None
        return
    try:
        found = os.fstat(directory)
        is_private = found.st_uid == os.getuid() and not found.st_mode & _WRITABLE_BY_OTHERS
        yield directory if is_private else None
    finally:
        os.close(directory)


@contextmanager
def runtime_dir(host: str, port: int) -> Iterator[Path]:
    """Create an empty directory that only this user can read, for the length of the block.

    Its name has the address to listen on, which one `up` can have at a time. So the next `up`
    removes the files of a killed one.

    Raises:
        StartError: it cannot be created, or another `up` has it.
    """
    path = runtime_dir_path(host, port)
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        directory = os.open(path, _FLAGS)
    except OSError as error:
        raise StartError(
            f"cannot create the directory {path}: {error.strerror}. Fix that, or set TMPDIR to "
            "another directory for temporary files"
        ) from None
    try:
        _lock(directory, path, f"{host} port {port}")
        _empty(path)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(directory)


def _lock(directory: int, path: Path, address: str) -> None:
    """Lock the directory until it is closed; the kernel closes it when the process ends."""
    if os.fstat(directory).st_uid != os.getuid():
        raise StartError(f"the directory {path} belongs to another user: remove it")
    os.fchmod(directory, 0o700)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartError(f"another `up` is starting or stopping on {address}") from None


def _empty(path: Path) -> None:
    for leftover in path.iterdir():
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
