"""Children are started again, told why, and gone in time, whatever they do about it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import psutil
import pytest
import structlog

from launcher.runtime import supervisor
from launcher.runtime.supervisor import ChildSpec, keep_running
from tests.waiting import until

STUBBORN = """\
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", file=sys.stderr, flush=True)
time.sleep(60)
"""
TALKATIVE = """\
import sys, time
print("x" * 3_000_000, "last", sep="\\n", file=sys.stderr, flush=True)
time.sleep(60)
"""


@asynccontextmanager
async def running(
    code: str, on_line: Callable[[str], None] | None = None, grace: float = 5.0
) -> AsyncIterator[asyncio.Task[None]]:
    child = ChildSpec("child", (sys.executable, "-c", code), os.environ)
    task = asyncio.create_task(keep_running(child, on_line=on_line, grace=grace))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def pids(log: list[structlog.typing.EventDict]) -> list[int]:
    return [line["child_pid"] for line in log if line["event"] == "child started"]


async def test_a_dead_child_is_started_again_and_why_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    with structlog.testing.capture_logs() as log:
        async with running("import time; time.sleep(60)"):

            async def started(times: int) -> bool:
                return len(pids(log)) == times

            await until(lambda: started(1), "first start", 10)
            os.kill(pids(log)[0], signal.SIGKILL)
            await until(lambda: started(2), "second start", 10)
            os.kill(pids(log)[1], signal.SIGUSR1)
            await until(lambda: started(3), "third start", 10)
    deaths = [line for line in log if line["event"].startswith("child died")]
    assert [death["why"] for death in deaths] == ["killed by SIGKILL", "killed by SIGUSR1"]
    assert [death["seconds"] for death in deaths] == [0.01, 0.02], "it pauses longer each time"
    assert not any(psutil.pid_exists(pid) for pid in pids(log))


async def test_a_child_that_stops_answering_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervisor, "ASK_EVERY", 0.01)
    monkeypatch.setattr(supervisor, "SILENCE", 0.2)
    well, asked = True, 0

    async def answers() -> bool:
        nonlocal asked
        asked += 1
        return well

    child = ChildSpec("child", (sys.executable, "-c", "import time; time.sleep(60)"), os.environ)
    child = msgspec.structs.replace(child, answers=answers)
    with structlog.testing.capture_logs() as log:
        task = asyncio.create_task(keep_running(child))
        try:

            async def asked_often() -> bool:
                return asked > 50

            await until(asked_often, "it is asked for longer than it may be silent", 10)
            (first,) = pids(log)
            well = False

            async def replaced() -> bool:
                return len(pids(log)) > 1

            await until(replaced, "another one", 10)
            assert not psutil.pid_exists(first)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert not any(psutil.pid_exists(pid) for pid in pids(log))


async def test_exit_codes_are_told() -> None:
    with structlog.testing.capture_logs() as log:
        async with running("import sys; sys.exit(7)"):

            async def died() -> bool:
                return any(line.get("why") == "exit code 7" for line in log)

            await until(died, "its death", 10)


async def test_a_child_that_ignores_sigterm_is_killed() -> None:
    lines: list[str] = []

    async def up() -> bool:
        return lines == ["up"]

    with structlog.testing.capture_logs() as log:
        async with running(STUBBORN, lines.append, grace=0.2):
            await until(up, "the child's first line", 10)
    assert "child does not stop, killing it" in [line["event"] for line in log]
    assert not psutil.pid_exists(pids(log)[0])


async def test_an_endless_line_is_dropped_and_the_next_one_read() -> None:
    lines: list[str] = []

    async def last() -> bool:
        return lines[-1:] == ["last"]

    async with running(TALKATIVE, lines.append):
        await until(last, "the line after", 10)
    assert max(map(len, lines)) < 2_000_000
