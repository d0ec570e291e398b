"""The private redis-server: its locks, its restarts, and what is left after a crash."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from certbus.connection import check_server, connect
from launcher.runtime import embedded_redis
from launcher.runtime.embedded_redis import (
    EmbeddedRedis,
    StateDirInUse,
    find_executable,
)
from launcher.runtime.supervisor import StartError
from tests.certbus.bus import Worker, batch, stored_names
from tests.waiting import until

# A process that runs an embedded Redis, prints its process id, and waits to be ended.
OWNER = """
import asyncio, sys
from pathlib import Path
from launcher.runtime.embedded_redis import EmbeddedRedis

async def main():
    async with EmbeddedRedis(Path(sys.argv[1]), executable=sys.argv[2]) as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def start_owner(state: Path, executable: str) -> tuple[subprocess.Popen[str], int]:
    """Start a process with an embedded Redis; its handle and the Redis' process id."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(state), executable], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid = ""
    while not pid.strip().isdigit():  # structlog's lines come before it
        pid = owner.stdout.readline()
        assert pid, "the owner ended"
    return owner, int(pid)


async def test_it_serves_and_keeps_what_it_has(tmp_path: Path, executable: str) -> None:
    async with EmbeddedRedis(tmp_path / "state", executable=executable) as server:
        pid = server.pid
        async with connect(server.url) as client:
            await check_server(client)
            worker = Worker(client, "one")
            lease = await worker.take()
            await worker.publisher.publish(lease, batch(0, ["a", "b"]))
            assert (await client.config_get("maxmemory"))["maxmemory"] != "0"
    assert pid is not None
    assert not is_alive(pid)
    async with (
        EmbeddedRedis(tmp_path / "state", executable=executable) as server,
        connect(server.url) as client,
    ):
        assert await stored_names(client) == ["a", "b"]


@pytest.mark.parametrize("before", [None, 0o644])
async def test_its_data_is_for_its_user_alone(
    before: int | None, tmp_path: Path, executable: str
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    state.chmod(0o755)
    old_umask = os.umask(0o022)
    try:
        server = EmbeddedRedis(state, executable=executable)
        async with server, connect(server.url) as client:
            await client.set("a", "b")
        files = [path for path in state.rglob("*") if path.is_file()]
        for path in files:
            path.chmod(before or stat.S_IMODE(path.stat().st_mode))
        async with server, connect(server.url) as client:
            assert await client.get("a") == b"b"
            await client.bgrewriteaof()
            await until(lambda: b"rewrite finished" in log_of(state), "the rewrite")
    finally:
        os.umask(old_umask)
    data = [path for path in state.rglob("*") if path.is_file()]
    assert any("appendonly" in path.name for path in data)
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode) & 0o077) for path in data}
    locks = {"owner.lock", "redis.lock"}  # nothing secret is in them
    assert {mode for name, mode in modes.items() if name not in locks} == {"0o0"}, modes


def log_of(state: Path) -> bytes:
    return (state / "redis.log").read_bytes()


async def test_a_second_one_is_told_who_has_the_state(tmp_path: Path, executable: str) -> None:
    owner, pid = start_owner(tmp_path, executable)
    try:
        with pytest.raises(StateDirInUse, match=f"{tmp_path} is in use by process {owner.pid}:"):
            async with EmbeddedRedis(tmp_path, executable=executable):
                pass
        assert is_alive(pid)
    finally:
        owner.kill()
        owner.wait()


async def test_nothing_is_left_when_its_owner_is_killed(tmp_path: Path, executable: str) -> None:
    owner, pid = start_owner(tmp_path, executable)
    async with connect(f"unix://{tmp_path}/redis.sock") as client:
        await client.set("kept", "yes")
    owner.kill()
    owner.wait()
    # At once, while the old server may still be writing.
    async with EmbeddedRedis(tmp_path, executable=executable) as server:
        assert not is_alive(pid)
        async with connect(server.url) as client:
            assert await client.get("kept") == b"yes"


async def test_an_orphan_is_ended_by_the_next_owner(
    tmp_path: Path, executable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel does not end a child with its parent, the next owner does."""
    monkeypatch.setattr("launcher.runtime.embedded_redis.exit_with_parent", lambda *_: None)
    first = EmbeddedRedis(tmp_path, executable=executable)
    await first.__aenter__()
    orphan = first.pid
    assert orphan is not None
    assert first._owner_lock is not None
    os.close(first._owner_lock)  # as the kernel does for a killed process
    async with EmbeddedRedis(tmp_path, executable=executable) as second:
        assert second.pid != orphan
        assert await asyncio.wait_for(first.wait(), 60) == 0


async def test_a_server_that_died_is_noticed_and_started_again(
    tmp_path: Path, executable: str
) -> None:
    async with (
        EmbeddedRedis(tmp_path, executable=executable) as server,
        connect(server.url) as client,
    ):
        await client.set("kept", "yes")
        waiting = asyncio.create_task(server.wait())
        first = server.pid
        assert first is not None
        await server.start()  # it runs: nothing to do
        assert server.pid == first
        os.kill(first, signal.SIGKILL)
        assert await asyncio.wait_for(waiting, 60) == -signal.SIGKILL
        await server.start()
        assert server.pid != first
        assert await client.get("kept") == b"yes"


def cut_short(state: Path, size: int) -> None:
    """Remove the last bytes of the append-only file, wherever this version keeps it."""
    (log,) = [*state.glob("appendonly.aof"), *state.glob("appendonlydir/*.incr.aof")]
    os.truncate(log, log.stat().st_size - size)


async def test_a_torn_append_only_file_is_read_up_to_where_it_is_torn(
    tmp_path: Path, executable: str
) -> None:
    async with (
        EmbeddedRedis(tmp_path, executable=executable) as server,
        connect(server.url) as client,
    ):
        await client.set("whole", "yes")
        await client.set("torn", "x" * 1000)
    cut_short(tmp_path, 500)
    async with (
        EmbeddedRedis(tmp_path, executable=executable) as server,
        connect(server.url) as client,
    ):
        assert await client.get("whole") == b"yes"
        assert await client.exists("torn") == 0


async def test_what_a_crash_leaves_behind_is_no_obstacle(tmp_path: Path, executable: str) -> None:
    (tmp_path / "owner.lock").write_text("99999999")
    (tmp_path / "redis.lock").write_text("/nowhere/redis.sock")
    (tmp_path / "redis.sock").write_text("")
    async with (
        EmbeddedRedis(tmp_path, executable=executable) as server,
        connect(server.url) as client,
    ):
        assert await client.ping()


async def test_a_state_directory_with_a_very_long_name(tmp_path: Path, executable: str) -> None:
    state = tmp_path / ("long" * 30)
    async with EmbeddedRedis(state, executable=executable) as server:
        socket = Path(server.url.removeprefix("unix://"))
        async with connect(server.url) as client:
            assert await client.ping()
    assert not socket.parent.exists()
    assert state.exists()


async def test_reading_much_data_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = "for i = ARGV[1], ARGV[1] + 9999 do redis.call('SET', i, i) end"
    async with EmbeddedRedis(tmp_path) as server, connect(server.url) as client:
        await client.config_set("auto-aof-rewrite-percentage", 0)
        for first in range(0, 1_500_000, 10_000):
            await client.eval("redis.replicate_commands()" + many, 0, str(first))
    monkeypatch.setattr(
        embedded_redis, "_START_TIMEOUT_SECS", 1.5
    )  # of silence: it takes longer than that
    async with EmbeddedRedis(tmp_path) as server, connect(server.url) as client:
        assert await client.dbsize() == 1_500_000


async def test_a_server_that_cannot_start_says_why(tmp_path: Path, executable: str) -> None:
    (tmp_path / "appendonly.aof").mkdir(parents=True)
    (tmp_path / "appendonlydir").write_text("no directory")
    with pytest.raises(StartError, match=r"(?s)exited with status 1:.*append"):
        async with EmbeddedRedis(tmp_path, executable=executable):
            pass
    # The locks were given back.
    (tmp_path / "appendonly.aof").rmdir()
    (tmp_path / "appendonlydir").unlink()
    async with EmbeddedRedis(tmp_path, executable=executable):
        pass


async def test_it_is_stopped_when_its_owner_is_cancelled(tmp_path: Path, executable: str) -> None:
    pids: list[int] = []

    async def own() -> None:
        async with EmbeddedRedis(tmp_path, executable=executable) as server:
            assert server.pid is not None
            pids.append(server.pid)
            await asyncio.Event().wait()

    owner = asyncio.create_task(own())
    await until(lambda: pids)
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    assert not is_alive(pids[0])


def test_the_machines_own_server_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    valkey = tmp_path / "valkey-server"
    valkey.write_text("#!/bin/sh\n")
    valkey.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_executable() == str(valkey)
    valkey.rename(tmp_path / "redis-server")
    assert find_executable() == str(tmp_path / "redis-server")


def test_without_any_server_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(StartError, match="CERTSTREAM_REDIS_URL"):
        find_executable()
