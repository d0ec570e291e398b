"""A directory for what lasts as long as one `up`: sockets, and all that a demo keeps."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from launcher.runtime.embedded_redis import StartError

DEMO_STATE: Final = "state"
"""In it, the state directory of a demo."""


def runtime_dir_path(host: str, port: int) -> Path:
    """Where the directory is of an `up` that listens there."""
    return Path(tempfile.gettempdir(), f"certstream-{os.getuid()}-{host}-{port}")


@contextmanager
def runtime_dir(host: str, port: int) -> Iterator[Path]:
    """Make an empty directory that nobody else can look into, for the length of the block.

    It is named for the address to listen on, which one `up` can have at a time. So what a killed
    one left there goes when the next one begins.

    Raises:
        CannotStart: it cannot be made, or another `up` has it.
    """
    path = runtime_dir_path(host, port)
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise StartError(
            f"the directory {path} cannot be made: {error.strerror}. Mend that, or set another "
            "place for temporary files: TMPDIR"
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
    """Hold the directory for as long as it is open, which the kernel ends with the process."""
    if os.fstat(directory).st_uid != os.getuid():
        raise StartError(f"the directory {path} belongs to somebody else: have it removed")
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
