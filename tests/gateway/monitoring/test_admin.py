"""The address of one process."""

import asyncio
import json
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from certbus.cluster import snapshot
from certhttp.address import listen
from gateway.config import Settings
from tests.certbus.servers import RedisServer
from tests.gateway.client_helpers import Raw, certificates, receive, websocket
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press
from tests.waiting import until

SMALL_RING = Settings(ring_bytes=1, stop_timeout=1)


async def ask(path: Path, request: str) -> tuple[int, bytes]:
    async with Raw(*await asyncio.open_unix_connection(path)) as client:
        client.send(f"{request} HTTP/1.1\r\nHost: admin\r\n\r\n".encode())
        status, _, body = await client.answer()
    return status, body


async def test_health_and_metrics(start: Start, press: Press, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    gateway = await (await start(admin=f"unix:{path}")).following()
    assert await ask(path, "GET /health") == (200, b"OK")
    async with websocket(gateway.ws + "/") as client, websocket(gateway.ws + "/full-stream"):
        await press.print(3)
        await receive(client, 3)
        status, body = await ask(path, "GET /metrics")
    assert status == 200
    found = {
        (sample.name, sample.labels.get("stream"), sample.labels.get("form")): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert found["certstream_gateway_clients", "lite", "websocket"] == 1
    assert found["certstream_gateway_clients", "lite", "sse"] == 0
    assert found["certstream_gateway_messages_sent_total", "lite", "websocket"] == 3
    assert found["certstream_gateway_bytes_sent_total", "lite", "websocket"] > 0
    assert found["certstream_gateway_redis_up", None, None] == 1
    assert found["certstream_gateway_stream_age_seconds", "lite", None] < 60
    assert found["process_resident_memory_bytes", None, None] > 0
    assert found["certstream_gateway_redis_lag_seconds", None, None] < 60
    assert found["certstream_gateway_delivery_seconds_count", None, None] > 0
    assert found["certstream_gateway_delivery_seconds_sum", None, None] < 60


async def test_requests_and_clients_are_logged_with_their_connection(start: Start) -> None:
    with capture_logs() as lines:
        gateway = await (await start()).following()
        async with await Raw.open(gateway.port) as client:
            client.send(b"GET /sse?stream=x&token=t HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.answer()
        async with websocket(f"{gateway.ws}/?cursor=0"):
            pass
        await until(lambda: any(line["event"] == "client gone" for line in lines))
    events = [line for line in lines if "connection" in line]
    assert [line["event"] for line in events] == [
        "request answered",
        "client connected",
        "client gone",
    ]
    first, second, third = (line["connection"] for line in events)
    assert first != second == third
    assert {"route": "/sse", "status": 400}.items() <= events[0].items()
    assert {"stream": "lite", "form": "websocket", "resumes": True}.items() <= events[1].items()


async def test_requests_are_counted_by_route(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    gateway = await start(Settings(api=True), admin=f"unix:{path}")
    for target in ("/health", "/health", "/api/cert/zz", "/wp-login.php", "/\xff", "/sse?stream=x"):
        async with await Raw.open(gateway.port) as client:
            client.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"))
            await client.answer()
    async with websocket(f"{gateway.ws}/full-stream"):
        _, body = await ask(path, "GET /metrics")
    counted = {
        line.removeprefix("certstream_gateway_http_requests_total")
        for line in body.decode().splitlines()
        if line.startswith("certstream_gateway_http_requests_total")
    }
    assert counted == {
        '{route="/health",status="200"} 2.0',
        '{route="/api/cert/{hash}",status="400"} 1.0',
        '{route="other",status="404"} 1.0',
        '{route="other",status="400"} 1.0',
        '{route="/sse",status="400"} 1.0',
        '{route="/full-stream",status="101"} 1.0',
    }


async def test_gaps_are_counted(start: Start, press: Press, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    gateway = await (await start(admin=f"unix:{path}")).following()
    await press.print(1)
    async with websocket(f"{gateway.ws}/?cursor=9999999999999-0") as client:
        assert json.loads(await client.recv())["message_type"] == "gap"
    _, body = await ask(path, "GET /metrics")
    assert b'certstream_gateway_gaps_total{reason="future"} 1.0' in body.splitlines()
    assert b"_created" not in body


async def test_it_is_ready_while_it_follows_redis_and_does_not_stop(
    start: Start, own_redis: RedisServer, tmp_path: Path
) -> None:
    path = tmp_path / "admin.sock"
    answers: list[tuple[int, bytes]] = []

    async def ready(status: int) -> bool:
        answers.append(await ask(path, "GET /ready"))
        return answers[-1][0] == status

    gateway = await start(Settings(stop_timeout=3.0), own_redis.url, f"unix:{path}")
    await until(lambda: ready(200))
    own_redis.kill()
    await until(lambda: ready(503))
    assert answers[-1][1].startswith(b"not following Redis: ")
    own_redis.start()
    await until(lambda: ready(200))
    async with await Raw.open(gateway.port) as client:
        await client.upgrade()  # and never answers the closing handshake
        gateway.stop.set()
        await until(lambda: ready(503))
        assert answers[-1][1].startswith(b"stopping: ")


@pytest.mark.parametrize(("request_line", "status"), [("GET /", 404), ("POST /health", 405)])
async def test_there_is_nothing_else(
    start: Start, tmp_path: Path, request_line: str, status: int
) -> None:
    await start(admin=f"unix:{tmp_path}/admin.sock")
    assert (await ask(tmp_path / "admin.sock", request_line))[0] == status


def test_addresses(tmp_path: Path) -> None:
    with listen("127.0.0.1:0") as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
    for _ in range(2):  # the second one replaces what the first one left
        with listen(f"unix:{tmp_path}/admin.sock") as listening:
            assert listening.family == socket.AF_UNIX
    assert (tmp_path / "admin.sock").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ValueError, match="neither"):
        listen("admin")


async def test_made_up_ids_count_as_no_loss(start: Start, press: Press, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    gateway = await (await start(admin=f"unix:{path}")).following()
    last = await press.print(1)
    last = await press.print(1)
    ms, seq = last.split("-")
    for cursor in ("1-0-0", "1-0", f"{ms}-{int(seq) + 7}-0", f"{int(ms) - 1}-7-0"):
        async with websocket(f"{gateway.ws}/?cursor={cursor}") as client:
            assert json.loads(await client.recv())["message_type"] == "gap"
    _, body = await ask(path, "GET /metrics")
    for reason in ("lost", "emptied"):
        assert b'certstream_gateway_gaps_total{reason="%b"} 0.0' % reason.encode() in body


async def test_messages_that_came_from_redis_are_counted_once(start: Start, press: Press) -> None:
    gateway = await (await start(SMALL_RING)).following()
    for _ in range(20):
        await press.print(2)
    async with websocket(gateway.ws + "/?cursor=0") as client:
        await certificates(client, 40)
        await press.print(1)
        await certificates(client, 1)

        async def sent() -> bool:
            seen = await snapshot(press.redis, press.keys)
            return [int(member.fields["sent"]) for member in seen.gateways] == [41]

        await until(sent)
