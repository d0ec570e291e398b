"""Ranges of honest and misbehaving logs: proven, complete, resumable; nothing else is changed."""

import asyncio
import base64
import json
import random
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from certconf import Config, load
from ctfilter import parse_line
from ctparse.v2_message import Verification, v2_message
from ingestor.backfill.app import Unproven, find_logs, open_log
from ingestor.backfill.pace import SLOT_SHARE, LocalSlots, SharedSlots
from ingestor.client.errors import IntegrityViolation
from ingestor.log import Log
from launcher.commands.backfill import HEAD, Position, _matcher, _write
from launcher.terminal import CommandError
from tests.ingestor.hostile import Answer, hostile_server
from tests.ingestor.site import HURRIED, Simlog, Site
from tests.launcher.up_process import SCRIPT
from tests.paths import FIXTURES
from tests.retained import history
from tests.waiting import until

SIZE = 700
OTHER = b'{"data":{"entry":{"index":5},"source":{"url":"%b"}}}\n'
FAST = {**HURRIED, "ct_log.default_operator_rate_limit_ms": 1, "ct_log.retry_max_attempts": 1}


async def start(simlog: Simlog, *faults: str) -> tuple[Config, dict[str, Log]]:
    """Two logs with 700 entries each, and what reads them, by the names of their paths."""
    await simlog.start(
        rfc6962=1, static_ct=1, rate=0, preload=2 * SIZE, duplicates=0, max_entries=64
    )
    for fault in faults:
        await put(simlog, fault)
    config = load(await simlog.config(), {}, {**FAST, "log_lists": []})
    return config, {
        log.url.rstrip("/").rpartition("/")[2]: log for log in await find_logs(config, None)
    }


async def put(simlog: Simlog, fault: str) -> None:
    log, _, rest = fault.partition(":")
    kind, _, values = rest.partition(":")
    fields = dict(pair.split("=") for pair in values.split(",")) if values else {}
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"{simlog.url}/control/{log}/faults"
        body = [{"kind": kind, **{name: int(value) for name, value in fields.items()}}]
        assert (await http.put(url, json=body)).status_code == 200


async def write(
    config: Config,
    log: Log,
    output: Path,
    first: Position = 0,
    last: Position = HEAD,
    **options: Any,
) -> None:
    async with open_log(config, log, options.get("redis")) as reading:
        await _write(reading, log, (first, last), options.get("passes"), output)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def comparable(text: bytes | str) -> dict[str, Any]:
    """A message without what depends on who received it, and when."""
    message: dict[str, Any] = json.loads(text)
    del message["data"]["entry"]["observed_at"]
    return message


async def test_it_equals_what_the_server_streamed(site: Site, tmp_path: Path) -> None:
    config, logs = await start(site.simlog)
    ingestor = await site.ingestor("one", **{"ct_log.start_index": 0})
    await until(site.complete, "everything is published")
    await ingestor.stop()
    streamed = [
        (batch.log, text)
        for batch in await history(site.redis, site.keys, "lite", "0-0", 1_000_000)
        for text in batch.messages
    ]
    before = {key: await site.redis.dump(key) for key in await site.redis.keys("*log:*")}
    for log in logs.values():
        output = tmp_path / log.id
        await write(config, log, output, redis=site.redis)
        verified = Verification("verified", "verified")
        expected = [
            comparable(v2_message(text, log.key_sha256, verified))
            for log_id, text in streamed
            if log_id == log.id
        ]
        assert len(expected) > SIZE / 2
        assert [comparable(line) for line in output.read_bytes().splitlines()] == expected
    assert before == {key: await site.redis.dump(key) for key in before}
    slots = [key async for key in site.redis.scan_iter("*limit:operator:*")]
    assert slots


@asynccontextmanager
async def sunlight() -> AsyncIterator[tuple[Config, Log]]:
    folder = FIXTURES / "sunlight"
    key = json.loads((folder / "log.v3.json").read_bytes())["key"]

    def answer(path: str) -> Answer:
        file = folder / path.removeprefix("/")
        if not file.is_file():
            return Answer(status="404 Not Found")
        encoding = {"content-encoding": "gzip"} if "/tile/data/" in path else {}
        return Answer(file.read_bytes(), headers=encoding)

    async with hostile_server() as server:
        server.answers["*"] = answer
        static = {"name": "Sun", "url": server.url, "key": key, "log_origin": "sun.test/2026"}
        config = load(None, {}, {**FAST, "log_lists": [], "static_logs": [static]})
        (log,) = await find_logs(config, None)
        yield config, log


async def test_the_sunlight_log_interrupted_five_times(tmp_path: Path) -> None:
    whole, resumed, chance = tmp_path / "whole", tmp_path / "resumed", random.Random(5)
    async with sunlight() as (config, log):
        await write(config, log, whole)
        text = whole.read_bytes()
        for cut in sorted(chance.sample(range(len(text)), 5)):
            await write(config, log, resumed, last=chance.randrange(SIZE))
            resumed.write_bytes(text[: max(cut, resumed.stat().st_size - 200)])
        await write(config, log, resumed)
        assert resumed.read_bytes() == text
        await write(config, log, resumed)  # nothing is left to do
        assert resumed.read_bytes() == text
        for first, last in ((0, 0), (255, 256), (650, 699), (699, 699)):
            part = tmp_path / f"{first}"
            await write(config, log, part, first, last)
            assert part.read_bytes().splitlines() == text.splitlines()[first : last + 1]
    assert [line["data"]["entry"]["index"] for line in lines(whole)] == list(range(SIZE))
    log_id = base64.b64encode(log.key_sha256 or b"").decode()
    assert {line["data"]["source"]["log_id"] for line in lines(whole)} == {log_id}


async def test_the_commands(tmp_path: Path) -> None:
    async with sunlight() as (config, log):
        settings = {"static_logs": [msgspec.to_builtins(config.static_logs[0])], "log_lists": []}
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps(settings))

        async def run(*arguments: str) -> tuple[int | None, bytes, str]:
            process = await asyncio.create_subprocess_exec(
                *(SCRIPT, *arguments, f"--config={file}", f"--state-dir={tmp_path}"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            out, err = await asyncio.wait_for(process.communicate(), 60)
            return process.returncode, out, err.decode()

        await write(config, log, tmp_path / "expected", 620, 622)
        code, out, err = await run("entry", "sun", "621")
        assert (code, out) == (0, (tmp_path / "expected").read_bytes().splitlines(True)[1]), err
        assert "no Redis: the interval between requests is kept by this process alone" in err
        output = tmp_path / "output"
        code, out, err = await run(
            "backfill", log.url, "--from=620", "--to=622", f"--output={output}"
        )
        assert (code, out) == (0, b""), err
        assert "3 of 3 entries read, 3 written" in err
        assert output.read_bytes() == (tmp_path / "expected").read_bytes()
        code, _, err = await run("entry", "sun", "700")
        assert (code, "entries 700 to 700 are not a range of its 700 entries" in err) == (1, True)


@pytest.mark.parametrize("name", ["rfc1", "static1"])
async def test_nothing_behind_an_entry_that_is_not_proven(
    simlog: Simlog, tmp_path: Path, name: str
) -> None:
    config, logs = await start(simlog)
    await write(config, logs[name], tmp_path / "honest", 100, 650)
    await put(simlog, f"{name}:swapped_leaf:index=620")
    with pytest.raises(Unproven, match=r"entry 620 is not proven: the tree of \d+ entries"):
        await write(config, logs[name], tmp_path / "after", 100)
    honest = [line for line in lines(tmp_path / "honest") if line["data"]["entry"]["index"] < 620]
    assert lines(tmp_path / "after") == honest


async def test_a_head_without_the_signature_of_the_log(simlog: Simlog, tmp_path: Path) -> None:
    config, logs = await start(simlog, "rfc1:bad_signature")
    with pytest.raises(IntegrityViolation):
        await write(config, logs["rfc1"], tmp_path / "output")
    assert not (tmp_path / "output").exists()


async def test_forged_precertificates_are_left_out(
    simlog: Simlog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, logs = await start(simlog)
    await write(config, logs["rfc1"], tmp_path / "honest", 600)
    await put(simlog, "rfc1:forged_precert:every=2")
    await write(config, logs["rfc1"], tmp_path / "forged", 600)
    assert 0 < len(lines(tmp_path / "forged")) < len(lines(tmp_path / "honest"))
    assert "left out: entry" in capsys.readouterr().err


async def test_dates_and_filters(simlog: Simlog, tmp_path: Path) -> None:
    config, logs = await start(simlog)
    for name, log in logs.items():
        whole, part = tmp_path / name, tmp_path / f"{name}-part"
        await write(config, log, whole)
        times = [time_of(line) for line in lines(whole)]
        at = times.index(times[333])
        async with open_log(config, log, None) as reading:
            assert await reading.find(int(times[333].timestamp() * 1000)) == at
            assert await reading.find(0) == 0
            assert await reading.find(1 << 60) == reading.head.size
        index = _matcher([parse_line("type:precert wildcard:yes")])
        await write(config, log, part, times[333], times[500], passes=index)
        expected = [
            line
            for line in lines(whole)[at : times.index(times[500]) + 1]
            if line["data"]["entry"]["type"] == "precert"
            and any(domain.startswith("*.") for domain in line["data"]["cert"]["all_domains"])
        ]
        assert lines(part) == expected != []


def time_of(line: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(line["data"]["entry"]["submitted_at"]).astimezone(UTC)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"something", "is not the output of a backfill"),
        (b"{}\n", "is not the output of a backfill"),
        (
            b'{"data":{"entry":{"index":5},"source":{"url":"http://x/"}}}\n',
            "has entries of http://x/",
        ),
        (
            b'{"data":{"entry":{"index":5},"source":{"url":"URL"}}}\n',
            "ends at entry 5, before entry 9",
        ),
    ],
)
async def test_a_file_of_something_else_is_not_changed(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    output = tmp_path / "output"
    async with sunlight() as (config, log):
        content = content.replace(b"URL", f"{log.base}/".encode())
        output.write_bytes(content)
        with pytest.raises(CommandError, match=problem):
            await write(config, log, output, 9, 12)
        for first, last in ((0, 700), (5, 4)):
            with pytest.raises(CommandError, match="are not a range of its 700 entries"):
                await write(config, log, tmp_path / "other", first, last)
    assert output.read_bytes() == content


async def test_the_interval_is_kept_without_redis() -> None:
    slots = LocalSlots()
    assert [round((await slots.reserve("x", 0.5)).wait, 1) for _ in range(4)] == [0, 0.5, 1, 1.5]
    await slots.record_429("x", "log", 1.0, 0.5)
    slot = await slots.reserve("x", 0.5)
    assert slot.interval == 0.625


async def test_others_get_most_slots(site: Site) -> None:
    own, other = SharedSlots(site.redis, site.keys), SharedSlots(site.redis, site.keys)
    await own.reserve("x", 1.0)
    assert own.pause == 0
    for _ in range(3):
        await other.reserve("x", 1.0)
    await own.reserve("x", 1.0)
    assert 0.9 * 3 * (SLOT_SHARE - 1) < own.pause <= 3 * (SLOT_SHARE - 1)
