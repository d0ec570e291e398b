"""docs/operations.md agrees with the code, and its commands work."""

import ast
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect as websocket

from certbus.cluster import snapshot
from certbus.connection import connect
from certbus.keys import Keys
from certbus.limits.operators import OperatorSlots
from certbus.logs.tree_state import TreeStateStore
from certconf.build import iter_settings
from docs.generate.events import Event, read_event
from docs.generate.page import PAGE, generated
from docs.generate.redis import EXAMPLES, PREPARE, described
from tests.launcher.up_process import SCRIPT, Up
from tests.waiting import until

KEYS = Keys()
BASH = f"""
set -eu
redis-cli() {{ command redis-cli -s "$SOCKET" "$@"; }}
certstream-server() {{ "{SCRIPT}" "$@" "$SERVER"; }}
"""


def test_the_page_agrees_with_the_code() -> None:
    text = PAGE.read_text()
    assert text == generated(text), "run `make docs`"


def test_nothing_is_left_out() -> None:
    text = PAGE.read_text()
    assert [setting for setting in iter_settings() if f"`{setting}`" not in text] == []
    assert set(described()) == set(EXAMPLES)
    assert {"certstream-server up", "certstream-server retire"} <= set(
        re.findall(r"^### `(certstream-server [a-z-]+)`$", text, re.MULTILINE)
    )
    assert "| `task failed` | error | `task`, " in text


def test_a_log_event_has_a_name_a_level_and_fields() -> None:
    source = ast.parse('log.exception("task failed", task=name, exc_info=error, **more)')
    (call,) = (node for node in ast.walk(source) if isinstance(node, ast.Call))
    assert read_event(call, "x.py") == Event("task failed", "error", ("task",), "x.py")


def test_a_log_event_is_a_literal() -> None:
    (call,) = (n for n in ast.walk(ast.parse('log.info(f"{n} logs")')) if isinstance(n, ast.Call))
    with pytest.raises(ValueError, match=r"x\.py:1: the log event is not a literal string"):
        read_event(call, "x.py")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="ops") as directory:
        yield Path(directory)


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="no redis-cli on this machine")
async def test_every_key_can_be_read_as_it_says(short_path: Path) -> None:
    limits = ("--set=rate_limit.enabled=true", "--set=connection_limit.enabled=true")
    up = Up(short_path, str(short_path), "--demo", *limits)
    try:
        await up.ready()
        (server,) = up.lines("embedded redis started")
        url = f"ws://127.0.0.1:{up.port}"
        environment = {
            **os.environ,
            "SOCKET": f"{server['state']}/redis.sock",
            "SERVER": url,
            "NO_COLOR": "1",
        }
        await provide_what_a_demo_has_not(f"unix://{environment['SOCKET']}")
        async with websocket(url), httpx.AsyncClient() as client:

            async def all_can_be_read() -> bool:
                await client.get(f"http://127.0.0.1:{up.port}/example.json")  # its rate is counted
                return not unread(environment)

            await until(all_can_be_read, "something for each key", 60)
    finally:
        up.remember_descendants()
        up.process.stop(signal.SIGTERM)
        await up.all_gone()


async def provide_what_a_demo_has_not(redis_url: str) -> None:
    """A violation, a 429 and a rejected entry: its logs cause none."""
    async with connect(redis_url) as redis:

        async def known() -> bool:
            return len((await snapshot(redis, KEYS)).logs) == 4

        await until(known, "four logs", 60)
        for log in (await snapshot(redis, KEYS)).logs:
            await TreeStateStore(redis, KEYS).record_alarm(log.log_id, "split", "two trees", ())
            await OperatorSlots(redis, KEYS).record_429(log.operator, log.log_id, 1)
        await redis.hset(KEYS.issuers(0), bytes(32), b"")  # its issuers may be in other parts
        await redis.xadd(KEYS.rejected, {"log": "x", "index": 1, "reason": "odd", "size": 0})


def unread(environment: dict[str, str]) -> list[str]:
    """The keys whose example gives nothing, or fails."""
    missing = []
    script = BASH + PREPARE + "".join(f"echo '@ {key}'\n{line}\n" for key, line in EXAMPLES.items())
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True)
    parts = done.stdout.decode("utf-8", "replace").split("@ ")[1:]
    outputs = {key: text.strip() for key, _, text in (part.partition("\n") for part in parts)}
    for key in EXAMPLES:
        text = outputs.get(key, "")
        if text in {"", "0", "(empty array)"} or re.match(r"(\(error\) )?(ERR|WRONGTYPE)", text):
            missing.append(key)
    return missing
