"""What a person at a terminal sees: where to connect, and at a glance that it is alive.

rich's Live keeps the panel at the bottom; log lines scroll by above it. What is shown is read
from Redis' directory, so it holds for every ingestor and gateway there is, not only our children.
"""

import asyncio
import time
from collections.abc import Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Final, Self

import redis.exceptions
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Frame
from rich.table import Table
from rich.text import Text

from certbus.connection import connect
from certbus.directory import LogStatus, Snapshot, snapshot
from certbus.keys import Keys

_EVERY: Final = 1.0  # seconds between two looks
_MOST_LOGS: Final = 12
_RATE_SECONDS: Final = 10.0  # that a rate is averaged over


class Panel:
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
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def line(self, text: str) -> None:
        """Show a child's log line above the panel."""
        self._console.print(Text.from_ansi(text), soft_wrap=True)

    async def watch(self, redis_url: str, prefix: str) -> None:
        """Show where to connect, and keep the numbers current, until cancelled."""
        rate = Rate(_RATE_SECONDS)
        async with connect(redis_url, name="panel") as client:
            while True:
                try:
                    seen = await snapshot(client, Keys(prefix))
                except redis.exceptions.RedisError as error:
                    content: RenderableType = Text(f"Redis: {error}", style="red")
                else:
                    published = sum(log.published for log in seen.logs)
                    content = overview(seen, rate.after(time.monotonic(), published))
                self._live.update(self._frame(content), refresh=True)
                await asyncio.sleep(_EVERY)

    def _frame(self, content: RenderableType) -> RenderableType:
        places = Table.grid(padding=(0, 2))
        for url, what in self._urls:
            places.add_row(Text(url, style="bold cyan"), Text(what, style="dim"))
        return Frame(Group(places, Text(), content), title=_title(), subtitle="Ctrl-C stops")


def _title() -> str:
    return f"certstream-server {version('certstream-server')}"


class Rate:
    """How fast a counter grows, over the last seconds.

    Args:
        seconds: that it looks back.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: list[tuple[float, int]] = []

    def after(self, now: float, count: int) -> float:
        """The growth a second, now that the counter stands at `count`."""
        if self._seen and count < self._seen[-1][1]:
            self._seen.clear()  # Redis was emptied, or went back
        self._seen.append((now, count))
        while now - self._seen[0][0] > self._seconds:
            del self._seen[0]
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - began) if ended > began else 0.0


def overview(seen: Snapshot, certificates_a_second: float) -> RenderableType:
    """The numbers, and the logs that are furthest behind."""
    clients = sum(int(float(gateway.fields.get("clients", 0))) for gateway in seen.gateways)
    logs = [log for log in seen.logs if log.retired is None]
    followed = [log for log in logs if log.owner is not None]
    numbers = Table.grid(padding=(0, 4))
    numbers.add_row(
        _number(f"{len(followed)}/{len(logs)}", "logs followed"),
        _number(f"{certificates_a_second:,.0f}", "certificates/s"),
        _number(f"{clients:,}", "clients"),
        _number(f"{sum(map(_lag, seen.logs)):,}", "entries behind"),
        _number(f"{len(seen.workers)}+{len(seen.gateways)}", "ingestors + gateways"),
    )
    return Group(numbers, Text(), _logs(seen.logs))


def _logs(logs: Sequence[LogStatus]) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("log", "published", "duplicates", "behind", ""):
        table.add_column(heading, justify="left" if heading in {"log", ""} else "right")
    worst = sorted(logs, key=lambda log: (not _failing(log), -_lag(log), log.name))
    for log in worst[:_MOST_LOGS]:
        trouble = Text(log.last_error or "", style="red") if _failing(log) else Text()
        trouble.truncate(60, overflow="ellipsis")
        table.add_row(
            log.name or log.url,
            f"{log.published:,}",
            f"{log.duplicates:,}",
            f"{_lag(log):,}",
            trouble,
        )
    if len(logs) > _MOST_LOGS:
        table.add_row(Text(f"and {len(logs) - _MOST_LOGS} more, less far behind", style="dim"))
    return table


def _number(value: str, what: str) -> Text:
    return Text.assemble((value, "bold"), "\n", (what, "dim"))


def _lag(log: LogStatus) -> int:
    """Entries that the log has and Redis does not."""
    if log.tree_size is None or log.next is None:
        return 0
    return max(0, log.tree_size - log.next)


def _failing(log: LogStatus) -> bool:
    return log.last_error_at is not None and log.last_error_at > (log.last_success or 0)
