"""A configuration that changes while hundreds of clients are connected to real processes."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from simlog.oracle.oracle import Delivery, judge
from tests.e2e.site import Site
from tests.waiting import until

CLIENTS = 500
REVOKED = 25
CERTIFICATES = 500
CONNECT_BATCH = 25  # clients that connect at the same time
LATER = "rfc2"  # a log that is configured while the others stream


class Listener:
    """A client of the domains stream, until it is closed."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.messages: list[bytes] = []
        self.closed: tuple[int | None, str | None] | None = None

    async def run(self, url: str, turns: asyncio.Semaphore, texts: dict[str, bytes]) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with turns:
            connection = await connect(
                url, additional_headers=headers, proxy=None, compression=None, max_queue=None
            )
        try:
            with suppress(ConnectionClosed):
                async for text in connection:
                    assert isinstance(text, str)
                    if "heartbeat" not in text:
                        self.messages.append(texts.setdefault(text, text.encode()))
            self.closed = connection.close_code, connection.close_reason
        finally:
            await connection.close()


@asynccontextmanager
async def listening(address: str, tokens: Sequence[str]) -> AsyncIterator[list[Listener]]:
    """One client for each token, once all are connected."""
    turns, texts = asyncio.Semaphore(CONNECT_BATCH), dict[str, bytes]()
    listeners = [Listener(token) for token in tokens]
    url = f"ws://{address}/domains-only"
    tasks = [asyncio.create_task(each.run(url, turns, texts)) for each in listeners]
    try:
        yield listeners
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def clients_of(address: str) -> int:
    async with httpx.AsyncClient(trust_env=False) as http:
        health = await http.get(
            f"http://{address}/health/deep", headers={"Authorization": "Bearer good"}
        )
    return int(health.json()["active_connections"])


def exchange(path: Path, config: Mapping[str, Any]) -> None:
    """Put another file in its place, as editors and deployments do."""
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump(dict(config)))
    new.replace(path)


async def test_clients_that_remain_allowed_miss_nothing(site: Site) -> None:
    await site.start_redis()
    await site.start_logs(
        rfc6962=2, static_ct=1, rate=60, total=CERTIFICATES, seed=4, start=time.time() + 15
    )
    auth = {"enabled": True, "tokens": ["good", "revoked"]}
    path = await site.configure(auth=auth, hot_reload={"enabled": True})
    everything = yaml.safe_load(path.read_text())
    later = [log for log in everything["custom_logs"] if log["name"] == LATER]
    others = [log for log in everything["custom_logs"] if log["name"] != LATER]
    assert later
    exchange(path, {**everything, "custom_logs": others})
    address = await site.start_gateway()
    gateway = site.processes[-1]
    tokens = ["revoked"] * REVOKED + ["good"] * (CLIENTS - REVOKED)
    async with listening(address, tokens) as listeners:
        revoked, staying = listeners[:REVOKED], listeners[REVOKED:]

        async def connected() -> bool:
            return await clients_of(address) == CLIENTS

        await until(connected, "all are connected")
        ingestor = site.start_ingestor()
        await until(lambda: all(each.messages for each in listeners), "all receive")

        auth = {**auth, "tokens": ["good"]}
        exchange(path, {**everything, "auth": auth, "log_level": "debug"})
        await until(lambda: all(each.closed for each in revoked), "the revoked are closed")
        assert {each.closed for each in revoked} == {(1008, "token revoked")}

        path.write_text("auth: {enabled: fals\n")
        gateway.send(signal.SIGHUP)
        await until(
            lambda: "configuration rejected" in gateway.log.read_text(),
            "the invalid configuration is logged",
        )
        assert "config.yaml:" in gateway.log.read_text().partition("configuration rejected")[2]
        exchange(path, {**everything, "auth": auth})

        await until(site.everything_ingested, "all logs are ingested, the later one too", 90)
        assert ingestor.stop() == 0, str(ingestor)
        streams = await site.streams()
        (domains,) = [each for each in streams if each.form == "domains"]
        sent = [text for text in domains.messages if not text.endswith(b'"data":[]}')]
        await until(
            lambda: all(len(each.messages) >= len(sent) for each in staying),
            "who stayed received everything",
        )
        assert [each.closed for each in staying] == [None] * len(staying)
    assert all(each.messages == staying[0].messages for each in staying)
    verdict = judge(
        await site.record(),
        [*streams, Delivery("a client that stayed", "domains", staying[0].messages)],
        await site.tallies(),
    )
    assert verdict.flawless, f"\n{verdict}"
