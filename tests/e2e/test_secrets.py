"""Tokens and passwords are in no log line, answer, metric or command line, and not in Redis."""

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import redis
import yaml
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import InvalidStatus

from launcher.runtime.embedded_redis import find_executable
from tests.certbus.servers import RedisServer
from tests.e2e.processes import free_port
from tests.launcher.up_process import SCRIPT, UNREACHABLE, Up
from tests.waiting import until

PASSWORD = "sesame-of-redis"
TOKENS = ("sesame-of-nobody", "sesame-of-alice")
WRONG = ("sesame-that-is-wrong", "sesame-in-the-query")
PATHS = ("/", "/api/stats", "/api/logs", "/metrics", "/health/deep", "/openapi.json")
SECRET = "sesame"  # they all begin with it

CONFIG = {
    "log_lists": [],
    "log_level": "debug",
    "access_log": True,
    "custom_logs": [UNREACHABLE],
    "protocols": {"api": True},
    "rate_limit": {"enabled": True},
    "connection_limit": {"enabled": True},
    "auth": {
        "enabled": True,
        "query_token": True,
        "header_name": "X-Token",
        "tokens": [TOKENS[0]],
        "holders": [{"name": "Alice", "token": TOKENS[1]}],
    },
}


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hush") as path:
        yield Path(path)


@pytest.fixture
def port(directory: Path) -> Iterator[int]:
    """The port of a Redis that requires a password."""
    port = free_port()
    server = RedisServer(find_executable(), directory, port=port)
    server.start()
    with redis.Redis(port=port) as client:
        client.config_set("requirepass", PASSWORD)
    yield port
    server.kill()


async def test_no_output_contains_them(directory: Path, port: int) -> None:
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    up = Up(directory, str(directory), f"--config={config}", CERTSTREAM_REDIS_URL=url)
    outputs = []
    try:
        await up.ready()
        outputs += [await request_all(up.port), await shown(config, url), command_lines(up)]
        config.write_text(yaml.safe_dump({**CONFIG, "auth": {"tokens": {"a": TOKENS[0]}}}))
        up.process._popen.send_signal(signal.SIGHUP)
        await until(lambda: up.lines("configuration rejected"), str(up.process))
        with redis.Redis(port=port, password=PASSWORD) as client:
            outputs.append("\n".join(str((key, client.dump(key))) for key in client.scan_iter()))
            client.config_set("requirepass", "another")  # new connections are rejected
            client.client_kill_filter(skipme=True, _type="normal")
        await until(lambda: up.lines("redis read failed"), "refused by redis")
    finally:
        up.remember_descendants()
        up.process.stop(signal.SIGTERM)
        await up.all_gone()
    outputs.append(up.process.log.read_text())
    assert up.lines("logs selected")
    assert {line["token"] for line in up.lines("request ended")} == {None, "tokens[0]", "Alice"}
    assert all(outputs), "each has some output"
    found = [line for text in outputs for line in text.splitlines() if SECRET in line]
    assert found == []


async def request_all(port: int) -> str:
    """Everything, with good tokens and bad ones; all answers."""
    address = f"127.0.0.1:{port}"
    answers = []
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as client:
        for token in (*TOKENS, *WRONG, None):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            answers += [await client.get(path, headers=headers) for path in PATHS]
            answers.append(await client.get("/api/stats", params={"token": token or ""}))
            answers.append(await client.get("/api/stats", headers={"X-Token": token or ""}))
    # 503 is /health/deep, once the server no longer counts as starting.
    assert {answer.status_code for answer in answers} - {503} == {200, 401}
    for token in (TOKENS[1], WRONG[1]):
        try:
            async with websocket(f"ws://{address}/?token={token}"):
                assert token in TOKENS
        except InvalidStatus as refused:
            assert token in WRONG
            answers.append(httpx.Response(200, content=bytes(refused.response.body)))
    return "\n".join(f"{answer.headers}\n{answer.text}" for answer in answers)


async def shown(config: Path, redis_url: str) -> str:
    """What the commands print."""
    printed = []
    for command in (["status"], ["status", "--json"], ["config"], ["rejected"]):
        process = await asyncio.create_subprocess_exec(
            *(SCRIPT, *command, f"--config={config}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "CERTSTREAM_REDIS_URL": redis_url},
        )
        out, _ = await process.communicate()
        printed.append(out.decode())
    return "\n".join(printed)


def command_lines(up: Up) -> str:
    """The command lines, which every user of the machine can read."""
    parent = psutil.Process(up.pid)
    processes = [parent, *parent.children(recursive=True)]
    return "\n".join(" ".join(process.cmdline()) for process in processes)
