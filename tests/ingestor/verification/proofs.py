"""Integrity of a site: what is proven, alarmed and delivered."""

from collections.abc import Mapping
from typing import Any

import httpx

from certbus.cluster import LogStatus
from ctparse.merkle import Frontier
from simlog.oracle import ground_truth
from simlog.oracle.oracle import Delivery, Findings, judge
from tests.ingestor.site import Site
from tests.retained import history
from tests.waiting import until

FROM_START = {"ct_log.start_index": 0, "ct_log.retry_max_attempts": 1}
PAIR = ("rfc1", "static1")


async def findings(site: Site) -> Findings:
    """The oracle's findings about the lite stream."""
    messages = [
        message.replace(b"{", b'{"id":"%b-%d",' % (batch.id.encode(), position), 1)
        for batch in await history(site.redis, site.keys, "lite", "0-0", 1_000_000)
        for position, message in enumerate(batch.messages)
    ]
    # After the messages: the logs grow.
    async with httpx.AsyncClient(trust_env=False) as http:
        known = ground_truth.read_jsonl((await http.get(f"{site.simlog.url}/record")).content)
    return judge(known, [Delivery("stream:lite", "lite", messages)]).findings[0]


async def by_path(site: Site) -> Mapping[str, LogStatus]:
    """Logs by their path on the simulated server."""
    return {log.url.rstrip("/").rpartition("/")[2]: log for log in (await site.logs()).values()}


async def shown(site: Site, state: str) -> bool:
    """Whether every log is in this state of integrity."""
    return {log.integrity for log in (await site.logs()).values()} == {state}


async def alarms(site: Site, log: str) -> str:
    found = (await by_path(site)).get(log)
    return (found and found.alarm) or ""


async def switch(site: Site, logs: str, *faults: dict[str, object]) -> None:
    """Set what is wrong with these logs from now on."""
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.put(f"{site.simlog.url}/control/{logs}/faults", json=faults)
    assert answer.status_code == 200, answer.text


async def assert_frontier_leads_to_head(site: Site) -> None:
    for log in (await site.logs()).values():

        async def leads_there(key: str = site.keys.log(log.log_id)) -> bool:
            kept: dict[Any, Any] = await site.redis.hgetall(key)  # all of one moment
            frontier = Frontier.from_bytes(kept[b"frontier"])
            assert frontier.size == int(kept[b"next"])
            at_head = frontier.size == int(kept[b"tree_size"])
            return at_head and frontier.root() == kept[b"tree_root"]

        await until(leads_there, f"the root of {log.name}")
