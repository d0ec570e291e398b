"""`certstream-server up`: real processes, real signals, nothing left behind."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from certbus.cluster import snapshot
from certbus.connection import connect
from certbus.keys import Keys
from launcher.runtime.embedded_redis import find_executable
from launcher.runtime.runtime_dir import runtime_dir
from launcher.runtime.supervisor import StartError
from tests.e2e.processes import Process, free_port
from tests.launcher.service_manager import ServiceManager
from tests.launcher.up_process import SCRIPT, START, STOP, UNREACHABLE, Begin, Up, following
from tests.waiting import until

DRAIN_SECS = 5
BUSY_SECS = 10.0  # beyond the documented bound, for a machine with other work


async def test_without_a_network_it_logs_that_and_serves(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "redis.py").write_text(
        "raise SystemExit('not ours: only in the working directory')"
    )
    manager = ServiceManager(tmp_path / "notify")
    up = begin(*following(UNREACHABLE), "--gateways=2", **manager.environment)
    await up.ready()

    async def told() -> bool:
        return "http://127.0.0.1:1/log" in up.process.log.read_text()

    await until(told, "the log that cannot be reached is named", START)
    await until(lambda: _count(up, "gateway started", 2), "both gateways share the port", START)
    printed = up.process.log.read_text()
    assert f"ws://127.0.0.1:{up.port}/full-stream" in printed
    assert f"http://127.0.0.1:{up.port}/sse" in printed
    assert up.lines("child started", child="gateway-2")
    up.remember_descendants()
    assert len(up.descendants) == 4, "redis, an ingestor, two gateways"
    await until(lambda: "WATCHDOG=1" in manager.received(), "every process answers", START)
    assert manager.received()[0] == "READY=1"
    started = time.monotonic()
    assert up.process.stop(signal.SIGINT, 5 + BUSY_SECS) == 0
    assert time.monotonic() - started < STOP
    await up.all_gone()
    sent = manager.received()
    assert sent.count("STOPPING=1") == 1
    assert set(sent[sent.index("STOPPING=1") :]) <= {"STOPPING=1", "WATCHDOG=1"}
    assert sent.count("READY=1") == 1, "children send nothing"
    assert "Traceback" not in up.process.log.read_text()


async def test_what_exits_is_restarted(begin: Begin) -> None:
    up = begin(*following(UNREACHABLE))
    await up.ready()
    (started,) = up.lines("child started", child="gateway-1")
    os.kill(started["child_pid"], signal.SIGKILL)
    await until(
        lambda: _count(up, "child started", 2, child="gateway-1"), "a second gateway", START
    )
    (exited,) = up.lines("child exited")
    assert (exited["child"], exited["why"]) == ("gateway-1", "killed by SIGKILL")
    await up.ready()

    (server,) = up.lines("embedded redis started")
    assert server["pid"] == up.pid, "the line is its writer's"
    os.kill(server["redis_pid"], signal.SIGKILL)
    await until(lambda: _count(up, "embedded redis started", 2), "a second redis", START)
    assert up.lines("child exited", child="redis", why="killed by SIGKILL")


@pytest.mark.slow
async def test_a_client_that_does_not_answer_does_not_prevent_an_orderly_stop(
    begin: Begin, tmp_path: Path
) -> None:
    port = free_port()
    command = [find_executable(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = Process("redis", command, tmp_path)
    url = f"redis://127.0.0.1:{port}/0"
    up = begin(*following(UNREACHABLE), f"--redis-url={url}", f"--set=drain_secs={DRAIN_SECS}")
    try:
        await until(lambda: "Ready to accept" in process.log.read_text(), "redis answers", START)
        await up.ready()
        reader, writer = await asyncio.open_connection("127.0.0.1", up.port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b" 101 " in await reader.readline()
        async with connect(url) as client:

            async def registered() -> bool:
                return len((await snapshot(client, Keys())).gateways) == 1

            await until(registered, f"the gateway is in the directory\n{up.process}", START)
            bound = DRAIN_SECS + 6 + BUSY_SECS
            assert await asyncio.to_thread(up.process.stop, signal.SIGTERM, bound) == 0
            assert not (await snapshot(client, Keys())).gateways
        writer.close()
    finally:
        process.kill()
    assert not up.lines("child killed"), str(up.process)


@pytest.mark.slow
async def test_what_stops_answering_is_restarted(begin: Begin) -> None:
    up = begin(*following(UNREACHABLE))
    await up.ready()
    children = ("gateway-1", "ingestor-1")
    for child in children:
        (started,) = up.lines("child started", child=child)
        os.kill(started["child_pid"], signal.SIGSTOP)
    for child in children:
        await until(
            partial(_count, up, "child started", 2, child=child), f"another\n{up.process}", 60
        )
        assert up.lines("child unresponsive", child=child)
    await up.ready()


async def test_sighup_reloads_the_configuration_of_every_process(
    begin: Begin, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("log_level: info\n")
    up = begin(*following(UNREACHABLE))
    await up.ready()
    await until(partial(_count, up, "logs selected", 1), "the ingestor works", START)
    config.write_text("log_level: debug\ncodec: none\nstate_dir: /elsewhere\n")
    up.process.send(signal.SIGHUP)
    for service in ("up", "gateway", "ingestor"):
        again = partial(_count, up, "configuration reloaded", 1, service=service)
        await until(again, f"{service} reads it\n{up.process}", START)
        (line,) = up.lines("configuration reloaded", service=service)
        assert line["applied"] == ["log_level"]
    (waiting,) = up.lines("restart required")
    assert (waiting["service"], waiting["setting"]) == ("ingestor", "codec")
    assert not up.lines("child exited")
    await up.ready()


async def test_no_secret_of_its_command_line_is_in_that_of_a_child(begin: Begin) -> None:
    token = "--set=auth={enabled: true, tokens: [sesame]}"
    up = begin(*following(UNREACHABLE), token, "--set=redis_read_url=redis://:sesame@h:1/0")
    await up.ready()
    up.remember_descendants()
    lines = [" ".join(child.cmdline()) for child in up.descendants]
    assert len(lines) == 3
    assert not [line for line in lines if "sesame" in line]
    async with httpx.AsyncClient(trust_env=False) as client:
        refused = await client.get(f"http://127.0.0.1:{up.port}/sse")
    assert refused.status_code == 401, "they have the settings all the same"


async def test_one_scrape_shows_the_whole_machine(begin: Begin) -> None:
    up = begin(*following(UNREACHABLE), "--gateways=2")
    await up.ready()
    expected = {
        'certstream_gateway_up{gateway="gateway-1"} 1.0',
        'certstream_gateway_up{gateway="gateway-2"} 1.0',
        'certstream_ingestor_up{ingestor="ingestor-1"} 1.0',
        'certstream_ingestor_logs{ingestor="ingestor-1",state="waiting"} 1.0',
    }

    async def all_of_it() -> bool:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"http://127.0.0.1:{up.port}/metrics")).text
        return expected <= set(text.splitlines())

    await until(all_of_it, f"metrics of all processes\n{up.process}", START)


async def test_a_second_up_with_the_same_state_directory_fails(begin: Begin) -> None:
    first = begin(*following(UNREACHABLE))
    await first.ready()
    second = begin(*following(UNREACHABLE))
    assert await _ends(second) == 1
    message = second.process.log.read_text()
    assert (
        f"certstream-server: the state directory {first.state} is in use by process {first.pid}:"
        in message
    )
    assert "Traceback" not in message
    assert await first.health() == "OK", "the first one continues"


async def test_a_port_in_use_is_an_error_before_anything_starts(begin: Begin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = begin(*following(), f"--port={port}")
        assert await _ends(up) == 1
    assert f"certstream-server: port {port} is in use" in up.process.log.read_text()
    assert not up.state.exists()


async def test_an_impossible_state_directory_is_an_error(begin: Begin) -> None:
    up = begin(*following(UNREACHABLE), "--state-dir=/dev/null/state")
    assert await _ends(up) == 1
    assert up.process.log.read_text() == (
        "certstream-server: the state directory /dev/null/state cannot be used: /dev/null/state: "
        "Not a directory. Fix the permissions or choose another directory with state_dir, "
        "CERTSTREAM_STATE_DIR or --state-dir\n"
    )


def test_two_that_start_on_one_port_do_not_share_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with runtime_dir("127.0.0.1", 1) as first:
        (first / "gateway-1.sock").touch()
        with (
            pytest.raises(StartError, match=r"another `up` .* on 127\.0\.0\.1 port 1$"),
            runtime_dir("127.0.0.1", 1),
        ):
            pass
        assert (first / "gateway-1.sock").exists()
    assert list(tmp_path.iterdir()) == []


async def test_sigkill_leaves_no_process_behind(begin: Begin) -> None:
    up = begin(*following(UNREACHABLE))
    await up.ready()
    up.remember_descendants()
    assert len(up.descendants) == 3
    up.process.kill()
    await up.all_gone()
    again = begin(*following(UNREACHABLE))
    await again.ready()


async def test_the_demo_streams_to_every_kind_of_tail(begin: Begin) -> None:
    up = begin("--demo")
    await up.ready()
    address = f"127.0.0.1:{up.port}"
    (server,) = up.lines("embedded redis started")
    tails = await asyncio.gather(
        _tail(f"ws://{address}", "--limit=3"),
        _tail(f"ws://{address}", "--json", "--limit=3"),
        _tail(f"http://{address}", "--lite", "--limit=3"),
        _tail(f"http://{address}", "--full", "--limit=3"),
        _tail(f"--redis=unix://{server['state']}/redis.sock", "--full", "--limit=3"),
    )
    names, domains, *certificates = tails
    assert len(names) >= 3
    assert all("." in name and " " not in name for name in names)
    assert [json.loads(line)["message_type"] for line in domains] == ["dns_entries"] * 3
    for lines in certificates:
        messages = [json.loads(line) for line in lines]
        assert [message["message_type"] for message in messages] == ["certificate_update"] * 3
        assert all(message["id"] for message in messages)
    full = [json.loads(line)["data"]["leaf_cert"] for line in certificates[2]]
    assert all("as_der" in leaf for leaf in full)
    (entry,) = (await up.command("entry", "rfc1", "5")).splitlines()
    assert json.loads(entry)["data"]["entry"]["index"] == 5
    report = json.loads(await up.status())
    assert {log["name"] for log in report["logs"]} == {"rfc1", "rfc2", "static1", "static2"}
    assert (len(report["ingestors"]), len(report["gateways"])) == (1, 1)
    assert not up.state.exists(), "the demo keeps nothing"
    up.remember_descendants()
    assert up.process.stop(signal.SIGTERM) == 0
    await up.all_gone()
    assert not _exists(server["state"])
    stopped = {line["service"] for line in up.lines("signal received")}
    assert stopped == {"up", "ingestor", "gateway"}


async def test_a_demo_removes_the_state_of_a_killed_one(begin: Begin) -> None:
    first = begin("--demo")
    await first.ready()
    (server,) = first.lines("embedded redis started")
    first.remember_descendants()
    first.process.kill()
    await first.all_gone()
    assert _exists(server["state"])
    second = begin("--demo", f"--port={first.port}")
    second.port = first.port
    await second.ready()
    (again,) = second.lines("embedded redis started")
    assert again["state"] == server["state"]
    assert second.process.stop(signal.SIGTERM) == 0
    assert not _exists(server["state"])


async def test_tail_ends_when_its_output_is_closed(begin: Begin) -> None:
    up = begin("--demo")
    await up.ready()
    pipeline = await asyncio.create_subprocess_shell(
        f"{SCRIPT} tail ws://127.0.0.1:{up.port} | head -n 1",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(pipeline.communicate(), START)
    assert out.count(b"\n") == 1
    assert err.startswith(b"tail: ")
    assert err.count(b"\n") == 1


def _exists(path: str) -> bool:
    return Path(path).exists()


async def _count(up: Up, event: str, times: int, **fields: object) -> bool:
    return len(up.lines(event, **fields)) >= times


async def _ends(up: Up) -> int:
    async def ended() -> bool:
        return not up.process.running

    await until(ended, "it exits", START)
    return up.process.stop()


async def _tail(*arguments: str) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        SCRIPT, "tail", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), START)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert err.startswith(b"tail: 3 certificates in ")
    return out.decode().splitlines()
