"""`certstream-server status`: the report of a Redis on a terminal and as JSON."""

import asyncio
import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from certbus.cluster import (
    ClusterRegistry,
    LogDescription,
    LogStatus,
    ProcessInfo,
    Snapshot,
    StreamRange,
    StreamStatus,
)
from certbus.cluster_report import ClusterReport, cluster_report
from certbus.server_state import ServerState
from launcher.commands.find_log import MAX_NAMES, find_log
from launcher.commands.status.command import columns
from launcher.commands.status.render import view
from launcher.terminal import CommandError
from tests.certbus.servers import RedisServer
from tests.e2e.processes import free_port
from tests.gateway.conftest import running_redis
from tests.gateway.publishing import LOG, Press
from tests.launcher.up_process import SCRIPT

NOW = 1_800_000_000.0
TIMEOUT_SECS = 60.0


def log(number: int, **fields: object) -> LogStatus:
    known: dict[str, Any] = {
        "log_id": f"{number:064x}",
        "name": f"log{number}",
        "url": f"https://ct.example/{number}/",
        "operator": "Operator",
        "start": 0,
        "next": 1000,
        "tree_size": 1000 + number,
        "published": 1000,
        "owner": "worker-1",
        "integrity": "proven",
        "last_success": int(NOW * 1000),
        **fields,
    }
    return LogStatus(**known)


def seen(many: int, rate: float = 1.0, **changed: object) -> ClusterReport:
    """Return a report of `many` logs: log n is n entries behind, the first one does not answer.

    Every log publishes `rate` certificates a second, every gateway sends as many messages.
    """
    silent = log(
        0,
        name="silent",
        owner=None,
        last_error="https://ct.example/0/ct/v1/get-sth: HTTP 503",
        last_error_at=int(NOW * 1000) + 1,
        failures=7,
    )
    gateways = [
        ProcessInfo(
            f"gateway-{n}",
            {
                "clients": str(n),
                "websocket": str(n),
                "following": "1",
                "sent_per_second": str(rate),
                "uptime": "60",
            },
        )
        for n in (1, 2)
    ]
    rates = json.dumps({f"{n:064x}": rate for n in range(many)})
    worker = {"logs": str(many), "host": "here", "pid": "77", "rates": rates}
    directory = Snapshot(
        int(NOW * 1000),
        "e",
        "1-0",
        [silent, *(log(number) for number in range(1, many))],
        [ProcessInfo("worker-1", worker)],
        gateways,
        [StreamStatus("full", True, 3, 40, 5_000_000), StreamStatus("lite", False, 0, 0, 0)],
        5_400_000,
    )
    directory = msgspec.structs.replace(directory, **changed)
    spans = {"full": StreamRange(int(NOW * 1000) - 90_000, int(NOW * 1000) - 500)}
    server = ServerState(int(NOW * 1000), 0, 5 << 20, 1 << 30)
    return cluster_report(directory, server, ranges=spans, unhealthy_threshold=5)


def shown(report: ClusterReport, width: int, height: int | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(view(report, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_sixty_logs_fit_the_terminal(width: int) -> None:
    lines = shown(seen(many=60), width)
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("degraded  logs: 59 healthy, 1 unhealthy  Redis: 5.0 MiB of 1.0 GiB")
    headings = next(line for line in lines if line.startswith("log ")).split()
    assert headings[-1] == {80: "certs/s", 120: "proven", 200: "owner"}[width]
    rows = lines[lines.index(next(line for line in lines if line.startswith("log "))) + 1 :]
    assert rows[0].startswith("silent")
    assert rows[0].rstrip().endswith("ct/v1/get-sth: HTTP 503")
    assert [row.split()[0] for row in rows[1:60]] == [f"log{n}" for n in range(59, 0, -1)]
    (stream,) = (line for line in lines if line.startswith("full "))
    assert stream.split() == ["full", "40", "3", "4.8", "MiB", "00:01:30", "0.5", "s"]
    assert any(line.startswith("lite ") and "not written" in line for line in lines)


def test_a_small_terminal_shows_the_logs_with_an_error() -> None:
    lines = shown(seen(many=60), 80, height=1)
    assert sum(line.startswith(("log5", "silent")) for line in lines) == 3
    assert "and 57 more" in lines


def test_a_log_without_a_position_is_not_read_yet() -> None:
    report = seen(1, 0.0, logs=[log(1, owner=None, next=None), log(2, owner=None)])
    rows = [line.rstrip() for line in shown(report, 80)]
    assert [row[:4] for row in rows if row.endswith("not read yet")] == ["log1"]
    assert [row[:4] for row in rows if row.endswith("no ingestor reads it")] == ["log2"]


def test_a_pipe_is_wider_than_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.stdout", io.StringIO())  # pytest -s has the terminal
    name = "IPng Networks 'Halloumi2026h2a'"
    width = columns()
    assert width is not None
    assert any(name in line for line in shown(seen(1, 0.0, logs=[log(1, name=name)]), width))
    monkeypatch.setenv("COLUMNS", "80")
    assert columns() is None


def test_an_unknown_log_is_answered_with_some_names() -> None:
    logs = [log(number) for number in range(60)]
    with pytest.raises(CommandError) as caught:
        find_log(logs, "zzzzzzzz")
    assert str(caught.value).startswith('no log named \'zzzzzzzz\'; known logs: "log0", "log1", ')
    assert str(caught.value).endswith(f" and {60 - MAX_NAMES} more")
    with pytest.raises(CommandError, match=r'did you mean .*"log59"'):
        find_log(logs, "log59x")


@pytest.mark.parametrize("height", [12, 24, 36, 48, 100])
@pytest.mark.parametrize("many", [2, 60])
def test_the_report_fits_the_height_of_the_terminal(many: int, height: int) -> None:
    lines = shown(seen(many=many), 80, height)
    assert len(lines) <= height
    assert any(line.startswith("silent") for line in lines)
    complete = any(line.startswith("gateway") for line in lines)
    assert complete == (height >= (24 if many == 2 else 36))


def test_control_characters_of_a_log_are_escaped() -> None:
    evil = log(1, name="[b]x[/b]\x1b[2J", operator="a\nb", last_error="\x1b[31m", failures=1)
    lines = shown(seen(many=1, logs=[evil]), 200)
    assert not any("\x1b" in line for line in lines)
    (row,) = (line for line in lines if line.startswith(r"[b]x[/b]\x1b[2J "))
    assert r"a\nb" in row
    assert r"\x1b[31m" in row


def test_the_values_of_the_json() -> None:
    fields = msgspec.to_builtins(seen(many=11, rate=2.0))
    assert fields["status"] == "degraded"
    assert fields["certificates_per_second"] == 22
    assert fields["messages_per_second"] == 4
    assert fields["clients"] == 3
    assert [each["name"] for each in fields["logs"]][-3:] == ["log9", "log10", "silent"]
    assert fields["logs"][9]["behind"] == 10
    assert fields["logs"][9]["last_success"] == NOW
    ages = [fields["logs"][9][f"{name}_seconds"] for name in ("tree_head_age", "ingest_delay")]
    assert ages == [None, None]
    assert fields["ingestors"] == [
        {
            "id": "worker-1",
            "host": "here",
            "pid": 77,
            "admin": "",
            "logs": 11,
            "published_per_second": 22,
        }
    ]
    entries = {"published": 11_000, "duplicates": 0, "rejected": 0, "skipped": 0}
    assert fields["entries"] == {**entries, "duplicate_share": 0}
    assert fields["streams"][0]["oldest_age_seconds"] == 90


def test_the_freshness_of_a_log() -> None:
    now = int(NOW * 1000)
    ahead = log(1, tree_timestamp=now + 9000, entry_timestamp=now - 2500)
    behind = log(2, newest=1100, newest_timestamp=now - 3_600_000, entry_timestamp=now - 65_000)
    found = seen(many=1, logs=[ahead, behind])
    assert [
        (each.behind, each.tree_head_age_seconds, each.ingest_delay_seconds) for each in found.logs
    ] == [(1, 0.0, 2.5), (100, 3600.0, 65.0)]
    rows = {line.split()[0]: line for line in shown(found, 140) if line.startswith("log")}
    assert rows["log"].split()[2:7] == ["behind", "delay", "head", "age", "certs/s"]
    assert rows["log1"].split()[2:6] == ["1", "2.5", "s", "0.0"]
    assert rows["log2"].split()[2:5] == ["100", "00:01:05", "01:00:00"]


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"logs": [log(1)]}, "healthy"),
        ({"logs": []}, "healthy"),
        ({"logs": [log(1)], "gateways": []}, "degraded"),
        ({"logs": [log(1)], "workers": []}, "unhealthy"),
        ({"logs": [log(1, circuit="open")]}, "unhealthy"),
        ({"logs": [log(1, integrity="lying", alarm="split")]}, "unhealthy"),
    ],
)
def test_the_status(changed: dict[str, object], status: str) -> None:
    assert seen(1, 0.0, **changed).status == status


def test_a_retired_log_is_no_problem() -> None:
    retired = log(2, owner=None, state="retired", retired=int(NOW * 1000), retired_why="it is full")
    retired = msgspec.structs.replace(retired, last_success=1)
    report = seen(many=1, logs=[log(1), retired])
    assert (report.status, [each.name for each in report.logs]) == ("healthy", ["log1"])
    assert msgspec.to_builtins(report.retired) == [
        {"id": retired.log_id, "name": "log2", "why": "it is full", "at": NOW, "next": 1000}
    ]
    lines = shown(report, 80)
    assert "retired: log2" in [line.rstrip() for line in lines]
    assert any(line.startswith("1/1 ") for line in lines)
    assert not any("no ingestor reads it" in line for line in lines)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


async def status(redis_url: str, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        SCRIPT,
        "status",
        f"--redis-url={redis_url}",
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "80"},
    )
    async with asyncio.timeout(TIMEOUT_SECS):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_of_a_real_redis(redis: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        press = await stack.enter_async_context(Press(redis.url, "certstream:"))
        directory = ClusterRegistry(press.redis, press.keys)
        await directory.describe(
            [LogDescription(LOG, "Pressed", "https://ct.example/", "Operator", "rfc6962", "usable")]
        )
        await press.print(5)
        code, out, _ = await status(redis.url, "--json")
        assert (code, json.loads(out)["status"]) == (1, "unhealthy"), "no ingestor reads the logs"

        async def heartbeats() -> None:
            await directory.record_status(LOG, {}, succeeded=True)
            await directory.heartbeat("worker", "worker-1", {"logs": 1, "published": 5})
            await directory.heartbeat("gateway", "gateway-1", {"clients": 3, "sent": 9})

        await heartbeats()
        code, out, _ = await status(redis.url, "--json")
        report = json.loads(out)
        assert (code, report["status"]) == (0, "healthy")
        assert report["logs"][0]["published"] == 5
        assert [stream["messages"] for stream in report["streams"]] == [5, 5, 5, 0]
        assert report["streams"][0]["newest_age_seconds"] < TIMEOUT_SECS
        assert abs(report["logs"][0]["last_success"] - time.time()) < TIMEOUT_SECS

        await heartbeats()
        code, out, _ = await status(redis.url)
        assert code == 0
        assert out.startswith("healthy  logs: 1 healthy")
        assert "Pressed" in out


def test_it_names_the_options_for_a_server_elsewhere(tmp_path: Path) -> None:
    port = free_port()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    found = subprocess.run(
        [SCRIPT, "status", f"--state-dir={tmp_path}", f"--set=port={port}"],
        env={k: v for k, v in environment.items() if not k.startswith("CERTSTREAM_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECS,
    )
    assert found.returncode == 1
    for way in (f"port {port}", str(tmp_path), "--state-dir DIR", "--set port=PORT", "--redis-url"):
        assert way in found.stderr


def test_rates_are_those_that_processes_report() -> None:
    workers = [ProcessInfo("worker-1", {"rates": f'{{"{1:064x}": 12.5, "{2:064x}": 0.5}}'})]
    gateways = [ProcessInfo("g", {"sent_per_second": "7.5", "sent_bytes_per_second": "900"})]
    report = seen(many=3, workers=workers, gateways=gateways)
    assert {log.name: log.published_per_second for log in report.logs} == {
        "log1": 12.5,
        "log2": 0.5,
        "silent": 0,
    }
    assert report.ingestors[0].published_per_second == report.certificates_per_second == 13
    assert (report.messages_per_second, report.gateways[0].bytes_per_second) == (7.5, 900)


async def test_without_a_redis_it_fails_with_the_reason() -> None:
    code, out, err = await status("redis://:sesame@127.0.0.1:1/0")
    assert (code, out) == (1, "")
    assert err.startswith("certstream-server: Redis: ")
    assert "sesame" not in err
