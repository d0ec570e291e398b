"""What is documented is what is answered: the OpenAPI document, and the schemas of the messages."""

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import jsonschema
import msgspec
import pytest

from certbus.cluster import ClusterRegistry
from certbus.logs.circuit_state import CircuitStatus, CircuitStore
from certhttp.protocol import Request
from ctfilter import parse_filter
from gateway.admission.policy import Policy
from gateway.config import Settings
from gateway.endpoints.openapi import Document
from gateway.endpoints.table import subscriptions
from gateway.http.errors import ErrorCode
from gateway.hub import Hub
from gateway.metrics import Metrics
from tests.certbus.servers import RedisServer
from tests.gateway.admission.gateways import ask, gateway
from tests.gateway.client_helpers import certificates, websocket
from tests.gateway.conftest import Running, Start
from tests.gateway.endpoints.test_api import SETTINGS
from tests.gateway.publishing import LOG, Press
from tests.gateway.real_messages import real_messages
from tests.waiting import until

CONFIG = Path(__file__).with_name("schemathesis.toml")
REAL = real_messages()
API = {"protocols": {"api": True}}
TOKENS = {"auth": {"enabled": True, "tokens": ["t"], "header_name": "X-Key"}}
PATHS = {"full": "/full-stream", "lite": "/", "domains": "/domains-only"}


def closed(schema: Any) -> Any:
    """The schema, with which an object may have no member that it does not know."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    stricter = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        stricter["additionalProperties"] = False
    return stricter


@pytest.mark.parametrize("stream", ["full", "lite", "domains"])
@pytest.mark.parametrize("chain_der", [False, True])
async def test_messages_match_their_schema(
    start: Start, press: Press, stream: str, chain_der: bool
) -> None:
    gateway = await (await start(SETTINGS)).following()
    async with (
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client,
        websocket(gateway.ws + PATHS[stream]) as subscriber,
    ):
        schema = (await client.get(f"/schemas/{stream}.json")).json()
        example = (await client.get(f"{PATHS[stream].rstrip('/')}/example.json")).json()
        await press.publish(real_messages(chain_der=chain_der))
        messages = await certificates(subscriber, len(REAL))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(closed(schema))
    for message in (*messages, *([example] if stream != "lite" else [])):
        validator.validate(message)
    for broken in ({**messages[0], "id": "1"}, {**messages[0], "more": 1}, {}):
        assert not validator.is_valid(broken)


@pytest.fixture
async def busy(start: Start, press: Press) -> AsyncIterator[Running]:
    """A gateway with data at every address."""
    running = await (await start(SETTINGS)).following()
    await press.publish(REAL)
    await CircuitStore(press.redis, press.keys).failed(LOG, CircuitStatus("open", 3, 5), "why")

    async def complete() -> bool:
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
            messages = (await client.get("/latest.json")).json()["messages"]
            logs = (await client.get("/api/logs")).json()["logs"]  # from a cache of up to 2 s
            return len(messages) == len(REAL) and [log["retry_at"] for log in logs] == [0]

    async with websocket(running.ws):
        await until(complete)
        yield running


async def test_answers_match_the_document(busy: Running) -> None:
    async with httpx.AsyncClient(base_url=busy.url, trust_env=False) as client:
        document = (await client.get("/openapi.json")).json()
        components = closed(document["components"])
        compared = 0
        for path, operations in document["paths"].items():
            if path == "/sse":
                continue
            responses = operations["get"]["responses"]
            answer = await client.get(path.replace("{hash}", REAL[3].sha1.hex(":")))
            content = responses[str(answer.status_code)]["content"]
            media = answer.headers["content-type"].partition(";")[0]
            assert media in content, path
            if media.endswith("json"):
                schema = {**content[media]["schema"], "components": components}
                jsonschema.Draft202012Validator(schema).validate(answer.json())
                compared += "$ref" in schema
        assert compared >= 9
        assert (await client.get("/api/logs")).json()["logs"][0]["retry_at"] == 0


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open nothing more; poll(2) still takes one descriptor."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_no_answer_needs_a_descriptor(start: Start) -> None:
    """A gateway has read what its answers need when it starts."""
    gateway = await (await start(SETTINGS)).following()
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        assert (await client.get("/health")).status_code == 200
        with no_descriptors():
            answer = await client.get("/openapi.json")
            assert answer.status_code == 200
            for path in answer.json()["paths"].keys() - {"/sse"}:
                status = (await client.get(path.replace("{hash}", "ab" * 32))).status_code
                assert status != 500, path  # 503, if it needed one more connection to Redis


@pytest.fixture
async def offers_all(start: Start) -> Running:
    """A gateway with every endpoint that has parameters, and a named filter."""
    brand = parse_filter(match=["contains:acme"])
    assert brand is not None
    settings = msgspec.structs.replace(SETTINGS, v2=True, filters={"brand": brand})
    return await (await start(settings)).following()


async def test_every_parameter_with_each_kind_of_value(offers_all: Running) -> None:
    """Valid, empty, repeated and over-long values get a documented answer at every endpoint."""
    valid = {
        "domain": "example.com",
        "issuer": "Let's Encrypt",
        "match": "contains:acme",
        "filter": "brand",
        "cursor": "0",
        "stream": "domains",
        "limit": "5",
        "log": LOG,
        "Last-Event-ID": "0",
        "lastEventId": "0",
    }
    filters = {"domain", "issuer", "match", "filter"}
    covered: set[str] = set()
    async with (
        httpx.AsyncClient(base_url=offers_all.url, trust_env=False) as client,
        asyncio.timeout(120),
    ):
        document = (await client.get("/openapi.json")).json()
        for path, operations in document["paths"].items():
            address = path.replace("{hash}", "ab" * 32)
            responses = operations["get"]["responses"]
            for parameter in operations["get"].get("parameters", []):
                name, place = parameter["name"], parameter["in"]
                if place == "path":
                    continue
                covered.add(name)
                kinds = {
                    "valid": [valid[name]],
                    "empty": [""],
                    "repeated": [valid[name]] * 2,
                    "over-long": ["x" * 5000],
                }
                for kind, values in kinds.items():
                    pairs = [(name, value) for value in values]
                    headers = pairs if place == "header" else []
                    target = address if headers else f"{address}?{urlencode(pairs)}"
                    async with client.stream("GET", target, headers=headers) as answer:
                        case = path, name, kind, answer.status_code
                        assert str(answer.status_code) in responses, case
                        assert answer.status_code != 400 or kind != "valid", case
                        if name in filters and kind == "over-long" and path != "/":  # the page
                            assert answer.status_code == 400, case
    assert covered >= {*filters, "cursor", "stream"}


async def test_documents_are_made_once_for_each_configuration() -> None:
    service = Hub(Settings(), lambda client, cursor: None, Metrics())
    policy = Policy()
    request = Request("GET", "/openapi.json", {}, {})
    document = Document(service, lambda: policy, subscriptions(service))
    first = document.respond(request)
    assert document.respond(request) is first
    service.apply_settings(Settings(sse=False))
    second = document.respond(request)
    assert (b"/sse" in first.body, b'"/sse"' in second.body) == (True, False)
    assert document.respond(request) is second
    policy = Policy(api=())
    assert document.respond(request) is not second


async def test_what_is_switched_off_is_not_documented(start: Start) -> None:
    gateway = await start()
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        document = (await client.get("/openapi.json")).json()
        assert document["components"]["schemas"]["ErrorCode"]["enum"] == sorted(ErrorCode)
        paths = document["paths"]
    assert "/sse" in paths
    assert not [path for path in paths if path.startswith("/api/") or path == "/latest.json"]


@asynccontextmanager
async def filled(redis_url: str, prefix: str, **configured: Any) -> AsyncIterator[int]:
    async with (
        gateway(redis_url, prefix, **API, **configured) as port,
        Press(redis_url, prefix) as press,
    ):
        await press.publish(REAL)
        beating = asyncio.create_task(beat(ClusterRegistry(press.redis, press.keys)))
        try:
            yield port
        finally:
            beating.cancel()


async def beat(directory: ClusterRegistry) -> None:
    """Send heartbeats as an ingestor does whose one log answers."""
    while True:
        await directory.record_status(LOG, {}, succeeded=True)
        await directory.heartbeat("worker", "worker", {"logs": 1})
        await asyncio.sleep(1)


async def schemathesis(port: int, place: Path, *arguments: str) -> None:
    """Let schemathesis search for a request that is not answered as documented.

    Args:
        port: of a gateway.
        place: for what it writes.
        arguments: more of them.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", f"--config-file={CONFIG}"),
        *("run", f"http://127.0.0.1:{port}/openapi.json"),
        *("--max-examples=10", "--request-timeout=1", "--no-color", "--seed=1", *arguments),
        cwd=place,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"0 passed" not in output
    assert b"All 0" not in output


async def test_schemathesis_finds_nothing(
    shared_redis: RedisServer, prefix: str, tmp_path: Path
) -> None:
    async with filled(shared_redis.url, prefix) as port:
        await schemathesis(port, tmp_path)


async def test_schemathesis_finds_nothing_with_tokens(
    shared_redis: RedisServer, prefix: str, tmp_path: Path
) -> None:
    async with filled(shared_redis.url, prefix, **TOKENS) as port:
        # Streams that begin with a token would each be read until the time-out.
        await schemathesis(
            port, tmp_path, "--header=Authorization: Bearer t", "--exclude-path=/sse"
        )


@pytest.mark.parametrize("metrics", [None, ["127.0.0.0/8"], ["203.0.113.0/24"]])
async def test_without_a_token_no_route_is_reached(
    shared_redis: RedisServer, prefix: str, metrics: list[str] | None
) -> None:
    """Except /health, and /metrics from allowed networks, whatever X-Forwarded-For contains."""
    allow = {} if metrics is None else {"allow": {"metrics": metrics}}
    spoofed = ("127.0.0.1", "203.0.113.9", "::1", "unknown, 127.0.0.1")
    open_to_all = {"/health"} | ({"/metrics"} if metrics == ["127.0.0.0/8"] else set())
    barred = {"/metrics"} if metrics == ["203.0.113.0/24"] else set()
    async with filled(shared_redis.url, prefix, **TOKENS, **allow) as port:
        body = (await ask(port, "/openapi.json", X_Key="t"))[2]
        document = json.loads(body)
        assert {"/api/stats", "/latest.json", "/schemas/full.json"} <= set(document["paths"])
        for path, operations in document["paths"].items():
            unlocked = operations["get"].get("security") == []
            assert unlocked == (path in open_to_all | barred), path
            address = path.replace("{hash}", REAL[0].sha256.hex())
            statuses = set()
            for hop in (None, *spoofed):
                headers = {} if hop is None else {"X_Forwarded_For": hop}
                for method in ("GET", "POST"):
                    statuses.add((await ask(port, address, method, **headers))[0])
            expected = {200, 405} if path in open_to_all else {403} if path in barred else {401}
            assert statuses == expected, path
