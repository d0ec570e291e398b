"""SIGHUP requests a reload and never ends a process: real processes, real signals."""

import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.processes import Process, free_port
from tests.launcher.up_process import UNREACHABLE, Begin, Up, following
from tests.waiting import until

ENOUGH = 60.0

#: Sends SIGHUP to itself at each import from the first one of ours on.
IMPORTING = """
import runpy, signal, sys

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it

class Finder:
    hang_ups = 0

    def find_spec(self, name, path=None, target=None):
        if "launcher.cli" in sys.modules or name == "launcher.cli":
            Finder.hang_ups += 1
            signal.raise_signal(signal.SIGHUP)

sys.meta_path.insert(0, Finder())
runpy.run_module("launcher", run_name="__main__", alter_sys=True)
"""


def held(pid: int) -> bool:
    """Whether SIGHUP waits in this process until it has a handler, or has one (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"^Sig(?:Blk|Cgt):\s*([0-9a-f]+)$", status, re.MULTILINE)
    return any(int(mask, 16) & 1 << (signal.SIGHUP - 1) for mask in masks)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Process]:
    options = (f"--port={free_port()}", "--redis-url=redis://127.0.0.1:1/0", "--log-format=json")
    command = [sys.executable, "-c", IMPORTING, "gateway", "--host=127.0.0.1", *options]
    process = Process("gateway", command, tmp_path)
    yield process
    if process.running:
        process.kill()


async def test_one_that_comes_with_the_first_import_is_kept(gateway: Process) -> None:
    def again() -> bool:
        assert gateway.running, str(gateway)
        return "configuration reloaded" in gateway.log.read_text()

    await until(again, "it reads its configuration again", ENOUGH)
    assert gateway.stop() == 0


def test_a_command_that_reads_nothing_again_ends_on_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPORTING, "version"]
    process = Process("version", command, tmp_path)
    process._popen.wait(ENOUGH)
    assert process._popen.returncode == -signal.SIGHUP


async def storm(up: Up, condition: Callable[[], bool]) -> None:
    """Send SIGHUP every few milliseconds until the condition holds."""

    def holds() -> bool:
        assert up.process.running, str(up.process)
        up.process.send(signal.SIGHUP)
        return condition()

    await until(holds, f"the condition\n{up.process}", ENOUGH)


async def test_a_storm_of_them_from_the_start_ends_no_process(begin: Begin) -> None:
    up = begin(*following(UNREACHABLE), "--gateways=2", "--log-format=json")
    await until(lambda: held(up.pid), "the process has begun", ENOUGH)

    def all_read_again() -> bool:
        lines = up.lines("configuration reloaded")
        return len({line["pid"] for line in lines}) == 4  # itself, an ingestor, two gateways

    await storm(up, all_read_again)
    assert not up.lines("child exited"), str(up.process)
    await up.ready()
    assert up.process.stop(signal.SIGTERM) == 0


async def test_a_storm_of_them_does_not_keep_a_child_from_starting_again(begin: Begin) -> None:
    up = begin(*following(UNREACHABLE), "--log-format=json")
    await up.ready()
    (started,) = up.lines("child started", child="gateway-1")
    psutil.Process(started["child_pid"]).kill()

    def another_reads_again() -> bool:
        lines = up.lines("configuration reloaded", service="gateway")
        return any(line["pid"] != started["child_pid"] for line in lines)

    await storm(up, another_reads_again)
    (exited,) = up.lines("child exited")
    assert exited["why"] == "killed by SIGKILL"
