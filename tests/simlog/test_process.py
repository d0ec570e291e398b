"""`python -m simlog` as tests and people start it."""

import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise

import httpx
import pytest


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "simlog", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def url_of(process: subprocess.Popen[str]) -> str:
    """The URL that the process logs."""
    assert process.stdout
    for line in process.stdout:
        if "url=" in line:
            return line.partition("url=")[2].split()[0]
    pytest.fail("it ended without logging its URL")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_and_ends_cleanly(number: signal.Signals) -> None:
    with start("--port", "0", "--seed", "3", "--preload", "20") as process:
        url = url_of(process)
        assert httpx.get(f"{url}/world.json").json()["spec"]["seed"] == 3
        process.send_signal(number)
        assert process.wait(5) == 0


def test_the_same_world_again_after_a_kill() -> None:
    start_time = str(time.time() - 10)
    arguments = ("--port", "0", "--start", start_time, "--rate", "500", "--total", "600")
    records = []
    for _ in range(2):
        with start(*arguments) as process:
            records.append(httpx.get(f"{url_of(process)}/record").content)
            process.kill()
    for one, other in pairwise(records):
        assert one == other
    assert len(records[0]) > 100_000


def test_a_port_in_use_and_an_invalid_world_are_errors() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = subprocess.run(
            [sys.executable, "-m", "simlog", "--port", port], capture_output=True, text=True
        )
    assert process.returncode != 0
    assert f"127.0.0.1:{port}" in process.stderr
    process = subprocess.run(
        [sys.executable, "-m", "simlog", "--duplicates", "2"], capture_output=True, text=True
    )
    assert process.returncode != 0
    assert "duplicates: 2.0 is not in [0, 1)" in process.stderr
