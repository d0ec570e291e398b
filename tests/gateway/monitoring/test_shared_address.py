"""What any gateway answers for all of them."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from certbus.cluster import ClusterRegistry
from certbus.logs.circuit_state import CircuitStatus, CircuitStore
from certhttp.address import listen
from gateway.config import Settings
from gateway.monitoring.host_metrics import Scrape, merge_scrapes
from tests.certbus.servers import RedisServer
from tests.gateway.admission import gateways
from tests.gateway.client_helpers import Raw, certificates, receive, serials, websocket
from tests.gateway.conftest import Running, Start
from tests.gateway.publishing import LOG, Press
from tests.waiting import until

Numbers = dict[tuple[str, str | None], float]

UP = "certstream_gateway_up"


async def ask(gateway: Running, path: str) -> tuple[int, bytes]:
    async with await Raw.open(gateway.port) as client:
        client.send(gateways.request(path))
        status, _, body = await client.answer()
    return status, body


async def health(gateway: Running) -> tuple[int, dict[str, Any]]:
    status, body = await ask(gateway, "/health/deep")
    return status, json.loads(body)


async def numbers(gateway: Running) -> Numbers:
    """The shared metrics by name and gateway, those of all streams and forms added up."""
    status, body = await ask(gateway, "/metrics")
    assert status == 200
    return totals(body)


async def numbers_of(gateway: Running, *names: str) -> Numbers:
    """Return the shared metrics as soon as these gateways have returned theirs.

    A busy machine delays the answer of a gateway beyond the timeout of one scrape.
    """
    found: Numbers = {}

    async def all_up() -> bool:
        found.clear()
        found.update(await numbers(gateway))
        return all(found.get((UP, name)) == 1 for name in names)

    await until(all_up, f"metrics of {names}")
    return found


def totals(text: bytes) -> Numbers:
    found: Numbers = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = sample.name, sample.labels.get("gateway")
            found[key] = found.get(key, 0) + sample.value
    return found


async def two(start: Start, tmp_path: Path, redis_url: str) -> tuple[Running, Running]:
    first = await start(redis_url=redis_url, admin=f"unix:{tmp_path}/one.sock")
    second = await start(redis_url=redis_url, admin="127.0.0.1:0")
    return await first.following(), await second.following()


async def test_metrics_are_of_all_gateways(
    start: Start, shared_redis: RedisServer, press: Press, tmp_path: Path
) -> None:
    first, second = await two(start, tmp_path, shared_redis.url)
    async with websocket(first.ws) as a, websocket(second.ws) as b, websocket(second.ws):
        await press.print(3)
        await receive(a, 3)
        await receive(b, 3)

        async def all_is_counted() -> bool:
            found = await numbers(first)
            sent = [
                value for (name, _), value in found.items() if name.endswith("messages_sent_total")
            ]
            return sorted(sent) == [3, 6]

        await until(all_is_counted)
        (other,) = {name for metric, name in await numbers(first) if metric == UP} - {"one"}
        assert other is not None
        names = ("one", other)
        from_first = await numbers_of(first, *names)
        from_second = await numbers_of(second, *names)
    clients = "certstream_gateway_clients"
    for found in (from_first, from_second):
        assert sorted(found[clients, name] for name in names) == [1, 2]
        assert found[clients, "one"] == 1


async def test_one_that_was_killed_is_shown(
    start: Start, shared_redis: RedisServer, prefix: str, tmp_path: Path
) -> None:
    gateway = await (await start(admin=f"unix:{tmp_path}/one.sock")).following()
    other = await gateways.GatewayProcess.start(shared_redis.url, prefix)
    try:

        async def both() -> bool:
            return bool((await health(gateway))[1]["gateways"] == 2)

        await until(both)
    finally:
        await other.kill()
    found = await numbers(gateway)
    ups = sorted(value for (name, _), value in found.items() if name == UP)
    assert ups == [0, 1]
    assert found[UP, "one"] == 1


async def test_a_hung_gateway_is_not_waited_for(
    start: Start, shared_redis: RedisServer, press: Press, tmp_path: Path
) -> None:
    _, second = await two(start, tmp_path, shared_redis.url)
    path = tmp_path / "hung.sock"
    with listen(f"unix:{path}"):  # it accepts connections and sends nothing
        fields = {"host": socket.gethostname(), "admin": f"unix:{path}"}
        await ClusterRegistry(press.redis, press.keys).heartbeat("gateway", "hung", fields)

        async def seen() -> bool:
            return (UP, "hung") in await numbers(second)

        await until(seen)
        found = await numbers_of(second, "one")
    assert found[UP, "hung"] == 0


async def test_health_counts_clients_and_logs(
    start: Start, shared_redis: RedisServer, press: Press, tmp_path: Path
) -> None:
    first, second = await two(start, tmp_path, shared_redis.url)
    directory = ClusterRegistry(press.redis, press.keys)
    await press.redis.sadd(press.keys.logs, LOG)
    circuits = CircuitStore(press.redis, press.keys)
    await circuits.failed(LOG, CircuitStatus("open", 5), "no answer")

    async def unhealthy() -> bool:
        return (await health(first))[0] == 503

    await until(unhealthy)
    await circuits.save(LOG, CircuitStatus())
    await directory.record_status(LOG, {}, succeeded=True)
    await directory.heartbeat("worker", "worker", {"logs": 1})
    async with websocket(first.ws), websocket(second.ws) as client:
        await press.print(1)
        await receive(client, 1)

        async def up_to_date() -> bool:
            report = (await health(second))[1]
            return bool(report["active_connections"] == 2 and report["ingestors"] == 1)

        await until(up_to_date)
        status, report = await health(second)
    assert status == 200
    assert report["stream_lag_secs"]["lite"] < 60
    del report["stream_lag_secs"], report["uptime_secs"]
    assert report == {
        "status": "healthy",
        "logs_healthy": 1,
        "logs_degraded": 0,
        "logs_unhealthy": 0,
        "logs_total": 1,
        "active_connections": 2,
        "redis": "connected",
        "gateways": 2,
        "ingestors": 1,
        "problems": [],
    }


async def test_without_redis_it_is_unhealthy_and_clients_stay(
    start: Start, own_redis: RedisServer, prefix: str, tmp_path: Path
) -> None:
    first, second = await two(start, tmp_path, own_redis.url)
    async with websocket(first.ws) as client, Press(own_redis.url, prefix) as press:
        await press.print(1)
        await receive(client, 1)
        await numbers_of(second, "one")
        await press.redis.save()
        own_redis.kill()

        async def away() -> bool:
            status, report = await health(second)
            assert report["redis"] == "away" or status == 200
            codes = [problem["code"] for problem in report["problems"]]
            return status == 503 and codes[:1] == ["redis_unreachable"]

        await until(away)
        assert (await ask(second, "/health"))[0] == 200
        found = await numbers_of(second, "one")
        assert found["certstream_gateway_clients", "one"] == 1
        own_redis.start()
        await press.print(1)
        assert serials(await certificates(client, 1)) == [1]


@pytest.mark.parametrize(
    ("settings", "path"),
    [(Settings(metrics=False), "/metrics"), (Settings(health=False), "/health/deep")],
)
async def test_switched_off(start: Start, settings: Settings, path: str) -> None:
    status, body = await ask(await start(settings=settings), path)
    assert status == 404
    assert b"protocols." in body


async def test_networks_that_are_not_allowed(shared_redis: RedisServer, prefix: str) -> None:
    allow = {"metrics": ["192.0.2.0/24"]}
    async with gateways.gateway(shared_redis.url, prefix, allow=allow) as port:
        assert (await gateways.ask(port, "/metrics"))[0] == 403
    rate = {"enabled": True}
    async with gateways.gateway(shared_redis.url, prefix, rate_limit=rate) as port:
        status, headers, _ = await gateways.ask(port, "/metrics")
        assert status == 200
        assert "ratelimit-limit" in headers


def test_what_cannot_be_read_counts_as_not_given() -> None:
    text = b"# HELP a_total A.\n# TYPE a_total counter\na_total 2.0\n"
    texts = {"x": text, "y": text, "z": b"a{ 1", "w": None}
    found = totals(merge_scrapes([Scrape("gateway", name, text) for name, text in texts.items()]))
    assert found["a_total", "x"] == found["a_total", "y"] == 2
    up = {gateway: value for (name, gateway), value in found.items() if name.endswith("_up")}
    assert up == {"x": 1, "y": 1, "z": 0, "w": 0}


def test_odd_labels_and_names_are_kept() -> None:
    registry = CollectorRegistry()
    odd = 'a "quoted" {log}, back\\slash\nand\u2028line 1'
    gauge = Gauge("a_gauge", 'What "it" {is}\\.', ["log"], registry=registry)
    gauge.labels(odd).set(float("-inf"))
    gauge.labels("").set(1e-9)
    plain = generate_latest(registry)
    name = 'x"y\\z\n'
    merged = merge_scrapes([Scrape("gateway", name, plain), Scrape("ingestor", "i", plain)])
    (family,) = (
        family
        for family in text_string_to_metric_families(merged.decode())
        if family.name == "a_gauge"
    )
    assert [(sample.labels, sample.value) for sample in family.samples] == [
        ({kind: called, "log": log}, value)
        for kind, called in (("gateway", name), ("ingestor", "i"))
        for log, value in ((odd, float("-inf")), ("", 1e-9))
    ]


def test_histograms_stay_histograms() -> None:
    texts = []
    for values in ((0.01, 0.2), (3.0,)):
        registry = CollectorRegistry()
        seconds = Histogram("a_seconds", "A.", buckets=(0.1, 1.0), registry=registry)
        for value in values:
            seconds.observe(value)
        texts.append(generate_latest(registry))
    merged = merge_scrapes([Scrape("gateway", "x", texts[0]), Scrape("ingestor", "y", texts[1])])
    (family,) = (
        family
        for family in text_string_to_metric_families(merged.decode())
        if family.name == "a_seconds"
    )
    assert family.type == "histogram"
    assert family.documentation == "A."
    found = [
        (sample.name.removeprefix("a_seconds_"), sample.labels, sample.value)
        for sample in family.samples
    ]
    assert found == [
        ("bucket", {"le": "0.1", "gateway": "x"}, 1),
        ("bucket", {"le": "1.0", "gateway": "x"}, 2),
        ("bucket", {"le": "+Inf", "gateway": "x"}, 2),
        ("count", {"gateway": "x"}, 2),
        ("sum", {"gateway": "x"}, 0.21000000000000002),
        ("bucket", {"le": "0.1", "ingestor": "y"}, 0),
        ("bucket", {"le": "1.0", "ingestor": "y"}, 0),
        ("bucket", {"le": "+Inf", "ingestor": "y"}, 1),
        ("count", {"ingestor": "y"}, 1),
        ("sum", {"ingestor": "y"}, 3),
    ]
