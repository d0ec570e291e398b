"""What the panel makes of the directory."""

import io

import pytest
from rich.console import Console

from certbus.directory import LogStatus, Member, Snapshot
from launcher.up.panel import Panel, Rate, overview


def shown(snapshot: Snapshot) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(overview(snapshot, 1234.5))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def snapshot(*logs: LogStatus, gateways: tuple[Member, ...] = ()) -> Snapshot:
    return Snapshot("e", "1-0", list(logs), [Member("i", {})], list(gateways), [])


def test_the_numbers() -> None:
    text = shown(
        snapshot(
            LogStatus("a", "Argon", next=90, tree_size=100, published=7000, owner="i"),
            LogStatus("b", "Nimbus", next=200, tree_size=100, owner="i"),
            LogStatus("c", "Unknown yet"),
            gateways=(Member("g1", {"clients": "2"}), Member("g2", {"clients": "40"})),
        )
    )
    numbers = text.splitlines()[0].split()
    assert numbers == ["2/3", "1,234", "42", "10", "1+2"]
    assert "7,000" in text


def test_the_logs_in_trouble_come_first() -> None:
    logs = [LogStatus(f"l{n}", f"log {n:02}", next=0, tree_size=n) for n in range(20)]
    failing = LogStatus(
        "f", "failing", last_error="503 for an hour", last_error_at=5, last_success=4
    )
    recovered = LogStatus("r", "recovered", last_error="503", last_error_at=5, last_success=6)
    lines = [line.strip() for line in shown(snapshot(*logs, recovered, failing)).splitlines()]
    rows = lines[lines.index(next(line for line in lines if line.startswith("log "))) + 1 :]
    assert rows[0].startswith("failing")
    assert rows[0].endswith("503 for an hour")
    assert rows[1].startswith("log 19")
    assert not any(row.startswith("recovered") for row in rows)
    assert rows[-1] == "and 10 more, less far behind"


def test_rate_is_an_average_over_the_last_seconds() -> None:
    rate = Rate(10)
    assert rate.after(0, 1_000_000) == 0, "what was there before is no rate"
    assert rate.after(1, 1_000_100) == 100
    assert rate.after(10, 1_001_000) == 100
    assert rate.after(20, 1_001_000) == pytest.approx(0)
    assert rate.after(21, 500) == 0, "an emptied Redis is no rate"
    assert rate.after(22, 600) == 100


def test_lines_of_children_stand_above_and_are_not_markup() -> None:
    console = Console(file=io.StringIO(), width=60)
    panel = Panel((("ws://localhost:1/", "lite"),), console)
    panel.line("\x1b[1m[bold]\x1b[0m [/nonsense]")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "[bold] [/nonsense]\n"
