"""A report for a person at a terminal, with as many columns as its width has room for."""

import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from certbus.cluster_health import HealthProblem
from launcher.commands.status.report import Gateway, Ingestor, Log, Report, Retired, Stream
from launcher.terminal import escape_control_chars

_STYLES: Final = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


class Column(msgspec.Struct, frozen=True):
    """A column of a table.

    Attributes:
        heading: above it.
        cell: of a row.
        from_width: of the terminal, from which on there is room for it.
        left: whether it is text, not a number.
        takes: the room that is left, cut off at its end.
    """

    heading: str
    cell: Callable[[Log], str | Text]
    from_width: int = 0
    left: bool = False
    takes: bool = False


def _integrity(log: Log) -> Text:
    style = {"proven": "green", "unsigned": "green", "off": "dim", "lying": "bold red"}
    return Text(log.integrity or "-", style=style.get(log.integrity, "yellow"))


_LOGS: Final = (
    Column(
        "log",
        lambda log: Text(escape_control_chars(log.name), style=_STYLES[log.status]),
        left=True,
    ),
    Column("operator", lambda log: escape_control_chars(log.operator), 170, left=True),
    Column("next", lambda log: _count(log.next)),
    Column("behind", lambda log: _count(log.behind)),
    Column("certs/s", lambda log: f"{log.published_per_second:,.1f}"),
    Column("published", lambda log: _count(log.published), 110),
    Column("duplicates", lambda log: _count(log.duplicates), 130),
    Column("rejected", lambda log: _count(log.rejected + log.skipped), 150),
    Column("proven", _integrity, 100, left=True),
    Column("circuit", lambda log: log.circuit, 130, left=True),
    Column("owner", lambda log: log.owner or "-", 190, left=True),
    Column(
        "", lambda log: Text(escape_control_chars(log.trouble), style="red"), left=True, takes=True
    ),
)


def view(report: Report, width: int, most_logs: int | None = None) -> RenderableType:
    """All of it.

    Args:
        report: what is shown.
        width: of the terminal.
        most_logs: that there is room for; None shows them all.
    """
    return Group(
        _verdict(report),
        *_problems(report.problems),
        Text(),
        summary(report),
        Text(),
        logs(report.logs, width, most_logs),
        *([_retired(report.retired)] if report.retired else []),
        Text(),
        _ingestors(report.ingestors),
        Text(),
        _gateways(report.gateways, width),
        Text(),
        _streams(report.streams),
    )


def summary(report: Report) -> RenderableType:
    """What is most wanted, in one line."""
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


def logs(found: Sequence[Log], width: int, most: int | None = None) -> RenderableType:
    """A table of logs: those in trouble first, then by how far they are behind.

    Args:
        found: the logs.
        width: of the terminal.
        most: how many are shown; None for all.
    """
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
    order = sorted(found, key=lambda log: (not log.trouble, -log.behind))
    for log in order[:most]:
        table.add_row(*(column.cell(log) for column in columns))
    if not order:
        return Text("no logs yet", style="dim")
    if most is not None and len(order) > most:
        rest = Text(f"and {len(order) - most} more, less far behind", style="dim")
        return Group(table, rest)
    return table


def _retired(found: Sequence[Retired]) -> Text:
    """Those that are over, in one line."""
    names = ", ".join(escape_control_chars(log.name) for log in found)
    return Text(f"retired: {names}", style="dim", no_wrap=True, overflow="ellipsis")


def _verdict(report: Report) -> Text:
    counts = {status: sum(log.status == status for log in report.logs) for status in _STYLES}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    used = _bytes(report.redis_bytes)
    most = f" of {_bytes(report.redis_max_bytes)}" if report.redis_max_bytes else ""
    window = report.dedup_window_seconds
    dedup = "" if window is None else f"dedup: {window // 60} min  "
    return Text.assemble(
        (report.status, f"bold {_STYLES[report.status]}"),
        f"  logs: {told or 'none'}  Redis: {used}{most}  {dedup}",
        (f"{report.time:%H:%M:%S} UTC", "dim"),
    )


def _problems(found: Sequence[HealthProblem]) -> list[Text]:
    """What is wrong, a line each; the terminal wraps a long one."""
    styles = {"critical": "bold red", "warning": "yellow"}
    return [
        Text.assemble(
            (problem.code, styles[problem.severity]), f"  {escape_control_chars(problem.text)}"
        )
        for problem in found
    ]


def _ingestors(found: Sequence[Ingestor]) -> RenderableType:
    if not found:
        return Text("no ingestor runs", style="red")
    table = _table("ingestor", "logs", "certs/s")
    for ingestor in found:
        table.add_row(ingestor.id, f"{ingestor.logs}", f"{ingestor.published_per_second:,.1f}")
    return table


def _gateways(found: Sequence[Gateway], width: int) -> RenderableType:
    if not found:
        return Text("no gateway runs", style="red")
    table = _table("gateway", "clients", "websocket", "sse", "messages/s", "bytes/s", "")
    for gateway in found:
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


def _streams(found: Sequence[Stream]) -> RenderableType:
    table = _table("stream", "messages", "batches", "bytes", "oldest", "newest", "")
    for stream in found:
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
    """The first column is text, the others are numbers."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(
            heading,
            justify="right" if number and heading else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    return table


def _number(value: str, what: str) -> Text:
    return Text.assemble((value, "bold"), "\n", (what, "dim"))


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
