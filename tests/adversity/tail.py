"""`certstream-server tail --cursor-file` as a client: a process that is killed to leave.

It writes messages to its output, and gaps as notes to its error output; both are one pipe here, so
that their order is known.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from launcher.runtime.supervisor import exit_with_parent
from simlog.oracle.check_message import MessageForm
from tests.e2e.clients import PATHS
from tests.e2e.processes import CERTSTREAM_SERVER

REPEATS_SECS: Final = 6.0
"""What it printed in these last seconds before it was killed may come again: one, and what a busy
machine adds to it."""

_GAP: Final = b"tail: missed messages: "
_RETRYING: Final = re.compile(rb"tail: .*; retrying")
_ENDED: Final = re.compile(rb"it ended with (-?\d+)(?:: (.*))?")
_MAX_LINE_BYTES: Final = 4 << 20


def stored(cursor: Path) -> str:
    """Return the id in a cursor file; empty if there is none."""
    with suppress(FileNotFoundError):
        return cursor.read_text().strip()
    return ""


@asynccontextmanager
async def running(
    address: str, form: MessageForm, cursor: Path, lines: Sequence[str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run it until the context ends; then kill it.

    Args:
        address: of a gateway.
        form: "lite" or "full".
        cursor: its cursor file.
        lines: of its filter.
    """
    process = await asyncio.create_subprocess_exec(
        *(*CERTSTREAM_SERVER, "tail", f"ws://{address}{PATHS[form]}", f"--{form}"),
        *(f"--cursor-file={cursor}", *(f"--match={line}" for line in lines)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=_MAX_LINE_BYTES,
        preexec_fn=partial(exit_with_parent, os.getpid()),  # which calls nothing but prctl
    )
    try:
        yield process
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        raise
    finally:
        await process.wait()  # a second kill would take its status from this


class Output:
    """What a process prints.

    Attributes:
        other: the last line that is neither a message nor a gap; one that a running `tail` never
            prints rather than a note that it connects again. Empty if there is none.
    """

    def __init__(self) -> None:
        self.other = b""

    async def texts(self, lines: AsyncIterable[bytes]) -> AsyncIterator[str]:
        """Yield what a gateway has sent, as far as the process shows it."""
        async for line in lines:
            if line.startswith(b"{") and line.endswith(b"}\n"):
                yield line.decode().rstrip("\n")
            elif line.startswith(_GAP):
                yield f'{{"message_type":"gap","data":{line[len(_GAP) :].decode().strip()}}}'
            elif line.endswith(b"\n") and (is_wrong(line.strip()) or not is_wrong(self.other)):
                self.other = line.strip()  # without its end, the kill cut it


def is_wrong(line: bytes) -> bool:
    """Whether a line is none that `tail` prints while it runs, besides messages and gaps."""
    return bool(line) and _RETRYING.fullmatch(line) is None


def ended_wrongly(why: bytes) -> bool:
    """Whether a `tail` did not end by its kill, or printed what it should not, by its note.

    Gateways that are down, stop or restart never end it: it connects again. asyncio reports 255 for
    a process whose status `kill` took.
    """
    if (ended := _ENDED.fullmatch(why)) is None:
        return False
    return ended[1] not in (b"-9", b"255") or is_wrong(ended[2] or b"")
