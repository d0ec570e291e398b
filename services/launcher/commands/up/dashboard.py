"""What a person at a terminal sees: where to connect, and at a glance that it is alive.

rich's Live keeps the panel at the bottom; log lines scroll by above it. What is shown is read
from Redis' directory, so it holds for every ingestor and gateway there is, not only our children.
"""

import asyncio
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from types import TracebackType
from typing import IO, Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Frame
from rich.table import Table
from rich.text import Text

from certbus.connection import connect
from certbus.errors import UNAVAILABLE
from certbus.keys import Keys
from certconf import Config
from launcher.commands.status.collect import collect
from launcher.commands.status.rates import Rates
from launcher.commands.status.render import logs, summary
from launcher.commands.status.report import Report, build_report
from launcher.terminal import Printable, escape_control_chars, marked

_EVERY: Final = 1.0  # seconds between two looks
_MOST_LOGS: Final = 12
_FRAME: Final = 4  # columns
_LOCAL_MODES: Final = 3  # where tcgetattr has them
_RATE_SECONDS: Final = 10.0  # that a rate is averaged over


class Dashboard:
    """The panel, from `with Panel(...)` to the end of the block.

    Args:
        urls: to connect to, each with what is there.
        console: where it is shown; the terminal outside tests.
    """

    def __init__(self, urls: Sequence[tuple[str, str]], console: Console | None = None) -> None:
        self._urls = urls
        self._console = console or Console()
        self._live = Live(
            Frame(Text("starting …"), title=_title()), console=self._console, auto_refresh=False
        )

    def __enter__(self) -> Self:
        self._shown = ExitStack()
        self._shown.enter_context(_no_echo_of_controls(self._console.file))
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()
        self._shown.close()

    def line(self, text: str) -> None:
        """Show a child's log line above the panel, a long one in several lines, cut between words.

        The terminal itself would cut it inside a word.
        """
        line = Text.from_ansi(text)
        line.plain = marked(line.plain)
        self._console.print(line)

    async def watch(self, redis_url: str, config: Config) -> None:
        """Show where to connect, and keep the numbers current, until cancelled."""
        keys = Keys(config.redis_prefix)
        rates = Rates(_RATE_SECONDS)
        async with connect(redis_url, name="panel") as client:
            while True:
                content: RenderableType
                try:
                    seen = await collect(client, keys)
                    growth = rates.after(time.monotonic(), seen.counts())
                    found = build_report(seen, growth, config.ct_log.unhealthy_threshold)
                    content = summary_line(found, self._console.width)
                except UNAVAILABLE as error:
                    content = Text(f"Redis: {escape_control_chars(str(error))}", style="red")
                except Exception as error:  # noqa: BLE001 - the server runs on without its panel
                    content = Text(f"no status: {escape_control_chars(repr(error))}", style="red")
                self._live.update(self._frame(content), refresh=True)
                await asyncio.sleep(_EVERY)

    def _frame(self, content: RenderableType) -> RenderableType:
        places = Table.grid(padding=(0, 2))
        for url, what in self._urls:
            places.add_row(Text(url, style="bold cyan"), Text(what, style="dim"))
        content = Printable(content)
        return Frame(Group(places, Text(), content), title=_title(), subtitle="Ctrl-C stops")


@contextmanager
def _no_echo_of_controls(file: IO[str]) -> Iterator[None]:
    """Keep a terminal from writing `^C` into the frame, which moves all that is drawn after it."""
    try:
        terminal = file.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, termios.error):  # it is none
        yield
        return
    quiet = [*before]
    quiet[_LOCAL_MODES] &= ~termios.ECHOCTL
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        with suppress(termios.error):  # it was closed meanwhile
            termios.tcsetattr(terminal, termios.TCSANOW, before)


def _title() -> str:
    return f"certstream-server {version('certstream-server')}"


def summary_line(found: Report, width: int) -> RenderableType:
    """The numbers, and the logs that are furthest behind."""
    return Group(summary(found), Text(), logs(found.logs, width - _FRAME, _MOST_LOGS))
