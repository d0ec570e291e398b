"""Ranges of honest and misbehaving logs: proven, complete, resumable; nothing else is changed."""

import argparse
import asyncio
import base64
import fcntl
import json
import os
import random
import resource
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from certconf import Config, load
from ctfilter import parse_line
from ingestor.backfill import reader
from ingestor.backfill.app import Unproven, find_logs, open_log
from ingestor.backfill.pace import SLOT_SHARE, LocalSlots, SharedSlots
from ingestor.backoff import Backoff
from ingestor.client.errors import IntegrityViolation, UnexpectedStatus
from ingestor.client.interface import Inclusion
from ingestor.log import Log
from ingestor.pipeline import prefetch
from launcher.commands.backfill import (
    HEAD,
    Position,
    _matcher,
    _write,
    milliseconds,
    position,
)
from launcher.terminal import CommandError
from tests.ingestor.hostile import Answer, hostile_server
from tests.ingestor.site import HURRIED, Simlog, Site
from tests.launcher.up_process import SCRIPT
from tests.paths import FIXTURES
from tests.waiting import until

SIZE = 700
FAST = {**HURRIED, "ct_log.default_operator_rate_limit_ms": 1, "ct_log.retry_max_attempts": 1}


async def start(
    simlog: Simlog, *faults: str, hybrid: int = 0, size: int = SIZE
) -> tuple[Config, dict[str, Log]]:
    """Logs with about `size` entries each, and what reads them, by the names of their paths."""
    await simlog.start(
        rfc6962=1,
        static_ct=1,
        hybrid=hybrid,
        rate=0,
        preload=(2 + hybrid) * size,
        duplicates=0,
        max_entries=64,
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
    pairs = (pair.split("=") for pair in values.split(",") if pair)
    fields = {name: int(value) if value.isdecimal() else value for name, value in pairs}
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"{simlog.url}/control/{log}/faults"
        answer = await http.put(url, json=[{"kind": kind, **fields}])
        assert answer.status_code == 200, answer.text


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


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """A message of version 2 without its id, and without what depends on when it was received."""
    entry = {
        name: value for name, value in message["data"]["entry"].items() if name != "observed_at"
    }
    return {"version": message["version"], "data": message["data"] | {"entry": entry}}


async def test_it_equals_what_the_server_streamed(site: Site, tmp_path: Path) -> None:
    """Of logs of RFC 6962, static-ct logs, and hybrid logs with either form of the leaf."""
    config, logs = await start(site.simlog, hybrid=2, size=320)
    ingestor = await site.ingestor("one", **{"ct_log.start_index": 0})
    await until(site.complete, "everything is published")
    await ingestor.stop()
    streamed = await site.streamed_v2()
    before = {key: await site.redis.dump(key) for key in await site.redis.keys("*log:*")}
    for name, log in logs.items():
        output = tmp_path / name
        await write(config, log, output, redis=site.redis)
        expected = [comparable(m) for m in streamed if m["data"]["source"]["name"] == log.name]
        assert len(expected) > 256
        assert [comparable(line) for line in lines(output)] == expected
        checked = {"checkpoint_signature": "verified", "inclusion": "verified"}
        assert all(line["data"]["verification"] == checked for line in expected)
    assert before == {key: await site.redis.dump(key) for key in before}
    slots = [key async for key in site.redis.scan_iter("*limit:operator:*")]
    assert slots


async def test_the_sunlight_log_equals_what_the_server_streamed(site: Site, tmp_path: Path) -> None:
    async with sunlight() as (config, log):
        settings = msgspec.to_builtins(config.static_logs)
        ingestor = await site.odd_ingestor({"static_logs": settings})

        async def is_complete() -> bool:
            return [status.next for status in (await site.logs()).values()] == [SIZE]

        await until(is_complete, "everything is published")
        await ingestor.stop()
        expected = [comparable(message) for message in await site.streamed_v2()]
        await write(config, log, tmp_path / "output")
        assert [comparable(line) for line in lines(tmp_path / "output")] == expected
        assert [message["data"]["entry"]["index"] for message in expected] == list(range(SIZE))


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

        async def run(
            *arguments: str, stdout: int = subprocess.PIPE
        ) -> tuple[int | None, bytes, str]:
            process = await asyncio.create_subprocess_exec(
                *(SCRIPT, *arguments, f"--config={file}", f"--state-dir={tmp_path}"),
                stdout=stdout,
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
        reading, writing = os.pipe()
        os.close(reading)
        code, _, err = await run("backfill", "sun", "--from=0", stdout=writing)
        os.close(writing)
        assert (code, "Traceback" in err) == (0, False), err
        full = os.open("/dev/full", os.O_WRONLY)
        code, _, err = await run("backfill", "sun", "--from=0", stdout=full)
        os.close(full)
        assert (code, "Traceback" in err) == (1, False), err
        assert "standard output: No space left on device" in err
        code, _, err = await run("entry", "sun", "700")
        assert (code, "entries 700 to 700 are not a range of its 700 entries" in err) == (1, True)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def has_grown(path: Path, size: int) -> bool:
    return size_of(path) > size


async def test_interrupted_five_times_it_writes_the_same_file(
    simlog: Simlog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled, as by a signal, and cut in a line, as by a crash."""
    monkeypatch.setattr(prefetch, "GATHER_SECS", 0.0)
    config, logs = await start(simlog)
    log, output, chance = logs["rfc1"], tmp_path / "output", random.Random(7)
    await write(config, log, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    pace = {"ct_log.default_operator_rate_limit_ms": 20, "ct_log.batch_size": 4}
    slow = load(await simlog.config(), {}, {**FAST, "log_lists": [], **pace})
    for _ in range(5):
        before = size_of(output)
        writing = asyncio.create_task(write(slow, log, output))
        await until(partial(has_grown, output, before), "more lines")
        writing.cancel()
        await asyncio.wait([writing])
        assert writing.cancelled()
        text = output.read_bytes()
        assert whole.startswith(text)
        output.write_bytes(text[: -chance.randrange(1, 300)])
    await write(config, log, output)
    assert output.read_bytes() == whole


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pauses before repeated requests short."""
    monkeypatch.setattr(reader, "_RETRY", Backoff(0.01, 0.01))


@pytest.mark.usefixtures("hurried")
async def test_nothing_behind_an_entry_that_is_not_proven(simlog: Simlog, tmp_path: Path) -> None:
    config, logs = await start(simlog, hybrid=2)
    for name, bad, first in (
        ("rfc1", 620, 0),
        ("static1", 300, 300),  # the first of the range
        ("hybrid1", 105, 100),  # in the first run, before the form of the leaves is known
        ("hybrid2", 105, 100),
        ("hybrid2", 520, 0),
    ):
        honest, output = tmp_path / f"{name}-{bad}-honest", tmp_path / f"{name}-{bad}"
        await write(config, logs[name], honest, first, bad + 9)
        await put(simlog, f"{name}:swapped_leaf:index={bad}")
        with pytest.raises(Unproven, match=f"entry {bad} is not proven: "):
            await write(config, logs[name], output, first)
        assert lines(output) == lines(honest)[: bad - first]
        # What follows it can be proven all the same.
        await write(config, logs[name], tmp_path / f"{name}-{bad}-rest", bad + 1, bad + 9)
        assert lines(tmp_path / f"{name}-{bad}-rest") == lines(honest)[bad + 1 - first :]
        await put(simlog, f"{name}:swapped_leaf:index=100000")


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("name", ["rfc1", "static1"])
async def test_a_proof_that_one_replica_refuses_is_requested_again(
    simlog: Simlog, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, logs = await start(simlog)
    await write(config, logs[name], tmp_path / "honest", 100, 599)
    refused: list[int] = []
    async with open_log(config, logs[name], None) as reading:
        inclusion = reading._client.inclusion

        async def refusing(index: int, size: int, leaf: bytes | None = None) -> Inclusion:
            if refused.count(index) < 1:
                refused.append(index)
                raise UnexpectedStatus(name, "/", "404 Not Found", 404, None)
            return await inclusion(index, size, leaf)

        monkeypatch.setattr(reading._client, "inclusion", refusing)
        await _write(reading, logs[name], (100, 599), None, tmp_path / "output")
        assert refused[0] == 100
        assert len(refused) > 1
    assert lines(tmp_path / "output") == lines(tmp_path / "honest")


@pytest.mark.usefixtures("hurried")
async def test_a_log_without_proofs(simlog: Simlog, tmp_path: Path) -> None:
    config, logs = await start(simlog, "*:status:code=404,only=proofs")
    output = tmp_path / "output"
    with pytest.raises(Unproven, match="entry 9 is not proven: no valid proof"):
        await write(config, logs["rfc1"], output, 9)
    with pytest.raises(Unproven, match="entry 0 is not proven: the tree of"):
        await write(config, logs["rfc1"], output, 0, 20)
    assert output.read_bytes() == b""


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
    config, logs = await start(simlog, hybrid=1, size=400)
    for name, log in logs.items():
        whole, part = tmp_path / name, tmp_path / f"{name}-part"
        await write(config, log, whole)
        times = [time_of(line) for line in lines(whole)]
        at = times.index(times[300])
        async with open_log(config, log, None) as reading:
            assert await reading.find(milliseconds(times[300])) == at
            assert await reading.find(milliseconds(times[300]) + 1) > at
            assert await reading.find(0) == 0
            assert await reading.find(1 << 60) == reading.head.size
        index = _matcher([parse_line("type:precert wildcard:yes")])
        await write(config, log, part, times[300], times[350], passes=index)
        expected = [
            line
            for line in lines(whole)[at : times.index(times[350]) + 1]
            if line["data"]["entry"]["type"] == "precert"
            and any(domain.startswith("*.") for domain in line["data"]["cert"]["all_domains"])
        ]
        assert lines(part) == expected != []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("18446744073709551615", 2**64 - 1),
        ("20260501", 20260501),  # only digits: an index
        ("2026-05-01", "2026-05-01T00:00:00.000Z"),
        ("2026-05-01T12:00:00.57Z", "2026-05-01T12:00:00.570Z"),
        ("2026-05-01T12:00:00.5701Z", "2026-05-01T12:00:00.571Z"),  # the next is not earlier
        ("2026-05-01 12:00+02:00", "2026-05-01T10:00:00.000Z"),
        ("0001-01-01T00:00+23:59", -62135683140000),
        ("1969-12-31T23:59:59.9995", 0),
        *((text, None) for text in ("", "-1", "+5", " 5", "1_0", "1e3", "٣", "²", "9" * 5000)),
        *((text, None) for text in ("head", "2026-02-30", "2026-05-01T", "2026-05-01T12:00+99:00")),
    ],
)
def test_positions(text: str, expected: int | str | None) -> None:
    if expected is None:
        with pytest.raises(argparse.ArgumentTypeError):
            position(text, head=False)
        return
    found = position(text)
    if isinstance(expected, str):
        expected = milliseconds(datetime.fromisoformat(expected))
    assert not isinstance(found, str)
    assert (milliseconds(found) if isinstance(found, datetime) else found) == expected


def time_of(line: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(line["data"]["entry"]["submitted_at"]).astimezone(UTC)


def line(index: int, url: str = "URL") -> bytes:
    """A line of the output of a backfill."""
    source = {"name": "", "url": url, "log_id": None, "operator": "", "log_type": "static_ct"}
    entry = {"index": index, "type": "x509"}
    data = {"source": source, "entry": entry, "cert": {"issuer": {}, "all_domains": []}}
    return json.dumps({"message_type": "", "version": 2, "data": data}).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"something", "is not the output of a backfill"),
        (b"{}\n", "is not the output of a backfill"),
        (b"{}\n" + line(9), "is not the output of a backfill"),
        (line(9) + b"{}\n", "is not the output of a backfill"),
        (line(9, "http://x/"), "has entries of http://x/"),
        (line(9, "http://x/") + line(10) + b'{"', "has entries of http://x/"),
        (line(9) + line(10, "http://x/") + b'{"', "has entries of http://x/"),
        (line(5), "ends at entry 5, before entry 9"),
        (line(10), "begins after entry 9 and lacks it"),
        (line(600), "begins after entry 9 and lacks it"),
        (line(1 << 50), "begins after entry 9 and lacks it"),
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


async def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    held = (tmp_path / "held").open("ab")
    fcntl.flock(held, fcntl.LOCK_EX)
    async with sunlight() as (config, log):
        for name, problem in (
            ("", "is not a regular file"),
            ("pipe", "is not a regular file"),
            ("none/output", "none/output: No such file or directory"),
            ("held/output", "held/output: Not a directory"),
            ("held", "another process writes to"),
            ("/dev/full", "is not a regular file"),
        ):
            with pytest.raises(CommandError, match=problem):
                await write(config, log, tmp_path / name, 0, 2)
    held.close()


async def test_a_full_disk_ends_it_with_the_reason_and_it_can_be_resumed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    async with sunlight() as (config, log):
        await write(config, log, tmp_path / "whole")
        text = (tmp_path / "whole").read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(text) // 2, limits[1]))  # EFBIG
        try:
            with pytest.raises(CommandError, match=r"output: File too large"):
                await write(config, log, output)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert 0 < output.stat().st_size <= len(text) // 2
        await write(config, log, output)
    assert output.read_bytes() == text
    assert f"of {SIZE} entries read" in capfd.readouterr().err


async def test_a_file_may_begin_after_entries_that_do_not_match(tmp_path: Path) -> None:
    async with sunlight() as (config, log):
        await write(config, log, tmp_path / "whole")
        whole = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
        kinds = [json.loads(text)["data"]["entry"]["type"] for text in whole]
        for wanted in ("final", "precert"):
            output, passes = tmp_path / wanted, _matcher([parse_line(f"type:{wanted}")])
            matching = [
                text
                for text, kind in zip(whole, kinds, strict=True)
                if (kind == "precert") == (wanted == "precert")
            ]
            for last in (5, 300, SIZE - 1):
                await write(config, log, output, 0, last, passes=passes)
            assert output.read_bytes() == b"".join(matching)
        assert kinds[0] != kinds[5]
        nothing = tmp_path / "nothing"
        for _ in range(2):
            passes = _matcher([parse_line("domain:no.such.name.invalid")])
            await write(config, log, nothing, passes=passes)
            assert nothing.read_bytes() == b""


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
