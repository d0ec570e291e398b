"""One service in a process of its own: its start, its signals and its exit."""

import asyncio
import fcntl
import json
import os
import pty
import signal
import ssl
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.exceptions

from certbus.connection import connect
from launcher.runtime.embedded_redis import find_executable
from tests.e2e.processes import Process, free_port
from tests.launcher.up_process import SCRIPT
from tests.waiting import until

TIMEOUT = 30.0

HANGING = """\
import asyncio, sys, time
from launcher.runtime import run_service

async def serve(stop):
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
    print("served")

sys.exit(run_service.run_reporting_errors(serve))
"""
ORPHAN = """\
from launcher.runtime.supervisor import exit_with_parent
exit_with_parent(1)  # its parent is not init
print("continued")
"""

LIMITED = """\
import resource
from certconf import Config
from launcher.runtime import run_service

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
run_service.prepare("gateway", Config(), "json", None)
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))
"""

RELOADING = """\
import sys
from pathlib import Path
from certconf import Config, ConfigHolder
from launcher.runtime import run_service
from launcher.runtime.config_reload import ConfigReloader

current = ConfigHolder(Config())

async def serve(stop):
    Path(sys.argv[1]).write_text("serving")
    await stop.wait()
    Path(sys.argv[1]).write_text(f"stopped after {current.reloads.total()} reloads")

run_service.run(serve, ConfigReloader("gateway", current, Config))
"""


FAILING = """\
import asyncio, logging, sys
from certconf import Config
from launcher.runtime import run_service

async def look_up(password):
    raise KeyError("ours")

async def serve(stop):
    async with asyncio.TaskGroup() as group:
        group.create_task(look_up("hunter2"))

run_service.prepare("gateway", Config(), sys.argv[1], None)
sys.exit(run_service.run_reporting_errors(serve))
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def test_a_thread_that_hangs_does_not_delay_the_exit() -> None:
    result = python(HANGING)
    assert (result.returncode, result.stdout, result.stderr) == (0, "served\n", "")


def test_a_process_whose_parent_has_already_ended_exits() -> None:
    assert os.getpid() != 1
    result = python(ORPHAN)
    assert (result.returncode, result.stdout) == (1, "")


def test_a_service_may_have_as_many_connections_as_the_hard_limit_allows() -> None:
    assert python(LIMITED).stdout == "True\n"


def test_an_uncaught_exception_is_one_line_without_values_of_variables() -> None:
    result = python(FAILING, "json")
    (text,) = result.stderr.splitlines()
    line = json.loads(text)
    assert (result.returncode, line["event"], line["level"]) == (
        1,
        "uncaught exception",
        "critical",
    )
    (inner,) = line["exception"][0]["exceptions"]
    assert (inner[0]["exc_type"], inner[0]["exc_value"]) == ("KeyError", "'ours'")
    assert "hunter2" not in text


def test_a_traceback_on_a_terminal_has_no_values_of_variables() -> None:
    result = python(FAILING, "console")
    assert result.returncode == 1
    assert "KeyError: 'ours'" in result.stderr
    assert "hunter2" not in result.stderr


NAMELESS = """
import asyncio, ssl, sys
from certconf import Config
from launcher.runtime import run_service

async def serve(stop):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda *_: None
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()

run_service.prepare("gateway", Config(log_level=sys.argv[1]), "json", None)
run_service.run(serve)
"""


def hello(server_name: bytes) -> bytes:
    """A TLS client's first bytes, with this server name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    stand_in = "a" * (len(server_name) - 5) + ".test"
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=stand_in)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read().replace(stand_in.encode(), server_name)


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_a_server_name_that_is_not_ascii_makes_no_traceback(
    level: str, tmp_path: Path
) -> None:
    process = Process("nameless", [sys.executable, "-c", NAMELESS, level], tmp_path)
    try:

        def listens() -> bool:
            return process.log.read_text().strip().rpartition("\n")[2].isdecimal()

        await until(listens, "it listens", TIMEOUT)
        port = int(process.log.read_text().splitlines()[-1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(hello("m\xfcnchen.example".encode("latin-1")))
        await reader.read()  # until the server has rejected the handshake
        writer.close()
    finally:
        assert process.stop() == 0
    text = process.log.read_text()
    assert "Traceback" not in text
    assert ("tls handshake rejected" in text) == (level == "debug")


async def test_a_closed_terminal_ends_it(tmp_path: Path) -> None:
    """It causes a SIGHUP, too, which does not request a reload."""
    state = tmp_path / "state"
    terminal, other_end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RELOADING, str(state)),
        start_new_session=True,
        stdin=other_end,
        stderr=other_end,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(other_end)
    await until(state.exists, "it is serving", TIMEOUT)
    os.close(terminal)
    async with asyncio.timeout(TIMEOUT):
        assert await process.wait() == 0
    assert state.read_text() == "stopped after 0 reloads"


async def test_sighup_requests_a_reload(tmp_path: Path) -> None:
    state = tmp_path / "state"
    process = Process("reloading", [sys.executable, "-c", RELOADING, str(state)], tmp_path)
    try:
        await until(state.exists, "it is serving", TIMEOUT)
        process.send(signal.SIGHUP)
        await until(
            lambda: "configuration reloaded" in process.log.read_text(), "it reloads", TIMEOUT
        )
    finally:
        process.stop()
    assert state.read_text() == "stopped after 1 reloads"


async def test_sighup_during_the_start_does_not_end_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    early = """
import signal
from launcher.runtime.config_reload import block_sighup
block_sighup()
signal.raise_signal(signal.SIGHUP)
"""
    process = Process("reloading", [sys.executable, "-c", early + RELOADING, str(state)], tmp_path)
    try:
        await until(
            lambda: "configuration reloaded" in process.log.read_text(), "it reloads", TIMEOUT
        )
    finally:
        process.stop()
    assert state.read_text() == "stopped after 1 reloads"


@pytest.fixture
def evicting_redis(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command = [find_executable(), *options, "--maxmemory-policy", "allkeys-lru"]
    process = Process("redis", command, tmp_path)
    yield f"redis://127.0.0.1:{port}/0"
    process.kill()


@pytest.mark.parametrize("command", ["ingest", "gateway"])
async def test_a_redis_that_would_lose_data_is_refused(
    command: str, evicting_redis: str, tmp_path: Path
) -> None:
    async with connect(evicting_redis) as client:

        async def answers() -> bool:
            try:
                return bool(await client.ping())
            except redis.exceptions.ConnectionError:
                return False

        await until(answers, "redis answers", TIMEOUT)
    arguments = ["--redis-url", evicting_redis, f"--set=port={free_port()}", "--set=log_lists=[]"]
    process = Process(command, [SCRIPT, command, *arguments], tmp_path)
    try:

        async def ended() -> bool:
            return not process.running

        await until(ended, f"it exits\n{process}", TIMEOUT)
    finally:
        if process.running:
            process.kill()
    log = process.log.read_text()
    assert process.stop() == 1
    assert '"event": "fatal error"' in log
    assert "maxmemory-policy allkeys-lru" in log
    assert "Traceback" not in log
