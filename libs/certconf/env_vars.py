"""The CERTSTREAM_* variables: the setting of each one, and the format of its text.

An empty variable counts as unset: Compose files pass on unset ones as empty.
"""

import difflib
import os
import re
from collections.abc import Mapping
from typing import Final

from certconf.errors import ConfigProblem, SourceLocation
from certconf.yaml_document import DocumentError, YamlNode, parse, scalar

PREFIX: Final = "CERTSTREAM_"

#: Variable without its prefix -> dotted setting.
SETTINGS: Final[Mapping[str, str]] = {
    "HOST": "host",
    "PORT": "port",
    "BASE_PATH": "base_path",
    "LOG_LEVEL": "log_level",
    "BUFFER_SIZE": "buffer_size",
    "TLS_CERT": "tls_cert",
    "TLS_KEY": "tls_key",
    "WS_ENABLED": "protocols.websocket",
    "WS_COMPRESSION_ENABLED": "protocols.websocket_compression",
    "SSE_ENABLED": "protocols.sse",
    "METRICS_ENABLED": "protocols.metrics",
    "HEALTH_ENABLED": "protocols.health",
    "EXAMPLE_JSON_ENABLED": "protocols.example_json",
    "API_ENABLED": "protocols.api",
    "STREAM_FULL_ENABLED": "streams.full",
    "STREAM_LITE_ENABLED": "streams.lite",
    "STREAM_DOMAINS_ONLY_ENABLED": "streams.domains_only",
    "STREAM_V2_ENABLED": "streams.v2",
    "TRUSTED_PROXIES": "trusted_proxies",
    "CONNECTION_LIMIT_ENABLED": "connection_limit.enabled",
    "CONNECTION_LIMIT_MAX_CONNECTIONS": "connection_limit.max_connections",
    "CONNECTION_LIMIT_PER_IP_LIMIT": "connection_limit.per_ip_limit",
    "RATE_LIMIT_ENABLED": "rate_limit.enabled",
    "AUTH_ENABLED": "auth.enabled",
    "AUTH_TOKENS": "auth.tokens",
    "AUTH_HEADER_NAME": "auth.header_name",
    "HOT_RELOAD_ENABLED": "hot_reload.enabled",
    "HOT_RELOAD_WATCH_PATH": "hot_reload.watch_path",
    "DEDUP_TTL_SECS": "dedup.ttl_secs",
    "DEDUP_CAPACITY": "dedup.capacity",
    "RFC6962_ENABLED": "ct_log.rfc6962_enabled",
    "STATIC_CT_ENABLED": "ct_log.static_ct_enabled",
    "STATIC_CT_CHECKPOINT_SIGNATURE": "ct_log.checkpoint_signature_mode",
    "STATIC_CT_MERKLE_VERIFICATION": "ct_log.merkle_verification",
    "STATIC_CT_NAMES_TILES": "ct_log.names_tiles",
    "CT_LOG_STATE_FILE": "ct_log.state_file",
    "CT_LOG_STATE_RECOVERY": "ct_log.state_recovery",
    "CT_LOG_REFRESH_INTERVAL_SECS": "ct_log.log_refresh_interval_secs",
    "CT_LOG_REMOVED_POLICY": "ct_log.removed_log_policy",
    "CT_LOG_EXCLUDED_OPERATORS": "ct_log.excluded_operators",
    "CT_LOG_EXCLUDED_LOGS": "ct_log.excluded_logs",
    "USER_AGENT": "ct_log.user_agent",
    "CT_LOG_FORCE_HTTP1_OPERATORS": "ct_log.force_http1_operators",
    "CT_LOG_PARTIAL_TILE_WAIT_SECS": "ct_log.partial_tile_wait_secs",
    "CT_LOG_MAX_CATCHUP_LAG_ENTRIES": "ct_log.max_catchup_lag_entries",
    "CT_LOG_MAX_CATCHUP_LAG_SECS": "ct_log.max_catchup_lag_secs",
    "CT_LOG_OPERATOR_RATE_LIMITS": "ct_log.operator_rate_limits",
    "CT_LOG_RETRY_MAX_ATTEMPTS": "ct_log.retry_max_attempts",
    "CT_LOG_RETRY_INITIAL_DELAY_MS": "ct_log.retry_initial_delay_ms",
    "CT_LOG_RETRY_MAX_DELAY_MS": "ct_log.retry_max_delay_ms",
    "CT_LOG_REQUEST_TIMEOUT_SECS": "ct_log.request_timeout_secs",
    "CT_LOG_BATCH_SIZE": "ct_log.batch_size",
    "CT_LOG_POLL_INTERVAL_MS": "ct_log.poll_interval_ms",
    "CT_LOG_FETCH_CONCURRENCY": "ct_log.fetch_concurrency",
    "CT_LOG_START_OVERLAP_LEAVES": "ct_log.start_overlap_leaves",
    "CT_LOG_HEALTHY_THRESHOLD": "ct_log.healthy_threshold",
    "CT_LOG_UNHEALTHY_THRESHOLD": "ct_log.unhealthy_threshold",
    "CT_LOG_HEALTH_CHECK_INTERVAL_SECS": "ct_log.health_check_interval_secs",
    "NATS_ENABLED": "nats.enabled",
    "NATS_URL": "nats.url",
    "NATS_STREAM": "nats.stream",
    "NATS_SUBJECT_PREFIX": "nats.subject_prefix",
    "NATS_MAX_BYTES": "nats.max_bytes",
    "NATS_ON_FULL": "nats.on_full",
    "CT_LOGS_URL": "ct_logs_url",
    "ADDITIONAL_LOG_LISTS": "additional_log_lists",
    "REDIS_URL": "redis_url",
    "REDIS_READ_URL": "redis_read_url",
    "LOG_LISTS": "log_lists",
    "STATE_DIR": "state_dir",
    "ADMIN": "admin",
}

#: Not settings: where the file is, which `load` reads itself, and what `up` passes to its children.
_OTHERS: Final = frozenset({"CONFIG", "OVERRIDES"})
_COMMA_SEPARATED: Final = frozenset(
    {
        "AUTH_TOKENS",
        "ADDITIONAL_LOG_LISTS",
        "TRUSTED_PROXIES",
        "CT_LOG_EXCLUDED_OPERATORS",
        "CT_LOG_EXCLUDED_LOGS",
        "CT_LOG_FORCE_HTTP1_OPERATORS",
    }
)
#: Comma-separated pairs, as `trustasia=10,digicert=40`; they replace the mapping of the file.
_PAIRS: Final = frozenset({"CT_LOG_OPERATOR_RATE_LIMITS"})
_YAML: Final = frozenset({"LOG_LISTS"})

#: Variables that Kubernetes sets in every container of a namespace with a Service `certstream`.
_SERVICE_LINK: Final = re.compile(r"SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP)|SERVICE_PORT_")
_SERVICE_PORT: Final = re.compile(r"(tcp|udp)://")


def read(
    environ: Mapping[str, str], problems: list[ConfigProblem], notices: list[str]
) -> dict[str, YamlNode]:
    """Return the settings of the variables, by dotted key."""
    settings: dict[str, YamlNode] = {}
    for variable, text in sorted(environ.items()):
        name = variable.removeprefix(PREFIX)
        if name == variable or not text.strip() or name in _OTHERS or _SERVICE_LINK.match(name):
            continue
        if name == "PORT" and _SERVICE_PORT.match(text):
            notices.append(
                f"{variable}={text} is Kubernetes' link to a Service named certstream, not a port: "
                "ignored (enableServiceLinks: false in the pod prevents it)"
            )
        elif name in SETTINGS:
            settings[SETTINGS[name]] = _node(name, text, SourceLocation(variable), problems)
        else:
            near = difflib.get_close_matches(name, SETTINGS, 1)
            hint = f": did you mean {PREFIX}{near[0]}?" if near else ""
            notices.append(f"{variable} is not a variable of this server, and ignored{hint}")
    return settings


def _node(name: str, text: str, origin: SourceLocation, problems: list[ConfigProblem]) -> YamlNode:
    words = [word.strip() for word in text.split(",")]
    if name in _COMMA_SEPARATED:
        return YamlNode([scalar(word, origin) for word in words if word], origin)
    if name in _PAIRS:
        pairs: dict[str, YamlNode] = {}
        for word in filter(None, words):
            key, equals, value = (part.strip() for part in word.rpartition("="))
            if not (key and equals) or key in pairs:
                message = f"{word[:60]!r} is not another pair, as in trustasia=10,digicert=40"
                problems.append(ConfigProblem(origin, SETTINGS[name], message))
            else:
                pairs[key] = scalar(value, origin)
        return YamlNode(pairs, origin)
    if name in _YAML:
        try:
            return parse(os.fsencode(text), origin.source, problems)
        except DocumentError as error:
            problems.append(error.problem)
            return YamlNode(None, origin)
    return scalar(text, origin)
