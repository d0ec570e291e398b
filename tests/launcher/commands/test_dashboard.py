"""The dashboard of `up`."""

import io
import os
import pty
import termios

from rich.console import Console

from launcher.commands.status.render import view
from launcher.commands.up.dashboard import Dashboard
from tests.launcher.commands.test_status import seen


def test_the_totals_and_the_logs_furthest_behind() -> None:
    console = Console(file=io.StringIO(), width=100, height=36)
    dashboard = Dashboard(tuple((f"ws://localhost:1/{n}", "lite") for n in range(3)), console)
    width, height = dashboard._size()
    assert (width, height) == (96, 18)
    dashboard._show(view(seen(many=20, rate=2.0), width, height))
    console.print(dashboard._live.renderable)
    assert isinstance(console.file, io.StringIO)
    lines = [line.strip("│ ") for line in console.file.getvalue().splitlines()]
    assert len(lines) <= 24, "a third of the terminal is left for log lines"
    urls = [line.split()[0] for line in lines[1:4]]
    assert urls == [f"ws://localhost:1/{n}" for n in range(3)]
    assert lines[5].startswith("degraded ")
    (totals,) = (line for line in lines if line.startswith("19/20"))
    assert totals.split() == ["19/20", "40", "190", "3", "4", "1", "2"]
    first = next(number for number, line in enumerate(lines) if line.startswith("silent"))
    rows = [line.split()[0] for line in lines[first:-1]]
    assert rows == ["silent", *(f"log{n}" for n in range(19, 10, -1)), "and"]


def test_a_key_writes_nothing_into_the_frame() -> None:
    terminal, end = pty.openpty()
    try:
        with os.fdopen(end, "w") as file:
            before = termios.tcgetattr(file)
            assert before[3] & termios.ECHOCTL
            with Dashboard((), Console(file=file, force_terminal=True, width=60)):
                assert not termios.tcgetattr(file)[3] & termios.ECHOCTL
            assert termios.tcgetattr(file) == before
    finally:
        os.close(terminal)


def test_lines_of_children_stand_above_and_are_not_markup() -> None:
    console = Console(file=io.StringIO(), width=60)
    panel = Dashboard((("ws://localhost:1/", "lite"),), console)
    panel.line("\x1b[1m[bold]\x1b[0m [/nonsense]")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "[bold] [/nonsense]\n"


def test_a_long_line_is_cut_between_words() -> None:
    console = Console(file=io.StringIO(), width=30)
    panel = Dashboard((("ws://localhost:1/", "lite"),), console)
    words = ["following", "log", "log=Argon2027h1", "at=1234567", "url=" + "x" * 40, "end"]
    panel.line(" ".join(words))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 30
    assert lines[0].split() == words[:3]
    assert lines[1].split() == words[3:4]
    assert "".join(lines).replace(" ", "") == "".join(words), "nothing is lost"
