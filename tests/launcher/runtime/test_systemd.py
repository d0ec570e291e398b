"""Notifications to systemd, of a real gateway and of the supervisor of `up`."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from launcher.runtime import supervisor
from launcher.runtime.supervisor import ChildSpec, ProcessGroup, keep_running
from tests.e2e.processes import CERTSTREAM_SERVER, Process, free_port
from tests.launcher.service_manager import ServiceManager
from tests.waiting import until


async def test_ready_watchdog_reloading_and_stopping(tmp_path: Path) -> None:
    manager = ServiceManager(tmp_path / "notify")
    options = (f"--port={free_port()}", f"--admin=127.0.0.1:{free_port()}")
    process = Process(
        "gateway",
        [*CERTSTREAM_SERVER, "gateway", "--redis-url=redis://127.0.0.1:1/0", *options],
        tmp_path,
        manager.environment,
    )
    try:
        await until(lambda: manager.received()[:2] == ["READY=1", "WATCHDOG=1"], str(process))
        process.send(signal.SIGHUP)
        await until(lambda: "RELOADING=1" in manager.received(), str(process))
        await until(lambda: manager.received().count("READY=1") == 2, str(process))
    finally:
        assert process.stop() == 0
    assert manager.received()[-1] == "STOPPING=1"


async def test_the_watchdog_of_up_needs_an_answer_of_every_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of one that is restarted again and again."""
    monkeypatch.setattr(supervisor, "PROBE_INTERVAL_SECS", 0.01)
    monkeypatch.setattr(supervisor, "PROBE_TIMEOUT_SECS", 1.0)
    answering = {"a": True, "b": False}
    group = ProcessGroup()

    def child(name: str) -> ChildSpec:
        async def probe() -> bool:
            return answering[name]

        return ChildSpec(name, (sys.executable, "-c", "import time; time.sleep(600)"), {}, probe)

    assert not await group.answers()
    tasks = [asyncio.create_task(keep_running(child(name), group=group)) for name in answering]
    try:
        await until(lambda: group._answered.get("a"))
        assert not await group.answers()
        answering["b"] = True
        await until(group.answers)
        answering["a"] = False

        async def fails() -> bool:
            return not await group.answers()

        await until(fails)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
