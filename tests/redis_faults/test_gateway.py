"""A gateway whose connections to Redis are cut or slow: its clients do not notice."""

import asyncio
import json
import time
from contextlib import AsyncExitStack

import httpx
import pytest
from structlog.testing import capture_logs

from certbus.connection import COMMAND_TIMEOUT
from gateway.config import Settings
from tests.certbus.proxy import How, Proxy, When
from tests.gateway.client_helpers import certificates, receive, serials, websocket
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press
from tests.waiting import until

HOWS: tuple[How, ...] = ("rst", "fin")
WHENS: tuple[When, ...] = ("before", "after")
WAITING = 200  # clients; twice the connections that redis-py would have made
FUTURE = "9999999999999-0-0"


@pytest.mark.parametrize("how", HOWS)
async def test_clients_stay_and_miss_nothing(
    start: Start, press: Press, proxy: Proxy, how: How
) -> None:
    gateway = await (await start(redis_url=proxy.url)).following()
    with capture_logs() as lines:
        async with websocket(gateway.ws + "/") as client:
            for turn in range(10):
                await press.print(2)
                assert serials(await certificates(client, 2)) == [2 * turn, 2 * turn + 1]
                assert proxy.cut(how) > 0
    assert not gateway.task.done()
    assert [line for line in lines if line["log_level"] == "error"] == []


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("when", WHENS)
async def test_history_and_api_survive_a_cut_at_any_reply(
    start: Start, press: Press, proxy: Proxy, how: How, when: When
) -> None:
    for _ in range(5):
        await press.print(4)
    settings = Settings(api=True, stop_timeout=1.0)
    gateway = await (await start(settings, redis_url=proxy.url)).following()
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        for reply in range(1, 9):
            proxy.cut_at(reply, how, when)
            async with websocket(f"{gateway.ws}/?cursor=0") as client:
                assert serials(await certificates(client, 20)) == list(range(20))
            for path in ("/api/logs", "/api/stats"):
                answer = await http.get(gateway.url + path)
                assert answer.status_code in (200, 503), answer.text
            await until(proxy.is_over, "the cut")
            await until(lambda: _answers(http, f"{gateway.url}/api/logs"), "the API answers")
    assert not gateway.task.done()


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    return (await http.get(url)).status_code == 200


async def test_limits_and_counts_survive_resets(start: Start, press: Press, proxy: Proxy) -> None:
    """A client that comes during a reset is admitted, by the gateway's own count at worst."""
    limits = {"connection_limit.enabled": True, "rate_limit.enabled": True}
    gateway = await (await start(redis_url=proxy.url, **limits)).following()
    for turn in range(10):
        proxy.cut_at(1 + turn, "rst", "before")
        async with websocket(f"{gateway.ws}/") as client:
            await press.print(1)
            assert serials(await certificates(client, 1)) == [turn]
    assert not gateway.task.done()


async def test_a_stop_does_not_wait_for_a_redis_that_does_not_answer(
    start: Start, press: Press, proxy: Proxy
) -> None:
    gateway = await (await start(Settings(stop_timeout=0.5), redis_url=proxy.url)).following()
    await press.print(1)
    proxy.delay = 3600
    async with websocket(f"{gateway.ws}/?cursor={FUTURE}"), websocket(f"{gateway.ws}/?cursor=0"):
        began = time.monotonic()
        await gateway.stopped()
        assert time.monotonic() - began < COMMAND_TIMEOUT, "no replay of a client that has left"


async def test_clients_that_wait_for_a_slow_redis_delay_no_other(
    start: Start, press: Press, proxy: Proxy
) -> None:
    gateway = await (await start(redis_url=proxy.url)).following()
    async with AsyncExitStack() as stack:
        live = await stack.enter_async_context(websocket(gateway.ws + "/"))
        await press.print(1)
        await certificates(live, 1)
        proxy.delay = 0.3
        waiting = [
            await stack.enter_async_context(websocket(f"{gateway.ws}/?cursor={FUTURE}"))
            for _ in range(WAITING)
        ]
        with capture_logs() as lines:
            for number in range(1, 4):
                await press.print(1)
                assert serials(await certificates(live, 1)) == [number]
            notices = await asyncio.gather(*(receive(client, 1) for client in waiting))
        assert {notice["message_type"] for (notice,) in notices} == {"gap"}, json.dumps(notices[0])
        assert "redis read failed" not in [line["event"] for line in lines]
    # One read for all of them, beside those of the gateway's own tasks.
    assert proxy.most < 20
