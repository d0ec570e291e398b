"""Compressed server-sent events: negotiated, shared, and decompressed at once by real clients."""

import asyncio
import json
import shutil
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Settings
from gateway.delivery.encoding import SSE, sse_event
from gateway.delivery.sse_gzip import GZIP_HEADER, SSE_GZIP, accepts_gzip, compressed
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press

GZIP = {"Accept-Encoding": "gzip"}
IDENTITY = {"Accept-Encoding": "identity"}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("x-gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("deflate, br", False),
        ("GZIP;Q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("*", True),
        ("*;q=0", False),
        ("identity", False),
        ("identity;q=0.5, gzip", True),
        ("identity;q=1, gzip;q=0.5", False),
        ("gzip;q=much", False),
        ("gzip;q=nan", False),
        ("gzip;level=9", True),
    ],
)
def test_gzip_is_used_where_it_is_preferred(header: str | None, expected: bool) -> None:
    assert accepts_gzip(header) is expected


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_each_part_is_complete_at_its_end(parts: list[bytes]) -> None:
    """Whatever parts precede it: those of a client that joins late, resumes, or gets a notice."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert inflate.decompress(GZIP_HEADER) == b""
    for part in parts:
        assert inflate.decompress(compressed(part)) == part


@given(st.lists(st.text(), max_size=5), st.integers(min_value=0, max_value=300))
def test_it_has_the_same_events(names: list[str], first: int) -> None:
    messages = [json.dumps({"data": name}, ensure_ascii=False).encode() for name in names]
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    inflate.decompress(GZIP_HEADER)
    data = SSE_GZIP.batch("5-1", first, messages) + SSE_GZIP.notice(b"{}")
    assert inflate.decompress(data) == SSE.batch("5-1", first, messages) + sse_event(b"{}")


async def test_clients_of_one_stream_get_the_same_bytes_in_both_forms(
    start: Start, press: Press
) -> None:
    gateway = await (await start()).following()
    await press.print(3)
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(60):
        for headers, path, coding in (
            (GZIP, "sse?cursor=0", "gzip"),
            (IDENTITY, "sse?cursor=0", None),
            (GZIP, "sse?cursor=0&match=contains:example", None),
        ):
            async with client.stream("GET", f"{gateway.url}/{path}", headers=headers) as answer:
                assert answer.headers["Vary"] == "Accept-Encoding"
                assert answer.headers.get("Content-Encoding") == coding
                lines = answer.aiter_lines()
                found = [line async for line in _first(lines, 3)]
                assert [line.rpartition("-")[2] for line in found] == ["0", "1", "2"]


async def test_without_the_setting_nothing_is_compressed(start: Start) -> None:
    gateway = await (await start(Settings(sse_compression=False, stop_timeout=1))).following()
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", f"{gateway.url}/sse", headers=GZIP) as answer,
    ):
        assert "Content-Encoding" not in answer.headers


async def _first(lines: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    """Yield the first lines with an id of a message."""
    async for line in lines:
        if line.startswith("id: "):
            yield line
            count -= 1
        if not count:
            return


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl_shows_each_message_when_it_arrives(start: Start, press: Press) -> None:
    gateway = await (await start()).following()
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sN", "--compressed", "--noproxy", "*", f"{gateway.url}/sse?cursor=0"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            await _each_arrives(press, process.stdout)
    finally:
        process.terminate()
        await process.wait()


async def _each_arrives(press: Press, output: asyncio.StreamReader) -> None:
    for _ in range(3):
        entry = await press.print(1)
        while (await output.readline()).decode().strip() != f"id: {entry}-0":
            pass
