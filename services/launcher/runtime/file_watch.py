"""Noticing that a file has changed, however it was changed.

Editors write another file and rename it over the first; Kubernetes turns a symbolic link on the way
to it. So the directories on the way are watched, and what is found there is compared with what was
found before. That is also done every few seconds without any event, for file systems that tell none
and for machines that have no watches left.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final

from watchfiles import awatch

_LOOK: Final = 3.0  # seconds between two looks without an event


async def watch(path: Path, tell: Callable[[], None]) -> None:
    """Call `tell` after each change, until cancelled.

    Args:
        path: a file or a directory, which need not exist yet.
        tell: called once for changes that come at the same time.
    """
    seen = _state(path)
    while True:
        await _look_again(path, seen)
        state = _state(path)
        if state != seen:
            seen = state
            tell()


async def _look_again(path: Path, seen: object) -> None:
    """Wait until there is another state than `seen`, or until it is time to look."""
    try:
        events = awatch(
            *_directories_near(path),
            watch_filter=lambda *_: _state(path) != seen,
            recursive=False,
            rust_timeout=int(_LOOK * 1000),
            yield_on_timeout=True,
        )
        async with aclosing(events):
            async for _ in events:
                return
    except (OSError, RuntimeError):  # no watches left, or a directory has just gone
        await asyncio.sleep(_LOOK)


def _directories_near(path: Path) -> list[Path]:
    near = {path, path.parent, path.resolve().parent}
    return [directory for directory in near if directory.is_dir()]


def _state(path: Path) -> object:
    """What tells a file from the same file when it was changed; of a directory, of all in it."""
    try:
        found = path.stat()
        if path.is_dir():
            return [(entry.name, _state(entry)) for entry in sorted(path.iterdir())]
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
