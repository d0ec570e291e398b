"""Connections that end: load balancers and NAT reset idle ones, and at each fail-over all."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
from redis.asyncio import Redis

from certbus.connection import CONNECTIONS, _Reliable, connect, once
from certbus.errors import UNAVAILABLE, ConnectionFailed
from tests.certbus.proxy import How, Proxy, When
from tests.certbus.servers import RedisServer
from tests.gateway.certificates import pair
from tests.waiting import until

HOWS: tuple[How, ...] = ("rst", "fin")
WHENS: tuple[When, ...] = ("before", "after")


async def cut(proxy: Proxy, how: How, url: str = "") -> None:
    """Cut all connections, and wait until the client's end of each knows."""
    assert proxy.cut(how) > 0
    await until(lambda: not proxy.connections, "the proxy has no connections")
    # The loop reads the end of a connection before the reply on another, which comes later.
    async with connect(url or proxy.url) as other:
        await other.ping()


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("connections", [1, 20])
async def test_idle_connections_that_ended_are_not_used(
    lossy: Redis, proxy: Proxy, how: How, connections: int
) -> None:
    for _ in range(10):
        await asyncio.gather(*(lossy.ping() for _ in range(connections)))
        await cut(proxy, how)
        sent = proxy.replies
        assert all(await asyncio.gather(*(lossy.ping() for _ in range(connections))))
        assert proxy.replies > sent


@pytest.mark.parametrize("how", HOWS)
async def test_a_pipeline_gets_a_connection_that_lives(
    lossy: Redis, proxy: Proxy, how: How
) -> None:
    await lossy.ping()
    for transaction in (True, False):
        await cut(proxy, how)
        async with lossy.pipeline(transaction=transaction) as pipeline:
            pipeline.incr("n")
            pipeline.incr("n")
            assert len(await pipeline.execute()) == 2
    assert await lossy.get("n") == b"4"


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("when", WHENS)
async def test_a_cut_at_any_reply_is_survived(
    proxy: Proxy, server: RedisServer, how: How, when: When
) -> None:
    """Also at those to what a client sends when it connects."""
    for reply in range(1, 8):
        async with connect(proxy.url, name="test") as lossy:
            proxy.cut_at(reply, how, when)
            for number in range(8):
                assert await lossy.set(f"k{number}", "v")
            assert proxy.is_over()


@pytest.mark.parametrize("how", HOWS)
async def test_what_cannot_be_reached_is_a_failed_connection(
    lossy: Redis, proxy: Proxy, how: How
) -> None:
    await lossy.ping()
    proxy.refused = True
    await cut_quietly(proxy, how)
    with pytest.raises(ConnectionFailed):
        await lossy.ping()
    async with lossy.pipeline() as pipeline:
        pipeline.ping()
        with pytest.raises(ConnectionFailed):
            await pipeline.execute()
    proxy.refused = False
    assert await lossy.ping()


async def cut_quietly(proxy: Proxy, how: How) -> None:
    proxy.cut(how)
    await until(lambda: not proxy.connections, "the proxy has no connections")


async def test_cut_while_many_commands_are_under_way(lossy: Redis, proxy: Proxy) -> None:
    """Whatever the moment: each command succeeds, or ends with an error of the family."""
    results: list[object] = []

    async def work() -> None:
        for _ in range(50):
            try:
                results.append(await lossy.incr("n"))
            except UNAVAILABLE as error:
                results.append(error)

    working = [asyncio.create_task(work()) for _ in range(10)]
    cuts = 0
    while not all(task.done() for task in working):
        cuts += 1
        proxy.cut("rst" if cuts % 2 else "fin")
        await asyncio.sleep(0)
        await lossy_pause(proxy)
    await asyncio.gather(*working)
    assert len(results) == 500
    assert await lossy.ping()


async def lossy_pause(proxy: Proxy) -> None:
    """Let some replies through."""
    seen = proxy.replies
    for _ in range(1000):
        if proxy.replies > seen + 20:
            return
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("how", HOWS)
async def test_what_counts_is_sent_once(lossy: Redis, proxy: Proxy, how: How) -> None:
    """Redis has executed it, but the reply is lost: only the caller knows what to do."""
    counting = once(lossy)
    await counting.incr("n")
    proxy.cut_at(1, how, "before", b"INCR")
    with pytest.raises(ConnectionFailed):
        await counting.incr("n")
    async with counting.pipeline() as pipeline:
        pipeline.incr("n")
        proxy.cut_at(1, how, "before", b"INCR")
        with pytest.raises(ConnectionFailed):
            await pipeline.execute()
    assert await lossy.get("n") == b"3"
    proxy.cut_at(1, how, "before", b"INCR")
    await lossy.incr("n")
    assert await lossy.get("n") == b"5"  # another client sends it again


async def test_commands_wait_for_a_connection_instead_of_failing(
    proxy: Proxy, client: Redis
) -> None:
    proxy.delay = 0.02
    async with connect(proxy.url) as busy:
        replies = await asyncio.gather(*(busy.incr("n") for _ in range(5 * CONNECTIONS)))
        assert sorted(replies) == list(range(1, 5 * CONNECTIONS + 1))
        assert proxy.most == CONNECTIONS
        waiting = [asyncio.ensure_future(busy.incr("n")) for _ in range(3 * CONNECTIONS)]
        await until(lambda: proxy.connections == CONNECTIONS, "all connections in use")
        for task in waiting[::2]:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert all(await asyncio.gather(*(busy.ping() for _ in range(CONNECTIONS))))
    assert await client.ping()


@pytest.mark.parametrize("how", HOWS)
async def test_what_is_sent_once_uses_no_connection_that_ended(
    lossy: Redis, proxy: Proxy, how: How
) -> None:
    """It cannot be sent again, so the end of the connection must be noticed before."""
    counting = once(lossy)
    for number in range(1, 6):
        assert await counting.incr("n") == number
        await cut(proxy, how)


async def test_a_connection_that_ends_just_before_a_write_is_a_failed_connection(
    lossy: Redis, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop raises RuntimeError from a write to it."""
    counting = once(lossy)
    await counting.ping()
    await cut(proxy, "rst")

    async def sees_nothing(_: object) -> bool:
        return False

    monkeypatch.setattr(_Reliable, "can_read", sees_nothing)
    with pytest.raises(ConnectionFailed, match="the connection has ended"):
        await counting.ping()
    assert await counting.ping()


async def test_other_runtime_errors_stay_bugs(
    lossy: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lossy.ping()

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(asyncio.StreamWriter, "writelines", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        await lossy.ping()


async def test_tls_connections_that_were_reset_are_not_used(
    server: RedisServer, tmp_path: Path
) -> None:
    own = pair("redis")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    own.write(certificate, key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with Proxy(server.socket, context) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}?ssl_ca_certs={certificate}"
        async with connect(url) as lossy:
            for _ in range(10):
                assert all(await asyncio.gather(*(lossy.ping() for _ in range(5))))
                await cut(proxy, "rst", url)
                assert all(await asyncio.gather(*(lossy.ping() for _ in range(5))))


async def test_sockets_that_the_kernel_ends_are_not_used(lossy: Redis, proxy: Proxy) -> None:
    """As `ss -K` does: recv(2) fails with ECONNABORTED."""
    for _ in range(10):
        await asyncio.gather(*(lossy.ping() for _ in range(5)))
        ended = _end_sockets(proxy.port)
        if not ended:
            pytest.skip("ss -K needs root, and a kernel with CONFIG_INET_DIAG_DESTROY")
        await until(lambda: not proxy.connections, "the proxy has no connections")
        assert all(await asyncio.gather(*(lossy.ping() for _ in range(5))))


def _end_sockets(port: int) -> int:
    """End this machine's connections to a port, by both ends; returns how many ended."""
    filters = ["dst", "127.0.0.1", "dport", "=", str(port)]
    try:
        done = subprocess.run(
            ["ss", "-tnHK", *filters], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return 0
    return len(done.stdout.splitlines()) if done.returncode == 0 else 0
