"""Tokens, allow-lists, addresses and rates, tested on whole gateways."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.certbus.servers import RedisServer
from tests.gateway.admission.gateways import GatewayProcess, ask, gateway, handshake, request
from tests.gateway.client_helpers import Raw, websocket

AUTH = {
    "enabled": True,
    "tokens": ["plain"],
    "premium_tokens": ["gold"],
    "header_name": "X-Key",
}
PATHS = [
    "/",
    "/full-stream",
    "/domains-only",
    "/sse",
    "/example.json",
    "/latest.json",
    "/metrics",
    "/api/stats",
    "/api/cert/00",
    "/health/deep",
    "/health/",
    "//health",
    "/nothing",
    "/?token=plain",
]


async def test_without_a_token_there_is_nothing_but_health(
    shared_redis: RedisServer, prefix: str
) -> None:
    async with gateway(shared_redis.url, prefix, auth=AUTH) as port:
        assert (await ask(port, "/health"))[0] == 200
        for path in PATHS:
            for method in ("GET", "HEAD", "POST", "DELETE"):
                async with await Raw.open(port) as client:
                    client.send(request(path, method))
                    status, headers = await client.head()
                assert status == 401, path
                assert headers["www-authenticate"] == 'Bearer realm="certstream"'
            assert (await handshake(path=path, port=port))[0] == 401
        status, headers, body = await ask(port, "/sse", Authorization="Bearer wrong")
        assert status == 401
        assert 'error="invalid_token"' in headers["www-authenticate"]
        assert json.loads(body)["code"] in ("token_required", "invalid_token")
        assert "wrong" not in json.loads(body)["error"]


@pytest.mark.parametrize(
    "header",
    [
        {"Authorization": "Bearer plain"},
        {"Authorization": "plain"},
        {"X-Key": "plain"},
        {"x_key": "Bearer gold"},
    ],
)
async def test_a_token_opens_everything(
    shared_redis: RedisServer, prefix: str, header: dict[str, str]
) -> None:
    async with gateway(shared_redis.url, prefix, auth=AUTH) as port:
        assert (await ask(port, "/example.json", **header))[0] == 200
        assert (await handshake(port, **header))[0] == 101
        async with await Raw.open(port) as client:
            client.send(request("/sse", **header))
            assert (await client.head())[0] == 200


async def test_two_tokens_at_once_are_none(shared_redis: RedisServer, prefix: str) -> None:
    async with gateway(shared_redis.url, prefix, auth=AUTH) as port, await Raw.open(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\nX-Key: wrong\r\nX-Key: plain\r\n\r\n")
        assert (await client.answer())[0] == 401


async def test_browsers_may_send_preflight_requests(shared_redis: RedisServer, prefix: str) -> None:
    async with gateway(shared_redis.url, prefix, auth=AUTH) as port:
        assert (await ask(port, "/sse", "OPTIONS"))[0] == 204


async def test_a_token_in_the_url_if_allowed(shared_redis: RedisServer, prefix: str) -> None:
    auth = AUTH | {"query_token": True}
    async with gateway(shared_redis.url, prefix, auth=auth) as port:
        assert (await ask(port, "/example.json?token=plain"))[0] == 200
        assert (await ask(port, "/example.json?token=wrong"))[0] == 401
        async with websocket(f"ws://127.0.0.1:{port}/?token=gold"):
            pass


async def test_metrics_and_the_api_are_for_networks(shared_redis: RedisServer, prefix: str) -> None:
    """A spoofed X-Forwarded-For changes nothing, neither way."""
    here, elsewhere = "127.0.0.0/8", "203.0.113.0/24"
    spoofed = {"X_Forwarded_For": "203.0.113.9"}
    allow = {"metrics": [here], "api": [elsewhere]}
    async with gateway(shared_redis.url, prefix, auth=AUTH, allow=allow) as port:
        for headers in ({}, spoofed):
            assert (await ask(port, "/metrics", **headers))[0] not in (401, 403), "allowed"
            status, _, body = await ask(port, "/api/stats", X_Key="plain", **headers)
            assert status == 403
            assert json.loads(body)["code"] == "forbidden"
            assert "allow.api" in json.loads(body)["error"]
    allow = {"metrics": [elsewhere], "api": [here]}
    async with gateway(shared_redis.url, prefix, auth=AUTH, allow=allow) as port:
        for headers in ({}, spoofed):
            assert (await ask(port, "/metrics", X_Key="plain", **headers))[0] == 403
            assert (await ask(port, "/api/stats", **headers))[0] == 401, "a token is needed, too"
            assert (await ask(port, "/api/stats", X_Key="plain", **headers))[0] not in (401, 403)


FEW: dict[str, Any] = {
    "enabled": True,
    "max_tokens": 3,
    "refill_rate": 0.01,
    "burst": 0.5,
    "window_seconds": 3600,
    "premium": {"max_tokens": 30},
}


async def test_above_the_rate_the_answer_states_when_to_retry(
    shared_redis: RedisServer, prefix: str
) -> None:
    async with gateway(shared_redis.url, prefix, rate_limit=FEW) as port:
        answers = [await ask(port, "/example.json") for _ in range(4)]
        assert [status for status, _, _ in answers] == [200, 200, 200, 429]
        assert [headers["ratelimit-remaining"] for _, headers, _ in answers] == [*"2100"]
        assert {headers["ratelimit-limit"] for _, headers, _ in answers} == {"3"}
        _, headers, body = answers[-1]
        assert 90 <= int(headers["retry-after"]) <= 100
        assert headers["ratelimit-reset"] == headers["retry-after"]
        error = f"Rate limit exceeded; retry after {headers['retry-after']} s"
        assert json.loads(body) == {"error": error, "code": "rate_limited"}
        assert (await handshake(port))[0] == 429
        assert (await ask(port, "/sse"))[0] == 429
        for _ in range(9):
            assert (await ask(port, "/health"))[0] == 200


@pytest.mark.parametrize(
    ("path", "configured", "status"),
    [
        ("/example.json", {"auth": AUTH}, 401),
        ("/api/stats", {"allow": {"api": ["203.0.113.0/24"]}, "protocols": {"api": True}}, 403),
        ("/metrics", {"allow": {"metrics": ["203.0.113.0/24"]}}, 403),
    ],
)
async def test_refused_requests_are_counted_as_well(
    shared_redis: RedisServer, prefix: str, path: str, configured: dict[str, Any], status: int
) -> None:
    """A client that guesses tokens has no more attempts than requests."""
    async with gateway(shared_redis.url, prefix, rate_limit=FEW, **configured) as port:
        statuses = [(await ask(port, path, X_Key=f"guess{n}"))[0] for n in range(5)]
    assert statuses == [status] * 3 + [429] * 2


async def test_one_connection_is_many_requests(shared_redis: RedisServer, prefix: str) -> None:
    """Requests that come at once are answered in order, each having been counted."""
    async with (
        gateway(shared_redis.url, prefix, rate_limit=FEW) as port,
        await Raw.open(port) as client,
    ):
        client.send(request("/example.json") * 5 + request("/health"))
        statuses = [(await client.answer())[0] for _ in range(6)]
    assert statuses == [200, 200, 200, 429, 429, 200]


async def test_a_tiers_rate_holds_over_all_gateways(shared_redis: RedisServer, prefix: str) -> None:
    configured = {"auth": AUTH, "rate_limit": FEW}
    async with AsyncExitStack() as stack:
        starting = [GatewayProcess.start(shared_redis.url, prefix, **configured) for _ in range(3)]
        processes = await asyncio.gather(*starting)
        for process in processes:
            stack.push_async_callback(process.kill)
        one, two, three = (process.port for process in processes)
        for token, allowed in (("plain", 3), ("gold", 30)):
            statuses = [
                (await ask(port, "/example.json", X_Key=token))[0]
                for _ in range(15)
                for port in (one, two, three)
            ]
            assert statuses.count(200) == allowed
            assert statuses.count(429) == 45 - allowed


async def test_clients_of_a_proxy_are_distinguished(shared_redis: RedisServer, prefix: str) -> None:
    configured = {"rate_limit": FEW, "trusted_proxies": ["127.0.0.0/8"]}
    async with gateway(shared_redis.url, prefix, **configured) as port:
        for client in ("203.0.113.1", "203.0.113.2"):
            statuses = [
                # What the client itself sent is on the left.
                (await ask(port, "/example.json", X_Forwarded_For=f"{number}.1.1.1, {client}"))[0]
                for number in range(1, 6)
            ]
            assert statuses == [200] * 3 + [429] * 2


async def test_without_proxies_forwarded_addresses_are_ignored(
    shared_redis: RedisServer, prefix: str
) -> None:
    async with gateway(shared_redis.url, prefix, rate_limit=FEW) as port:
        statuses = [
            (await ask(port, "/example.json", X_Forwarded_For=f"203.0.113.{number}"))[0]
            for number in range(5)
        ]
        assert statuses == [200] * 3 + [429] * 2


async def test_rates_without_redis_are_the_gateways_own(
    own_redis: RedisServer, prefix: str
) -> None:
    async with gateway(own_redis.url, prefix, rate_limit=FEW) as port:
        assert (await ask(port, "/example.json"))[0] == 200
        own_redis.kill()
        statuses = [(await ask(port, "/example.json"))[0] for _ in range(5)]
        assert statuses == [200] * 3 + [429] * 2
