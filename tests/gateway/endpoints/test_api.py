"""The REST API: what peers' clients expect, over all gateways, from any of them."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from certbus.cluster import ClusterRegistry, LogDescription, snapshot
from certbus.keys import STREAMS
from certbus.logs.circuit_state import CircuitStatus, CircuitStore
from certbus.streams.retention import Retention, Trimmer
from certhttp.protocol import Request
from ctfilter import parse_filter
from ctparse.wire_messages import Message
from gateway.config import Settings
from gateway.endpoints import latest
from gateway.endpoints.latest import LatestMessages
from gateway.http.messages import DeferredResponse
from gateway.hub import Hub
from gateway.metrics import Metrics
from tests.certbus.servers import RedisServer
from tests.gateway.client_helpers import certificates, serials, websocket
from tests.gateway.conftest import Running, Start
from tests.gateway.publishing import LOG, Press
from tests.gateway.real_messages import real_messages
from tests.waiting import until

SETTINGS = Settings(stop_timeout=1.0, api=True, retained={"full": 10**6, "lite": 10**6})
REAL = real_messages()


@pytest.fixture
async def gateway(start: Start) -> Running:
    return await (await start(SETTINGS)).following()


@pytest.fixture
async def client(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("path", ["/latest.json", "/api/stats", "/api/logs", "/api/cert/00"])
async def test_it_is_off_unless_switched_on(start: Start, path: str) -> None:
    gateway = await start()
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        answer = await client.get(path)
    assert answer.status_code == 404
    assert answer.json()["code"] == "disabled"
    assert "protocols.api" in answer.json()["error"]


async def test_scripts_of_any_origin_may_read_answers_and_limits(
    client: httpx.AsyncClient,
) -> None:
    for path in ("/latest.json", "/api/stats", "/api/cert/x", "/example.json", "/nothing"):
        headers = (await client.get(path)).headers
        assert headers["access-control-allow-origin"] == "*"
        exposed = headers["access-control-expose-headers"].split(", ")
        assert {"Retry-After", "RateLimit-Remaining", "ETag"} <= set(exposed)


async def test_latest_are_the_25_newest(client: httpx.AsyncClient, press: Press) -> None:
    assert (await client.get("/latest.json")).json() == {"messages": []}
    await press.print(5)
    entry = await press.print(23)

    async def newest() -> list[Any]:
        found: list[Any] = (await client.get("/latest.json")).json()["messages"]
        return found

    async def complete() -> bool:
        return len(await newest()) == 25

    await until(complete)
    messages = await newest()
    numbers = [int(message["data"]["leaf_cert"]["serial_number"]) for message in messages]
    assert numbers == list(range(27, 2, -1))
    assert messages[0]["id"] == f"{entry}-22"
    async with websocket(f"{str(client.base_url).replace('http', 'ws')}?cursor={entry}-21") as ws:
        assert await certificates(ws, 1) == messages[:1]


async def test_latest_with_a_filter(start: Start, press: Press) -> None:
    """A named filter and own terms must all hold, as on a stream."""
    named = parse_filter(match=["domain:3.example", "domain:5.example", "domain:38.example"])
    assert named is not None
    settings = msgspec.structs.replace(SETTINGS, filters={"brand": named})
    gateway = await (await start(settings)).following()
    query = "filter=brand&match=name:5.example&match=name:38.example&domain=38.example,5.example"
    async with (
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client,
        websocket(f"{gateway.ws}?{query}") as narrow,
        websocket(f"{gateway.ws}?filter=brand") as wide,
    ):
        await press.print(40)
        assert serials(await certificates(wide, 3)) == [3, 5, 38]
        live = await certificates(narrow, 2)
        assert serials(live) == [5, 38]
        answer = await client.get(f"/latest.json?{query}")
        assert answer.json()["messages"] == live[::-1]
        again = await client.get(
            f"/latest.json?{query}", headers={"If-None-Match": answer.headers["etag"]}
        )
        assert again.status_code == 304
        many = (await client.get("/latest.json?match=contains:example")).json()["messages"]
        assert len(many) == 25
        for wrong in ("filter=other", "domain=b_$", "host=a.example"):
            assert (await client.get(f"/latest.json?{wrong}")).status_code == 400


async def test_a_search_is_the_only_one_also_after_its_client_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = Hub(Settings(streams=("lite",)), lambda client, cursor: None, Metrics())
    endpoint, ends, searches = LatestMessages(hub), threading.Event(), 0

    def search(*_: Any) -> list[tuple[str, bytes]]:
        nonlocal searches
        searches += 1
        assert ends.wait(60)
        return []

    monkeypatch.setattr(latest, "_passing", search)
    tasks = []
    for _ in range(2):
        answer = endpoint.respond(Request("GET", "/latest.json", {}, fields=[("match", "idn:yes")]))
        assert isinstance(answer, DeferredResponse)
        tasks.append(asyncio.ensure_future(answer.respond()))
    await until(lambda: searches == 1)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    for _ in range(5):
        await asyncio.sleep(0)
    assert endpoint._slots.locked()
    ends.set()
    assert (await tasks[1]).status == 200
    assert not endpoint._slots.locked()


async def test_stats_are_of_all_gateways(start: Start, press: Press) -> None:
    one, two = [await (await start(SETTINGS)).following() for _ in range(2)]
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        websocket(one.ws) as first,
        websocket(two.ws + "/full-stream") as second,
        client.stream("GET", two.url + "/sse?stream=domains"),
    ):
        await press.print(10)
        await certificates(first, 10)
        await certificates(second, 10)
        for gateway in (one, two):

            async def settled(gateway: Running = gateway) -> bool:
                stats = (await client.get(gateway.url + "/api/stats")).json()
                assert stats.pop("uptime_seconds") >= 0
                throughput, memory = stats["throughput"], stats["memory"]
                assert set(memory) == {"cache_entries", "cache_capacity"}
                return bool(
                    stats["connections"]
                    == {
                        "total": 3,
                        "websocket": 2,
                        "sse": 1,
                        "full": 1,
                        "lite": 1,
                        "domains": 1,
                        "v2": 0,
                    }
                    and throughput["messages_sent"] == 30
                    and throughput["certificates_processed"] == 10
                    and throughput["bytes_sent"] > 0
                    and throughput["messages_per_second"] > 0
                    and memory["cache_entries"] == 10
                    and memory["cache_capacity"] > 10
                    and stats["gateways"] == 2
                    and 0 < stats["streams"]["full"]["reach_seconds"] < 600
                )

            await until(settled)
            measured = (await client.get(gateway.url + "/metrics")).text
            assert "certstream_gateway_cursor_reach_seconds{" in measured


async def test_logs_and_their_health(client: httpx.AsyncClient, press: Press) -> None:
    directory, circuits = (
        ClusterRegistry(press.redis, press.keys),
        CircuitStore(press.redis, press.keys),
    )
    await press.print(3)
    ids = {name: f"{number:064x}" for number, name in enumerate(["well", "slow", "down", "new"])}
    await directory.describe(
        [
            LogDescription(log_id, name, f"https://{name}.example/", "Op", "static-ct", "usable")
            for name, log_id in ids.items()
        ]
    )
    for name in ("well", "slow", "down"):
        await directory.record_status(ids[name], {}, succeeded=True)
    await circuits.failed(ids["slow"], CircuitStatus("closed", 1), "HTTP 500")
    await circuits.failed(ids["down"], CircuitStatus("open", 9, 4_000_000_000_000), "timed out")

    now = (await snapshot(press.redis, press.keys)).now
    await directory.record_status(ids["well"], {"newest": 7, "newest_timestamp": now - 90_000})
    await press.redis.hset(press.keys.log(ids["well"]), "entry_timestamp", now - 30_000)

    over = LogDescription("e" * 64, "over", "https://over.example/", "Op", "rfc6962", "usable")
    await directory.describe([over])
    await press.redis.hset(press.keys.log(over.log_id), "retired", 1)

    async def seen() -> bool:
        return bool((await client.get("/api/logs")).json()["unhealthy"] == 1)

    await until(seen)
    summary = (await client.get("/api/logs")).json()
    logs = {log["name"]: log for log in summary.pop("logs")}
    assert summary == {"total_logs": 5, "healthy": 1, "degraded": 3, "unhealthy": 1}
    assert {name: log["status"] for name, log in logs.items()} == {
        LOG: "degraded",  # of the press: no worker has reported its health, name or URL
        "well": "healthy",
        "slow": "degraded",
        "down": "unhealthy",
        "new": "degraded",
    }
    pressed = logs[LOG]
    assert pressed["log_id"] == LOG
    assert (pressed["current_index"], pressed["tree_size"], pressed["published"]) == (3, 0, 3)
    down = logs["down"]
    assert (down["circuit"], down["retry_at"]) == ("open", 4_000_000_000)
    assert (down["total_errors"], down["consecutive_errors"]) == (1, 9)
    assert (down["last_error"], down["kind"]) == ("timed out", "static-ct")
    assert (down["tree_head_age_seconds"], down["ingest_delay_seconds"]) == (None, None)
    well = logs["well"]
    assert 90 <= well["tree_head_age_seconds"] < 300
    assert 30 <= well["ingest_delay_seconds"] < 300
    assert logs["new"]["last_success"] is None
    deep = (await client.get("/health/deep")).json()
    assert (deep["logs_healthy"], deep["logs_degraded"], deep["logs_unhealthy"]) == (1, 3, 1)


def written(message: Message) -> list[str]:
    """The ways to write a certificate's hashes."""
    digests = (message.sha256, message.sha1)
    plain = [text for digest in digests for text in (digest.hex(), digest.hex(":"))]
    return [*plain, *map(str.upper, plain)]


async def test_a_certificate_is_found_by_its_hashes_on_any_gateway(
    start: Start, press: Press
) -> None:
    gateways = [await start(SETTINGS) for _ in range(2)]
    await press.publish(REAL[:7])
    entry = await press.publish(REAL[7:])
    async with httpx.AsyncClient(trust_env=False) as client:
        for gateway in gateways:
            for text in written(REAL[8]):
                answer = await client.get(f"{gateway.url}/api/cert/{text}")
                assert answer.status_code == 200, text
    found, expected = answer.json(), json.loads(REAL[8].full)["data"]
    leaf = expected["leaf_cert"]
    for name in leaf:
        assert found[name] == leaf[name], name
    for name in ("seen", "cert_index", "cert_link", "submission_timestamp", "chain"):
        assert found[name] == expected[name], name
    assert (found["source"], found["log"]) == (expected["source"]["name"], expected["source"])
    assert found["id"] == f"{entry}-1"


async def test_every_real_certificate_is_found(client: httpx.AsyncClient, press: Press) -> None:
    await press.publish(REAL)
    for message in REAL:
        answer = await client.get(f"/api/cert/{message.sha256.hex()}")
        assert answer.json()["sha256"] == message.sha256.hex(":").upper()


async def test_what_the_full_stream_has_lost_is_found_in_the_lite_one(
    client: httpx.AsyncClient, press: Press
) -> None:
    await press.publish(REAL[:1])
    path = f"/api/cert/{REAL[0].sha1.hex()}"
    none, some = Retention(0, 3600), Retention(10**6, 3600)
    await Trimmer(press.redis, press.keys, {**dict.fromkeys(STREAMS, some), "full": none}).trim()
    answer = await client.get(path)
    assert answer.status_code == 200
    assert (answer.json()["as_der"], answer.json()["chain"]) == (None, None)
    await Trimmer(press.redis, press.keys, dict.fromkeys(STREAMS, none)).trim()
    assert (await client.get(path)).status_code == 404


async def test_an_issuance_is_found_if_issuances_are_deduplicated(
    client: httpx.AsyncClient, press: Press
) -> None:
    async def status(message: Message) -> int:
        answer = await client.get(f"/api/cert/{message.tbs_sha256.hex()}")
        if answer.status_code == 200:
            assert answer.json()["sha256"] == message.sha256.hex(":").upper()
        return answer.status_code

    await press.publish(REAL[:1])
    await press.redis.hset(press.keys.head, "dedup", "issuance")
    await press.publish(REAL[1:3])
    assert [await status(message) for message in REAL[:4]] == [404, 200, 200, 404]
    none, some = Retention(0, 3600), Retention(10**6, 3600)
    await Trimmer(press.redis, press.keys, {**dict.fromkeys(STREAMS, some), "full": none}).trim()
    assert await status(REAL[1]) == 200, "in the lite stream"


@pytest.mark.parametrize("text", ["", "00", "zz" * 20, "a" * 63, "aa:" * 20, f"{'a' * 40}%0A", "é"])
async def test_an_invalid_hash_is_reported(client: httpx.AsyncClient, text: str) -> None:
    answer = await client.get(f"/api/cert/{text}")
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_hash"
    assert "SHA-256 or SHA-1" in answer.json()["error"]


async def test_a_hash_of_nothing_is_not_found(client: httpx.AsyncClient, press: Press) -> None:
    await press.publish(REAL)
    near = REAL[0].sha1[:-1] + bytes([REAL[0].sha1[-1] ^ 1])  # the index keeps its first half
    for digest in (b"\0" * 32, b"\0" * 20, near):
        answer = await client.get(f"/api/cert/{digest.hex()}")
        assert answer.status_code == 404
        assert answer.json()["code"] == "certificate_not_found"
        assert digest.hex() in answer.json()["error"]


async def test_an_unreadable_record_is_reported(client: httpx.AsyncClient, press: Press) -> None:
    odd = Message(b"\1" * 32, b"\1" * 20, b'{"data":1}', b'{"data":1}', b'{"data":[]}', ())
    await press.publish([odd])
    assert (await client.get(f"/api/cert/{odd.sha256.hex()}")).status_code == 500


@pytest.mark.parametrize("path", ["/api/stats", "/api/logs", f"/api/cert/{'a' * 40}"])
async def test_without_redis_the_answer_states_when_to_retry(
    start: Start, own_redis: RedisServer, path: str
) -> None:
    gateway = await start(SETTINGS, own_redis.url)
    own_redis.kill()
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        answer = await client.get(path)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert (await client.get("/latest.json")).status_code == 200
        own_redis.start()

        async def back() -> bool:
            return (await client.get(path)).status_code != 503

        await until(back)


async def test_many_requests_share_one_read_of_redis(
    client: httpx.AsyncClient, press: Press
) -> None:
    async def reads() -> int:
        stats = await press.redis.info("commandstats")
        return int(stats["cmdstat_smembers"]["calls"])

    await client.get("/api/stats")
    before = await reads()
    requests = [client.get(path) for path in ("/api/stats", "/api/logs") for _ in range(40)]
    assert {answer.status_code for answer in await asyncio.gather(*requests)} == {200}
    assert await reads() - before < 8


async def test_an_answer_the_client_has_is_not_sent_again(
    client: httpx.AsyncClient, press: Press
) -> None:
    entry = await press.publish(REAL)

    async def is_read() -> bool:
        return str((await client.get("/example.json")).json()["id"]).startswith(f"{entry}-")

    await until(is_read)
    for path in (f"/api/cert/{REAL[0].sha256.hex()}", "/", "/example.json"):
        first = await client.get(path)
        tag = first.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await client.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
        assert (await client.get(path, headers={"If-None-Match": '"other"'})).status_code == 200
        head = await client.head(path)
        assert head.headers["etag"] == tag
        assert int(head.headers["content-length"]) == len(first.content)


@pytest.mark.parametrize("path", ["/health", "/health/deep", "/metrics", "/nothing"])
async def test_no_cache_answers_for_this_moment(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).headers["Cache-Control"] == "no-store"


async def test_it_is_switched_while_it_runs(gateway: Running, client: httpx.AsyncClient) -> None:
    for is_on, status in ((False, 404), (True, 200)):
        protocols = msgspec.structs.replace(gateway.present.config.protocols, api=is_on)
        config = msgspec.structs.replace(gateway.present.config, protocols=protocols)
        gateway.present.replace(config)

        async def changed(status: int = status) -> bool:
            return (await client.get("/api/stats")).status_code == status

        await until(changed)
        documented = (await client.get("/openapi.json")).json()["paths"]
        assert ("/api/stats" in documented) == is_on
