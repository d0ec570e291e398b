"""A Redis of a private CA that requires client certificates, and processes that have one."""

import time
from pathlib import Path
from urllib.parse import urlencode

import pytest

from certbus.connection import connect
from certbus.errors import ConnectionFailed
from simlog.oracle.oracle import judge
from tests.e2e.authority import Authority, has_tls
from tests.e2e.clients import connected
from tests.e2e.processes import free_port
from tests.e2e.site import Site
from tests.waiting import until

CERTIFICATES = 300


@pytest.mark.slow
async def test_mutual_tls(site: Site, tmp_path: Path) -> None:
    if not has_tls():
        pytest.skip("this redis-server has no TLS")
    authority = Authority(tmp_path)
    (certificate, key), client = authority.issue("redis"), authority.issue("client")
    port = free_port()
    await site.start_redis_server(
        "redis",
        f"tls-port {port}",
        f"tls-cert-file {certificate}",
        f"tls-key-file {key}",
        f"tls-ca-cert-file {authority.file}",
        "tls-auth-clients yes",
    )
    options = {"ssl_ca_certs": authority.file}
    url = f"rediss://127.0.0.1:{port}/0"
    for refused in (url, f"{url}?{urlencode(options)}"):  # an unknown CA; no client certificate
        async with connect(refused) as stranger:
            with pytest.raises(ConnectionFailed):
                await stranger.ping()
    options |= {"ssl_certfile": client[0], "ssl_keyfile": client[1]}
    site.redis_url = f"{url}?{urlencode(options)}"
    await site.start_logs(
        rfc6962=1, static_ct=1, rate=300, total=CERTIFICATES, start=time.time() + 3
    )
    await site.configure()
    await site.start_gateway()
    async with connected(site.gateways, ["lite"]) as clients:
        site.start_ingestor()
        await until(site.everything_ingested, "everything is ingested")
        await until(lambda: len(clients[0].messages) >= CERTIFICATES, "messages")
    deliveries = [*await site.streams(), *(client.delivery for client in clients)]
    verdict = judge(await site.record(), deliveries, await site.tallies())
    assert verdict.flawless, f"\n{verdict}"
