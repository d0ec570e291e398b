"""Whole processes whose connections to Redis are reset, as load balancers and NAT do."""

import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from launcher.runtime.embedded_redis import find_executable
from simlog.oracle.oracle import judge
from tests.certbus.proxy import Proxy
from tests.certbus.servers import RedisServer
from tests.e2e.clients import all_received, connected
from tests.e2e.site import FORMS, Site
from tests.waiting import until

CERTIFICATES = 3000
RESETS = 12

pytestmark = pytest.mark.slow


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    server = RedisServer(find_executable(), tmp_path)
    server.start()
    try:
        async with Proxy(server.socket) as proxy:
            yield proxy
    finally:
        server.kill()


def has_replied(proxy: Proxy, times: int) -> bool:
    return proxy.replies > times


async def test_no_process_ends_and_nothing_is_lost(proxy: Proxy, site: Site) -> None:
    site.redis_url = proxy.url
    await site.start_logs(
        rfc6962=2,
        static_ct=1,
        duplicates=0.2,
        rate=300,
        total=CERTIFICATES,
        seed=5,
        start=time.time() + 5,
    )
    await site.configure()
    for _ in range(2):
        await site.start_gateway()
        site.start_ingestor()
    async with connected(site.gateways, FORMS) as clients:
        for turn in range(RESETS):
            await until(partial(has_replied, proxy, proxy.replies + 50), "requests after a reset")
            assert proxy.cut("fin" if turn % 4 == 3 else "rst") > 0
        await until(site.everything_ingested, "everything is ingested", 120)
        for ingestor in site.ingestors:
            assert ingestor.stop() == 0, str(ingestor)
        last = (await site.streams())[0].messages[-1].split(b'"')[3].decode()
        await all_received(clients, last, 60)
    for process in site.processes:
        assert "Traceback" not in process.log.read_text(), str(process)
    assert all([await site.healthy(address) for address in site.gateways])
    deliveries = [*await site.streams(), *(client.delivery for client in clients)]
    verdict = judge(await site.record(), deliveries, await site.tallies())
    assert verdict.flawless, f"\n{verdict}"
