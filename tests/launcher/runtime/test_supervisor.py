"""Children are restarted, and stopped in time even if they ignore SIGTERM."""

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
VERBOSE = """\
import sys, time
print("x" * 3_000_000, "last", sep="\\n", file=sys.stderr, flush=True)
time.sleep(60)
"""


@asynccontextmanager
async def running(
    code: str, on_line: Callable[[str], None] | None = None, stop_timeout: float = 5.0
) -> AsyncIterator[asyncio.Task[None]]:
    child = ChildSpec("child", (sys.executable, "-c", code), os.environ)
    task = asyncio.create_task(keep_running(child, on_line=on_line, stop_timeout=stop_timeout))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def pids(log: list[structlog.typing.EventDict]) -> list[int]:
    return [line["child_pid"] for line in log if line["event"] == "child started"]


async def test_a_child_is_restarted_and_the_reason_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "MIN_RESTART_DELAY_SECS", 0.01)
    with structlog.testing.capture_logs() as log:
        async with running("import time; time.sleep(60)"):

            async def started(times: int) -> bool:
                return len(pids(log)) == times

            await until(lambda: started(1), "first start")
            os.kill(pids(log)[0], signal.SIGKILL)
            await until(lambda: started(2), "second start")
            os.kill(pids(log)[1], signal.SIGUSR1)
            await until(lambda: started(3), "third start")
    exits = [line for line in log if line["event"] == "child exited"]
    assert [line["why"] for line in exits] == ["killed by SIGKILL", "killed by SIGUSR1"]
    assert [line["restart_in_secs"] for line in exits] == [0.01, 0.02], "the delay doubles"
    assert not any(psutil.pid_exists(pid) for pid in pids(log))


async def test_a_child_that_stops_answering_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MIN_RESTART_DELAY_SECS", 0.01)
    monkeypatch.setattr(supervisor, "PROBE_INTERVAL_SECS", 0.02)
    monkeypatch.setattr(supervisor, "PROBE_TIMEOUT_SECS", 1.0)
    healthy, probes = True, 0

    async def probe() -> bool:
        nonlocal probes
        probes += 1
        return healthy

    child = ChildSpec("child", (sys.executable, "-c", "import time; time.sleep(60)"), os.environ)
    child = msgspec.structs.replace(child, probe=probe)
    with structlog.testing.capture_logs() as log:
        task = asyncio.create_task(keep_running(child))
        try:
            await until(lambda: probes > 75, "probes for longer than the time-out")
            (first,) = pids(log)
            healthy = False

            async def replaced() -> bool:
                return len(pids(log)) > 1

            await until(replaced, "another one")
            assert not psutil.pid_exists(first)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert not any(psutil.pid_exists(pid) for pid in pids(log))


async def test_the_exit_status_is_logged() -> None:
    with structlog.testing.capture_logs() as log:
        async with running("import sys; sys.exit(7)"):

            async def exited() -> bool:
                return any(line.get("why") == "exit status 7" for line in log)

            await until(exited, "its exit")


async def test_a_child_that_ignores_sigterm_is_killed() -> None:
    lines: list[str] = []

    async def up() -> bool:
        return lines == ["up"]

    with structlog.testing.capture_logs() as log:
        async with running(STUBBORN, lines.append, stop_timeout=0.2):
            await until(up, "the child's first line")
    assert "child killed" in [line["event"] for line in log]
    assert not psutil.pid_exists(pids(log)[0])


async def test_a_line_above_the_limit_is_dropped_and_the_next_one_relayed() -> None:
    lines: list[str] = []

    async def last() -> bool:
        return lines[-1:] == ["last"]

    async with running(VERBOSE, lines.append):
        await until(last, "the line after")
    assert max(map(len, lines)) < 2_000_000
