"""A private directory with the lifetime of one `up`: sockets, and the state of a demo."""

import fcntl
import os
import shutil
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


def runtime_dir_path(host: str, port: int) -> Path:
    """Return the path of the directory of an `up` that listens there."""
    return Path(tempfile.gettempdir(), f"certstream-{os.getuid()}-{host}-{port}")


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
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
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
