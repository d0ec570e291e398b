"""`tail --cursor-file`: every message at least once over any number of runs."""

import asyncio
import errno
import os
import subprocess
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from launcher.commands.tail.cursor_file import CursorFile, end_cut_line
from launcher.terminal import CommandError
from tests.gateway.conftest import running_redis
from tests.gateway.publishing import Press
from tests.launcher.commands.test_tail import ENOUGH, address, finish, names, sending, tailing
from tests.launcher.up_process import SCRIPT
from tests.waiting import until


async def test_a_run_continues_after_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "cursor"
    async with sending(names(1), names(2), names(3)) as (url, clients):
        for since in ((), ("--since=5-0-0",)):  # the file takes precedence
            arguments = (url, f"--cursor-file={path}", "--limit=2", *since)
            async with tailing(*arguments) as process:
                assert (await finish(process))[:2] == (0, ["1.example", "2.example"])
            assert path.read_text() == "2-0-0\n"
    assert [client.request.path for client in clients if client.request] == [
        "/domains-only",
        "/domains-only?cursor=2-0-0",
    ]
    assert await asyncio.to_thread(lambda: not Path(f"{path}.new").exists())


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_a_heartbeat_advances_it_within_a_second(tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "cursor"

    async def websocket(client: ServerConnection) -> None:
        await client.send(names(1))
        await client.send('{"message_type":"heartbeat","timestamp":1,"id":"7-0-3"}')
        await client.wait_closed()

    async def sse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        writer.write(f"id: 1-0-0\ndata: {names(1)}\n\n: heartbeat\nid: 7-0-3\n\n".encode())
        await reader.read()
        writer.close()

    def saved() -> bool:
        return path.exists() and path.read_text() == "7-0-3\n"

    async with (
        serve(websocket, "127.0.0.1", 0) as websockets,
        await asyncio.start_server(sse, "127.0.0.1", 0) as events,
        tailing(
            f"{scheme}://{address(websockets if scheme == 'ws' else events)}",
            f"--cursor-file={path}",
        ) as process,
    ):
        await until(saved, "the id of the heartbeat is saved", ENOUGH)
        process.kill()


async def test_a_gap_does_not_advance_it(tmp_path: Path) -> None:
    """So the next run requests what was missing again, until an id after the gap is stored."""
    path = tmp_path / "cursor"
    gap = '{"message_type":"gap","data":{"requested":"1-0-0","oldest":"5-0","reason":"lost"}}'
    async with (
        sending(names(1), gap) as (url, _),
        tailing(url, f"--cursor-file={path}") as process,
    ):
        assert process.stderr is not None
        note = await asyncio.wait_for(process.stderr.readline(), ENOUGH)
        assert note.startswith(b"tail: missed messages: ")
        process.terminate()
        await finish(process)
    assert path.read_text() == "1-0-0\n"


async def test_redis_without_a_server(tmp_path: Path) -> None:
    """After the last batch, the id is that of the batch: nothing is missing if it is trimmed."""
    path = tmp_path / "cursor"
    with running_redis() as redis:
        async with Press(redis.url, "certstream:") as press:
            batch = await press.print(3)
            arguments = (f"--redis={redis.url}", "--format=id {serial}", f"--cursor-file={path}")
            async with tailing(*arguments, "--since=0", "--limit=2") as process:
                assert (await finish(process))[:2] == (0, ["id 0", "id 1"])
            async with tailing(*arguments, "--limit=1") as process:
                assert (await finish(process))[:2] == (0, ["id 2"])
            assert path.read_text() == f"{batch}-2\n"
            async with tailing(*arguments) as process:
                await until(lambda: path.read_text() == f"{batch}\n", "the batch", ENOUGH)
                await press.redis.xtrim(press.keys.stream("lite"), maxlen=0, approximate=False)
                batch = await press.print(1)
                await until(lambda: path.read_text() == f"{batch}\n", "the batch", ENOUGH)
                process.terminate()
                assert (await finish(process))[1] == ["id 3"]
            await press.redis.xtrim(press.keys.stream("lite"), maxlen=0, approximate=False)
            await press.print(1)
            async with tailing(*arguments, "--limit=1") as process:
                code, out, err = await finish(process)
            assert (code, out) == (0, ["id 4"])
            assert err.endswith("no gaps\n")


async def test_a_broken_pipe_is_an_end_with_the_last_flushed_id(tmp_path: Path) -> None:
    path = tmp_path / "cursor"
    proceed = asyncio.Event()

    async def answer(client: ServerConnection) -> None:
        await client.send(names(1))
        await proceed.wait()
        await client.send(names(2))
        await client.wait_closed()

    async with serve(answer, "127.0.0.1", 0) as server:
        process = await asyncio.create_subprocess_exec(
            *(SCRIPT, "tail", f"ws://{address(server)}", f"--cursor-file={path}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), ENOUGH) == b"1.example\n"
        process.stdout._transport.close()  # type: ignore[attr-defined]
        proceed.set()
        assert process.stderr is not None
        err = await asyncio.wait_for(process.stderr.read(), ENOUGH)
        assert await asyncio.wait_for(process.wait(), ENOUGH) == 0, err
    assert path.read_text() == "1-0-0\n"
    assert b"Traceback" not in err


async def test_an_output_that_is_full_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cursor"
    async with sending(names(1)) as (url, _):
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", f"exec {SCRIPT} tail {url} --cursor-file={path} > /dev/full"),
            stderr=subprocess.PIPE,
        )
        _, err = await asyncio.wait_for(process.communicate(), ENOUGH)
    assert process.returncode == 1
    assert b"output: No space left on device" in err
    assert b"Traceback" not in err
    assert not path.exists()


async def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "cursor"
    async with (
        sending(names(1)) as (url, _),
        tailing(url, f"--cursor-file={path}") as process,
    ):
        code, out, err = await finish(process)
    assert (code, out) == (1, ["1.example"])
    assert f"cursor file {path}: No such file or directory" in " ".join(err.split())


def test_the_output_is_synced_before_the_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that stops at any step has the lines and gaps up to the id that its file has."""
    path = tmp_path / "cursor"
    steps: list[tuple[str, str]] = []

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        steps.append((name, path.read_text() if path.exists() else ""))

    monkeypatch.setattr("os.fsync", fsync)
    with (tmp_path / "output").open("w") as output, (tmp_path / "notes").open("w") as notes:
        outputs = {"standard output": output.fileno(), "standard error": notes.fileno()}
        file = CursorFile(path, outputs)
        for number in ("1-0-0", "2-0-0", "2-0-0"):
            file.advance(number)
            file.save()
    synced = ("output", "notes", "cursor.new")
    first = [*((name, "") for name in synced), (tmp_path.name, "1-0-0\n")]
    second = [*((name, "1-0-0\n") for name in synced), (tmp_path.name, "2-0-0\n")]
    assert steps == first + second


@pytest.mark.parametrize("stored", [None, "1-0-0"])
def test_the_first_id_of_a_run_is_stored_at_once(tmp_path: Path, stored: str | None) -> None:
    """So runs that are all killed within a second do not repeat the same lines for ever."""
    path = tmp_path / "cursor"
    if stored is not None:
        path.write_text(stored)
    file = CursorFile(path, {})
    assert file.load() == stored
    for number in ("2-0-0", "3-0-0"):
        file.advance(number)
        assert path.read_text() == "2-0-0\n"
    file.save()
    assert path.read_text() == "3-0-0\n"


@pytest.mark.parametrize("name", ["standard output", "standard error"])
def test_an_error_names_the_output_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / "cursor"
    with (tmp_path / "output").open("w") as output, (tmp_path / "other").open("w") as other:
        outputs = dict.fromkeys(("standard output", "standard error"), other.fileno())
        file = CursorFile(path, {**outputs, name: output.fileno()})

        def fsync(descriptor: int) -> None:
            if descriptor == output.fileno():
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr("os.fsync", fsync)
        with pytest.raises(CommandError) as caught:
            file.advance("1-0-0")
    assert str(caught.value) == f"fsync of {name}: Input/output error"
    assert not path.exists()


@pytest.mark.parametrize(("before", "after"), [("", ""), ("a\n", "a\n"), ("a\nb", "a\nb\n")])
def test_a_line_that_a_crash_cut_is_ended(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "output"
    path.write_text(before)
    with path.open("a") as output:
        end_cut_line(output.fileno())
    assert path.read_text() == after
