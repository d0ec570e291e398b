"""The Redis of `up` is restarted whenever it exits, and after each start that fails."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
import structlog

from certbus import connection
from certbus.connection import connect
from launcher.runtime import embedded_redis, supervisor
from launcher.runtime.embedded_redis import EmbeddedRedis, find_executable
from tests.waiting import until

#: A redis-server: the first run is real, the second accepts connections and answers nothing, the
#: third exits at once, the fourth is real.
SERVER = """\
#!{python}
import os, socket, sys, time
with open({runs!r}, "a+") as file:
    file.write("x")
    file.seek(0)
    run = len(file.read())
if run == 2:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(sys.argv[sys.argv.index("--unixsocket") + 1])
    listening.listen()
    time.sleep(600)
if run == 3:
    sys.exit("no memory")
os.execv({server!r}, [{server!r}, *sys.argv[1:]])
"""


async def test_a_start_that_fails_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MIN_RESTART_DELAY_SECS", 0.01)
    executable = tmp_path / "redis-server"
    text = SERVER.format(
        python=sys.executable, runs=str(tmp_path / "runs"), server=find_executable()
    )
    executable.write_text(text)
    executable.chmod(0o755)
    async with EmbeddedRedis(tmp_path / "state", executable=str(executable)) as server:
        monkeypatch.setattr(embedded_redis, "_START_TIMEOUT_SECS", 3.0)
        monkeypatch.setattr(connection, "COMMAND_TIMEOUT", 1.0)
        assert server.pid is not None
        with structlog.testing.capture_logs() as log:
            keeping = asyncio.create_task(supervisor.restart("redis", server.run))
            os.kill(server.pid, signal.SIGKILL)

            def runs_again() -> bool:
                if keeping.done():
                    keeping.result()
                return (tmp_path / "runs").read_text() == "xxxx" and any(
                    line["event"] == "embedded redis started" for line in log
                )

            try:
                await until(runs_again, "it runs again")
                async with connect(server.url) as client:
                    assert await client.ping()
            finally:
                keeping.cancel()
    exits = [line for line in log if line["event"] == "child exited"]
    assert {line["child"] for line in exits} == {"redis"}
    whys = [line["why"] for line in exits]
    assert whys[0] == "killed by SIGKILL"
    assert "did not answer within 3 s" in whys[1]
    assert whys[2].endswith("no memory\n")
