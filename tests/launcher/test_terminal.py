"""Text from outside does not command the terminal it is shown on."""

import asyncio
import io
import json
import os
import pty
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from websockets.asyncio.server import ServerConnection, serve

from certbus.cluster import ProcessInfo
from launcher import terminal
from launcher.commands.status.render import Printable, view
from launcher.commands.up.dashboard import Dashboard
from launcher.terminal import escape_control_chars, escape_json, marked
from tests.launcher.commands.test_status import log, seen
from tests.launcher.commands.test_tail import ENOUGH, address
from tests.launcher.up_process import SCRIPT

#: Clear screen, set the window's title (OSC), CSI as C1, bidirectional override, line separator.
HOSTILE = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202eevil\u2066 \u2028 \U000e0001"

LOGGING = """
import logging, sys
import structlog
from launcher.runtime import logging_setup

logging_setup.configure("info", "console", "test")
hostile = sys.argv[1]
log = structlog.get_logger("test")
log.info(f"event {hostile}", why=hostile, value=[hostile], **{hostile: "key"})
logging.getLogger("library").error("from a library: %s", hostile)
try:
    raise ValueError(hostile)
except ValueError as error:
    log.exception("failed", error=error)
raise KeyError(hostile)
"""


def commands(text: str) -> set[str]:
    """Characters of it that a terminal may obey."""
    return {c for c in text if not c.isprintable() and c != "\n"}


@given(st.text())
def test_nothing_unprintable_is_left_and_the_rest_stays(text: str) -> None:
    assert escape_control_chars(text).isprintable()
    assert not commands(marked(text))
    assert len(marked(text)) == len(text)
    if text.isprintable():
        assert escape_control_chars(text) == marked(text) == text


def test_what_is_printable_is_not_escaped() -> None:
    assert escape_control_chars("bü\u200b.example\x85") == r"bü\u200b.example\x85"
    assert escape_control_chars("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_keeps_its_value(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    shown = escape_json(text)
    assert shown.isprintable()
    assert json.loads(shown) == value


def test_lines_of_the_log_on_a_terminal() -> None:
    process = subprocess.run(
        [sys.executable, "-c", LOGGING, HOSTILE],
        capture_output=True,
        env={**os.environ, "NO_COLOR": "1"},
        timeout=ENOUGH,
        check=False,
    )
    text = process.stderr.decode()
    assert text.count("event ") == 1
    assert text.count("ValueError: \\x1b[2J") == 1
    assert text.count("KeyError: ") == 1
    assert not commands(text), text


def test_tables_and_the_panel() -> None:
    hostile = [ProcessInfo(HOSTILE, {"clients": "1", "url": HOSTILE, "host": HOSTILE})]
    names = [log(0, name=HOSTILE, operator=HOSTILE, last_error=HOSTILE, owner=HOSTILE)]
    found = seen(1, logs=names, gateways=hostile, workers=hostile)
    for width in (80, 300):
        console = Console(file=io.StringIO(), width=width)
        console.print(Printable(view(found, width)))
        console.print(Printable(Text(HOSTILE)))
        Dashboard((), console).line(f"\x1b[1mbold\x1b[0m {HOSTILE}")
        assert isinstance(console.file, io.StringIO)
        assert not commands(console.file.getvalue())


def test_json_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps({"name": HOSTILE}, ensure_ascii=False)
    terminal.print_json(text.encode())
    assert capsys.readouterr().out == f"{text}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    terminal.print_json(text.encode())
    shown = capsys.readouterr().out
    assert not commands(shown)
    assert json.loads(shown) == {"name": HOSTILE}


async def on_a_terminal(*arguments: str) -> str:
    """What a command writes to a terminal that is its output."""
    terminal, end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(SCRIPT, *arguments), stdout=end, stderr=end, env={**os.environ, "NO_COLOR": "1"}
    )
    os.close(end)
    read = bytearray()

    def collect() -> None:
        try:
            while part := os.read(terminal, 65536):
                read.extend(part)
        except OSError:  # EIO: the other end is closed
            return

    collecting = asyncio.create_task(asyncio.to_thread(collect))
    try:
        await asyncio.wait_for(process.wait(), ENOUGH)
    finally:
        if process.returncode is None:
            process.kill()
        await collecting
        os.close(terminal)
    return read.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("form", ["--json", "--lite", "--format=names"])
async def test_tail_on_a_terminal(form: str) -> None:
    name = json.dumps(HOSTILE, ensure_ascii=False)
    leaf = f'{{"all_domains":[{name}]}}'
    message = {
        "--json": f'{{"message_type":"dns_entries","data":[{name}]}}',
        "--lite": f'{{"message_type":"certificate_update","data":{{"leaf_cert":{leaf}}}}}',
        "--format=names": f'{{"message_type":"dns_entries","data":[{name}]}}',
    }[form]

    async def answer(client: ServerConnection) -> None:
        await client.send(f'{{"message_type":"gap","data":{{"reason":{name}}}}}')
        await client.send(message)
        await client.wait_closed()

    async with serve(answer, "127.0.0.1", 0) as server:
        text = await on_a_terminal("tail", f"ws://{address(server)}", form, "--limit=1")
    assert "evil" in text
    assert "missed messages" in text
    assert not commands(text), text
