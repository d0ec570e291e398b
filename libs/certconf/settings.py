"""Every setting, its type, its range and its default.

The nesting and the names are those of certstream-server-rust's config.yaml, so that its files
load unchanged; what is ours stands beside. Constraints live in the annotations, where build.py
reads them to check values and to say what is allowed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from certconf.network import Network
from certconf.secret import RedisURL, Secret

MIB: Final = 1024 * 1024

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0, le=1e9)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Text = Annotated[str, Meta(min_length=1, description="text")]
BasePath = Annotated[
    str,
    Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*/?$", description="a path that begins with /, as /ct"),
]
HeaderName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", description="a header's name, as X-Token")
]
WebURL = Annotated[
    str, Meta(pattern=r"^https?://[^\s/?#]+[^\s]*$", description="an http:// or https:// URL")
]
LogId = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9+/]{43}=|[0-9A-Fa-f]{64})$",
        description="a log id: the SHA-256 of the log's key, in base64 or hex",
    ),
]
PublicKey = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9+/\s]{40,}={0,2}\s*$",
        description="a public key: the base64 of its DER SubjectPublicKeyInfo",
    ),
]
AdminAddress = Annotated[
    str,
    Meta(pattern=r"^(unix:.+|.+:[0-9]{1,5})$", description="host:port, or unix:<path>"),
]
#: What becomes of entries that a log's signed tree does not prove: held back, published with an
#: alarm, or not looked at.
Integrity = Literal["enforce", "warn", "off"]
LogLevel = Literal["trace", "debug", "info", "warn", "warning", "error", "critical"]


class Protocols(msgspec.Struct, frozen=True):
    """Which ways in and which pages a gateway offers."""

    websocket: bool = True
    #: Whether WebSocket clients that offer permessage-deflate get compressed messages.
    websocket_compression: bool = False
    sse: bool = True
    metrics: bool = True
    health: bool = True
    example_json: bool = True
    api: bool = False


class Streams(msgspec.Struct, frozen=True):
    """Which of the three streams are written to Redis and offered to clients."""

    full: bool = True
    lite: bool = True
    domains_only: bool = True
    #: Whether certificates of the chain carry `as_der` too, as Go's and Elixir's servers send it.
    chain_der: bool = False


class CTLog(msgspec.Struct, frozen=True):
    """How logs are read: what every log shares."""

    #: How often one request is sent before the log has failed.
    retry_max_attempts: Count = 3
    #: Between attempts, doubling, with jitter: of one request, and to read a log that has failed.
    retry_initial_delay_ms: Positive = 1000
    retry_max_delay_ms: Positive = 30_000
    request_timeout_secs: PositiveFloat = 30
    #: Successes in a row after which a log that was down is asked as usual again.
    healthy_threshold: Positive = 2
    #: Failures in a row after which a log is down: only tried now and then.
    unhealthy_threshold: Positive = 5
    #: How often a log that is down for long is tried: the longest of ever longer delays.
    health_check_interval_secs: PositiveFloat = 60
    #: certstream-server-rust's own state: where logs start that Redis does not know yet.
    state_file: Path | None = Path("certstream_state.json")
    batch_size: Positive = 1024
    #: Between tree heads of a log that grows; one that is quiet is asked less often.
    poll_interval_ms: Positive = 1000
    fetch_concurrency: Positive = 4
    #: How many entries before a log's head the first sight of it begins.
    start_overlap_leaves: Count = 256
    #: Where logs start that Redis does not know yet; None is the head less the overlap.
    start_index: Count | None = None
    rfc6962_enabled: bool = True
    static_ct_enabled: bool = True
    integrity: Integrity = "enforce"
    #: Milliseconds between two requests to one operator, from all ingestors together; 0: none.
    default_operator_rate_limit_ms: Count = 500
    #: The same by the operator's name, in any case.
    operator_rate_limits: Mapping[str, Count] = msgspec.field(
        default_factory=lambda: {"digicert": 1000}
    )


class Dedup(msgspec.Struct, frozen=True):
    """How long a certificate seen once is not sent again."""

    ttl_secs: Positive = 900


class ConnectionLimit(msgspec.Struct, frozen=True):
    """How many clients may be connected, to all gateways together.

    No `per_ip_limit` means no limit for one address. A gateway that was killed is forgotten, and
    all its connections with it, `forget_after_secs` after its last sign of life.
    """

    enabled: bool = False
    max_connections: Positive = 10_000
    per_ip_limit: Positive | None = None
    forget_after_secs: PositiveFloat = 15


class Tier(msgspec.Struct, frozen=True):
    """The token bucket of one tier of clients, where it differs from the free one."""

    max_tokens: PositiveFloat | None = None
    refill_rate: PositiveFloat | None = None
    burst: PositiveFloat | None = None


class RateLimit(msgspec.Struct, frozen=True):
    """How often a client may ask: a token bucket and a sliding window, both must allow it."""

    enabled: bool = False
    max_tokens: PositiveFloat = 100
    refill_rate: PositiveFloat = 10
    burst: PositiveFloat = 20
    window_seconds: Positive = 60
    window_max_requests: Positive = 1000
    burst_window_seconds: Positive = 10
    standard: Tier = Tier()
    premium: Tier = Tier()


class TokenHolder(msgspec.Struct, frozen=True):
    """Who has a token; by the name its holder is told from others, in Redis and in the log."""

    name: Text
    token: Secret
    tier: Literal["free", "standard", "premium"] = "free"


class Auth(msgspec.Struct, frozen=True):
    """Which tokens let a client in.

    Those in `tokens` are of the free tier, and called by their place in the list.
    """

    enabled: bool = False
    tokens: tuple[Secret, ...] = ()
    standard_tokens: tuple[Secret, ...] = ()
    premium_tokens: tuple[Secret, ...] = ()
    holders: tuple[TokenHolder, ...] = ()
    #: Read beside Authorization, which is always read.
    header_name: HeaderName = "Authorization"
    #: Whether `?token=` counts too: a browser's EventSource cannot send headers, but URLs are
    #: written to the logs of everything they pass.
    query_token: bool = False


class Allow(msgspec.Struct, frozen=True):
    """From where what is not for everyone may be asked; None is from everywhere.

    `metrics` lets those networks in without a token.
    """

    metrics: tuple[Network, ...] | None = None
    api: tuple[Network, ...] | None = None


class HotReload(msgspec.Struct, frozen=True):
    """Whether a changed file takes effect without a restart."""

    enabled: bool = False
    watch_path: Path | None = None


class CustomLog(msgspec.Struct, frozen=True):
    """An RFC 6962 log to follow beside the listed ones."""

    name: Text
    url: WebURL
    operator: Text | None = None
    expected_log_id: LogId | None = None
    key: PublicKey | None = None
    integrity: Integrity | None = None
    batch_size: Positive | None = None
    poll_interval_ms: Positive | None = None


class StaticLog(msgspec.Struct, frozen=True):
    """A static-ct log to follow beside the listed ones; `url` is its monitoring prefix."""

    name: Text
    url: WebURL
    operator: Text | None = None
    #: The checkpoint's origin line; None is the URL without scheme and trailing slash.
    log_origin: Text | None = None
    expected_log_id: LogId | None = None
    key: PublicKey | None = None
    integrity: Integrity | None = None
    batch_size: Positive | None = None
    poll_interval_ms: Positive | None = None


class LogList(msgspec.Struct, frozen=True):
    """A log list in Google's v3 format; `url`, `signature_url` and `key` may be file paths.

    It is signed (`signature_url`, and `key`: a PEM file, or base64 of the SubjectPublicKeyInfo)
    or trusted as it is (`unsigned`).
    """

    url: Text
    signature_url: Text | None = None
    key: Text | None = None
    unsigned: bool = False


GOOGLE_LIST: Final = LogList(
    url="https://www.gstatic.com/ct/log_list/v3/log_list.json",
    signature_url="https://www.gstatic.com/ct/log_list/v3/log_list.sig",
)
"""The list of Chrome's logs. Its key comes with the ingestor, so its URL alone names it."""

APPLE_LIST: Final = LogList(
    url="https://valid.apple.com/ct/log_list/current_log_list.json", unsigned=True
)
"""The list of Safari's logs."""


class RetentionLimit(msgspec.Struct, frozen=True):
    """How much of one stream Redis keeps: whichever limit is reached first."""

    max_bytes: Positive
    max_age_secs: Positive = 3600


class Retention(msgspec.Struct, frozen=True):
    """How far back a client can resume, by stream."""

    full: RetentionLimit = RetentionLimit(256 * MIB)
    lite: RetentionLimit = RetentionLimit(256 * MIB)
    domains: RetentionLimit = RetentionLimit(64 * MIB)


class Config(msgspec.Struct, frozen=True):
    """The whole configuration of every process.

    Attributes:
        base_path: path below which a proxy shows the server; it is answered below it, and as it is.
        trusted_proxies: whose X-Forwarded-For says where a client is.
        log_lists: lists of logs to follow; None is Google's and Apple's, [] only the configured
            logs.
        redis_url: None lets `certstream-server up` run a Redis of its own. Options in its query are
            db, username and password; for rediss:// also ssl_cert_reqs, ssl_check_hostname,
            ssl_ca_certs, ssl_ca_path, ssl_certfile, ssl_keyfile and ssl_password.
        redis_read_url: a replica that gateways read the streams from.
        drain_secs: how long a gateway that stops may take to send its clients elsewhere; whoever
            stops it must wait at least 6 s longer, for clients that do not answer.
        admin: where one process alone gives /health and /metrics; `up` gives each of its own one.
        contact: for the User-Agent, so that log operators can reach whoever reads their logs.
        file: the config.yaml that was read, if any.
        notices: what the operator should be told once, a line each.
    """

    host: Text = "0.0.0.0"  # noqa: S104 - the peers' default: a public server
    port: Port = 8080
    base_path: BasePath = ""
    log_level: LogLevel = "info"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    protocols: Protocols = Protocols()
    streams: Streams = Streams()
    ct_log: CTLog = CTLog()
    dedup: Dedup = Dedup()
    connection_limit: ConnectionLimit = ConnectionLimit()
    rate_limit: RateLimit = RateLimit()
    auth: Auth = Auth()
    allow: Allow = Allow()
    trusted_proxies: tuple[Network, ...] = ()
    hot_reload: HotReload = HotReload()
    custom_logs: tuple[CustomLog, ...] = ()
    static_logs: tuple[StaticLog, ...] = ()
    log_lists: tuple[LogList, ...] | None = None
    redis_url: RedisURL | None = None
    redis_read_url: RedisURL | None = None
    redis_password_file: Path | None = None
    redis_prefix: Text = "certstream:"
    codec: Literal["zstd", "none"] = "zstd"
    retention: Retention = Retention()
    state_dir: Path = Path("~/.local/state/certstream-server")
    drain_secs: PositiveFloat = 4
    admin: AdminAddress | None = None
    contact: Text | None = None
    file: Path | None = None
    notices: tuple[str, ...] = ()


#: Fields of Config that `load` fills in, not settings.
FACTS: Final = frozenset({"file", "notices"})
