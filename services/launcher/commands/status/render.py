"""A report for a terminal: with the columns and tables that fit its size. Pure."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from certbus.cluster_health import HealthProblem
from certbus.cluster_report import (
    ClusterReport,
    GatewayReport,
    IngestorReport,
    LogReport,
    RetiredLog,
    StreamReport,
)
from launcher.terminal import escape_control_chars, marked

_STYLES: Final = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}
_LOG_STYLES: Final = {**_STYLES, "excluded": "dim"}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_MIN_LOGS: Final = 3  # rows, even if the terminal is too small
_ENOUGH_LOGS: Final = 12  # rows that take precedence over the tables of processes and streams


class Printable:
    """A renderable of rich, with a mark for each unprintable character in its text.

    Args:
        content: its styles and layout stay.
    """

    def __init__(self, content: RenderableType) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._content, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                yield Segment(marked(segment.text), segment.style)


class Column(msgspec.Struct, frozen=True):
    """A column of the table of logs.

    Attributes:
        heading: first row.
        cell: returns the cell of a log.
        from_width: columns of the smallest terminal that shows it.
        left: whether it is text, not a number.
        takes: whether it takes the remaining width, and is cut at its end.
    """

    heading: str
    cell: Callable[[LogReport], str | Text]
    from_width: int = 0
    left: bool = False
    takes: bool = False


def _integrity(log: LogReport) -> Text:
    style = {"proven": "green", "unsigned": "green", "off": "dim", "lying": "bold red"}
    return Text(log.integrity or "-", style=style.get(log.integrity, "yellow"))


def _trouble(log: LogReport) -> str:
    """Return the present problem of a log, in a few words; empty if there is none."""
    if log.integrity == "lying":
        return f"misbehaving: {log.alarm or 'see docs/integrity.md'}"
    if log.failures or (log.last_error_at or 0) > (log.last_success or 0):
        return (log.last_error or log.circuit).removeprefix(log.url)
    if log.circuit != "closed":
        return f"circuit {log.circuit}"
    if log.owner is None:
        return "no ingestor reads it" if log.next is not None else "not read yet"
    return f"kept behind by {log.limited_by}" if log.limited_by else ""


_LOGS: Final = (
    Column(
        "log",
        lambda log: Text(escape_control_chars(log.name), style=_LOG_STYLES[log.status]),
        left=True,
    ),
    Column("operator", lambda log: escape_control_chars(log.operator), 170, left=True),
    Column("next", lambda log: _count(log.next)),
    Column("behind", lambda log: _count(log.behind)),
    Column("delay", lambda log: _age(log.ingest_delay_seconds), 100),
    Column("head age", lambda log: _age(log.tree_head_age_seconds), 140),
    Column("certs/s", lambda log: f"{log.published_per_second:,.1f}"),
    Column("published", lambda log: _count(log.published), 110),
    Column("duplicates", lambda log: _count(log.duplicates), 130),
    Column("rejected", lambda log: _count(log.rejected + log.skipped), 150),
    Column("proven", _integrity, 100, left=True),
    Column("circuit", lambda log: log.circuit, 130, left=True),
    Column("owner", lambda log: log.owner or "-", 190, left=True),
    Column(
        "",
        lambda log: (
            Text("excluded", style="dim")
            if log.status == "excluded"
            else Text(escape_control_chars(_trouble(log)), style="red")
        ),
        left=True,
        takes=True,
    ),
)


def view(report: ClusterReport, width: int, height: int | None = None) -> RenderableType:
    """Return the whole report, or what fits.

    Args:
        report: its content.
        width: columns.
        height: lines; None shows everything.
    """
    head = [_verdict(report), *_problems(report.problems)]
    processes: tuple[RenderableType, ...] = (
        Text(),
        _ingestors(report.ingestors),
        Text(),
        _gateways(report.gateways, width),
        Text(),
        _streams(report.streams),
    )
    rows = None
    if height is not None:
        above = 4 + sum(math.ceil(len(text) / width) for text in head)
        below = 7 + len(report.ingestors) + len(report.gateways) + len(report.streams)
        rows = height - above - 2 - bool(report.retired)
        if rows - below >= min(len(report.logs), _ENOUGH_LOGS):
            rows -= below
        else:
            processes = ()
        rows = max(rows, _MIN_LOGS)
    return Group(
        *head,
        Text(),
        _summary(report),
        Text(),
        _logs(report.logs, width, rows),
        *([_retired(report.retired)] if report.retired else []),
        *processes,
    )


def _summary(report: ClusterReport) -> RenderableType:
    """Return the totals, in two lines."""
    followed = sum(log.owner is not None for log in report.logs)
    grid = Table.grid(padding=(0, 3))
    grid.add_row(
        _number(f"{followed}/{len(report.logs)}", "logs read"),
        _number(f"{report.certificates_per_second:,.0f}", "certs/s"),
        _number(f"{sum(log.behind for log in report.logs):,}", "behind"),
        _number(f"{report.clients:,}", "clients"),
        _number(f"{report.messages_per_second:,.0f}", "messages/s"),
        _number(f"{len(report.ingestors)}", "ingestors"),
        _number(f"{len(report.gateways)}", "gateways"),
    )
    return grid


def _logs(logs: Sequence[LogReport], width: int, max_rows: int | None) -> RenderableType:
    """Return the table of logs: those with an error first, then by how far they are behind."""
    table = _table()
    columns = [column for column in _LOGS if width >= column.from_width]
    for column in columns:
        table.add_column(
            column.heading,
            justify="left" if column.left else "right",
            no_wrap=True,
            ratio=1 if column.takes else None,
            overflow="ellipsis",
            max_width=max(width // 4, 20) if column.left and not column.takes else None,
        )
    table.expand = True
    order = sorted(logs, key=lambda log: (log.status == "excluded", not _trouble(log), -log.behind))
    for log in order[:max_rows]:
        table.add_row(*(column.cell(log) for column in columns))
    if not order:
        return Text("no logs yet", style="dim")
    if max_rows is not None and len(order) > max_rows:
        rest = Text(f"and {len(order) - max_rows} more", style="dim")
        return Group(table, rest)
    return table


def _retired(logs: Sequence[RetiredLog]) -> Text:
    names = ", ".join(escape_control_chars(log.name) for log in logs)
    return Text(f"retired: {names}", style="dim", no_wrap=True, overflow="ellipsis")


def _verdict(report: ClusterReport) -> Text:
    counts = {status: sum(log.status == status for log in report.logs) for status in _LOG_STYLES}
    states = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    used = _bytes(report.redis_bytes)
    limit = f" of {_bytes(report.redis_max_bytes)}" if report.redis_max_bytes else ""
    window = report.dedup_window_seconds
    dedup = "" if window is None else f"dedup: {window // 60} min  "
    return Text.assemble(
        (report.status, f"bold {_STYLES[report.status]}"),
        f"  logs: {states or 'none'}  Redis: {used}{limit}  {dedup}",
        (f"{report.time:%H:%M:%S} UTC", "dim"),
    )


def _problems(problems: Sequence[HealthProblem]) -> list[Text]:
    """Return a line for each problem; the terminal wraps a long one."""
    styles = {"critical": "bold red", "warning": "yellow"}
    return [
        Text.assemble(
            (problem.code, styles[problem.severity]), f"  {escape_control_chars(problem.text)}"
        )
        for problem in problems
    ]


def _ingestors(ingestors: Sequence[IngestorReport]) -> RenderableType:
    if not ingestors:
        return Text("no ingestor runs", style="red")
    table = _table("ingestor", "logs", "certs/s")
    for ingestor in ingestors:
        table.add_row(ingestor.id, f"{ingestor.logs}", f"{ingestor.published_per_second:,.1f}")
    return table


def _gateways(gateways: Sequence[GatewayReport], width: int) -> RenderableType:
    if not gateways:
        return Text("no gateway runs", style="red")
    table = _table("gateway", "clients", "websocket", "sse", "messages/s", "bytes/s", "")
    for gateway in gateways:
        table.add_row(
            gateway.id if width < 120 else f"{gateway.id}  {gateway.url}",
            f"{gateway.clients:,}",
            f"{gateway.websocket:,}",
            f"{gateway.sse:,}",
            f"{gateway.messages_per_second:,.0f}",
            _bytes(gateway.bytes_per_second),
            Text("" if gateway.following else "does not follow Redis", style="red"),
        )
    return table


def _streams(streams: Sequence[StreamReport]) -> RenderableType:
    table = _table("stream", "messages", "batches", "bytes", "oldest", "newest", "")
    for stream in streams:
        table.add_row(
            stream.name,
            f"{stream.messages:,}",
            f"{stream.batches:,}",
            _bytes(stream.bytes),
            _age(stream.oldest_age_seconds),
            _age(stream.newest_age_seconds),
            "" if stream.written else Text("not written", style="dim"),
        )
    return table


def _table(*headings: str) -> Table:
    """Return an empty table: the first column is text, the others are numbers."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(
            heading,
            justify="right" if number and heading else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    return table


def _number(value: str, label: str) -> Text:
    return Text.assemble((value, "bold"), "\n", (label, "dim"))


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _bytes(number: float) -> str:
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            break
        number /= 1024
    return f"{number:,.0f} {unit}" if unit == "B" or number >= 100 else f"{number:,.1f} {unit}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86400 else "over a day"
