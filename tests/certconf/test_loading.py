"""Where settings come from, and what peers' files and variables become."""

import gc
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec.structs import replace

from certbus.sentinel import SentinelURL
from certconf import (
    GOOGLE_LIST,
    Config,
    ConfigError,
    Network,
    RedisURL,
    Secret,
    compat_rust,
    env_vars,
    find_config_file,
    load,
)
from launcher.commands.config import as_json
from tests.paths import FIXTURES

PEER_FILE = FIXTURES / "peer_config.yaml"
NEWEST_PEER_FILE = FIXTURES / "peer_config_1.7.2.yaml"


def of(config: object, key: str) -> object:
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


OWN_DEFAULTS: dict[str, Any] = {
    "fetch_concurrency": 4,
    "default_operator_rate_limit_ms": 500,
    "operator_rate_limits": {"digicert": 1000},
}
"""Defaults of the peer's first release that fall behind the public logs; here they differ."""


def test_a_file_that_was_loaded_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("port: 8081\nct_log: {batch_size: 256}\nauth: {enabled: !!bool maybe}\n")
    for _ in range(3):
        with pytest.raises(ConfigError):
            load(file, {})
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, yaml.Node)]


def test_defaults_are_those_of_the_peer() -> None:
    """Its file has every key at its default, so loading it must change nothing but the two logs."""
    loaded, default = load(PEER_FILE, {}), load(None, {})
    for name, value in OWN_DEFAULTS.items():
        assert getattr(loaded.ct_log, name) == value
        assert getattr(default.ct_log, name) != value
    own = {name: getattr(default.ct_log, name) for name in OWN_DEFAULTS}
    loaded = replace(loaded, ct_log=replace(loaded.ct_log, **own))
    assert loaded.custom_logs[0].url == "https://ct.example.com/log"
    assert loaded.custom_logs[0].batch_size == 128
    assert loaded.static_logs[0].log_origin == "ct.example.com/2026h2"
    for field in Config.__struct_fields__:
        if field not in {"custom_logs", "static_logs", "notices", "file"}:
            assert getattr(loaded, field) == getattr(default, field), field
    assert default.file is None
    assert default.notices == ()


def without_effect(notices: tuple[str, ...], file: Path) -> list[str]:
    """The keys that the notices name; each with its line."""
    return [notice.removeprefix(f"{file}:").split(": ")[1].split()[0] for notice in notices]


def test_peer_keys_without_a_meaning_are_named_once_each() -> None:
    assert without_effect(load(PEER_FILE, {}).notices, PEER_FILE) == [
        "buffer_size",
        "dedup.capacity",
        "ct_log.catalog_authority_overrides",
        "ct_log.checkpoint_signature_mode",
    ]


def test_the_newest_peer_file_loads_unchanged() -> None:
    """Keys without effect get a line each; a copied `off` weakens nothing."""
    config, default = load(NEWEST_PEER_FILE, {}), load(None, {})
    assert set(without_effect(config.notices, NEWEST_PEER_FILE)) == {
        "buffer_size",
        "dedup.capacity",
        "ct_log.catalog_authority_overrides",
        "ct_log.checkpoint_signature_mode",
        "ct_log.merkle_verification",
        "ct_log.force_http1_operators",
    }
    assert config.ct_log.integrity == "enforce"
    assert config.protocols.sse is False
    assert (config.static_logs[0].key, config.static_logs[0].operator) == (None, None)
    for field in Config.__struct_fields__:
        if field not in {"custom_logs", "static_logs", "notices", "file", "protocols", "ct_log"}:
            assert getattr(config, field) == getattr(default, field), field


@pytest.mark.parametrize("file", [PEER_FILE, NEWEST_PEER_FILE])
def test_every_value_has_its_source(file: Path) -> None:
    """`certstream-server config` shows them: the line of the file, or the variable."""
    shown = as_json(*find_config_file(file, {}))["settings"]
    for section, members in yaml.safe_load(file.read_text()).items():
        keys = [f"{section}.{name}" for name in members] if isinstance(members, dict) else [section]
        for key in set(keys) & shown.keys():
            assert shown[key]["origin"].startswith(f"{file}:"), key
        assert set(keys) - shown.keys() <= compat_rust.UNUSED.keys()
    environ = {f"CERTSTREAM_{name}": text for name, (text, _) in VARIABLES.items()}
    shown = as_json(*find_config_file(file, environ))["settings"]
    for name in VARIABLES:
        assert shown[env_vars.SETTINGS[name]]["origin"].removesuffix(":1") == f"CERTSTREAM_{name}"


@pytest.mark.parametrize(
    ("text", "key", "instead"),
    [
        ("nats: {enabled: true}", "nats.enabled", "`certstream-server tail` in a pipe"),
        ("ct_log: {names_tiles: prefer}", "ct_log.names_tiles", "never published"),
        ("ct_log: {merkle_verification: off}", "ct_log.merkle_verification", "ct_log.integrity"),
    ],
)
def test_an_output_that_does_not_exist_is_named_with_its_replacement(
    text: str, key: str, instead: str
) -> None:
    Path("config.yaml").write_text(text)
    (notice,) = load(None, {}).notices
    assert notice.startswith(f"config.yaml:1: {key} has no effect here: ")
    assert instead in notice


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nats:\n  max_bytes: much", "config.yaml:2: nats.max_bytes: 'much' is not a whole number"),
        ("nats:\n  urll: x", "config.yaml:2: nats.urll: no such setting: expected enabled, url, "),
        ("nats: 7", "config.yaml:1: nats: no such setting"),
        ("ct_log: {names_tiles: on}", "ct_log.names_tiles: on is not one of off, prefer"),
        ("ct_log: {merkle_verification: half}", "'half' is not one of off, consistency, full"),
        ("ct_log: {removed_log_policy: drop}", "'drop' is not one of stop, keep"),
        ("ct_log: {state_recovery: x}", "'x' is not one of fresh, fail"),
        ("ct_log: {log_refresh_interval_secs: -1}", "-1 is not a whole number from 0 to 31536000"),
        ("ct_log: {partial_tile_wait_secs: 601}", "601 is not a number from 0 to 600"),
        ("ct_log: {max_catchup_lag_entries: 9999}", "9999 is neither 0 nor at least 10000"),
        ("ct_log: {max_catchup_lag_secs: 299}", "max_catchup_lag_secs: 299 is neither 0 nor at"),
        (
            "ct_log: {start_overlap_leaves: 10000, max_catchup_lag_entries: 10000}",
            "start_overlap_leaves: 10000 is not below max_catchup_lag_entries, 10000",
        ),
        ("ct_log: {excluded_operators: Google}", "'Google' is not a list"),
        ("ct_log: {excluded_logs: ['https://[']}", "is not the URL of a log"),
        ("buffer_size: big", "config.yaml:1: buffer_size: 'big' is not a whole number"),
        ("streams: {v2: maybe}", "streams.v2: 'maybe' is not true or false"),
        ("static_logs: [{name: a, url: 'https://a', tree_size_source: sth}]", "'sth' is not one"),
    ],
)
def test_a_value_of_the_peer_that_cannot_be_parsed_is_an_error(text: str, problem: str) -> None:
    Path("config.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(None, {})
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("CT_LOG_OPERATOR_RATE_LIMITS", "trustasia", "'trustasia' is not another pair"),
        ("CT_LOG_OPERATOR_RATE_LIMITS", "a=1,a=2", "'a=2' is not another pair"),
        ("CT_LOG_OPERATOR_RATE_LIMITS", "a=soon", "'soon' is not a whole number"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, proxy", "trusted_proxies[1]: 'proxy' is not an address"),
        ("NATS_ON_FULL", "wait", "nats.on_full: 'wait' is not one of block, drop"),
        ("STATIC_CT_CHECKPOINT_SIGNATURE", "3", "3 is not one of off, warn, enforce"),
        ("CT_LOG_REMOVED_POLICY", "x", "ct_log.removed_log_policy: 'x' is not one of stop, keep"),
    ],
)
def test_an_invalid_variable_is_named(name: str, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(None, {f"CERTSTREAM_{name}": text})
    assert str(raised.value).startswith(f"CERTSTREAM_{name}: ")
    assert problem in str(raised.value)


def test_pairs_of_a_variable_replace_the_mapping_of_the_file() -> None:
    Path("config.yaml").write_text("ct_log: {operator_rate_limits: {sectigo: 250, digicert: 1}}")
    environ = {"CERTSTREAM_CT_LOG_OPERATOR_RATE_LIMITS": "Let's Encrypt=10, digicert = 40,"}
    assert load(None, environ).ct_log.operator_rate_limits == {"Let's Encrypt": 10, "digicert": 40}


@pytest.mark.parametrize("content", [b"{", b'{"logs": []}'])
def test_a_state_file_that_cannot_be_read_may_prevent_the_start(content: bytes) -> None:
    Path("config.yaml").write_text("ct_log: {state_file: s.json,\n  state_recovery: fail}")
    assert load(None, {}).ct_log.state_recovery == "fail", "there is none"
    Path("s.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^config.yaml:1: ct_log.state_file: 's.json' cannot be"):
        load(None, {})
    load(None, {"CERTSTREAM_CT_LOG_STATE_RECOVERY": "fresh"})
    Path("s.json").write_bytes((FIXTURES / "peer_state.json").read_bytes())
    load(None, {})


def test_every_peer_key_takes_another_value(tmp_path: Path) -> None:
    """No key of the peer's file is accepted and then forgotten."""
    changed = {
        "host": "127.0.0.1",
        "port": 9090,
        "log_level": "debug",
        "tls_cert": Path("/etc/tls/tls.crt"),
        "tls_key": Path("/etc/tls/tls.key"),
        "protocols": dict.fromkeys(["websocket", "sse", "metrics", "health", "example_json"], False)
        | {"api": True},
        "streams": dict.fromkeys(["full", "lite", "domains_only"], False),
        "ct_log": {
            "retry_max_attempts": 4,
            "retry_initial_delay_ms": 1001,
            "retry_max_delay_ms": 30001,
            "request_timeout_secs": 31,
            "healthy_threshold": 3,
            "unhealthy_threshold": 6,
            "health_check_interval_secs": 61,
            "state_file": Path("other.json"),
            "batch_size": 512,
            "poll_interval_ms": 999,
            "fetch_concurrency": 5,
            "start_overlap_leaves": 0,
            "rfc6962_enabled": False,
            "static_ct_enabled": False,
            "default_operator_rate_limit_ms": 0,
            "operator_rate_limits": {"sectigo": 250},
        },
        "dedup": {"ttl_secs": 60},
        "connection_limit": {"enabled": True, "max_connections": 5, "per_ip_limit": 2},
        "rate_limit": {
            "enabled": True,
            "max_tokens": 1,
            "refill_rate": 0.5,
            "burst": 2,
            "window_seconds": 61,
            "window_max_requests": 10,
            "burst_window_seconds": 11,
        },
        "auth": {"enabled": True, "tokens": ["s3cret"], "header_name": "X-Token"},
        "hot_reload": {"enabled": True, "watch_path": Path("/etc/other.yaml")},
    }
    file = tmp_path / "changed.yaml"
    file.write_text(yaml.safe_dump(msgspec.to_builtins(changed, enc_hook=str)))
    config = load(file, {})
    peer_keys = yaml.safe_load(PEER_FILE.read_text())
    for section, value in changed.items():
        if not isinstance(value, dict):
            assert of(config, section) == value
            continue
        unused = {"capacity", "catalog_authority_overrides", "checkpoint_signature_mode"}
        assert set(value) == set(peer_keys[section]) - unused, f"{section} is not tested whole"
        for key, expected in value.items():
            got = of(config, f"{section}.{key}")
            assert (got == (Secret("s3cret"),)) if key == "tokens" else (got == expected)


def test_older_names() -> None:
    text = (
        "rate_limit:\n"
        "  {free_max_tokens: 42, free_refill_rate: 7, free_burst: 3,\n"
        "   standard_max_tokens: 500, premium_refill_rate: 99, premium_burst: 8}\n"
        "auth: {standard_tokens: [a], premium_tokens: [b, 0123]}\n"
        "ct_logs_url: https://lists.example/list.json\n"
        "additional_log_lists: []\n"
        "api: {cache_capacity: 10}\n"
    )
    Path("config.yaml").write_text(text)
    config = load(None, {})
    assert config.file == Path("config.yaml")
    limit = config.rate_limit
    assert (limit.max_tokens, limit.refill_rate, limit.burst) == (42, 7, 3)
    assert limit.standard.max_tokens == 500
    assert (limit.premium.refill_rate, limit.premium.burst) == (99, 8)
    assert config.auth.standard_tokens == (Secret("a"),)
    assert [token.reveal() for token in config.auth.premium_tokens] == ["b", "0123"]
    assert [notice.split(": ")[1].split()[0] for notice in config.notices] == [
        "ct_logs_url",
        "additional_log_lists",
        "api.cache_capacity",
    ]


def test_the_newer_name_wins_and_the_older_is_told() -> None:
    Path("config.yaml").write_text("rate_limit: {max_tokens: 1, free_max_tokens: 2}")
    config = load(None, {})
    assert config.rate_limit.max_tokens == 1
    (notice,) = config.notices
    assert notice == (
        "config.yaml:1: rate_limit.free_max_tokens is the older name of rate_limit.max_tokens, "
        "which is given too"
    )


VARIABLES: dict[str, tuple[str, object]] = {
    "HOST": ("::1", "::1"),
    "PORT": ("9000", 9000),
    "BASE_PATH": ("/ct", "/ct"),
    "LOG_LEVEL": ("WARN", "warn"),
    "TLS_CERT": ("/c.pem", Path("/c.pem")),
    "TLS_KEY": ("/k.pem", Path("/k.pem")),
    "WS_ENABLED": ("false", False),
    "WS_COMPRESSION_ENABLED": ("false", False),
    "SSE_ENABLED": ("0", False),
    "METRICS_ENABLED": ("FALSE", False),
    "HEALTH_ENABLED": ("no", False),
    "EXAMPLE_JSON_ENABLED": ("off", False),
    "API_ENABLED": ("true", True),
    "STREAM_FULL_ENABLED": ("false", False),
    "STREAM_LITE_ENABLED": ("false", False),
    "STREAM_DOMAINS_ONLY_ENABLED": ("false", False),
    "STREAM_V2_ENABLED": ("true", True),
    "TRUSTED_PROXIES": ("10.0.0.0/8, ::1", (Network("10.0.0.0/8"), Network("::1"))),
    "CONNECTION_LIMIT_ENABLED": ("true", True),
    "CONNECTION_LIMIT_MAX_CONNECTIONS": ("7", 7),
    "CONNECTION_LIMIT_PER_IP_LIMIT": ("3", 3),
    "RATE_LIMIT_ENABLED": ("1", True),
    "AUTH_ENABLED": ("true", True),
    "AUTH_TOKENS": ("one, two,,0123", (Secret("one"), Secret("two"), Secret("0123"))),
    "AUTH_HEADER_NAME": ("X-Key", "X-Key"),
    "HOT_RELOAD_ENABLED": ("true", True),
    "HOT_RELOAD_WATCH_PATH": ("/etc/c.yaml", Path("/etc/c.yaml")),
    "DEDUP_TTL_SECS": ("10", 10),
    "RFC6962_ENABLED": ("false", False),
    "STATIC_CT_ENABLED": ("false", False),
    "USER_AGENT": ("Mine/1 (me@example.com)", "Mine/1 (me@example.com)"),
    "CT_LOG_OPERATOR_RATE_LIMITS": ("a=10,b=40", {"a": 10, "b": 40}),
    "CT_LOG_EXCLUDED_OPERATORS": ("Google, Let's Encrypt,", ("Google", "Let's Encrypt")),
    "CT_LOG_EXCLUDED_LOGS": (
        "https://a.example/x/,b.example",
        ("https://a.example/x/", "b.example"),
    ),
    "CT_LOG_PARTIAL_TILE_WAIT_SECS": ("0", 0),
    "CT_LOG_MAX_CATCHUP_LAG_ENTRIES": ("10000", 10_000),
    "CT_LOG_MAX_CATCHUP_LAG_SECS": ("300", 300),
    "CT_LOG_REFRESH_INTERVAL_SECS": ("0", 0),
    "CT_LOG_REMOVED_POLICY": ("Keep", "keep"),
    "CT_LOG_STATE_RECOVERY": ("fail", "fail"),
    "CT_LOG_STATE_FILE": ("s.json", Path("s.json")),
    "CT_LOG_RETRY_MAX_ATTEMPTS": ("0", 0),
    "CT_LOG_RETRY_INITIAL_DELAY_MS": ("5", 5),
    "CT_LOG_RETRY_MAX_DELAY_MS": ("6000", 6000),
    "CT_LOG_REQUEST_TIMEOUT_SECS": ("2.5", 2.5),
    "CT_LOG_BATCH_SIZE": ("64", 64),
    "CT_LOG_POLL_INTERVAL_MS": ("50", 50),
    "CT_LOG_FETCH_CONCURRENCY": ("9", 9),
    "CT_LOG_START_OVERLAP_LEAVES": ("0", 0),
    "CT_LOG_HEALTHY_THRESHOLD": ("1", 1),
    "CT_LOG_UNHEALTHY_THRESHOLD": ("9", 9),
    "CT_LOG_HEALTH_CHECK_INTERVAL_SECS": ("1", 1),
    "REDIS_URL": ("rediss://u:p@redis:6380/1", RedisURL("rediss://u:p@redis:6380/1")),
    "REDIS_READ_URL": ("unix:///run/r.sock?db=1", RedisURL("unix:///run/r.sock?db=1")),
    "LOG_LISTS": ("[]", ()),
    "STATE_DIR": ("/var/lib/certs", Path("/var/lib/certs")),
    "ADMIN": ("127.0.0.1:9100", "127.0.0.1:9100"),
}
#: Variables without effect, each with a value that gets a notice.
UNUSED_VARIABLES = {
    "BUFFER_SIZE": "3",
    "STATIC_CT_CHECKPOINT_SIGNATURE": "off",
    "STATIC_CT_MERKLE_VERIFICATION": "off",
    "STATIC_CT_NAMES_TILES": "prefer",
    "DEDUP_CAPACITY": "3",
    "CT_LOGS_URL": "https://lists.example/list.json",
    "ADDITIONAL_LOG_LISTS": "https://a.example, https://b.example",
    "CT_LOG_FORCE_HTTP1_OPERATORS": "digicert",
    "NATS_ENABLED": "true",
}
#: Variables that have no effect beside NATS_ENABLED, whose notice covers them.
NATS_VARIABLES = {
    "NATS_URL": "nats://h:1",
    "NATS_STREAM": "S",
    "NATS_SUBJECT_PREFIX": "p",
    "NATS_MAX_BYTES": "1",
    "NATS_ON_FULL": "DROP",
}


def test_the_table_above_is_complete() -> None:
    assert set(env_vars.SETTINGS) == {*VARIABLES, *UNUSED_VARIABLES, *NATS_VARIABLES}


def test_every_variable_wins_over_the_file() -> None:
    environ = {f"CERTSTREAM_{name}": text for name, (text, _) in VARIABLES.items()}
    config, default = load(PEER_FILE, environ), load(PEER_FILE, {})
    for name, (_, expected) in VARIABLES.items():
        setting = env_vars.SETTINGS[name]
        assert of(config, setting) == expected, name
        assert of(default, setting) != expected, f"{name} is tested with its default"


@pytest.mark.parametrize("name", sorted(UNUSED_VARIABLES))
def test_variables_without_a_meaning_are_told(name: str) -> None:
    (notice,) = load(None, {f"CERTSTREAM_{name}": UNUSED_VARIABLES[name]}).notices
    assert notice.startswith(f"CERTSTREAM_{name}: {env_vars.SETTINGS[name]} has no effect here: ")


def test_all_variables_of_an_output_get_one_line() -> None:
    variables = {f"CERTSTREAM_{name}": text for name, text in NATS_VARIABLES.items()}
    assert load(None, variables).notices == ()
    assert len(load(None, {**variables, "CERTSTREAM_NATS_ENABLED": "true"}).notices) == 1


def test_operators_over_http_1_are_accepted_with_a_notice() -> None:
    (notice,) = load(None, {}, {"ct_log.force_http1_operators": ["digicert", "microsec"]}).notices
    assert "ct_log.force_http1_operators" in notice
    assert notice.endswith(": every log is read over HTTP/1.1")


@pytest.mark.parametrize("setting", ["ct_log.user_agent", "contact"])
@pytest.mark.parametrize("text", [" x", "x ", "a\nb: c", "ü", "\x7f"])
def test_a_header_holds_printable_ascii(setting: str, text: str) -> None:
    with pytest.raises(ConfigError, match=r"printable ASCII characters"):
        load(None, {}, {setting: text})


@pytest.mark.parametrize("value", [False, "off", "OFF"])
def test_off_is_off_however_yaml_reads_it(value: object, tmp_path: Path) -> None:
    """On the command line it comes as YAML's false."""
    assert load(None, {}, {"ct_log.integrity": value}).ct_log.integrity == "off"
    file = tmp_path / "config.yaml"
    file.write_text("ct_log: {integrity: off}")
    assert load(file, {}).ct_log.integrity == "off"


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_an_empty_variable_is_not_set(name: str) -> None:
    assert load(None, {f"CERTSTREAM_{name}": " "}) == load(None, {})


def test_unknown_variables_are_told_with_the_nearest() -> None:
    (notice,) = load(None, {"CERTSTREAM_PROT": "1", "OTHER": "x"}).notices
    assert notice == (
        "CERTSTREAM_PROT is not a variable of this server, and ignored: "
        "did you mean CERTSTREAM_PORT?"
    )


def test_kubernetes_service_links_are_no_settings() -> None:
    config = load(
        None,
        {
            "CERTSTREAM_PORT": "tcp://10.0.0.7:8080",
            "CERTSTREAM_SERVICE_HOST": "10.0.0.7",
            "CERTSTREAM_SERVICE_PORT": "8080",
            "CERTSTREAM_SERVICE_PORT_HTTP": "8080",
            "CERTSTREAM_PORT_8080_TCP_ADDR": "10.0.0.7",
        },
    )
    assert config.port == 8080
    (notice,) = config.notices
    assert "Kubernetes" in notice


def test_the_command_line_wins() -> None:
    Path("config.yaml").write_text("port: 1001\nstreams: {full: false}\ncustom_logs: []")
    logs = [{"name": "a", "url": "https://a.example"}]
    config = load(
        None, {"CERTSTREAM_PORT": "1002"}, {"port": "1003", "log_lists": [], "custom_logs": logs}
    )
    assert config.port == 1003
    assert config.log_lists == ()
    assert config.custom_logs[0].name == "a"
    assert config.streams.full is False, "what is not overridden stays"


def test_the_file_is_looked_for_as_the_peer_does() -> None:
    Path("config.yml").write_text("port: 1001")
    assert load(None, {}).port == 1001
    Path("config.yaml").write_text("port: 1002")
    assert load(None, {}).port == 1002
    Path("named.yaml").write_text("port: 1003")
    assert load(None, {"CERTSTREAM_CONFIG": "named.yaml"}).port == 1003
    assert load("config.yml", {"CERTSTREAM_CONFIG": "named.yaml"}).port == 1001


def test_an_empty_file_and_empty_sections_are_defaults() -> None:
    Path("config.yaml").write_text("# nothing\n")
    Path("empty.yaml").write_text("ct_log:\ncustom_logs:\nlog_lists:\nstreams: {}\n")
    assert load("empty.yaml", {}).ct_log == load(None, {}).ct_log
    assert load("empty.yaml", {}).log_lists is None, "null is the default, [] is none"


def test_what_a_section_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("retention: {full: {max_age_secs: 60}, domains: {max_bytes: 5}}")
    config = load(file, {}, {"retention.lite.max_age_secs": 7200})
    default = Config().retention
    assert config.retention.full == msgspec.structs.replace(default.full, max_age_secs=60)
    assert config.retention.lite == msgspec.structs.replace(default.lite, max_age_secs=7200)
    assert config.retention.domains == msgspec.structs.replace(default.domains, max_bytes=5)


def test_numbers_stay_text_where_text_is_meant() -> None:
    Path("config.yaml").write_text("auth: {tokens: [0123, on, 12:30:45, 2026-01-01]}")
    tokens = [token.reveal() for token in load(None, {}).auth.tokens]
    assert tokens == ["0123", "on", "12:30:45", "2026-01-01"]


def test_who_may_come_from_where() -> None:
    Path("config.yaml").write_text(
        "auth:\n"
        "  query_token: true\n"
        "  holders:\n"
        "  - {name: alice, token: 0123, tier: premium}\n"
        "  - {name: bob, token: s3cret, expires: 2027-01-31T01:00:00+01:00, streams: [lite]}\n"
        "trusted_proxies: [10.1.2.3/8, '::1']\n"
        "allow: {metrics: [127.0.0.1], api: []}\n"
    )
    config = load(None, {})
    alice, bob = config.auth.holders
    assert (alice.name, alice.token, alice.tier) == ("alice", Secret("0123"), "premium")
    assert (alice.expires, alice.streams) == (None, ())
    assert (bob.expires, bob.streams) == (datetime(2027, 1, 31, tzinfo=UTC), ("lite",))
    assert (bob.name, bob.token, bob.tier) == ("bob", Secret("s3cret"), "free")
    assert [str(network) for network in config.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert ip_address("10.255.0.1") in config.trusted_proxies[0]
    assert ip_address("11.0.0.1") not in config.trusted_proxies[0]
    assert ip_address("::1") not in config.trusted_proxies[0]
    assert config.allow.metrics == (Network("127.0.0.1"),)
    assert config.allow.api == (), "none, not everyone"
    assert load(None, {}, {"auth.enabled": False}).notices == ()
    assert Config().allow.api is None


def test_log_lists() -> None:
    Path("config.yaml").write_text(
        "log_lists:\n"
        "- {url: https://l/list.json, signature_url: https://l/list.sig, key: /etc/key.pem}\n"
        "- {url: lists/own.json, unsigned: true}\n"
        "- {url: 'http://127.0.0.1:8090/log_list.json', unsigned: true}\n"
        f"- {{url: '{GOOGLE_LIST.url}'}}\n"
    )
    signed, own, _, google = load(None, {}).log_lists or ()
    assert google.url == GOOGLE_LIST.url, "its signature and key have defaults"
    assert (signed.signature_url, signed.key, signed.unsigned) == (
        "https://l/list.sig",
        "/etc/key.pem",
        False,
    )
    assert (own.url, own.unsigned) == ("lists/own.json", True)


def test_state_dir() -> None:
    assert load(None, {}).state_dir == Path.home() / ".local/state/certstream-server"
    assert load(None, {"XDG_STATE_HOME": "/x"}).state_dir == Path("/x/certstream-server")
    environ = {"XDG_STATE_HOME": "/x", "CERTSTREAM_STATE_DIR": "/y"}
    assert load(None, environ).state_dir == Path("/y")
    assert load(None, {}, {"state_dir": "~/z"}).state_dir == Path.home() / "z"


@pytest.mark.parametrize(
    ("url", "complete", "shown"),
    [
        ("redis://h:1/0", "redis://:p%40%2Fss@h:1/0", "redis://:***@h:1/0"),
        ("redis://me@h", "redis://me:p%40%2Fss@h", "redis://me:***@h"),
        ("redis://:own@h", "redis://:own@h", "redis://:***@h"),
        ("unix:///s.sock", "unix://:p%40%2Fss@/s.sock", "unix://:***@/s.sock"),
        (
            "redis+sentinel://a:1,[::1]:2,c/name/3",
            "redis+sentinel://:p%40%2Fss@a:1,[::1]:2,c/name/3",
            "redis+sentinel://:***@a:1,[::1]:2,c/name/3",
        ),
    ],
)
def test_redis_password_from_a_file(tmp_path: Path, url: str, complete: str, shown: str) -> None:
    (tmp_path / "password").write_text("p@/ss\n")
    config = load(None, {}, {"redis_url": url, "redis_password_file": str(tmp_path / "password")})
    assert config.redis_url is not None
    assert config.redis_url.reveal() == complete
    assert str(config.redis_url) == shown


def test_the_password_of_the_sentinels_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p@/ss\n")
    config = load(
        None,
        {},
        {
            "redis_url": "rediss+sentinel://me:own@a,b/name?ssl_ca_certs=/ca.pem",
            "redis_read_url": "redis://replica",
            "redis_sentinel_password_file": str(tmp_path / "password"),
        },
    )
    assert config.redis_url is not None
    assert config.redis_read_url is not None
    parts = SentinelURL(config.redis_url.reveal())
    assert parts.sentinels == [
        f"rediss://:p%40%2Fss@{host}:26379?ssl_ca_certs=%2Fca.pem" for host in "ab"
    ]
    assert parts.redis == "rediss://me:own@sentinels/?ssl_ca_certs=%2Fca.pem"
    assert (parts.service, parts.replica) == ("name", False)
    assert str(config.redis_url) == "rediss+sentinel://me:***@a,b/name?***"
    assert config.redis_read_url.reveal() == "redis://replica"


def test_secrets_do_not_show() -> None:
    environ = {
        "CERTSTREAM_AUTH_TOKENS": "hunter2",
        "CERTSTREAM_REDIS_URL": "redis://me:hunter2@h:6379/0?password=hunter2",
    }
    config = load(None, environ)
    (token,) = config.auth.tokens
    for text in (repr(config), str(config), f"{config}", f"{token}", f"{config.redis_url}"):
        assert "hunter2" not in text
    assert "redis://me:***@h:6379/0" in repr(config)
    assert token.reveal() == "hunter2"


def test_a_section_that_is_none_is_told_even_under_a_variable() -> None:
    Path("config.yaml").write_text("ct_log: 5")
    with pytest.raises(ConfigError, match=r"config.yaml:1: ct_log: 5 is not a section"):
        load(None, {"CERTSTREAM_CT_LOG_BATCH_SIZE": "5"})
