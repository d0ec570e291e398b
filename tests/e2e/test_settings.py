"""Every setting of certstream-server-rust, none with its default: what each does to a server.

Visible effects are checked over HTTP. What would take long to show (a retry, a time-out) has its
own tests; here the server's log states that it uses the value that was given.
"""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from certbus.connection import connect as connect_redis
from certbus.keys import Keys
from certconf.env_vars import SETTINGS
from tests.e2e.processes import Process, free_port
from tests.e2e.site import Site
from tests.gateway.certificates import pair
from tests.paths import FIXTURES
from tests.waiting import until

PEER_FILE = FIXTURES / "peer_config_1.7.2.yaml"
PEER_STATE = FIXTURES / "peer_state.json"
HOST = "127.0.0.2"
TOKEN = "s3cret"
#: Accepted with the peer's meaning; a line in the log states their replacement.
MEANINGLESS = {
    "buffer_size",
    "dedup.capacity",
    "ct_log.catalog_authority_overrides",
    "ct_log.checkpoint_signature_mode",
    "ct_log.merkle_verification",
    "ct_log.names_tiles",
    "ct_log.force_http1_operators",
    "nats.enabled",
}
#: Accepted; the line of nats.enabled covers them.
COVERED = {
    f"nats.{name}"
    for name in (
        *("url", "stream", "subject_prefix", "max_bytes", "duplicate_window_secs"),
        *("publish_timeout_secs", "queue_depth", "on_full"),
    )
}


def settings(directory: Path, port: int) -> dict[str, Any]:
    """Every key of the peer's file, by its dotted name, with a value that is not its default."""
    pair("server").write(directory / "tls.crt", directory / "tls.key")
    return {
        "host": HOST,
        "port": port,
        "log_level": "debug",
        "buffer_size": 7,
        "tls_cert": str(directory / "tls.crt"),
        "tls_key": str(directory / "tls.key"),
        **{f"protocols.{name}": False for name in ("websocket", "sse", "metrics")},
        **{f"protocols.{name}": False for name in ("health", "example_json")},
        "protocols.api": True,
        **{f"streams.{name}": False for name in ("full", "lite", "domains_only")},
        "ct_log.retry_max_attempts": 4,
        "ct_log.retry_initial_delay_ms": 1001,
        "ct_log.retry_max_delay_ms": 30_001,
        "ct_log.request_timeout_secs": 31,
        "ct_log.healthy_threshold": 3,
        "ct_log.unhealthy_threshold": 6,
        "ct_log.health_check_interval_secs": 61,
        "ct_log.state_file": str(PEER_STATE),
        "ct_log.batch_size": 512,
        "ct_log.poll_interval_ms": 999,
        "ct_log.fetch_concurrency": 5,
        "ct_log.start_overlap_leaves": 7,
        "ct_log.rfc6962_enabled": False,
        "ct_log.static_ct_enabled": False,
        "ct_log.checkpoint_signature_mode": "enforce",
        "ct_log.default_operator_rate_limit_ms": 5,
        "ct_log.operator_rate_limits": {"sectigo": 250},
        "ct_log.state_recovery": "fail",
        "ct_log.log_refresh_interval_secs": 3601,
        "ct_log.removed_log_policy": "keep",
        "ct_log.excluded_operators": ["Sectigo", "Let's Encrypt"],
        "ct_log.excluded_logs": ["https://ct.example/2026"],
        "ct_log.merkle_verification": "full",
        "ct_log.names_tiles": "prefer",
        "ct_log.partial_tile_wait_secs": 61,
        "ct_log.max_catchup_lag_entries": 20_000,
        "ct_log.max_catchup_lag_secs": 301,
        "ct_log.user_agent": "someone@example.org",
        "ct_log.force_http1_operators": ["digicert"],
        "streams.v2": True,
        "trusted_proxies": ["10.0.0.0/8"],
        "nats.enabled": True,
        "nats.url": "nats://127.0.0.1:1",
        "nats.stream": "S",
        "nats.subject_prefix": "s",
        "nats.max_bytes": 1,
        "nats.duplicate_window_secs": 1,
        "nats.publish_timeout_secs": 1,
        "nats.queue_depth": 1,
        "nats.on_full": "drop",
        "ct_log.catalog_authority_overrides": {"google_v3_all": True},
        "dedup.capacity": 9,
        "dedup.ttl_secs": 7200,
        "dedup.by": "issuance",
        "connection_limit.enabled": True,
        "connection_limit.max_connections": 50,
        "connection_limit.per_ip_limit": 1,
        "rate_limit.enabled": True,
        "rate_limit.max_tokens": 4000,
        "rate_limit.refill_rate": 11,
        "rate_limit.burst": 21,
        "rate_limit.window_seconds": 61,
        "rate_limit.window_max_requests": 5000,
        "rate_limit.burst_window_seconds": 11,
        "auth.enabled": True,
        "auth.tokens": [TOKEN],
        "auth.header_name": "X-Key",
        "hot_reload.enabled": True,
        "hot_reload.watch_path": str(directory / "watched.yaml"),
        "custom_logs": [{"name": "Custom", "url": "http://127.0.0.1:1/log", "batch_size": 64}],
        "static_logs": [
            {
                "name": "Static",
                "url": "http://127.0.0.1:1/static",
                "log_origin": "o",
                "tree_size_source": "checkpoint",
            }
        ],
    }


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        (made.setdefault(section, {}) if section else made)[name] = value
    return made


def events(up: Process, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in up.log.read_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if line["event"] == event]


@asynccontextmanager
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as http:
        yield http


async def assert_effects(site: Site, up: Process, port: int, given: Mapping[str, Any]) -> None:
    """What shows of them at the outside, of those that file and variables both have."""
    address = f"{HOST}:{port}"

    async def answers() -> bool:
        assert up.running, str(up)
        try:
            async with client() as http:
                return (await http.get(f"https://{address}/health")).status_code > 0
        except httpx.TransportError:
            return False

    await until(answers, f"TLS at {address}")
    async with client() as http:

        async def status(path: str, **headers: str) -> int:
            return (await http.get(f"https://{address}{path}", headers=headers)).status_code

        assert await status("/api/stats") == 401, "auth.enabled"
        assert await status("/api/stats", Authorization="wrong") == 401, "auth.tokens"
        stats = await http.get(f"https://{address}/api/stats", headers={"X-Key": TOKEN})
        assert stats.status_code == 200, "auth.header_name, protocols.api"
        assert "ratelimit-limit" in stats.headers, "rate_limit.enabled"
        for path in ("/metrics", "/health", "/example.json", "/sse"):
            assert await status(path, **{"X-Key": TOKEN}) == 404, f"protocols: {path}"
        try:
            await http.get(f"http://127.0.0.1:{port}/health")
        except httpx.TransportError:
            pass
        else:
            raise AssertionError("host: it listens at other addresses, too")
    assert await refusal(address) == 404, "protocols.websocket"
    await until(lambda: events(up, "logs selected"), "the ingestor works")
    async with connect_redis(site.redis_url) as redis:
        written = await redis.hmget(Keys().head, ["streams", "remember"])
        assert written == [b"", b"7200000"], "streams, dedup.ttl_secs"
    (following,) = events(up, "logs selected")
    assert following["logs"] == 0, "ct_log.rfc6962_enabled, ct_log.static_ct_enabled"
    assert any(line["level"] == "debug" for line in events(up, DIFFERENT)), "log_level"
    (event,) = events(up, DIFFERENT)
    for key in given.keys() - MEANINGLESS - COVERED:
        expected = ["***"] if key == "auth.tokens" else given[key]
        assert event["settings"].get(key) == expected, f"{key} is not what the server uses"
    notices = [line["notice"] for line in events(up, "configuration notice")]
    for key in given.keys() & MEANINGLESS:
        assert any(f" {key} has no effect here: " in notice for notice in notices), key
    assert TOKEN not in up.log.read_text()


DIFFERENT = "settings overridden"


async def refusal(address: str) -> int | None:
    """How a WebSocket handshake is refused; None if it is not."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    headers = {"X-Key": TOKEN}
    try:
        async with connect(
            f"wss://{address}/", ssl=context, additional_headers=headers, proxy=None
        ):
            return None
    except InvalidStatus as error:
        return error.response.status_code


async def test_every_key_of_the_peers_file(site: Site, tmp_path: Path) -> None:
    await site.start_redis()
    port = free_port()
    given = settings(tmp_path, port)
    peer_keys = yaml.safe_load(PEER_FILE.read_text())
    keys = {
        f"{section}.{key}" if key else section
        for section, keys in peer_keys.items()
        for key in (keys if isinstance(keys, dict) else [""])
    }
    assert keys | {"tls_cert", "tls_key", "dedup.by"} == given.keys(), "no key is left out"
    path = tmp_path / "watched.yaml"
    path.write_text(yaml.safe_dump(nested(given)))
    up = site.start_up(
        {}, f"--config={path}", f"--redis-url={site.redis_url}", "--set=log_lists=[]"
    )
    await assert_effects(site, up, port, given)

    # The file is watched: clients and a log come back, and the limits on connections show.
    changed = {"protocols.websocket": True, "streams.lite": True, "ct_log.rfc6962_enabled": True}
    path.write_text(yaml.safe_dump(nested({**given, **changed})))
    address = f"{HOST}:{port}"

    async def let_in() -> bool:
        return await refusal(address) is None

    await until(let_in, "hot_reload.enabled, hot_reload.watch_path")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with connect(
        f"wss://{address}/", ssl=context, additional_headers={"X-Key": TOKEN}, proxy=None
    ):
        assert await refusal(address) == 429, "connection_limit.per_ip_limit"
    await until(lambda: "http://127.0.0.1:1/log" in up.log.read_text(), "custom_logs")
    assert up.stop() == 0, str(up)


async def test_every_variable_of_the_peer(site: Site, tmp_path: Path) -> None:
    await site.start_redis()
    port = free_port()
    given = settings(tmp_path, port)
    path = tmp_path / "watched.yaml"
    path.write_text("log_level: warn\n")
    theirs = {
        setting: variable
        for variable, setting in SETTINGS.items()
        if setting in given and not isinstance(given[setting], dict)
    }
    environment = {
        f"CERTSTREAM_{variable}": _text(given[setting]) for setting, variable in theirs.items()
    }
    ours = {
        "CERTSTREAM_CONFIG": str(path),
        "CERTSTREAM_REDIS_URL": site.redis_url,
        "CERTSTREAM_REDIS_READ_URL": f"{site.redis_url}?db=0",
        "CERTSTREAM_LOG_LISTS": "[]",
        "CERTSTREAM_STATE_DIR": str(tmp_path / "elsewhere"),
    }
    up = site.start_up({**environment, **ours})
    chosen = {setting: given[setting] for setting in theirs}
    await assert_effects(site, up, port, chosen)
    (event,) = events(up, DIFFERENT)
    assert event["settings"]["log_lists"] == []
    assert event["settings"]["state_dir"] == str(tmp_path / "elsewhere")
    masked = site.redis_url.replace("of-streams", "***")
    assert event["settings"]["redis_read_url"] == f"{masked}?***"

    path.write_text("protocols: {websocket: true}\ncontact: someone@example.org\n")
    await until(
        lambda: any(line["setting"] == "contact" for line in events(up, WAITING)),
        "hot_reload.enabled, hot_reload.watch_path",
    )
    assert await refusal(f"{HOST}:{port}") == 404, "variables win over the file"
    assert up.stop() == 0, str(up)


WAITING = "restart required"


def _text(value: object) -> str:
    """The value as the text of a variable."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
