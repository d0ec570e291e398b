"""Gateways restarted as Kubernetes does it, or killed, one by one: no client misses anything."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import httpx
import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.frames import Close

from simlog.oracle.check_message import MessageForm
from simlog.oracle.oracle import judge
from tests.e2e.clients import PATHS, Client, all_received
from tests.e2e.processes import Process
from tests.e2e.site import FORMS, Site
from tests.waiting import until

CERTIFICATES = 3000
CLIENTS = 2  # of each form and protocol
DRAIN_SECS = 1.5
STOPPED_SECS = DRAIN_SECS + 1
BUSY_SECS = 5.0  # of a machine with other work; without the bound, a gateway waits for its clients
RESTART = 1012  # "Service Restart", in the IANA registry of close codes

pytestmark = pytest.mark.slow


class Roamer(Client):
    """A client that resumes at the next gateway after its last id.

    Attributes:
        closed: how gateways sent it elsewhere.
        cursors_right: whether each closing frame had the id of its last message, or of the batch.
    """

    def __init__(self, where: str, form: MessageForm, gateways: Iterator[str]) -> None:
        super().__init__(where, form)
        self.closed: list[Close] = []
        self.cursors_right = True
        self._gateways = gateways

    async def by_websocket(self) -> None:
        while True:
            cursor = f"?cursor={self.last_id}" if self.messages else ""
            url = f"ws://{next(self._gateways)}{PATHS[self.form]}{cursor}"
            try:
                async with connect(url, proxy=None, max_queue=None) as connection:
                    async for text in connection:
                        assert isinstance(text, str)
                        self.messages.append(text.encode())
            except ConnectionClosed as closed:
                close = closed.rcvd or Close(0, "cut off instead of sent elsewhere")
                self.closed.append(close)
                right = (self.last_id, self.last_id.rpartition("-")[0])
                self.cursors_right &= close.reason in [
                    f"restart; resume with ?cursor={each}" for each in right
                ]
            except (OSError, InvalidHandshake):
                await asyncio.sleep(0.05)  # that one is not back yet

    async def by_events(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(10, read=None)) as http:
            while True:
                headers = {"Last-Event-ID": self.last_id} if self.messages else {}
                url = f"http://{next(self._gateways)}/sse?stream={self.form}"
                try:
                    async with http.stream("GET", url, headers=headers) as response:
                        async for line in response.aiter_lines():
                            if line.startswith("data:"):
                                self.messages.append(line.removeprefix("data:").strip().encode())
                except httpx.TransportError:
                    await asyncio.sleep(0.05)


async def test_no_client_misses_anything_while_all_gateways_are_restarted(site: Site) -> None:
    roamers = await roam(site, stop)
    assert_sent_elsewhere(roamers)


async def test_no_client_misses_anything_while_all_gateways_are_killed(site: Site) -> None:
    await roam(site, Process.kill)


async def roam(site: Site, end: Callable[[Process], None]) -> list[Roamer]:
    """End each gateway and start it again while clients read; check what these received."""
    await site.start_redis()
    start = time.time() + 3
    await site.start_logs(rate=250, total=CERTIFICATES, duplicates=0.3, seed=5, start=start)
    await site.configure(drain_secs=DRAIN_SECS)
    for _ in range(2):
        await site.start_gateway()
    gateways = [process for process in site.processes if process.name.startswith("gateway")]
    async with asyncio.TaskGroup() as tasks:
        roamers = [
            Roamer(f"{protocol} {form} {number}", form, itertools.cycle(site.gateways))
            for number in range(CLIENTS)
            for form in FORMS
            for protocol in ("WebSocket", "SSE")
        ]
        roaming = [
            tasks.create_task(
                each.by_events() if each.where.startswith("SSE") else each.by_websocket()
            )
            for each in roamers
        ]
        site.start_ingestor()
        await until(lambda: all(each.last_id for each in roamers), "everyone has something")
        for gateway, address in zip(gateways, site.gateways, strict=True):
            await asyncio.to_thread(end, gateway)
            gateway.restart()
            await until(partial(site.healthy, address), f"{gateway} is back")
        await until(site.everything_ingested, "everything is ingested", 120)
        last = msgspec.json.decode((await site.streams())[0].messages[-1])["id"]
        await all_received(roamers, last, 120)
        for task in roaming:
            task.cancel()
    deliveries = [each.delivery for each in roamers]
    verdict = judge(await site.record(), deliveries, await site.tallies())
    assert verdict.flawless, f"\n{verdict}"
    return roamers


def stop(gateway: Process) -> None:
    assert gateway.stop(seconds=STOPPED_SECS + BUSY_SECS) == 0, str(gateway)


def assert_sent_elsewhere(roamers: Sequence[Roamer]) -> None:
    """All began at the first gateway, so both restarts were theirs."""
    for each in roamers:
        if each.where.startswith("WebSocket"):
            assert [close.code for close in each.closed] == [RESTART, RESTART], each.where
            assert each.cursors_right, each.closed
