"""`certstream-server tail` against servers that break off: it goes on after what it had."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve

from tests.launcher.test_up import SCRIPT

ENOUGH = 30.0


def names(number: int) -> str:
    return f'{{"message_type":"dns_entries","id":"{number}-0-0","data":["{number}.example"]}}'


@asynccontextmanager
async def tailing(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        SCRIPT, "tail", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def finish(process: asyncio.subprocess.Process) -> tuple[int, list[str], str]:
    out, err = await asyncio.wait_for(process.communicate(), ENOUGH)
    assert process.returncode is not None
    return process.returncode, out.decode().splitlines(), err.decode()


def address(server: Server | asyncio.Server) -> str:
    host, port = next(iter(server.sockets)).getsockname()[:2]
    return f"{host}:{port}"


async def test_it_resumes_after_the_last_id_and_tells_of_a_gap() -> None:
    paths: list[str] = []

    async def answer(client: ServerConnection) -> None:
        assert client.request is not None
        paths.append(client.request.path)
        if len(paths) == 1:
            await client.send('{"message_type":"heartbeat","timestamp":1}')
            await client.send(names(1))
            await client.send(names(2))
            client.transport.abort()
        else:
            await client.send('{"message_type":"gap","data":{"reason":"no longer retained"}}')
            await client.send(names(3))
            await client.wait_closed()

    async with (
        serve(answer, "127.0.0.1", 0) as server,
        tailing(f"ws://{address(server)}", "--limit=3") as process,
    ):
        code, out, err = await finish(process)
    assert (code, out) == (0, ["1.example", "2.example", "3.example"])
    assert paths == ["/domains-only", "/domains-only?cursor=2-0-0"]
    assert "trying again until it works" in err
    assert 'missed messages: {"reason":"no longer retained"}' in err


async def test_sse_resumes_too_and_keeps_a_path_of_its_own() -> None:
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n:\n\n")
        number = len(requests)
        writer.write(f"id: {number}-0-0\ndata: {names(number)}\n\n".encode())
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0) as server,
        tailing(
            f"http://{address(server)}/certs/sse?stream=domains", "--limit=2", "--cursor=0-5-1"
        ) as process,
    ):
        code, out, _ = await finish(process)
    assert (code, out) == (0, ["1.example", "2.example"])
    assert requests == [
        b"/certs/sse?stream=domains&cursor=0-5-1",
        b"/certs/sse?stream=domains&cursor=1-0-0",
    ]


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_a_server_without_the_stream_is_not_asked_again(scheme: str) -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0) as server,
        tailing(f"{scheme}://{address(server)}") as process,
    ):
        code, out, err = await finish(process)
    assert (code, out, asked) == (1, [], 1)
    assert "answers 404: Not Found" in err


@pytest.mark.parametrize(
    "nonsense", ["hello", "[1]", '{"message_type":"dns_entries","data":[1]}', "{}"]
)
async def test_nonsense_is_told_plainly(nonsense: str) -> None:
    async def answer(client: ServerConnection) -> None:
        await client.send(nonsense)
        await client.wait_closed()

    async with (
        serve(answer, "127.0.0.1", 0) as server,
        tailing(f"ws://{address(server)}") as process,
    ):
        code, out, err = await finish(process)
    assert (code, out) == (1, [])
    assert "does not speak certstream" in err
    assert "Traceback" not in err


async def test_a_name_cannot_command_the_terminal() -> None:
    async def answer(client: ServerConnection) -> None:
        await client.send(
            r'{"message_type":"dns_entries","data":["\u001b[2Ja\nb","b\u00fc.example"]}'
        )
        await client.wait_closed()

    async with (
        serve(answer, "127.0.0.1", 0) as server,
        tailing(f"ws://{address(server)}", "--limit=1") as process,
    ):
        _, out, _ = await finish(process)
    assert out == [r"\x1b[2Ja\nb", "bü.example"]


async def test_what_it_says_of_redis_is_not_among_the_names() -> None:
    async with tailing("--redis=redis://127.0.0.1:1/0") as process:
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stderr.readline(), ENOUGH)
        process.send_signal(2)
        code, out, _ = await finish(process)
    assert b"cannot read from redis, trying again" in line
    assert (code, out) == (0, [])


async def test_ctrl_c_is_a_clean_end() -> None:
    connected = asyncio.Event()

    async def answer(client: ServerConnection) -> None:
        connected.set()
        await client.wait_closed()

    async with (
        serve(answer, "127.0.0.1", 0) as server,
        tailing(f"ws://{address(server)}") as process,
    ):
        await asyncio.wait_for(connected.wait(), ENOUGH)
        process.send_signal(2)
        assert await finish(process) == (0, [], "")
