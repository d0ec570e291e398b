"""Clients that resume, and slow clients: each message arrives, or a gap reports its loss."""

import asyncio
import itertools
from functools import partial
from typing import Any

import pytest

from certbus.cluster import snapshot
from certbus.streams.retention import Retention, Trimmer
from gateway.clients import stall_timeout
from gateway.config import Settings
from tests.gateway.client_helpers import Raw, certificates, masked, receive, serials, websocket
from tests.gateway.conftest import Running, Start
from tests.gateway.publishing import Press
from tests.waiting import until

SMALL_RING = Settings(ring_bytes=1, stop_timeout=1)
"""Of one slot, so that all but the newest comes from Redis."""


async def settled(gateway: Running, press: Press) -> None:
    """Wait until a gateway has what is published."""

    async with websocket(gateway.ws + "/?cursor=0") as client:
        await certificates(client, press.printed)


@pytest.fixture(params=["ring", "redis", "new gateway"])
async def gateway(request: pytest.FixtureRequest, start: Start, press: Press) -> Running:
    """One that has published 40 certificates in batches of 4, and what it still holds of them."""
    running = await (await start(SMALL_RING if request.param == "redis" else None)).following()
    for _ in range(10):
        await press.print(4)
    if request.param == "new gateway":
        return await (await start()).following()
    await settled(running, press)
    return running


async def every(gateway: Running) -> list[dict[str, Any]]:
    async with websocket(gateway.ws + "/?cursor=0") as client:
        return await receive(client, 40)


async def test_from_the_oldest_retained(gateway: Running) -> None:
    assert serials(await every(gateway)) == list(range(40))


@pytest.mark.parametrize("seen", [0, 2, 3, 17, 38])
async def test_after_any_message(gateway: Running, press: Press, seen: int) -> None:
    cursor = (await every(gateway))[seen]["id"]
    async with websocket(f"{gateway.ws}/?cursor={cursor}") as client:
        await press.print(4)
        assert serials(await certificates(client, 43 - seen)) == list(range(seen + 1, 44))


async def test_after_the_newest_message(gateway: Running, press: Press) -> None:
    cursor = (await every(gateway))[-1]["id"]
    async with websocket(f"{gateway.ws}/?cursor={cursor}") as client:
        await press.print(2)
        assert serials(await certificates(client, 2)) == [40, 41]


async def test_a_cursor_is_valid_on_any_stream(gateway: Running) -> None:
    cursor = (await every(gateway))[20]["id"]
    async with websocket(f"{gateway.ws}/full-stream?cursor={cursor}") as client:
        assert serials(await certificates(client, 19)) == list(range(21, 40))
    async with websocket(f"{gateway.ws}/domains-only?cursor={cursor}") as client:
        found = [message["data"] for message in await receive(client, 17)]
    assert found == [[f"{n}.example"] for n in range(21, 40) if n % 10 != 9]


async def test_last_event_id(gateway: Running) -> None:
    cursor = (await every(gateway))[30]["id"]
    async with await Raw.open(gateway.port) as client:
        # A browser repeats the URL with which it first came.
        client.send(
            f"GET /sse?cursor=0 HTTP/1.1\r\nHost: t\r\nLast-Event-ID: {cursor}\r\n\r\n".encode()
        )
        await client.head()
        events = await client.data_events(9)
    assert [event["id"] for event in events] == [m["id"] for m in (await every(gateway))[31:]]


async def test_a_moment_is_a_cursor_too(gateway: Running) -> None:
    messages = await every(gateway)
    moment = int(messages[4]["id"].split("-")[0]) - 1
    expected = [m for m in messages if int(m["id"].split("-")[0]) > moment]
    async with websocket(f"{gateway.ws}/?cursor={moment}") as client:
        assert await receive(client, len(expected)) == expected


@pytest.mark.parametrize("position", ["-0", ""])
async def test_an_unknown_id_is_reported(gateway: Running, position: str) -> None:
    messages = await every(gateway)
    ms, seq, _ = messages[20]["id"].split("-")
    cursor = f"{ms}-{int(seq) + 500}{position}"
    async with websocket(f"{gateway.ws}/?cursor={cursor}") as client:
        gap, *rest = await receive(client, 1 + len(messages))
    assert gap["message_type"] == "gap"
    assert gap["data"]["requested"] == cursor
    assert "unknown" in gap["data"]["reason"]
    assert rest == messages, "all are of the minute before"


async def test_an_id_from_the_future_is_reported(gateway: Running, press: Press) -> None:
    cursor = "9999999999999-0-0"
    async with websocket(f"{gateway.ws}/?cursor={cursor}") as client:
        (gap,) = await receive(client, 1)
        assert gap["message_type"] == "gap"
        assert gap["data"]["requested"] == cursor
        assert "future" in gap["data"]["reason"]
        await press.print(1)
        assert serials(await certificates(client, 1)) == [40]


async def test_messages_no_longer_retained_are_reported(start: Start, press: Press) -> None:
    for _ in range(10):
        await press.print(4)
    cursor = (await every(await start()))[5]["id"]
    nothing = Retention(max_bytes=1, max_age_secs=0.001)
    await Trimmer(
        press.redis, press.keys, dict.fromkeys(("full", "lite", "domains"), nothing)
    ).trim()
    gateway = await (await start()).following()
    await press.print(4)
    async with websocket(f"{gateway.ws}/?cursor={cursor}") as client:
        gap, *rest = await receive(client, 5)
        assert gap["message_type"] == "gap"
        assert gap["data"]["requested"] == cursor
        assert gap["data"]["oldest"] == rest[0]["id"].rpartition("-")[0]
        assert serials(rest) == [40, 41, 42, 43]
        await press.print(1)
        assert serials(await certificates(client, 1)) == [44]


async def test_many_resume_at_once_and_each_gets_exactly_the_rest(
    start: Start, press: Press
) -> None:
    gateway = await (await start(SMALL_RING)).following()
    for _ in range(60):
        await press.print(4)
    await settled(gateway, press)
    async with websocket(gateway.ws + "/?cursor=0") as client:
        messages = await certificates(client, 240)

    async def come_back(seen: int) -> list[int]:
        async with websocket(f"{gateway.ws}/?cursor={messages[seen]['id']}") as client:
            return serials(await certificates(client, 239 - seen))

    places = range(0, 239, 3)
    found = await asyncio.gather(*(come_back(seen) for seen in places))
    assert found == [list(range(seen + 1, 240)) for seen in places]


async def test_a_client_that_drops_and_resumes_gets_each_certificate_once(
    start: Start, press: Press
) -> None:
    gateways = [await (await start()).following() for _ in range(2)]
    got: list[int] = []

    async def publish() -> None:
        for _ in range(150):
            await press.print(3)
            await asyncio.sleep(0.01)

    async def read() -> None:
        cursor, turn = "0", 0
        while len(got) < 450:
            gateway = gateways[turn % 2]
            turn += 1
            async with websocket(f"{gateway.ws}/?cursor={cursor}", max_queue=None) as client:
                for message in await certificates(client, min(1 + turn % 17, 450 - len(got))):
                    got.extend(serials([message]))
                    cursor = message["id"]
            if turn == 10:
                await gateways[0].stopped()
                gateways[0] = await start()

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        group.create_task(publish())
        group.create_task(read())
    assert got == list(range(450))


@pytest.mark.parametrize("kind", ["websocket", "sse"])
@pytest.mark.parametrize("settings", [None, SMALL_RING])
async def test_a_slow_reader_slows_no_one_and_loses_nothing(
    start: Start, press: Press, settings: Settings | None, kind: str
) -> None:
    gateway = await (await start(settings)).following()
    async with await Raw.open(gateway.port) as slow, websocket(gateway.ws + "/") as quick:
        if kind == "websocket":
            await slow.upgrade()
        else:
            slow.send(b"GET /sse HTTP/1.1\r\nHost: t\r\n\r\n")
            await slow.head()
        for _ in range(30):  # 30 MB: more than kernels hold for one connection
            await press.print(20, padding=50_000)
        assert serials(await certificates(quick, 600)) == list(range(600))
        read = slow.text if kind == "websocket" else slow.event_data
        assert serials([await read() for _ in range(600)]) == list(range(600))
        await press.print(1)
        assert serials(await certificates(quick, 1)) == [600]
        assert serials([await read()]) == [600]


async def test_a_client_that_reads_nothing_is_closed_and_then_reset(
    start: Start, press: Press
) -> None:
    settings = Settings(client_timeout=2.5, close_timeout=0.5, stop_timeout=1)
    gateway = await (await start(settings)).following()
    async with await Raw.open(gateway.port) as stuck, websocket(gateway.ws + "/") as quick:
        await stuck.upgrade()
        stuck.read_nothing()
        await until(partial(has_clients, gateway, press, 2))
        for _ in range(30):
            await press.print(20, padding=50_000)
        await certificates(quick, 600)
        await until(partial(has_clients, gateway, press, 1))
        stuck.read_again()
        assert await stuck.ends()
        await press.print(1)
        assert serials(await certificates(quick, 1)) == [600]


async def test_a_closed_slow_client_receives_the_reason_and_resumes(
    start: Start, press: Press
) -> None:
    settings = Settings(client_timeout=2.5, close_timeout=20, stop_timeout=1)
    gateway = await (await start(settings)).following()
    async with await Raw.open(gateway.port) as stuck:
        await stuck.upgrade()
        await until(partial(has_clients, gateway, press, 1))
        for _ in range(30):
            await press.print(20, padding=50_000)
        await until(partial(has_clients, gateway, press, 0))
        count = 0
        while (frame := await stuck.frame())[0] != 8:
            count += frame[1].startswith(b'{"id"')
        reason = frame[1][2:].decode()
        assert "read 0 bytes" in reason
        stuck.send(masked(8, frame[1][:2]))
    cursor = reason.partition("?cursor=")[2]
    async with websocket(f"{gateway.ws}/?cursor={cursor}") as client:
        assert serials(await certificates(client, 600 - count)) == list(range(count, 600))


async def test_a_client_that_takes_a_byte_now_and_then_is_closed(
    start: Start, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes gain no time: what counts is how many are taken in the time there is."""
    looks = itertools.count()
    untaken = stall_timeout.unacknowledged_bytes
    monkeypatch.setattr(
        stall_timeout, "unacknowledged_bytes", lambda transport: untaken(transport) - next(looks)
    )
    settings = Settings(client_timeout=1.0, close_timeout=0.5, stop_timeout=1)
    gateway = await (await start(settings)).following()
    async with await Raw.open(gateway.port) as stuck:
        await stuck.upgrade()
        stuck.read_nothing()
        await until(partial(has_clients, gateway, press, 1))
        for _ in range(30):
            await press.print(20, padding=50_000)
        await until(partial(has_clients, gateway, press, 0), "it is closed")


async def has_clients(gateway: Running, press: Press, count: int) -> bool:
    seen = await snapshot(press.redis, press.keys)
    return [int(g.fields["clients"]) for g in seen.gateways if g.fields["url"] == gateway.url] == [
        count
    ]
