"""Notice a change of a file, however it is changed.

Editors write another file and rename it over the first; Kubernetes replaces a symbolic link on the
path. So this watches the directories on the path, and compares the state of the file with the one
before. It also compares every few seconds without an event, for file systems without events and
for machines that have no watches left.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final

from watchfiles import awatch

_CHECK_INTERVAL_SECS: Final = 3.0  # without an event


async def watch(path: Path, on_change: Callable[[], None]) -> None:
    """Call `on_change` after each change, until cancelled.

    Args:
        path: a file or a directory, which need not exist yet.
        on_change: called once for simultaneous changes.
    """
    known = _state(path)
    while True:
        await _wait(path, known)
        state = _state(path)
        if state != known:
            known = state
            on_change()


async def _wait(path: Path, known: object) -> None:
    """Wait for another state than `known`, or for the check interval."""
    try:
        events = awatch(
            *_directories_near(path),
            watch_filter=lambda *_: _state(path) != known,
            recursive=False,
            rust_timeout=int(_CHECK_INTERVAL_SECS * 1000),
            yield_on_timeout=True,
        )
        async with aclosing(events):
            async for _ in events:
                return
    except (OSError, RuntimeError):  # no watches left, or a directory has just gone
        await asyncio.sleep(_CHECK_INTERVAL_SECS)


def _directories_near(path: Path) -> list[Path]:
    near = {path, path.parent, path.resolve().parent}
    return [directory for directory in near if directory.is_dir()]


def _state(path: Path) -> object:
    """Return a value that differs after a change of the file, or of a file in the directory."""
    try:
        found = path.stat()
        if path.is_dir():
            return [(entry.name, _state(entry)) for entry in sorted(path.iterdir())]
    except OSError:
        return None
    # st_ctime also changes with the owner and the mode: a file may become readable.
    return found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size
