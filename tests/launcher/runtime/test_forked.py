"""Children that are copies of this process: nothing but memory of the parent is left in them."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from launcher.runtime import forked
from launcher.runtime.supervisor import ChildSpec, ProcessGroup, keep_running
from tests.waiting import until

pytestmark = pytest.mark.skipif(not forked.can_fork(), reason="children are executed here")


def describe(arguments: Sequence[str]) -> int:
    """Write what this process has to the file that is the first argument."""
    caught = [
        number.name
        for number in signal.valid_signals()
        if isinstance(number, signal.Signals) and callable(signal.getsignal(number))
    ]
    state = {
        "files": sorted(int(file.name) for file in Path("/proc/self/fd").iterdir()),
        "caught": caught,
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "session": os.getsid(0) == os.getpid(),
        "environment": dict(os.environ),
        "loop": asyncio.run(_number()),
        "name": Path("/proc/self/comm").read_text("ascii").strip(),
        "arguments": Path("/proc/self/cmdline").read_text("ascii").rstrip("\0"),
    }
    Path(arguments[0]).write_text(json.dumps(state))
    return 3


async def _number() -> int:
    await asyncio.sleep(0)
    return 7


def wait_for_signal(arguments: Sequence[str]) -> int:
    del arguments
    signal.pause()
    return 0


def fail(arguments: Sequence[str]) -> int:
    raise LookupError(arguments[0])


def start(main: forked.Main, *arguments: str) -> forked.ForkedProcess:
    return forked.fork(main, arguments, {"KEY": "value"}, None, lambda: None)


async def test_a_copy_has_no_file_handler_or_variable_of_its_parent(tmp_path: Path) -> None:
    loop, output = asyncio.get_running_loop(), tmp_path / "state"
    for number in (signal.SIGHUP, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: None)
    with (tmp_path / "owner.lock").open("w"):
        copy = forked.fork(describe, [str(output)], {"KEY": "value"}, None, lambda: None)
        try:
            assert await copy.wait() == 3
        finally:
            for number in (signal.SIGHUP, signal.SIGTERM):
                loop.remove_signal_handler(number)
    state = json.loads(output.read_text())
    # 3 is the listing of the directory itself.
    assert state["files"] == [0, 1, 2, 3]
    assert state["caught"] == ["SIGINT"], "Python's own"
    assert state["blocked"] == [signal.SIGHUP]
    assert state["session"]
    assert state["environment"] == {"KEY": "value"}
    assert state["loop"] == 7


async def test_the_exit_status_is_as_of_an_executed_child() -> None:
    copy = start(wait_for_signal)
    assert copy.returncode is None
    copy.send_signal(signal.SIGKILL)
    assert await copy.wait() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        copy.send_signal(signal.SIGTERM)
    assert await start(lambda _: sys.exit(5)).wait() == 5


async def test_an_error_ends_the_copy_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert await start(fail, "nothing").wait() == 1
    assert "LookupError: nothing" in capfd.readouterr().err


async def test_the_supervisor_restarts_a_copy_and_reads_its_lines(tmp_path: Path) -> None:
    lines: list[str] = []
    spec = ChildSpec("gateway-1", ("again",), {}, main=fail)
    running = asyncio.create_task(keep_running(spec, on_line=lines.append, group=ProcessGroup()))
    try:
        await until(lambda: lines.count("LookupError: again") >= 2, "it runs twice", 60)
    finally:
        running.cancel()
        await asyncio.wait((running,))
    output = tmp_path / "state"
    named = ChildSpec("gateway-1", (str(output),), {}, main=describe)
    running = asyncio.create_task(keep_running(named))
    try:
        await until(partial(_complete, output), "it has run", 60)
    finally:
        running.cancel()
        await asyncio.wait((running,))
    state = json.loads(output.read_text())
    assert state["name"] == "gateway-1"
    assert state["arguments"] == "certstream-server gateway-1"


def _complete(path: Path) -> bool:
    return path.exists() and path.read_text().endswith("}")
