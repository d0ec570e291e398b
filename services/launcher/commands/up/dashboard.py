"""The dashboard of `up` on a terminal: the URLs for clients, and the view of `status --watch`.

rich's Live keeps it at the bottom; log lines scroll by above it. It shows every ingestor and
gateway registered in Redis, not only the children of this process.
"""

import termios
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from types import TracebackType
from typing import IO, Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from certbus.cluster_report import ClusterReport, read_report
from certbus.connection import connect
from certbus.keys import Keys
from certconf import Config
from launcher.commands.status.watch import watch
from launcher.terminal import marked

_FRAME_COLUMNS: Final = 4
_FRAME_LINES: Final = 3  # with the blank line after the URLs
_MAX_HEIGHT: Final = 2 / 3  # of the terminal: log lines have the rest
_STARTING_SECS: Final = 10.0  # in which processes that do not run yet are no fault
_LOCAL_MODES: Final = 3  # index in the list of tcgetattr


class Dashboard:
    """The dashboard, from `with Dashboard(...)` to the end of the block.

    Args:
        urls: each with a description.
        console: the terminal; None outside of tests.
    """

    def __init__(self, urls: Sequence[tuple[str, str]], console: Console | None = None) -> None:
        self._urls = urls
        self._console = console or Console()
        self._live = Live(
            Panel(Text("starting …"), title=_title()), console=self._console, auto_refresh=False
        )

    def __enter__(self) -> Self:
        self._terminal = ExitStack()
        self._terminal.enter_context(_no_echo_of_controls(self._console.file))
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()
        self._terminal.close()

    def line(self, text: str) -> None:
        """Show a log line of a child above the dashboard; wrap a long one between words.

        The terminal itself would break it within a word.
        """
        line = Text.from_ansi(text)
        line.plain = marked(line.plain)
        self._console.print(line)

    async def watch(self, redis_url: str, config: Config) -> None:
        """Show the URLs, and a new report every second, until cancelled."""
        async with connect(redis_url, name="panel") as client:
            keys, threshold = Keys(config.redis_prefix), config.ct_log.unhealthy_threshold
            since = time.monotonic()

            def read() -> Awaitable[ClusterReport]:
                starting = time.monotonic() - since < _STARTING_SECS
                return read_report(client, keys, threshold, starting=starting)

            await watch(read, self._size, self._show)

    def _size(self) -> tuple[int, int]:
        height = int(self._console.height * _MAX_HEIGHT)
        return self._console.width - _FRAME_COLUMNS, height - _FRAME_LINES - len(self._urls)

    def _show(self, content: RenderableType) -> None:
        urls = Table.grid(padding=(0, 2))
        for url, description in self._urls:
            urls.add_row(Text(url, style="bold cyan"), Text(description, style="dim"))
        group = Group(urls, Text(), content)
        self._live.update(Panel(group, title=_title(), subtitle="Ctrl-C stops"), refresh=True)


@contextmanager
def _no_echo_of_controls(file: IO[str]) -> Iterator[None]:
    """Keep a terminal from writing `^C` into the frame, which would move later drawings."""
    try:
        terminal = file.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, termios.error):  # not a terminal
        yield
        return
    quiet = [*before]
    quiet[_LOCAL_MODES] &= ~termios.ECHOCTL
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal was closed
            termios.tcsetattr(terminal, termios.TCSANOW, before)


def _title() -> str:
    return f"certstream-server {version('certstream-server')}"
