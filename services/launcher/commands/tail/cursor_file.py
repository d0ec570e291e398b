"""The file of `tail --cursor-file`: the id after which the next run continues.

A line counts once it is flushed to the output. The file is written after that: as a new file, with
fsync, which then takes the name. Outputs that are files are fsynced before: that of the lines, and
that of the notes, which report gaps. So a crash of the process or of the machine loses no line and
no gap before a line. The next run repeats at most what was printed in the last
`SAVE_INTERVAL_SECS`. The first id of a run is saved at once: runs that are all killed within that
time still advance.
"""

import asyncio
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from certbus.ids import parse_cursor
from launcher.terminal import CommandError

SAVE_INTERVAL_SECS: Final = 1.0


class CursorFile:
    """The id of the last message that was handled.

    Args:
        path: of the file; it need not exist.
        outputs: descriptors of what is printed to, by name.
    """

    def __init__(self, path: Path, outputs: Mapping[str, int]) -> None:
        self._last: str | None = None
        self._has_advanced = False
        self._path = path
        self._outputs = outputs
        self._saved: str | None = None

    def load(self) -> str | None:
        """Return the stored id; None if there is no file.

        Raises:
            CommandError: the file cannot be read, or has no id.
        """
        try:
            text = self._path.read_text("utf-8").strip()
            parse_cursor(text)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CommandError(f"cursor file {self._path}: {error.strerror}") from None
        except ValueError as error:
            raise CommandError(
                f"cursor file {self._path}: {error}; remove it to begin anew"
            ) from None
        self._last = self._saved = text
        return text

    def advance(self, last: str) -> None:
        """Set the id of the last message whose lines were flushed; save the first one.

        Raises:
            CommandError: as for `save`.
        """
        self._last = last
        if not self._has_advanced:
            self._has_advanced = True
            self.save()

    async def keep(self) -> None:
        """Save the last id, at most once in `SAVE_INTERVAL_SECS`, until cancelled.

        Raises:
            CommandError: as for `save`.
        """
        while True:
            await asyncio.sleep(SAVE_INTERVAL_SECS)
            self.save()

    def save(self) -> None:
        """Save the last id, unless the file has it.

        Raises:
            CommandError: an output cannot be synced, or the file cannot be written.
        """
        last = self._last
        if last is None or last == self._saved:
            return
        new = self._path.with_name(f"{self._path.name}.new")
        for name, output in self._outputs.items():
            try:
                if _is_file(output):
                    os.fsync(output)
            except OSError as error:
                raise CommandError(f"fsync of {name}: {error.strerror}") from None
        try:
            with new.open("w", encoding="utf-8") as file:
                file.write(f"{last}\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            _fsync_directory(self._path.parent)
        except OSError as error:
            raise CommandError(f"cursor file {self._path}: {error.strerror}") from None
        self._saved = last


def end_cut_line(output: int) -> None:
    """End the last line of an output that is a file, if a crash cut it.

    The message of that line is printed again, and must not continue it.
    """
    if not _is_file(output) or not os.fstat(output).st_size:
        return
    with suppress(OSError), Path(f"/dev/fd/{output}").open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            os.write(output, b"\n")


def _is_file(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _fsync_directory(path: Path) -> None:
    """Make the new name of a file permanent."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
